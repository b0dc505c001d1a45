"""Backoff schedules: how long to wait before a retry. Pure functions; clock and randomness are arguments."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

JITTER_FROM = timedelta(hours=1)
"""Shorter waits get no jitter: cron's tick is coarser than the jitter would be."""

LATEST = datetime.max.replace(tzinfo=UTC)


class BackoffKind(StrEnum):
    """The ways in which waits grow."""

    EXPONENTIAL = "exponential"
    """Each wait is a multiple of the previous one, up to a cap."""
    LINEAR = "linear"
    """Retry n is due n times the base after the message was created."""
    FIXED = "fixed"
    """Every wait is the base."""
    LIST = "list"
    """The waits are listed; the last one repeats."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """A schedule of waits; retries are numbered from 1."""

    kind: BackoffKind = BackoffKind.EXPONENTIAL
    base: timedelta = timedelta(minutes=15)
    factor: float = 2.0
    cap: timedelta = timedelta(hours=4)
    spread: float = 0.2
    """The fraction by which jitter lengthens or shortens a wait at most, 0 to 1."""
    waits: tuple[timedelta, ...] = ()

    def wait(self, retry: int) -> timedelta:
        """Return the wait before a retry, without jitter."""
        match self.kind:
            case BackoffKind.EXPONENTIAL:
                return self._exponential(retry)
            case BackoffKind.LINEAR | BackoffKind.FIXED:
                return self.base
            case BackoffKind.LIST:
                return self.waits[min(retry, len(self.waits)) - 1]

    def next_attempt_at(
        self, retry: int, *, since: datetime, created_at: datetime | None = None, jitter: float = 0.0
    ) -> datetime:
        """Return when a retry is due.

        Args:
            retry: its number, from 1.
            since: what the wait counts from: the start of the pass that made the last attempt.
            created_at: when the message was created; only the linear schedule uses it.
            jitter: a random number, -1 to 1. It is applied after the cap, so that messages that piled up in an
                outage do not come due at once.
        """
        wait = self.wait(retry)
        if wait >= JITTER_FROM:
            wait *= 1 + self.spread * jitter
        due = later(since, wait)
        if self.kind is BackoffKind.LINEAR and created_at is not None:
            due = max(due, later(created_at, self.base, times=retry))
        return due

    def shortest(self, retries: int) -> timedelta:
        """Return the shortest wait before any of the first ``retries`` retries, at the most negative jitter."""
        since = datetime(2000, 1, 1, tzinfo=UTC)
        return min(self.next_attempt_at(retry, since=since, jitter=-1) for retry in range(1, retries + 1)) - since

    def _exponential(self, retry: int) -> timedelta:
        try:
            return min(self.base * self.factor ** (retry - 1), self.cap)
        except OverflowError:
            return self.cap


def later(time: datetime, wait: timedelta, *, times: int = 1) -> datetime:
    """Add a wait, or several, to a time; return `LATEST` if the sum overflows."""
    try:
        return time + wait * times
    except OverflowError:
        return LATEST
