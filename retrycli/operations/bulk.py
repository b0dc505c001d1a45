"""Apply an action to many messages in slices of time, so that a request of the console or the HTTP API ends soon.

Each slice returns how many messages are left, and an opaque text with which the next slice goes on. Apart from that,
the actions are those of `message_actions` and `retry`.
"""

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property

from retrycli.config.settings import Settings
from retrycli.domain.cursor import Cursor, MessageCursor, number, pack, unpack
from retrycli.domain.cursor import time as as_time
from retrycli.domain.duration import LONGEST
from retrycli.domain.errors import CountChanged, InvalidArgument, RetrycliError
from retrycli.domain.listing import Filter, ListedMessage
from retrycli.domain.message import LARGEST_ID, SMALLEST_ID, State
from retrycli.domain.operator_action import would_expire
from retrycli.domain.sanitize import storable
from retrycli.domain.transition import ActionKind
from retrycli.operations import ids as message_ids
from retrycli.operations.login import login_name
from retrycli.operations.message_actions import SHOWN, Canary, DueAt, expired_among, perform, try_canaries
from retrycli.operations.pause import mark_held_back, with_holds
from retrycli.operations.retry import ActionResult, ManualAttempt, failure_streak, retry_all
from retrycli.operations.wiring import DEFAULT_RUNTIME, Runtime, clock, open_database
from retrycli.store.database import Database
from retrycli.store.listing import MessageQueries
from retrycli.store.messages import with_keys

MOST = 10**9  # maximum number of messages of an action


class BulkAction(StrEnum):
    """The actions that can be applied to many messages."""

    REQUEUE = "requeue"
    REJECT = "reject"
    MARK_SENT = "mark_sent"
    ACKNOWLEDGE = "acknowledge"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Progress:
    """What the earlier slices of an action have done.

    Attributes:
        request: the digest of the request; progress is only valid for its own request.
        total: number of messages when the action began.
        begin: the due time of the first requeued message.
        handled: number of messages that were reached; their order is that of the request.
        last: the id of the last message that was reached; None before the first.
        delivered: number of delivered canaries.
        failed: number of failed canaries.
        spread_from: number of messages that were reached before the canaries ended; None until then.
        streak: number of consecutive failures that the ticketing API has probably caused, up to the last message.
    """

    request: str
    total: int
    begin: datetime
    handled: int = 0
    last: int | None = None
    delivered: int = 0
    failed: int = 0
    spread_from: int | None = None
    streak: int = 0

    def due(self, position: int, spread: timedelta) -> datetime:
        """Return when a requeued message becomes due. The messages are spread evenly over a period.

        Args:
            position: the number of messages before it, including those that were reached.
            spread: the period.
        """
        first = self.spread_from or 0
        return self.begin + spread * (position - first) / max(self.total - first, 1)

    def __str__(self) -> str:
        """Return the progress as opaque text, with which the next slice goes on."""
        counts = [self.handled, self.last, self.delivered, self.failed, self.spread_from, self.streak]
        return pack([self.request, self.total, self.begin.isoformat(), *counts])

    @classmethod
    def parse(cls, text: str, request: str) -> "Progress":
        """Parse the progress of a request.

        Raises:
            InvalidArgument: the text is not the progress of this request, or its numbers are impossible.
        """
        with suppress(ValueError):
            name, total, begin, handled, last, delivered, failed, spread_from, streak = unpack(text)
            found = cls(
                request,
                number(total),
                as_time(begin),
                number(handled),
                _optional(last),
                number(delivered),
                number(failed),
                _optional(spread_from),
                number(streak),
            )
            if name == request and all(found._checks()):
                return found
        raise InvalidArgument("not the progress of this request: begin the action again")

    def _checks(self) -> Iterator[bool]:
        yield 0 <= self.handled <= self.total <= MOST
        yield (self.last is None) == (self.handled == 0)
        yield min(self.delivered, self.failed) >= 0
        yield self.delivered + self.failed <= self.handled
        yield self.spread_from is None or 0 <= self.spread_from <= self.handled
        yield 0 <= self.streak <= self.handled


def _optional(value: object) -> int | None:
    return None if value is None else number(value)


LONGEST_REASON = 1_000  # maximum number of characters of a reason; it is stored once per message
MAX_CANARIES = 1_000
# The actions that apply only to escalated messages. A filter for them never matches other messages.
OF_ESCALATIONS = frozenset({BulkAction.REQUEUE, BulkAction.ACKNOWLEDGE})


@dataclass(frozen=True)
class BulkRequest:
    """An action on many messages.

    Attributes:
        action: the action.
        ids: the messages, in the order in which they are reached; or
        wanted: a filter with at least one condition. Its messages are reached in the order of their ids.
        expected: the number of messages that the operator confirmed; nothing is done if the filter matches more or
            fewer. None if nothing was confirmed.
        reason: for ``reject`` the reason, which is required; for ``mark_sent`` how the operator knows that the messages
            arrived.
        due: for ``requeue``, when the first message is due; by default now.
        spread: for ``requeue``, the period over which the messages become due.
        canary: for ``requeue``, the test before it.
    """

    action: BulkAction
    ids: Sequence[int | str] = ()
    wanted: Filter | None = None
    expected: int | None = None
    reason: str | None = None
    due: datetime | None = None
    spread: timedelta = timedelta(0)
    canary: Canary | None = None

    def check(self) -> None:
        """Check the request.

        Raises:
            InvalidArgument: a value is missing, invalid, or not used by the action.
        """
        for is_wrong, why in self._faults():
            if is_wrong:
                raise InvalidArgument(why)
        if self.wanted is not None:
            self.wanted.check()

    def _faults(self) -> Sequence[tuple[bool, str]]:
        reason, canary = self.reason or "", self.canary or Canary()
        takes_reason = self.action in {BulkAction.REJECT, BulkAction.MARK_SENT}
        requeue_only = (self.due, self.canary) != (None, None) or bool(self.spread)
        return (
            (any(not _is_id(each) for each in self.ids), "an id must be text, or an integer of 64 bits"),
            (bool(self.ids) == (self.wanted is not None), "give either ids or a filter"),
            (self.wanted == Filter(), "the filter has no condition; give at least one"),
            (self.action is BulkAction.REJECT and not reason.strip(), "the reason is empty; give one"),
            (bool(reason) and not takes_reason, f"{self.action} takes no reason"),
            (not storable(reason), "the reason contains an invalid character; remove it"),
            (len(reason) > LONGEST_REASON, f"the reason is longer than {LONGEST_REASON:,} characters; shorten it"),
            (requeue_only and self.action is not BulkAction.REQUEUE, f"{self.action} takes no due, spread or canary"),
            (self.due is not None and self.due.tzinfo is None, "due must have an offset from UTC"),
            (not timedelta(0) <= self.spread <= LONGEST, f"spread must be from 0 to {LONGEST.days} days"),
            (not 1 <= canary.number <= MAX_CANARIES, f"canary must be from 1 to {MAX_CANARIES:,}: {canary.number}"),
            (not 0 <= canary.abort_over <= 1, f"abort_over must be from 0 to 1: {canary.abort_over:g}"),
        )

    @property
    def selection(self) -> Filter | None:
        """Return the filter, restricted to messages in a state that suits the action; None if no message does."""
        wanted = self.wanted or Filter()
        if self.action not in OF_ESCALATIONS:
            return wanted
        if State.ESCALATED not in (wanted.states or [State.ESCALATED]):
            return None
        return replace(wanted, state=State.ESCALATED, new=wanted.new or self.action is BulkAction.ACKNOWLEDGE)

    @cached_property
    def digest(self) -> str:
        """Return a digest of the request, which is part of its progress."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in {"ids", "expected"}}
        text = json.dumps([own, [*self.ids]], default=_plain, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _plain(value: object) -> object:
    if isinstance(value, Filter):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, str) or not isinstance(value, Collection):
        return str(value)
    return sorted(map(str, value))


def _is_id(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and SMALLEST_ID <= value <= LARGEST_ID)


__all__ = ["BulkPreview", "BulkRequest", "BulkResult", "act", "preview"]

SLICE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class BulkPreview:
    """The messages that a request would reach.

    Attributes:
        count: their number.
        first: details of the first messages.
        expired: the number of messages that ``requeue`` would leave unchanged, because they have expired.
    """

    count: int
    first: list[ListedMessage]
    expired: int


@dataclass(frozen=True, slots=True)
class BulkResult:
    """The result of one slice.

    Attributes:
        action: the action.
        result: the messages of this slice. ``matched`` counts the messages of all slices, and ``left`` those that no
            slice has reached yet. ``reason`` is ``time`` if the slice's time was up.
        next: the text with which the next slice goes on; None if the action has ended.
    """

    action: BulkAction
    result: ActionResult
    next: str | None


def preview(
    settings: Settings, request: BulkRequest, *, shown: int = SHOWN, runtime: Runtime = DEFAULT_RUNTIME
) -> BulkPreview:
    """Return the messages that a request would reach. Nothing is changed.

    Raises:
        InvalidArgument: the request is invalid.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    request.check()
    with open_database(settings) as database:
        ids = _ids(settings, database, request, None)
        first = list(mark_held_back(settings, database, MessageQueries(database).pages(ids[:shown], Filter())))
    expired = expired_among(settings, ids, runtime) if request.action is BulkAction.REQUEUE else ()
    return BulkPreview(len(ids), first, len(expired))


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

    Args:
        settings: from `retrycli.load_settings`, or created directly.
        request: the action and its messages; the same for all slices.
        after: `BulkResult.next` of the previous slice; None for the first.
        seconds: the length of the slice; None for no limit.
        by: the operator, for the history; by default the current user's login name.
        runtime: clock, randomness, and a request to stop early.
        elapsed: a monotonic clock, in seconds.

    Raises:
        CountChanged: the filter matches more or fewer messages than expected. Nothing was done.
        InvalidArgument: the request is invalid, or ``after`` belongs to another request. Nothing was done.
        DatabaseUnavailable: the database can't be opened, read or written.
        ConfigurationError: a setting, the preset or the application's table is wrong.
        EventLoopRunning: this thread runs an event loop, and messages would be attempted.
    """
    request.check()
    progress = None if after is None else Progress.parse(after, request.digest)
    with open_database(settings) as database:
        ids = _ids(settings, database, request, progress)
        if progress is None:
            _expect(request, len(ids))
            progress = Progress(request.digest, len(ids), request.due or clock(database, runtime.now)())
    _check_due(request, progress)
    watch = _Watch(seconds, runtime.stop_requested, elapsed)
    part = _Slice(settings, request, ids, progress, by or login_name(), replace(runtime, stop_requested=watch.is_over))
    reason = part.run()
    left = len(ids) - part.reached
    if reason == "signal" and watch.is_up:
        reason = "time"
    done = ActionResult(progress.total, part.done, part.refused, part.tried, left, reason)
    return BulkResult(request.action, done, str(part.progress) if reason in {"time", "signal"} else None)


def _ids(settings: Settings, database: Database, request: BulkRequest, progress: Progress | None) -> Sequence[int]:
    if request.wanted is None:
        ids = message_ids.resolve(database, request.ids)
        if progress is not None and progress.total != len(ids):
            raise InvalidArgument("not the progress of this request: begin the action again")
        return ids[progress.handled if progress else 0 :]
    wanted, views = request.selection, MessageQueries(database)
    if wanted is None:
        return ()
    wanted = with_holds(settings, database, wanted)
    if progress is None:
        return with_keys(database, views.ids(wanted, limit=MOST))
    end: MessageCursor | None = None if progress.last is None else Cursor("id", None, progress.last)
    return with_keys(database, views.ids(wanted, after=end, limit=progress.total - progress.handled))


def _expect(request: BulkRequest, count: int) -> None:
    if request.expected not in {None, count}:
        raise CountChanged(
            f"the number of matching messages is now {count:,}, not {request.expected:,}; nothing was done. "
            "Check the messages, and confirm again",
            count,
        )


def _check_due(request: BulkRequest, progress: Progress) -> None:
    try:
        progress.begin + request.spread
    except OverflowError:
        raise InvalidArgument("due is too late; give an earlier time") from None


class _Watch:
    """Tells when a slice is over: a stop is requested, or the next step would probably exceed the time, if it is
    limited.
    """

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
    request: BulkRequest
    ids: Sequence[int]
    progress: Progress
    by: str
    runtime: Runtime
    reached: int = 0
    done: int = 0
    refused: dict[int, RetrycliError] = field(default_factory=dict)
    tried: list[ManualAttempt] = field(default_factory=list)

    def run(self) -> str | None:
        """Act until the ids or the time run out. Return the reason why messages are left, if any."""
        match self.request.action:
            case BulkAction.RETRY:
                return self._retry()
            case BulkAction.REQUEUE:
                return self._try_canaries() or self._requeue()
            case BulkAction.REJECT:
                return self._change(ActionKind.REJECTED, self.request.reason)
            case BulkAction.MARK_SENT:
                return self._change(ActionKind.MARKED_SENT, self.request.reason)
            case BulkAction.ACKNOWLEDGE:
                return self._change(ActionKind.ACKNOWLEDGED)

    def _advance(self, number: int) -> None:
        if number:
            self.reached += number
            handled, last = self.progress.handled + number, self.ids[self.reached - 1]
            self.progress = replace(self.progress, handled=handled, last=last)

    def _retry(self) -> str | None:
        most = None if self.request.wanted is None else self.settings.breaker.failures
        before = self.progress.streak
        made = retry_all(self.settings, self.ids, by=self.by, give_up_after=most, streak=before, runtime=self.runtime)
        self._advance(len(made.tried))
        self.done, self.refused, self.tried = made.done, made.refused, made.tried
        self.progress = replace(self.progress, streak=min(failure_streak(made.tried, before), self.progress.handled))
        return made.reason

    def _try_canaries(self) -> str | None:
        canary = self.request.canary
        if self.progress.spread_from is not None:
            return None
        while canary is not None and self.reached < len(self.ids):
            missing = canary.number - self.progress.delivered - self.progress.failed
            if missing <= 0:
                break
            coming = self.ids[self.reached : self.reached + missing]
            expired = expired_among(self.settings, coming, self.runtime)
            fit = [message_id for message_id in coming if message_id not in expired]
            made = try_canaries(self.settings, fit, missing, self.by, self.runtime) if fit else []
            unreached = next(iter(fit[len(made) :]), None)
            reached = coming if unreached is None else coming[: [*coming].index(unreached)]
            self._advance(len(reached))
            self.refused |= {message_id: would_expire(message_id) for message_id in reached if message_id in expired}
            self.tried += made
            self.progress = replace(
                self.progress,
                delivered=self.progress.delivered + sum(attempt.delivered for attempt in made),
                failed=self.progress.failed + sum(attempt.failed for attempt in made),
            )
            if unreached is not None:
                return "signal"
        if canary is not None and canary.is_exceeded(self.progress.delivered, self.progress.failed):
            return "canary_failed"
        self.progress = replace(self.progress, spread_from=self.progress.handled)
        return None

    def _requeue(self) -> str | None:
        begun, spread = self.progress, self.request.spread
        return self._change(ActionKind.REQUEUED, due_at=lambda position, _: begun.due(begun.handled + position, spread))

    def _change(self, kind: ActionKind, words: str | None = None, *, due_at: DueAt | None = None) -> str | None:
        rest = self.ids[self.reached :]
        made = perform(self.settings, kind, rest, self.by, self.runtime, words, due_at=due_at)
        self._advance(len(rest) - made.left)
        self.done += made.done
        self.refused |= made.refused
        return made.reason
