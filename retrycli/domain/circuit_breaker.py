"""The circuit breaker of one destination, which is stored between passes, and the concurrency of a pass.

::

    CLOSED ──five failures in a row──▶ OPEN ──probe_at reached──▶ (one probe)
      ▲                                 ▲                             │
      ├───── delivered or rejected ─────┼─────────────────────────────┤
      │                                 └───────── failed ────────────┘
    CLOSED ──throttled──▶ RESTING until probe_at ──delivered, rejected or failed──▶ CLOSED
    any state ──unread answer──▶ UNREAD ──probe_at reached──▶ (one probe) ──delivered or rejected──▶ CLOSED

A failure counts if it says something about the destination. A failure to connect always counts. An error response, or a
missing response, may be caused by the ticket. Such failures count once three different tickets have had them.

A delivery by an operator also closes an open breaker.

A throttled probe only moves the next probe. A rest neither ends nor continues a row of failures. A destination that
accepts nothing and only asks for rests, for two hours in a row, counts as down.

The pattern is from Nygard, "Release It!", chapter 5, "Circuit Breaker".
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from retrycli.domain.duration import utc_text
from retrycli.domain.outcome import ALIVE, OUTAGE, OutcomeKind
from retrycli.domain.retry_policy import later

# Failures that the ticket may have caused count only after this many different tickets have had such failures.
TICKETS = 3
# From the first answer that asked for a rest: longer rests count as an outage. A rest that ended this long ago is over.
LONG_REST = timedelta(hours=2)


class BreakerState(StrEnum):
    """The states of a breaker; the module's diagram shows the transitions."""

    CLOSED = "closed"
    OPEN = "open"
    RESTING = "resting"
    UNREAD = "unread"  # the destination answers, but the preset can't tell whether it accepts messages


PROBED = frozenset({BreakerState.OPEN, BreakerState.UNREAD})  # states in which one message is sent as a probe


class BreakerRules(NamedTuple):
    """The settings that determine when a breaker opens, and when probes are due."""

    failures: int = 5
    # The waits before the first probe, the second probe and so on; the last wait repeats.
    probe_after: tuple[timedelta, ...] = (timedelta(minutes=15), timedelta(minutes=30), timedelta(hours=1))

    def wait(self, probes: int) -> timedelta:
        """Return the wait after a number of failed probes."""
        return self.probe_after[min(probes, len(self.probe_after) - 1)]


class Breaker(NamedTuple):
    """The breaker of one destination. Instances are immutable; methods return the changed breaker."""

    destination: str
    state: BreakerState = BreakerState.CLOSED
    # While closed or resting: the number of failures in a row. While open: the configured number that opens the
    # breaker, plus the failed probes. While unread: the number of further unread answers.
    failures: int = 0
    opened_at: datetime | None = None  # while resting: the start of the first pass that was asked for a rest
    probe_at: datetime | None = None  # time from which requests may be sent again; None if they may be sent now
    # While closed or resting: up to `TICKETS` tickets that may have caused failures, with the number of these failures
    # per ticket.
    tickets: Mapping[str, int] = {}

    @property
    def is_healthy(self) -> bool:
        """Return whether the breaker is closed and counts no failures."""
        return self == Breaker(self.destination)

    def is_down(self, at: datetime) -> bool:
        """Return whether the destination has failed, or has only asked for rests for a long time."""
        return self.state is BreakerState.OPEN or (self._rests_long and not self._was_last_asked_long_before(at))

    def needs_operator(self, at: datetime) -> bool:
        """Return whether the destination has accepted nothing for a while, so that an operator should look at it."""
        return self.is_down(at) or self.state is BreakerState.UNREAD

    @property
    def _rests_long(self) -> bool:
        if self.state is not BreakerState.RESTING or self.opened_at is None or self.probe_at is None:
            return False
        return self.probe_at - self.opened_at >= LONG_REST

    def _was_last_asked_long_before(self, at: datetime) -> bool:
        return self.probe_at is not None and at - self.probe_at >= LONG_REST

    @property
    def description(self) -> str:
        """Describe the destination, and the time of its next request if requests are blocked."""
        if self.probe_at is None:
            return self.destination
        next_request = "no requests until" if self.state is BreakerState.RESTING else "next probe at"
        why = ", whose responses the preset can't judge" if self.state is BreakerState.UNREAD else ""
        if self._rests_long and self.opened_at is not None:
            why = f", which has asked retrycli to wait since {utc_text(self.opened_at)}"
        return f"{self.destination}{why}, {next_request} {utc_text(self.probe_at)}"

    @property
    def counted(self) -> int:
        """Count the consecutive failures that say something about the destination."""
        return self.failures if len(self.tickets) >= TICKETS else self.failures - sum(self.tickets.values())

    def at_start(self, at: datetime) -> "Breaker":
        """Return the breaker at the start of a pass that it does not block. A rest that ended long ago is forgotten."""
        is_over = self.state is BreakerState.RESTING and self._was_last_asked_long_before(at)
        return self._replace(probe_at=None, opened_at=None if is_over else self.opened_at)

    def blocks(self, at: datetime) -> bool:
        """Return whether requests are blocked at the given time."""
        return self.probe_at is not None and at < self.probe_at

    def after(self, kind: OutcomeKind, rules: BreakerRules, *, since: datetime, ticket: str) -> "Breaker":
        """Return the breaker after one more outcome.

        Args:
            kind: the outcome. An outcome in `ALIVE` closes the breaker, and an outcome in `OUTAGE` counts as a failure.
                Any other outcome changes nothing.
            rules: the breaker's settings.
            since: the start of the pass. The wait before the next probe begins at this time. A breaker that blocks
                requests at this time does not change.
            ticket: the ticket of the message.
        """
        if self.blocks(since):
            return self  # the request was sent before the wait began, so its answer says nothing new
        if kind in ALIVE:
            return Breaker(self.destination)
        if kind not in OUTAGE:
            return self
        tickets = self.tickets
        if kind is not OutcomeKind.UNREACHABLE and len(tickets) < TICKETS:
            tickets = {**tickets, ticket: tickets.get(ticket, 0) + 1}
        before = 0 if self.state is BreakerState.UNREAD else self.failures
        failed = Breaker(self.destination, failures=before + 1, tickets=tickets)
        if self.state is not BreakerState.OPEN:
            if failed.counted < rules.failures:
                return failed
            # ``failures`` may be higher, because some failures did not count at first. The excess would select a
            # later wait.
            failed = failed._replace(failures=rules.failures)
        probes = max(failed.failures - rules.failures, 0)
        return self._probed(BreakerState.OPEN, failed.failures, rules.wait(probes), since)

    def unread(self, rules: BreakerRules, *, since: datetime) -> "Breaker":
        """Return the breaker after an answer that the preset can't judge; the arguments are those of `after`."""
        if self.blocks(since):
            return self
        failures = self.failures + 1 if self.state is BreakerState.UNREAD else 0
        return self._probed(BreakerState.UNREAD, failures, rules.wait(failures), since)

    def refused(self, rules: BreakerRules, *, since: datetime) -> "Breaker":
        """Return the breaker after one answer to all messages; the arguments are those of `after`."""
        if self.blocks(since):
            return self
        failures = self.failures + 1 if self.state is BreakerState.OPEN else rules.failures
        return self._probed(BreakerState.OPEN, failures, rules.wait(failures - rules.failures), since)

    def _probed(self, state: BreakerState, failures: int, wait: timedelta, since: datetime) -> "Breaker":
        opened_at = self.opened_at if self.state is state else None
        return Breaker(self.destination, state, failures, opened_at or since, later(since, wait))

    def rest(self, until: datetime, *, since: datetime) -> "Breaker":
        """Return the breaker after an answer that asks for no requests until a given time. The longest wait counts.

        Args:
            until: the time.
            since: the start of the pass. An outage goes on, and its next probe may become later.
        """
        if self.state is BreakerState.RESTING and self.probe_at is not None:
            until = max(until, self.probe_at)
        elif self.blocks(since):
            return self
        if self.state in PROBED:
            return self._replace(probe_at=until)
        opened_at = None if self._was_last_asked_long_before(since) else self.opened_at
        return self._replace(state=BreakerState.RESTING, opened_at=opened_at or since, probe_at=until)


def next_concurrency(width: int, kind: OutcomeKind, limit: int, *, is_healthy: bool) -> int:
    """Return the maximum number of concurrent requests after one more outcome.

    An outcome in `OUTAGE` halves the maximum. An outcome in `ALIVE` raises the maximum by one. So the maximum doubles
    with each round of requests, as in TCP's slow start (RFC 5681, section 3.1). A slow start avoids overloading a
    destination that has just recovered.

    Args:
        width: the maximum before this outcome.
        kind: the outcome.
        limit: the configured maximum.
        is_healthy: nothing has failed recently, so one delivery raises the maximum to the limit.
    """
    if kind is OutcomeKind.DELIVERED and is_healthy:
        return limit
    if kind in ALIVE:
        return min(width + 1, limit)
    return max(width // 2, 1) if kind in OUTAGE else width
