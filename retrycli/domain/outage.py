"""Outages of the ticketing API, derived from the passes.

An outage lasts from the pass that opened the breaker, or found it open, to the next pass that it did not stop. The
passes tell this better than the attempts do. Once the breaker is open, hardly any attempt is made, one probe an hour,
so a night's outage and a quiet night have similar counts; and failures among successful deliveries are not an outage.
Only `circuit_breaker` decides what a failure of the destination is and how many make an outage. The price is that an
outage is known to the tick, not to the second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Outage:
    """A period in which the ticketing API was down."""

    began_at: datetime
    ended_at: datetime | None
    """None while it lasts."""

    def length(self, now: datetime) -> timedelta:
        """Return how long it has lasted."""
        return (self.ended_at or now) - self.began_at


def outages(passes: Iterable[tuple[datetime, bool]]) -> list[Outage]:
    """Return the outages that passes met.

    Args:
        passes: the start of each informative pass, and if the breaker stopped it; oldest first. A
            pass that tried nothing, because nothing was due or deliveries were paused, is not informative.
    """
    found: list[Outage] = []
    began: datetime | None = None
    for started_at, stopped in passes:
        if stopped:
            began = began or started_at
        elif began is not None:
            found.append(Outage(began, started_at))
            began = None
    return found if began is None else [*found, Outage(began, None)]
