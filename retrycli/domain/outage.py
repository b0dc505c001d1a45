"""When the ticketing API was down, read off the passes.

An outage is what the breaker took for one: it lasts from the pass that opened the breaker, or found it open, to the
next pass that got through. The passes tell this better than the attempts do. Once the breaker is open hardly any
attempt is made, one probe an hour, so that a night's outage and a quiet night look alike in their counts; and failures
among deliveries that succeed are no outage. What is a failure of the destination and how many make an outage is decided
in `breaker`, and only there. The price is that an outage is known to the tick, not to the second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which the ticketing API was down."""

    began_at: datetime
    ended_at: datetime | None
    """None while it lasts."""

    def length(self, now: datetime) -> timedelta:
        """How long it has lasted."""
        return (self.ended_at or now) - self.began_at


def outages(passes: Iterable[tuple[datetime, bool]]) -> list[Outage]:
    """The outages that passes met.

    Args:
        passes: the start of each pass that has something to say, and whether the breaker stopped it; oldest first. A
            pass that tried nothing, because nothing was due or it was held back, says nothing.
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
