"""Apply operators' actions to any number of failed messages: find, requeue, reject, mark as sent, acknowledge, retry.

Each action is recorded with its operator. Each transaction changes at most `BATCH` messages, so that passes and the
application can continue. Messages that are sent, or are being sent, are not changed. An interrupted action can be
repeated: messages that it has already changed are skipped.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType

from retrycli.config.settings import Settings
from retrycli.domain.cursor import Cursor, MessageCursor
from retrycli.domain.errors import ConfigurationError, CountChanged, InvalidArgument, RetrycliError
from retrycli.domain.listing import Filter, ListedMessage
from retrycli.domain.message import Message, MessageStatus, QueuedMessage
from retrycli.domain.operator_action import OperatorAction, not_as_shown, not_written, other_text, unfit, would_expire
from retrycli.domain.outlook import MAX_CLOCK_SKEW
from retrycli.domain.transition import ActionKind
from retrycli.operations import ids as message_ids
from retrycli.operations.bulk import ACTIONS, MOST, BulkAction, BulkRequest, Canary, Progress
from retrycli.operations.pause import with_holds, with_prospects
from retrycli.operations.recovery import open_to_act
from retrycli.operations.retry import ActionResult, ManualAttempt, failure_streak, retry_all
from retrycli.operations.wiring import DEFAULT_RUNTIME, Runtime, clock, open_database, utc_now
from retrycli.store.database import Database
from retrycli.store.listing import MessageQueries
from retrycli.store.messages import column_names, with_keys
from retrycli.store.operator_actions import Acts
from retrycli.system.process import login_name

BATCH = 500  # maximum number of messages in one transaction
SHOWN = 5  # number of messages shown before the operator confirms
SLICE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Match:
    """The messages that an action would reach.

    Attributes:
        ids: the ids, in an array, because a filter may match a million messages.
        first: details of the first messages, for a confirmation.
        expired: the messages that ``requeue`` would leave unchanged, because they have expired.
        as_of: a time before the messages were read.
    """

    ids: Sequence[int]
    first: list[ListedMessage]
    expired: AbstractSet[int] = frozenset()
    as_of: datetime | None = None


def find(settings: Settings, wanted: Filter, *, shown: int = SHOWN) -> Match:
    """Return the failed messages that a filter matches, possibly none.

    Raises:
        InvalidArgument: a text of the filter contains NUL or is not valid UTF-8.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    wanted.check()
    with open_database(settings) as database:
        ids = _matching(settings, database, wanted)
        return Match(ids, _first(settings, database, ids[:shown]))


def preview(settings: Settings, request: BulkRequest, *, shown: int = SHOWN) -> Match:
    """Return the messages that a request would reach. Nothing is changed.

    Raises:
        InvalidArgument: the request is invalid.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    request.check(to_act=False)
    with open_database(settings) as database:
        as_of = clock(database, utc_now)()
        ids = _ids(settings, database, request, None)
        is_requeue = request.action is BulkAction.REQUEUE
        expired = _expired_among(settings, database, ids, utc_now) if is_requeue else frozenset()
        return Match(ids, _first(settings, database, ids[:shown]), expired, as_of)


def _first(settings: Settings, database: Database, ids: Sequence[int]) -> list[ListedMessage]:
    return list(with_prospects(settings, database, MessageQueries(database).pages(ids, Filter())))


def _matching(
    settings: Settings, database: Database, wanted: Filter, *, after: MessageCursor | None = None, limit: int = MOST
) -> Sequence[int]:
    found = MessageQueries(database).ids(with_holds(settings, database, wanted), after=after, limit=limit)
    return with_keys(database, found)


def _expired_among(
    settings: Settings, database: Database, ids: Sequence[int], now: Callable[[], datetime]
) -> AbstractSet[int]:
    """Return the failed messages that have expired, so that a pass would escalate them instead of sending them."""
    if not ids or not any(policy.expires_after for policy in settings.policies.values()):
        return frozenset()
    policies, at = settings.policies, clock(database, now)()
    listed = (message.under(policies) for message in MessageQueries(database).pages(ids, Filter()))
    return {message.id for message in listed if message.expires_at is not None and message.expires_at < at}


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
        InvalidArgument: the last message would become due after the largest time.
        DatabaseUnavailable: the database can't be opened, read or written.
        ConfigurationError: a setting, the preset or the application's table is wrong.
    """
    return act_on(
        settings, BulkRequest(BulkAction.REQUEUE, due=due, spread=spread, canary=canary), ids, by=by, runtime=runtime
    )


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
    return act_on(settings, BulkRequest(BulkAction.REJECT, reason=reason), ids, by=by, runtime=runtime)


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
    return act_on(settings, BulkRequest(BulkAction.MARK_SENT, reason=note), ids, by=by, runtime=runtime)


def acknowledge(
    settings: Settings, ids: Iterable[int | str], *, by: str | None = None, runtime: Runtime = DEFAULT_RUNTIME
) -> ActionResult:
    """Record that an operator is handling escalated messages. They stay escalated.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    return act_on(settings, BulkRequest(BulkAction.ACKNOWLEDGE), ids, by=by, runtime=runtime)


def note(
    settings: Settings, message_id: int | str, text: str, *, by: str | None = None, runtime: Runtime = DEFAULT_RUNTIME
) -> None:
    """Add a note to an escalated message, replacing an earlier note.

    Raises:
        NoSuchMessage: the application's table has no such row.
        NotActionable: the message is not escalated.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_to_act(settings, runtime) as database:
        ids = message_ids.resolve(database, [message_id])
        done = _perform(settings, database, ActionKind.NOTED, ids, by or login_name(), runtime, text)
    for error in done.refused.values():
        raise error


def act_on(
    settings: Settings,
    request: BulkRequest,
    ids: Iterable[int | str],
    *,
    by: str | None = None,
    runtime: Runtime = DEFAULT_RUNTIME,
) -> ActionResult:
    """Apply a request to some messages without a limit of time. The request's own ids and filter are not used.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database, a setting or the preset can't be used.
    """
    with open_to_act(settings, runtime) as database:
        wanted = message_ids.resolve(database, ids)
        begin = request.due or clock(database, runtime.now)()
        part = _Slice(settings, database, request, wanted, Progress(len(wanted), begin), by or login_name(), runtime)
        return part.run()


def _perform(
    settings: Settings,
    database: Database,
    kind: ActionKind,
    ids: Sequence[int],
    by: str,
    runtime: Runtime,
    words: str | None = None,
    *,
    as_of: datetime | None = None,
    due_at: Callable[[int], datetime] | None = None,
) -> ActionResult:
    """Apply an action, with the operator's words, to messages in batches. Between two batches, stop if that is
    requested. Requeued messages become due when ``due_at`` says, by their position. For ``as_of`` see `BulkRequest`.
    """
    reached = 0
    refused: dict[int, RetrycliError] = {}
    acts, now = Acts(database), clock(database, runtime.now)
    at = now()
    while reached < len(ids) and not runtime.stop_requested():
        coming = ids[reached : reached + BATCH]
        news = acts.news(coming, as_of, now() + MAX_CLOCK_SKEW) if as_of else frozenset()
        refused |= {message_id: not_as_shown(message_id) for message_id in news}
        batch = {
            message_id: _action(kind, by, at, words, due_at and due_at(position))
            for position, message_id in enumerate(coming, reached)
            if message_id not in news
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
        refused |= {message_id: other_text(message_id) for message_id in performed.rewritten}
        if performed.lost:
            refused |= acts.why_not(kind, performed.lost, now())
        reached += len(coming)
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


@dataclass(frozen=True, slots=True)
class BulkResult:
    """The result of one slice.

    In ``result``, ``matched`` counts the messages of all slices, and ``left`` those that no slice has reached yet.
    ``reason`` is ``time`` if the slice's time was up.
    """

    action: BulkAction
    result: ActionResult
    next: str | None  # the text with which the next slice goes on; None if the action has ended


def act(
    settings: Settings,
    request: BulkRequest,
    *,
    after: str | None = None,
    seconds: float | None = SLICE_SECONDS,
    by: str | None = None,
    runtime: Runtime = DEFAULT_RUNTIME,
    elapsed: Callable[[], float] = time.monotonic,
) -> BulkResult:
    """Apply an action to as many messages as possible within one slice of time.

    No batch and no attempt begins after the slice has ended, but the last one may take longer. At least one is made.
    The request is the same for all slices, and ``after`` is `BulkResult.next` of the previous slice. Without
    ``seconds``, the slice has no limit.

    Raises:
        CountChanged: the filter matches more or fewer messages than expected. Nothing was done.
        InvalidArgument: the request is invalid, or ``after`` belongs to another request. Nothing was done.
        DatabaseUnavailable, ConfigurationError: the database, a setting or the preset can't be used.
        EventLoopRunning: this thread runs an event loop, and messages would be attempted.
    """
    request.check()
    progress = None if after is None else Progress.parse(after, request.digest)
    watch = _Watch(seconds, runtime.stop_requested, elapsed)
    with open_to_act(settings, runtime) as database:
        ids = _ids(settings, database, request, progress)
        if progress is None:
            _expect(request, len(ids))
            progress = Progress(len(ids), request.due or clock(database, runtime.now)())
        watched = replace(runtime, stop_requested=watch.is_over)
        part = _Slice(settings, database, request, ids, progress, by or login_name(), watched)
        done = part.run()
    if done.reason == "signal" and watch.is_up:
        done = replace(done, reason="time")
    can_go_on = done.reason in {"time", "signal"}
    return BulkResult(request.action, done, part.progress.text(request.digest) if can_go_on else None)


def _ids(settings: Settings, database: Database, request: BulkRequest, progress: Progress | None) -> Sequence[int]:
    if request.wanted is None:
        ids = message_ids.resolve(database, request.ids)
        if progress is not None and progress.total != len(ids):
            raise InvalidArgument("not the progress of this request: begin the action again")
        return ids[progress.handled if progress else 0 :]
    if (wanted := request.selection) is None:
        return ()
    if progress is None:
        return _matching(settings, database, wanted)
    end: MessageCursor | None = None if progress.last is None else Cursor("id", None, progress.last)
    return _matching(settings, database, wanted, after=end, limit=progress.total - progress.handled)


def _expect(request: BulkRequest, count: int) -> None:
    if request.expected not in {None, count}:
        raise CountChanged(
            f"the number of matching messages is now {count:,}, not {request.expected:,}; nothing was done. "
            "Check the messages, and confirm again",
            count,
        )


class _Watch:
    """Tells when a slice is over: a stop is requested, or the next step would probably exceed its time, if limited."""

    def __init__(self, seconds: float | None, stop_requested: Callable[[], bool], elapsed: Callable[[], float]) -> None:
        self.is_up = False
        self._seconds, self._stop_requested, self._elapsed = seconds, stop_requested, elapsed
        self._began = elapsed()
        self._last: float | None = None
        self._longest = 0.0

    def is_over(self) -> bool:
        """Return whether to stop before the next step. The first step is always made, unless a stop is requested."""
        if self._stop_requested():
            return True
        now, last = self._elapsed(), self._last
        self._last = now
        if last is not None and self._seconds is not None:
            self._longest = max(self._longest, now - last)
            self.is_up = now - self._began + self._longest > self._seconds
        return self.is_up


@dataclass
class _Slice:
    """One slice at work; ``ids`` are the messages that no slice has reached yet."""

    settings: Settings
    database: Database
    request: BulkRequest
    ids: Sequence[int]
    progress: Progress
    by: str
    runtime: Runtime
    reached: int = 0
    done: int = 0
    refused: dict[int, RetrycliError] = field(default_factory=dict)
    tried: list[ManualAttempt] = field(default_factory=list)

    def run(self) -> ActionResult:
        """Act until the ids or the time run out, and return the result.

        Raises:
            InvalidArgument: the last message would become due after the largest time.
        """
        try:
            self.progress.begin + self.request.spread
        except OverflowError:
            raise InvalidArgument("due is too late; give an earlier time") from None
        if (kind := ACTIONS[self.request.action].kind) is None:
            reason = self._retry()
        elif kind is ActionKind.REQUEUED:
            reason = self._try_canaries() or self._change(kind, due_at=self._due)
        else:
            reason = self._change(kind, self.request.reason)
        left = len(self.ids) - self.reached
        canaries = self.progress.delivered + self.progress.failed, self.progress.failed
        return ActionResult(self.progress.total, self.done, self.refused, self.tried, left, reason, canaries)

    def _advance(self, number: int) -> None:
        if number:
            self.reached += number
            handled, last = self.progress.handled + number, self.ids[self.reached - 1]
            self.progress = replace(self.progress, handled=handled, last=last)

    def _attempt(
        self,
        coming: Sequence[int],
        left_out: Mapping[int, RetrycliError] = MappingProxyType({}),
        *,
        send_again: bool,
        give_up_after: int | None = None,
        streak: int = 0,
    ) -> ActionResult:
        """Attempt the next messages, except for those that are left out and those about which there is news."""
        until, as_of = clock(self.database, self.runtime.now)() + MAX_CLOCK_SKEW, self.request.as_of
        news = Acts(self.database).news(coming, as_of, until) if as_of else frozenset()
        out = {**left_out, **{message_id: not_as_shown(message_id) for message_id in news}}
        fit = [message_id for message_id in coming if message_id not in out]
        made = ActionResult(0)
        if fit:
            made = retry_all(
                self.settings,
                fit,
                by=self.by,
                send_again=send_again,
                give_up_after=give_up_after,
                streak=streak,
                runtime=self.runtime,
                database=self.database,
            )
        unreached = next(iter(fit[len(made.tried) :]), None)
        reached = coming if unreached is None else coming[: [*coming].index(unreached)]
        self._advance(len(reached))
        self.refused |= {message_id: out[message_id] for message_id in reached if message_id in out}
        self.tried += made.tried
        return made

    def _retry(self) -> str | None:
        most, again = None if self.request.wanted is None else self.settings.breaker.failures, self.request.send_again
        reason = None
        while self.reached < len(self.ids) and reason is None:
            coming, before = self.ids[self.reached : self.reached + BATCH], self.progress.streak
            made = self._attempt(coming, send_again=again, give_up_after=most, streak=before)
            self.done += made.done
            self.refused |= made.refused
            reason, streak = made.reason, min(failure_streak(made.tried, before), self.progress.handled)
            self.progress = replace(self.progress, streak=streak)
        return reason

    def _try_canaries(self) -> str | None:
        canary = self.request.canary
        if self.progress.spread_from is not None:
            return None
        while canary is not None and self.reached < len(self.ids):
            missing = canary.number - self.progress.delivered - self.progress.failed
            if missing <= 0 or canary.is_exceeded(canary.number - self.progress.failed, self.progress.failed):
                break
            coming = self.ids[self.reached : self.reached + missing]
            expired = _expired_among(self.settings, self.database, coming, self.runtime.now)
            made = self._attempt(coming, {each: would_expire(each) for each in expired}, send_again=True)
            self.progress = replace(
                self.progress,
                delivered=self.progress.delivered + sum(attempt.delivered for attempt in made.tried),
                failed=self.progress.failed + sum(attempt.failed for attempt in made.tried),
            )
            if made.reason is not None:
                return made.reason
        if canary is not None and canary.is_exceeded(self.progress.delivered, self.progress.failed):
            return "canary_failed"
        self.progress = replace(self.progress, spread_from=self.progress.handled)
        return None

    def _due(self, position: int) -> datetime:
        return self.progress.due(self.progress.handled + position, self.request.spread)

    def _change(
        self, kind: ActionKind, words: str | None = None, *, due_at: Callable[[int], datetime] | None = None
    ) -> str | None:
        rest = self.ids[self.reached :]
        made = _perform(
            self.settings,
            self.database,
            kind,
            rest,
            self.by,
            self.runtime,
            words,
            as_of=self.request.as_of,
            due_at=due_at,
        )
        self._advance(len(rest) - made.left)
        self.done += made.done
        self.refused |= made.refused
        return made.reason
