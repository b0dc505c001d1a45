"""What is recorded of a pass: who started it, how it ended, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class StartedBy(StrEnum):
    """Who started a pass."""

    CRON = "cron"
    TIMER = "timer"
    """One of systemd's."""
    PERSON = "person"
    LIBRARY = "library"
    """An application that calls `retrycli.run_once`."""
    UNKNOWN = "unknown"


SCHEDULERS = frozenset({StartedBy.CRON, StartedBy.TIMER})


class PassResult(StrEnum):
    """How a pass ended."""

    COMPLETED = "completed"
    """Nothing due is left, or the limit that was asked for is reached."""
    STOPPED = "stopped"
    """Something due is left; the reason says why."""
    SKIPPED = "skipped"
    """Another pass holds the lock."""
    PAUSED = "paused"
    """An operator has paused deliveries."""
    INTERRUPTED = "interrupted"
    """A signal ended it, or its process died."""
    FAILED = "failed"
    """A fault ended it."""


class StopReason(StrEnum):
    """Why a pass ended before everything due was tried."""

    BREAKER_OPEN = "breaker_open"
    CREDENTIALS_REFUSED = "credentials_refused"
    SAME_ANSWER = "same_answer"
    """A destination answers everything with the same status, which is about no message."""
    THROTTLED = "throttled"
    DEADLINE = "deadline"
    LIMIT = "limit"
    SIGNAL = "signal"
    LOCK_HELD = "lock_held"
    PAUSED = "paused"
    FAULT = "fault"
    DIED = "died"

    @property
    def in_words(self) -> str:
        """Return it as the end of a sentence."""
        return WORDS[self]


WORDS: dict[StopReason, str] = {
    StopReason.BREAKER_OPEN: "the ticketing API is down",
    StopReason.CREDENTIALS_REFUSED: "our credentials are refused",
    StopReason.SAME_ANSWER: "everything gets the same answer",
    StopReason.THROTTLED: "the ticketing API has asked for a rest",
    StopReason.DEADLINE: "its time is up",
    StopReason.LIMIT: "its limit is reached",
    StopReason.SIGNAL: "a signal has come",
    StopReason.LOCK_HELD: "another pass holds the lock",
    StopReason.PAUSED: "deliveries are paused",
    StopReason.FAULT: "it has failed",
    StopReason.DIED: "its process has died",
}


@dataclass(frozen=True, slots=True)
class PassSummary:
    """What one pass came to; ``retrycli run-once --json`` shows these fields."""

    pass_id: str
    result: PassResult
    sent: int = 0
    rescheduled: int = 0
    escalated: int = 0
    unknown: int = 0
    released: int = 0
    reason: str | None = None
    """A `StopReason`, or None for a pass that had nothing to say."""
    detail: str | None = None
    """The reason in words, with its figures."""
    duration_seconds: float = 0.0

    @property
    def exit_status(self) -> int:
        """What a command that made this pass exits with; where a signal has ended it, as by SIGTERM."""
        return EXIT_STATUSES.get(self.reason, 0)


EXIT_STATUSES: dict[str | None, int] = {
    StopReason.BREAKER_OPEN: 69,
    StopReason.SAME_ANSWER: 69,
    StopReason.LOCK_HELD: 75,
    StopReason.CREDENTIALS_REFUSED: 77,
    StopReason.SIGNAL: 143,
}
"""By the reason; any other is 0."""
