"""Warn of messages that will expire while deliveries are held back, before they do."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from retrycli.config.settings import Settings
from retrycli.domain.backoff import later
from retrycli.domain.circuit_breaker import BreakerState
from retrycli.domain.filter import Filter
from retrycli.domain.incidents import LOOKBACK, REMIND_AFTER, lasting, utc
from retrycli.domain.message import EscalationReason, MessageType, State
from retrycli.domain.pass_summary import PassSummary, StopReason
from retrycli.store.counters import Totals
from retrycli.store.database import Database
from retrycli.store.listing import MessageQueries
from retrycli.store.passes import Ledger
from retrycli.views.log_lines import logger

HELD_BACK = frozenset(
    {
        StopReason.PAUSED,
        StopReason.BREAKER_OPEN,
        StopReason.CREDENTIALS_REFUSED,
        StopReason.SAME_ANSWER,
        StopReason.THROTTLED,
    }
)
"""Reasons to stop that leave the due messages as they are, for this pass and possibly the next ones."""
EARLIER = timedelta(hours=2)
"""The look-ahead beyond the next reminder, so that nothing expires between two of them."""
SOON = timedelta(days=1)
"""Lists mark a message that expires within this time."""
WARNED = "messages about to expire"


def is_shown(end: datetime | None, next_attempt_at: datetime | None, now: datetime) -> bool:
    """Return whether a list shows when a waiting message expires: soon, or before its next attempt."""
    return end is not None and (end <= later(now, SOON) or (next_attempt_at is not None and end < next_attempt_at))


EXPIRED = "expired; a pass will escalate it"
"""How lists describe a waiting message that has expired. No pass escalates it before it is due, or during a pause or an
outage."""


@dataclass(frozen=True, slots=True)
class Expiring:
    """Waiting messages that expire soon; `count` is 0 if there are none."""

    count: int
    first: datetime
    until: datetime
    """The end of the look-ahead."""
    why: str = ""
    """What holds the messages back."""
    next_step: str = ""
    """The command to run, without the program."""
    too_late: bool = False
    """Some messages have expired since the warning."""

    def __str__(self) -> str:
        what = "1 message expires" if self.count == 1 else f"{self.count:,} messages expire"
        return f"{what} by {utc(self.until)} unless deliveries go on, the first at {utc(self.first)}: {self.why}"


@dataclass(frozen=True, slots=True)
class _Obstacle:
    """A condition that holds messages back."""

    why: str
    next_step: str = "list-failed --state waiting"
    end: datetime | None = None
    destinations: Collection[str] | None = None
    """The affected destinations; None for all."""


def expiring(settings: Settings, database: Database, summary: PassSummary, now: datetime) -> Expiring | None:
    """Find the messages that expire before the next reminder, if a pass held deliveries back.

    Returns:
        The messages; none after a pass that delivered something. None if the pass shows nothing: it had nothing to
        send, or all such messages have expired.

    Raises:
        DatabaseUnavailable: the messages can't be read.
    """
    kinds = [kind for kind, policy in settings.policies.items() if policy.expires_after]
    if not kinds or (summary.reason not in HELD_BACK and not summary.sent):
        return None
    if summary.reason not in HELD_BACK:
        return Expiring(0, now, now, too_late=_are_too_late(settings, database, kinds))
    obstacle = _obstacle(Ledger(database), summary, now)
    until = now + max(REMIND_AFTER, settings.notify.remind) + EARLIER
    if obstacle.end is not None:
        until = obstacle.end + timedelta(minutes=settings.schedule.retry_interval_minutes)
    places = obstacle.destinations
    held = [kind for kind in kinds if places is None or settings.gateway.of(kind).destination in places]
    waiting = (
        MessageQueries(database).messages(Filter(state=State.WAITING, message_type=held), sort="id") if held else ()
    )
    count, first, expired = 0, until, 0
    for message in waiting:
        at = message.expires_at(settings.policies, unknown=now)
        expired += at is not None and at < now
        if at is not None and now <= at <= until:
            count, first = count + 1, min(first, at)
    if expired and not count:
        return None  # the next passes report these
    return Expiring(count, first, until, obstacle.why, obstacle.next_step)


def _are_too_late(settings: Settings, database: Database, kinds: Collection[MessageType]) -> bool:
    """Return whether messages that expired since the last warning were escalated."""
    if (last := Totals(database).warned(WARNED)) is None:
        return False
    expired = Filter(state=State.ESCALATED, message_type=kinds, reason=EscalationReason.EXPIRED, escalated_after=last)
    ends = (
        message.expires_at(settings.policies, unknown=last)
        for message in MessageQueries(database).messages(expired, sort="id")
    )
    return any(end is not None and end >= last for end in ends)


def _obstacle(ledger: Ledger, summary: PassSummary, now: datetime) -> _Obstacle:
    """Find what holds messages back, since when, and until when."""
    if summary.reason == StopReason.PAUSED and (pause := ledger.pause(now)) is not None:
        return _Obstacle(f"passes are paused by {pause.by} {pause.end}", "resume", pause.until)
    if summary.reason == StopReason.BREAKER_OPEN:
        open_now = [breaker for breaker in ledger.breakers() if breaker.state is BreakerState.OPEN]
        if since := min((breaker.opened_at for breaker in open_now if breaker.opened_at), default=None):
            places = [breaker.destination for breaker in open_now]
            verb = "is" if len(places) == 1 else "are"
            return _Obstacle(f"{', '.join(places)} {verb} down since {utc(since)}", destinations=places)
    met = lasting(summary.reason or "", ledger.passes_up_to(summary.pass_id, LOOKBACK))
    since = met[-1].started_at if met else now
    return _Obstacle(
        {
            StopReason.CREDENTIALS_REFUSED: f"our credentials are refused since {utc(since)}",
            StopReason.SAME_ANSWER: f"nothing can be delivered since {utc(since)}: {summary.detail}",
            StopReason.THROTTLED: f"the ticketing API has asked for a rest: {summary.detail}",
        }.get(StopReason(summary.reason or StopReason.FAULT), f"nothing is delivered: {summary.detail}")
    )


def warn(database: Database, found: Expiring, now: datetime, remind: timedelta) -> None:
    """Warn of messages that are about to expire, at intervals while there are any.

    Raises:
        DatabaseUnavailable: the last warning can't be read or written.
    """
    totals = Totals(database)
    last = totals.warned(WARNED)
    if not found.count and last is not None:
        totals.set_warned(WARNED, None)
        if found.too_late:
            logger.warning("Some of the messages that were about to expire have expired; see `retrycli escalations`")
        else:
            logger.warning("No message is about to expire any more")
    elif found.count and (last is None or now - last >= remind):
        totals.set_warned(WARNED, now)
        logger.warning("%s. Next: `retrycli %s`", found, found.next_step)
