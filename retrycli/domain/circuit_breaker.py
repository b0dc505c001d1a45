"""The memory, kept between passes, that a destination is down; and how wide a pass may go.

::

    CLOSED ──five failures in a row──▶ OPEN ──probe_at reached──▶ (one probe)
      ▲                                 ▲                             │
      ├──── delivered, also by hand ────┼─────────────────────────────┤
      │                                 └───────── failed ────────────┘
    RESTING ──probe_at reached──▶ CLOSED       (throttled: the destination asked for a rest)

A failure counts if it says something about the destination. A connection that was never made always does. An answer, or
one that never came, may be the fault of its ticket: these count when three tickets have had them.

After Nygard, Release It!, chapter 5, "Circuit Breaker".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from retrycli.domain.backoff import later
from retrycli.domain.outcome import ALIVE, OUTAGE, OutcomeKind

TICKETS = 3
"""How many tickets must have had a failure before it says something about the destination."""


class BreakerState(StrEnum):
    """Whether a destination may be spoken to."""

    CLOSED = "closed"
    OPEN = "open"
    RESTING = "resting"


class BreakerRules(NamedTuple):
    """When the breaker opens, and how long it stays so."""

    failures: int = 5
    probe_after: tuple[timedelta, ...] = (timedelta(minutes=15), timedelta(minutes=30), timedelta(hours=1))
    """The waits before the first probe, the second, …; the last repeats."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """What is known of one destination."""

    destination: str
    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    """Failures in a row, failed probes included."""
    opened_at: datetime | None = None
    probe_at: datetime | None = None
    """When the destination may be spoken to again; None while it may."""
    tickets: Mapping[str, int] = field(default_factory=dict)
    """While closed: at most `TICKETS` tickets, each with its failures in the row that may be its own fault."""

    @property
    def is_healthy(self) -> bool:
        """Whether nothing stands against the destination: no failure since its last answer, no rest it asked for."""
        return self == Breaker(self.destination)

    @property
    def description(self) -> str:
        """The destination, and when it is tried again, in words."""
        at = self.probe_at
        until = "" if at is None else f", to be tried again at {at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        return f"{self.destination}{until}"

    @property
    def counted(self) -> int:
        """Count the failures in a row that say something about the destination."""
        return self.failures if len(self.tickets) >= TICKETS else self.failures - sum(self.tickets.values())

    def blocks(self, at: datetime) -> bool:
        """Whether nothing may be sent yet."""
        return self.probe_at is not None and at < self.probe_at

    def admitting(self, at: datetime) -> Breaker:
        """The breaker as a pass meets it: once the time for a probe has come, nothing bars the way."""
        return self if self.blocks(at) else replace(self, probe_at=None)

    def after(self, kind: OutcomeKind, rules: BreakerRules, *, since: datetime, ticket: str) -> Breaker:
        """Return the breaker after one more outcome.

        Args:
            kind: the outcome. Only outages count: what the destination thinks of one message, or of our
                password, says nothing about its health.
            rules: when to open.
            since: the start of the pass; the wait for the probe counts from it.
            ticket: the ticket of the message.
        """
        if self.blocks(since):
            return self  # what was in flight when it opened tells nothing new
        if kind in ALIVE:
            return self if self.is_healthy else Breaker(self.destination)
        if kind not in OUTAGE:
            return self
        row = self._with_failure(kind, ticket)
        if self.state is not BreakerState.OPEN:
            if row.counted < rules.failures:
                return row
            # From here on the number tells how many probes have failed, and so which wait is next.
            row = replace(row, failures=rules.failures)
        waits = rules.probe_after
        return Breaker(
            self.destination,
            BreakerState.OPEN,
            row.failures,
            opened_at=self.opened_at or since,
            probe_at=later(since, waits[min(max(row.failures - rules.failures, 0), len(waits) - 1)]),
        )

    def _with_failure(self, kind: OutcomeKind, ticket: str) -> Breaker:
        tickets = self.tickets
        if kind is not OutcomeKind.UNREACHABLE and len(tickets) < TICKETS:
            tickets = {**tickets, ticket: tickets.get(ticket, 0) + 1}
        return Breaker(self.destination, failures=self.failures + 1, tickets=tickets)

    def rest(self, until: datetime) -> Breaker:
        """The breaker after the destination asked to be left alone until a time."""
        return Breaker(self.destination, BreakerState.RESTING, probe_at=until)


def next_concurrency(width: int, kind: OutcomeKind, limit: int, *, is_healthy: bool) -> int:
    """Return the maximum number of concurrent requests after one more outcome.

    A failure halves it. An answer raises it by one, so that it doubles with each full round, as in TCP's slow start
    (RFC 5681, section 3.1): a destination that has just recovered is not overloaded again.

    Args:
        width: the maximum before this outcome.
        kind: the outcome.
        limit: the configured maximum.
        is_healthy: whether nothing has failed recently. Then one delivery restores the limit at once.
    """
    if kind is OutcomeKind.DELIVERED and is_healthy:
        return limit
    if kind in ALIVE:
        return min(width + 1, limit)
    return max(width // 2, 1) if kind in OUTAGE else width
