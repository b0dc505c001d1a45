"""Passes: who starts them, their results, and passes and pauses as they are recorded."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum


class StartedBy(StrEnum):
    """The ways in which a pass is started."""

    CRON = "cron"
    TIMER = "timer"
    """A systemd timer."""
    PERSON = "person"
    LIBRARY = "library"
    """An application that calls `retrycli.run_once`."""
    UNKNOWN = "unknown"


SCHEDULERS = frozenset({StartedBy.CRON, StartedBy.TIMER})


class PassResult(StrEnum):
    """The results of a pass."""

    COMPLETED = "completed"
    """Nothing due is left, or the requested limit is reached."""
    STOPPED = "stopped"
    """Something due is left; the reason says why."""
    SKIPPED = "skipped"
    """Another pass holds the lock."""
    PAUSED = "paused"
    """An operator has paused deliveries."""
    INTERRUPTED = "interrupted"
    """A signal ended it, or its process died."""
    FAILED = "failed"
    """An error ended it."""


class StopReason(StrEnum):
    """The reasons for which a pass ends before everything due was attempted."""

    BREAKER_OPEN = "breaker_open"
    CREDENTIALS_REFUSED = "credentials_refused"
    SAME_ANSWER = "same_answer"
    """A destination answers everything with the same status, so the status is not about the messages."""
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
        """Return the reason as the end of a sentence."""
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
    """The result of one pass; ``retrycli run-once --json`` shows these fields."""

    pass_id: str
    result: PassResult
    sent: int = 0
    rescheduled: int = 0
    escalated: int = 0
    unknown: int = 0
    released: int = 0
    reason: str | None = None
    """A `StopReason`; None if there is none."""
    detail: str | None = None
    """Details of the reason."""
    duration_seconds: float = 0.0

    @property
    def exit_status(self) -> int:
        """Return the exit status of a command that made this pass; after any signal that of SIGTERM."""
        return EXIT_STATUSES.get(self.reason, 0)


EXIT_STATUSES: dict[str | None, int] = {
    StopReason.BREAKER_OPEN: 69,
    StopReason.SAME_ANSWER: 69,
    StopReason.LOCK_HELD: 75,
    StopReason.CREDENTIALS_REFUSED: 77,
    StopReason.SIGNAL: 143,
}
"""Exit statuses by reason; 0 for any other."""


COUNTS = ("sent", "rescheduled", "escalated", "unknown", "released")
"""The counts of a pass."""
LATE_AFTER_INTERVALS = 2
LATE_GRACE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class PassRecord:
    """The record of one pass; ``result`` and ``finished_at`` are None while it runs."""

    pass_id: str
    host: str
    pid: int
    started_at: datetime
    finished_at: datetime | None
    result: PassResult | None
    reason: str | None
    detail: str | None
    sent: int
    rescheduled: int
    escalated: int
    unknown: int
    released: int
    started_by: StartedBy = StartedBy.UNKNOWN

    def result_in_words(self, unrecorded: Collection[str]) -> str:
        """Return its result, or its state if it has none; ``unrecorded`` are passes that ended without a record."""
        return self.result or ("ended without being recorded" if self.pass_id in unrecorded else "running")

    @property
    def has_tried(self) -> bool:
        """Tell if it had anything to deliver."""
        return any(getattr(self, name) for name in COUNTS)


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause of deliveries; ``until`` None means until an operator resumes them."""

    since: datetime
    until: datetime | None
    by: str
    reason: str | None

    @property
    def end(self) -> str:
        """Describe its end and its reason, for the history."""
        until = "until resumed" if self.until is None else f"until {self.until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        return f"{until}: {self.reason}" if self.reason else until

    @property
    def in_words(self) -> str:
        """Describe its author and its end."""
        return f"the pause by {self.by} {self.end}"


@dataclass(frozen=True, slots=True)
class PauseRecord:
    """The record that an operator paused or resumed deliveries."""

    at: datetime
    by: str
    act: str
    """``paused`` or ``resumed``."""
    detail: str | None
    """The end and the reason of the pause, or the pause that ended."""


def is_late(newest: datetime, now: datetime, interval: timedelta) -> bool:
    """Tell if passes have stopped: the newest began two intervals and five minutes ago, or earlier."""
    return now - newest >= LATE_AFTER_INTERVALS * interval + LATE_GRACE
