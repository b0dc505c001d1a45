"""Warn operators if messages are about to expire while deliveries are held back."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from retrycli.config.settings import Settings
from retrycli.domain.incidents import LOOKBACK, REMIND_AFTER, Incident, Topic, Turn, lasting, utc
from retrycli.domain.listing import Filter, ListedMessage
from retrycli.domain.message import EscalationReason, MessageType, State
from retrycli.domain.passes import PassSummary, StopReason
from retrycli.domain.retry_policy import later
from retrycli.store.database import Database
from retrycli.store.listing import MessageQueries
from retrycli.store.passes import Ledger, Targets
from retrycli.views.formatting import ahead
from retrycli.views.log_lines import logger

# Stop reasons that may persist, so that later passes also leave due messages unsent.
HELD_BACK = frozenset(
    {
        StopReason.PAUSED,
        StopReason.BREAKER_OPEN,
        StopReason.CREDENTIALS_REFUSED,
        StopReason.SAME_ANSWER,
        StopReason.UNREAD_ANSWER,
        StopReason.THROTTLED,
    }
)
# Safety margin after the next reminder, so that no message expires between two reminders without a warning.
EARLIER = timedelta(hours=2)
SOON = timedelta(days=1)  # lists mark a message that expires within this period
LOG = "log"  # name of the target that represents the logs of all hosts


# Describes a waiting message that has expired, in lists and in `retrycli explain`. A pass escalates the message only
# when it is due, and not during a pause or an outage.
EXPIRED = "expired; a pass will escalate it"


def in_words(message: ListedMessage, now: datetime) -> str | None:
    """Return when a waiting message expires, for a list; None if that is neither soon nor before its next attempt."""
    end, due = message.expires_at, message.attempt_from
    if message.state is not State.WAITING or end is None:
        return None
    if end < now:
        return EXPIRED
    if due is not None and end < due:
        return f"expires {ahead(end, now)}, before its next attempt"
    return f"expires {ahead(end, now)}" if end <= later(now, SOON) else None


@dataclass(frozen=True, slots=True)
class Expiry:
    """The result of a search for messages that expire soon."""

    incident: Incident | None  # None ends an earlier warning; see `expiring`
    too_late: bool = False  # some messages have expired since the warning


@dataclass(frozen=True, slots=True)
class _Obstacle:
    why: str
    next_step: str = "list-failed --state waiting"
    end: datetime | None = None
    # The affected destinations; None for all.
    destinations: Collection[str] | None = None


def expiring(settings: Settings, database: Database, summary: PassSummary, now: datetime) -> Expiry | None:
    """Find the messages that expire soon, if a pass held deliveries back. A message type must have an age limit.

    "Soon" means until shortly after the next reminder or, if the pause has an end, until the first pass after it.

    An `Expiry` without an incident ends an earlier warning: no message expires soon, or the pass delivered messages and
    held none back. None keeps an earlier warning: the pass neither held back nor delivered messages, or messages have
    expired and no others expire soon.

    Raises:
        DatabaseUnavailable: the messages can't be read.
    """
    kinds = [kind for kind, policy in settings.policies.items() if policy.expires_after]
    if summary.reason not in HELD_BACK:
        return Expiry(None, too_late=_are_too_late(settings, database, kinds)) if summary.sent else None
    obstacle = _obstacle(Ledger(database), summary, settings.gateway.destinations, now)
    reminder = now + max(REMIND_AFTER, settings.notify.remind)
    until = reminder + EARLIER if obstacle.end is None else obstacle.end + settings.schedule.interval
    places = obstacle.destinations
    held = [kind for kind in kinds if places is None or settings.gateway.of(kind).destination in places]
    waiting = (
        MessageQueries(database).messages(Filter(state=State.WAITING, message_type=held), sort="id") if held else ()
    )
    count, first, expired = 0, until, 0
    for message in waiting:
        at = message.under(settings.policies, unknown=now).expires_at
        expired += at is not None and at < now
        if at is not None and now <= at <= until:
            count, first = count + 1, min(first, at)
    if not count:
        return None if expired else Expiry(None)  # later passes report the expired messages
    many = f"{count:,} messages will expire by {utc(until)} (the first at {utc(first)})"
    what = f"1 message will expire at {utc(first)}" if count == 1 else many
    words = f"{what} unless deliveries resume. Cause: {obstacle.why}"
    return Expiry(Incident(now, words, obstacle.next_step))


def _are_too_late(settings: Settings, database: Database, kinds: Collection[MessageType]) -> bool:
    """Return whether messages that expired since the last warning were escalated."""
    told = Targets(database).memory(LOG).get(Topic.EXPIRY)
    if told is None or told.ended:
        return False
    last = told.told_at
    expired = Filter(state=State.ESCALATED, message_type=kinds, reason=EscalationReason.EXPIRED, escalated_after=last)
    ends = (
        message.under(settings.policies, unknown=last).expires_at
        for message in MessageQueries(database).messages(expired, sort="id")
    )
    return any(end is not None and end >= last for end in ends)


def _obstacle(ledger: Ledger, summary: PassSummary, used: Collection[str | None], now: datetime) -> _Obstacle:
    if summary.reason == StopReason.PAUSED and (pause := ledger.pause(now)) is not None:
        return _Obstacle(f"deliveries are paused by {pause.by} {pause.end}", "resume", pause.until)
    if summary.reason == StopReason.BREAKER_OPEN:
        open_now = [breaker for breaker in ledger.standing_breakers(used, now) if breaker.is_down(now)]
        if since := min((breaker.opened_at for breaker in open_now if breaker.opened_at), default=None):
            places = [breaker.destination for breaker in open_now]
            return _Obstacle(
                f"{', '.join(places)} {'has' if len(places) == 1 else 'have'} been down since {utc(since)}",
                destinations=places,
            )
    met = lasting(summary.reason or "", ledger.passes_up_to(summary.pass_id, LOOKBACK))
    since = met[-1].started_at if met else now
    return _Obstacle(
        {
            StopReason.CREDENTIALS_REFUSED: f"the credentials have been refused since {utc(since)}",
            StopReason.SAME_ANSWER: f"requests have been refused since {utc(since)}: {summary.detail}",
            StopReason.THROTTLED: f"the ticketing API asked retrycli to wait: {summary.detail}",
        }.get(StopReason(summary.reason or StopReason.FAULT), f"nothing is delivered: {summary.detail}")
    )


def warn(database: Database, found: Expiry, now: datetime, remind: timedelta) -> None:
    """Log a warning when messages are about to expire, again every ``remind``, and when no more expire soon.

    Raises:
        DatabaseUnavailable: the last warning can't be read or written.
    """
    turn = Targets(database).follow(LOG, Topic.EXPIRY, found.incident, now, remind)
    if turn is Turn.ENDED and found.too_late:
        logger.warning("Some of the messages that were about to expire have expired; see `retrycli escalations`")
    elif turn is Turn.ENDED:
        logger.warning("Messages are no longer about to expire")
    elif turn is not None and found.incident is not None:
        logger.warning("%s. Next: `retrycli %s`", found.incident.detail, found.incident.next_step)
