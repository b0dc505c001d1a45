"""Messages that expire while nothing is delivered: they are announced before, not found expired afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from retrycli.backoff import later
from retrycli.events import PassSummary, StopReason
from retrycli.logs import logger
from retrycli.message import MessageType, State
from retrycli.news import REMIND_AFTER
from retrycli.settings import Settings
from retrycli.store.database import Database
from retrycli.store.totals import Totals
from retrycli.store.views import Filter, Views

HELD_BACK = frozenset(
    {
        StopReason.PAUSED,
        StopReason.BREAKER_OPEN,
        StopReason.CREDENTIALS_REFUSED,
        StopReason.SAME_ANSWER,
        StopReason.THROTTLED,
    }
)
"""A pass that ends for one of these leaves what is due as it is, and so may the next ones."""
EARLIER = timedelta(hours=2)
"""How much longer than from one reminder to the next is looked ahead: nothing must expire between two of them."""
WARNED = "messages about to expire"


@dataclass(frozen=True, slots=True)
class Expiring:
    """Waiting messages that expire soon, or none: then `count` is 0."""

    count: int
    first: datetime
    until: datetime

    def __str__(self) -> str:
        what = "1 message expires" if self.count == 1 else f"{self.count:,} messages expire"
        return f"{what} by {_utc(self.until)}, the first at {_utc(self.first)}, unless deliveries go on before"


def expiring(settings: Settings, database: Database, summary: PassSummary, now: datetime) -> Expiring | None:
    """Find the messages that expire before people are reminded again, if a pass has held deliveries back.

    Returns:
        These, or none after a pass that delivered something; None if the pass does not tell: it had nothing to send.

    Raises:
        DatabaseUnavailable: they can't be read.
    """
    ages = {kind: policy.expires_after for kind, policy in settings.policies.items() if policy.expires_after}
    if not ages or (summary.reason not in HELD_BACK and not summary.sent):
        return None
    until = now + max(REMIND_AFTER, timedelta(hours=settings.notify.remind_hours)) + EARLIER
    if summary.reason not in HELD_BACK:
        return Expiring(0, until, until)
    waiting = Views(database).messages(Filter(state=State.WAITING, message_type=list(ages)), sort="id")
    count, first = 0, until
    for each in waiting:
        at = later(each.created_at or each.first_failed_at or now, ages[MessageType(each.message_type)])
        if now <= at <= until:
            count, first = count + 1, min(first, at)
    return Expiring(count, first, until)


def warn(database: Database, found: Expiring, now: datetime) -> None:
    """Warn of messages that are about to expire, now and then while there are any.

    Raises:
        DatabaseUnavailable: it can't be found out what was said.
    """
    totals = Totals(database)
    last = totals.warned(WARNED)
    if not found.count and last is not None:
        totals.set_warned(WARNED, None)
    elif found.count and (last is None or now - last >= REMIND_AFTER):
        totals.set_warned(WARNED, now)
        logger.warning("%s. Next: `retrycli status`", found)


def _utc(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
