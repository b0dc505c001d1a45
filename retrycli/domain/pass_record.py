"""Passes and pauses as they are recorded."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from retrycli.domain.pass_summary import PassResult, StartedBy

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
