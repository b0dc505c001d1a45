"""Apply an action to many messages in slices of time, so that a request of the console or the HTTP API ends soon.

Each slice returns how many messages are left, and an opaque text with which the next slice goes on. Apart from that,
the actions are those of `message_actions` and `retry`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from retrycli.config.settings import Settings
from retrycli.domain.bulk import MOST, BulkAction, Progress
from retrycli.domain.cursor import Cursor, MessageCursor
from retrycli.domain.errors import CountChanged, InvalidArgument, RetrycliError
from retrycli.domain.listing import Filter, ListedMessage
from retrycli.domain.operator_action import would_expire
from retrycli.domain.transition import ActionKind
from retrycli.operations import ids as message_ids
from retrycli.operations.bulk_request import BulkRequest
from retrycli.operations.login import login_name
from retrycli.operations.message_actions import SHOWN, DueAt, expired_among, perform, try_canaries
from retrycli.operations.pause import mark_held_back, with_holds
from retrycli.operations.retry import ActionResult, ManualAttempt, failure_streak, retry_all
from retrycli.operations.wiring import DEFAULT_RUNTIME, Runtime, clock, open_database
from retrycli.store.database import Database
from retrycli.store.listing import MessageQueries
from retrycli.store.messages import with_keys

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
