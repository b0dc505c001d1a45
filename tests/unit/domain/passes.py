"""Records of passes, for tests of incidents and notices."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from retrycli.domain.passes import PassRecord, PassResult, StartedBy

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
TICK = timedelta(minutes=15)


@dataclass(frozen=True)
class Past(PassRecord):
    """A recorded pass. By default, cron started it, and it completed without sending anything."""

    pass_id: str = "past"
    host: str = "mill"
    pid: int = 1
    started_at: datetime = NOON
    finished_at: datetime | None = None
    result: PassResult | None = PassResult.COMPLETED
    reason: str | None = None
    detail: str | None = None
    sent: int = 0
    rescheduled: int = 0
    escalated: int = 0
    unknown: int = 0
    released: int = 0
    started_by: StartedBy = StartedBy.CRON
