"""Apply operators' actions to any number of failed messages: find, requeue, reject, mark as sent, acknowledge.

Each action is recorded with its operator. Each transaction changes at most `BATCH` messages, so that passes and the
application can continue. Messages that are sent, or are being sent, are not changed. An interrupted action can be
repeated: messages that it has already changed are skipped.
"""

import asyncio
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from retrycli.config.settings import Settings
from retrycli.domain.errors import ConfigurationError, RetrycliError
from retrycli.domain.listing import Filter, ListedMessage
from retrycli.domain.message import Message, MessageStatus, QueuedMessage
from retrycli.domain.operator_action import OperatorAction, not_written, unfit, would_expire
from retrycli.domain.transition import ActionKind
from retrycli.operations import ids as message_ids
from retrycli.operations.login import login_name
from retrycli.operations.pause import mark_held_back, with_holds
from retrycli.operations.retry import ActionResult, ManualAttempt, retry_all
from retrycli.operations.wiring import DEFAULT_RUNTIME, Runtime, clock, open_database
from retrycli.store.database import Database
from retrycli.store.listing import MessageQueries
from retrycli.store.messages import column_names, with_keys
from retrycli.store.operator_actions import Acts

BATCH = 500  # maximum number of messages in one transaction
SHOWN = 5  # number of messages shown before the operator confirms

# Returns when a requeued message becomes due, from its position and the start of the whole action.
DueAt = Callable[[int, datetime], datetime]


@dataclass(frozen=True, slots=True)
class Match:
    """The messages that a filter matched, or whose ids were given.

    Attributes:
        ids: the ids, in an array, because a filter may match a million messages.
        first: details of the first messages, for a confirmation.
    """

    ids: Sequence[int]
    first: list[ListedMessage]


@dataclass(frozen=True, slots=True)
class Canary:
    """A test before a requeue: if too many of the first messages fail, the other messages are not requeued.

    Attributes:
        abort_over: the share of the attempts that may fail.
    """

    number: int = 3
    abort_over: float = 0.3

    def fails(self, tried: Sequence[ManualAttempt]) -> bool:
        """Return whether the share of failed attempts exceeds ``abort_over``. Skipped messages do not count."""
        return self.is_exceeded(sum(attempt.delivered for attempt in tried), sum(attempt.failed for attempt in tried))

    def is_exceeded(self, delivered: int, failed: int) -> bool:
        """Return whether the share of failed attempts exceeds ``abort_over``."""
        return failed > 0 and failed / (delivered + failed) > self.abort_over


def named(settings: Settings, ids: Iterable[int | str], *, shown: int = SHOWN) -> Match:
    """Return the ids without duplicates, and the failed messages among the first ``shown`` ids.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        wanted = message_ids.resolve(database, ids)
        first = MessageQueries(database).pages(wanted[:shown], Filter())
        return Match(wanted, list(mark_held_back(settings, database, first)))


def find(settings: Settings, wanted: Filter, *, shown: int = SHOWN) -> Match:
    """Return the failed messages that a filter matches, possibly none.

    Raises:
        InvalidArgument: a text of the filter contains NUL or is not valid UTF-8.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    wanted.check()
    with open_database(settings) as database:
        wanted, views = with_holds(settings, database, wanted), MessageQueries(database)
        ids = with_keys(database, views.ids(wanted))
        return Match(ids, list(mark_held_back(settings, database, views.pages(ids[:shown], wanted))))


def requeue(
    settings: Settings,
    ids: Iterable[int | str],
    *,
    due: datetime | None = None,
    spread: timedelta = timedelta(0),
    canary: Canary | None = None,
    by: str | None = None,
    runtime: Runtime = DEFAULT_RUNTIME,
) -> ActionResult:
    """Return escalated messages to the queue, with their retry counts reset to 0.

    Messages that `reject` rejected are also requeued, if their rows have not changed since. Expired messages are not
    requeued or used as canaries, because a pass would escalate them again. A message whose text has a recorded delivery
    gets a new delivery key. Other messages keep their keys.

    Args:
        settings: from `retrycli.load_settings`, or created directly.
        ids: the messages.
        due: when the first message is due; by default now.
        spread: the period over which the messages become due, evenly and in the given order.
        canary: attempt the first messages by hand, and leave all others unchanged if too many fail.
        by: the operator, for the history; by default the current user's login name.
        runtime: clock, randomness, and a request to stop early.

    Returns:
        The number of requeued messages, and the reasons why others were not requeued. A canary that failed or
        was skipped keeps its state; a delivered one is marked as sent.

    Raises:
        DatabaseUnavailable: the database can't be opened, read or written.
        ConfigurationError: a setting, the preset or the application's table is wrong.
    """
    with open_database(settings) as database:
        named_ids = message_ids.resolve(database, ids)
    expired: dict[int, RetrycliError] = {
        message_id: would_expire(message_id) for message_id in expired_among(settings, named_ids, runtime)
    }
    wanted = [message_id for message_id in named_ids if message_id not in expired] if expired else named_ids
    tried = [] if canary is None else try_canaries(settings, wanted, canary.number, by, runtime)
    rest = wanted[len(tried) :]
    if canary is not None and canary.fails(tried):
        return ActionResult(len(named_ids), refused=expired, tried=tried, left=len(rest), reason="canary_failed")

    def due_at(position: int, at: datetime) -> datetime:
        return (due or at) + spread * position / len(rest)

    after = perform(settings, ActionKind.REQUEUED, rest, by, runtime, due_at=due_at)
    return replace(after, matched=len(named_ids), refused=expired | after.refused, tried=tried)


def expired_among(settings: Settings, ids: Sequence[int], runtime: Runtime = DEFAULT_RUNTIME) -> set[int]:
    """Return the failed messages that have expired, so that a pass would escalate them instead of sending them.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    if not ids or not any(policy.expires_after for policy in settings.policies.values()):
        return set()
    with open_database(settings) as database:
        now = clock(database, runtime.now)()
        listed = MessageQueries(database).pages(ids, Filter())
        return {
            message.id for message in listed if (end := message.expires_at(settings.policies)) is not None and end < now
        }


def try_canaries(
    settings: Settings, ids: Sequence[int], number: int, by: str | None, runtime: Runtime
) -> list[ManualAttempt]:
    """Attempt messages in order until ``number`` are attempted, or a stop is requested. Skip messages whose state
    allows no attempt.
    """
    tried: list[ManualAttempt] = []
    while (missing := number - sum(attempt.was_made for attempt in tried)) > 0:
        coming = ids[len(tried) : len(tried) + missing]
        made = retry_all(settings, coming, by=by, runtime=runtime).tried if coming else []
        tried += made
        if not made or len(made) < len(coming):
            break
    return tried


def reject(
    settings: Settings,
    ids: Iterable[int | str],
    reason: str,
    *,
    by: str | None = None,
    runtime: Runtime = DEFAULT_RUNTIME,
) -> ActionResult:
    """Give up on messages: their status in the application's table becomes ``rejected``, and they leave the queue.

    Args:
        settings: from `retrycli.load_settings`, or created directly.
        ids: the messages; they must be failed, in any state except being sent.
        reason: for ``last_error`` and the history.
        by: the operator; by default the current user's login name.
        runtime: the clock, and a request to stop early.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    return perform(settings, ActionKind.REJECTED, ids, by, runtime, reason)


def mark_sent(
    settings: Settings,
    ids: Iterable[int | str],
    *,
    note: str | None = None,
    by: str | None = None,
    runtime: Runtime = DEFAULT_RUNTIME,
) -> ActionResult:
    """Mark messages as arrived: their status becomes ``sent``, and no pass sends their texts again.

    Args:
        settings: from `retrycli.load_settings`, or created directly.
        ids: the messages; they must be failed, in any state except being sent.
        note: how the operator knows that they arrived, for the history.
        by: the operator; by default the current user's login name.
        runtime: the clock, and a request to stop early.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    return perform(settings, ActionKind.MARKED_SENT, ids, by, runtime, note)


def acknowledge(
    settings: Settings, ids: Iterable[int | str], *, by: str | None = None, runtime: Runtime = DEFAULT_RUNTIME
) -> ActionResult:
    """Record that an operator is handling escalated messages. They stay escalated.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    return perform(settings, ActionKind.ACKNOWLEDGED, ids, by, runtime)


def note(
    settings: Settings, message_id: int | str, text: str, *, by: str | None = None, runtime: Runtime = DEFAULT_RUNTIME
) -> None:
    """Add a note to an escalated message, replacing an earlier note.

    Raises:
        NoSuchMessage: the application's table has no such row.
        NotActionable: the message is not escalated.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    done = perform(settings, ActionKind.NOTED, [message_id], by, runtime, text)
    for error in done.refused.values():
        raise error


def perform(
    settings: Settings,
    kind: ActionKind,
    ids: Iterable[int | str],
    by: str | None,
    runtime: Runtime,
    words: str | None = None,
    *,
    due_at: DueAt | None = None,
) -> ActionResult:
    """Apply an action, with the operator's words, to messages in batches. Between two batches, stop if that is
    requested. Requeued messages become due when ``due_at`` says.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    name, reached = by or login_name(), 0
    refused: dict[int, RetrycliError] = {}
    with open_database(settings) as database:
        acts, now = Acts(database), clock(database, runtime.now)
        at, ids = now(), message_ids.resolve(database, ids)
        while reached < len(ids) and not runtime.stop_requested():
            batch = {
                message_id: _action(kind, name, at, words, due_at and due_at(position, at))
                for position, message_id in enumerate(ids[reached : reached + BATCH], reached)
            }
            messages = acts.read(batch) if kind is ActionKind.REQUEUED else []
            rejected = {message.id for message in messages if message.fields["status"] == MessageStatus.REJECTED}
            too_old = _expired(settings, acts, messages, at)
            problems = _problems(settings, database, messages, now) if messages else {}
            performed = acts.perform(kind, batch, problems | dict.fromkeys(too_old, "the message has expired"))
            refused |= {message_id: not_written(kind, message_id, why) for message_id, why in performed.refused.items()}
            refused |= {
                message_id: would_expire(message_id, is_rejected=message_id in rejected)
                if message_id in too_old
                else unfit(message_id, why)
                for message_id, why in performed.unfit.items()
            }
            if performed.lost:
                refused |= acts.why_not(kind, performed.lost, now())
            reached += len(batch)
    left = len(ids) - reached
    return ActionResult(len(ids), reached - len(refused), refused, left=left, reason="signal" if left else None)


def _action(kind: ActionKind, by: str, at: datetime, words: str | None, due: datetime | None) -> OperatorAction:
    if due is not None:
        return OperatorAction.requeued(due, by=by, at=at)
    match kind:
        case ActionKind.REJECTED:
            return OperatorAction.rejected(words or "", by=by, at=at)
        case ActionKind.NOTED:
            return OperatorAction.noted(words or "", by=by, at=at)
        case _:
            return OperatorAction(kind, by, at, words)


def _expired(settings: Settings, acts: Acts, messages: Sequence[Message], now: datetime) -> set[int]:
    """Return the messages that have expired, including rejected ones, which are no longer in the queue."""
    policies = {message.id: settings.policies[message.message_type] for message in messages}
    if not any(policy.expires_after for policy in policies.values()):
        return set()
    made_at = acts.first_failures([message.id for message in messages if message.created_at is None])
    made_at |= {message.id: message.created_at for message in messages if message.created_at is not None}
    ends = ((message_id, policies[message_id].wanted_until(at)) for message_id, at in made_at.items())
    return {message_id for message_id, end in ends if end is not None and end < now}


def _problems(
    settings: Settings, database: Database, messages: Sequence[Message], now: Callable[[], datetime]
) -> dict[int, str]:
    """Return the messages from which no request can be built, and the reasons. Send nothing.

    If the settings of the gateways are wrong, return no problems, because a pass reports that error.
    """
    from retrycli.gateway.router import open_router

    async def ask() -> dict[int, str]:
        async with open_router(settings.gateway, columns=column_names(database), connections=1, now=now) as gateway:
            queued = [QueuedMessage(message, str(uuid.uuid4()), now()) for message in messages]
            found = {message.message_id: await gateway.problem(message) for message in queued}
        return {message_id: why for message_id, why in found.items() if why is not None}

    # Use another thread, because the caller's thread may run an event loop.
    with suppress(ConfigurationError), ThreadPoolExecutor(1) as aside:
        return aside.submit(asyncio.run, ask()).result()
    return {}
