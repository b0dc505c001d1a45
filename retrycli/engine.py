"""One pass: enrol, recover, claim, deliver, record, report."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from retrycli.breaker import Breaker, BreakerState, wider
from retrycli.errors import DatabaseUnavailable, LockHeld
from retrycli.events import (
    BreakerClosed,
    BreakerOpened,
    ClaimsLapsed,
    Event,
    MessageMovedOn,
    PassResult,
    PassStarted,
    PassStopped,
    PassSummary,
    StopReason,
    Tally,
    event_of,
)
from retrycli.intake import follow_the_table
from retrycli.message import Claim, Lapsed, QueuedMessage, UnusableMessage
from retrycli.outcome import LAPSED, Outcome, OutcomeKind
from retrycli.policy import RetryPolicy, Settled, Transition
from retrycli.ports import Gateway, Identity, Lock, PassRules, World

BATCH = 500
"""How many messages are recovered or claimed in one transaction."""
CLAIM_MARGIN = timedelta(seconds=30)
"""How long a claim outlives the last moment at which its pass can be at work."""
FORBIDDEN = 403
FORBIDDEN_LIMIT = 3
"""So many 403 in a row are about us and not about the messages."""
BY_PASS = "pass"  # noqa: S105  no password


async def run_pass(world: World, lock: Lock, rules: PassRules, me: Identity) -> PassSummary:
    """Make one pass, and write down how it went, whatever happens.

    Raises:
        RetrycliError: the pass could not be made at all.
    """
    the_pass = _Pass(world, rules, me)
    world.ledger.start_pass(me.pass_id, host=me.host, pid=me.pid, now=the_pass.started_at)
    try:
        lock.acquire()
        if why := world.ledger.paused(the_pass.started_at):
            return the_pass.finish(PassResult.PAUSED, StopReason.PAUSED, why)
        the_pass.recover()
        the_pass.enrol()
        await the_pass.deliver_what_is_due()
        return the_pass.report()
    except LockHeld as error:
        return the_pass.finish(PassResult.SKIPPED, StopReason.LOCK_HELD, str(error))
    finally:
        the_pass.finish_if_it_failed()
        lock.release()


@dataclass(frozen=True, slots=True)
class _Attempt:
    """An attempt that has an outcome."""

    queued: QueuedMessage
    outcome: Outcome
    duration: timedelta
    finished_at: datetime


class _Pass:
    """What a pass knows while it runs."""

    def __init__(self, world: World, rules: PassRules, me: Identity) -> None:
        self.started_at = world.now()
        self._world = world
        self._rules = rules
        self._me = me
        self._deadline = self.started_at + rules.deadline
        self._due_by = self.started_at + rules.due_slack
        self._claim = Claim(me.pass_id, self._deadline + rules.request_timeout + CLAIM_MARGIN)
        self._breaker = Breaker(rules.destination)
        self._tally = Tally()
        self._stop: StopReason | None = None
        self._stop_details: dict[StopReason, str | None] = {}
        self._swept_to: int | None = None
        self._finished = False
        self._width = 1
        self._begun = 0
        self._next_begin = self.started_at
        self._in_flight = 0
        self._nothing_due = False
        self._claimed: deque[int] = deque()
        self._answered: asyncio.Queue[_Attempt] = asyncio.Queue()
        self._forbidden: list[_Attempt] = []

    # -- recover and enrol ------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Take back the messages of passes that died: what they were sending may have arrived."""
        world = self._world
        world.ledger.bury_dead_passes(self._me.pass_id, host=self._me.host, now=self.started_at)
        while lapsed := world.claims.take_over_lapsed(self._claim, self.started_at, BATCH):
            unknown = sum(each.attempt_by is not None for each in lapsed)
            self._emit(ClaimsLapsed(released=len(lapsed) - unknown, unknown=unknown))
            self._record([(each.message, self._of_the_dead(each)) for each in lapsed])

    def _of_the_dead(self, lapsed: Lapsed) -> Settled:
        message = lapsed.message
        outcome = LAPSED if lapsed.attempt_by else None
        if isinstance(message, UnusableMessage):
            transition = Transition.invalid(message.problem)
        elif outcome is None:
            transition = Transition.released()
        elif lapsed.attempt_by == BY_PASS:
            transition = self._decide(message, LAPSED, self.started_at)
        else:
            transition = Transition.released(unknown_count=message.unknown_count + 1)
        return Settled(message.message_id, transition, outcome, finished_at=self.started_at)

    def enrol(self) -> None:
        """Follow the application's table: messages that have failed come in, others go out."""
        self._swept_to = follow_the_table(self._world, self._rules, self.started_at, emit=self._emit)

    # -- deliver ----------------------------------------------------------------------------------------------

    async def deliver_what_is_due(self) -> None:
        """Claim, send and record until nothing is due or there is a reason to stop."""
        # Only now: while this pass waited for the lock, the one before it may have opened the breaker.
        self._breaker = self._world.ledger.breaker(self._rules.destination).admitting(self._due_by)
        due = self._world.claims.count_due(self._due_by)
        self._emit(PassStarted(self._me.pass_id, due))
        if due and self._breaker.blocks(self._due_by):
            resting = self._breaker.state is BreakerState.RESTING
            self._stop_for(StopReason.THROTTLED if resting else StopReason.BREAKER_OPEN)
        if not due or not self._may_begin():
            return
        try:
            async with self._world.open_gateway() as gateway, asyncio.TaskGroup() as group:
                while self._in_flight or self._may_begin():
                    self._begin_attempts(gateway, group)
                    self._settle(await self._answers())
        except ExceptionGroup as faults:
            # A task group wraps whatever ends it; the caller must see a database that is gone as just that.
            raise faults.exceptions[0] from None
        self._settle_forbidden()
        if self._claimed:
            self._world.claims.release(self._claim, self._claimed)

    def _begin_attempts(self, gateway: Gateway, group: asyncio.TaskGroup) -> None:
        """Begin as many attempts as there is room for, each written down before its request goes out."""
        while ids := self._take(self._room()):
            now = self._world.now()
            loaded = self._world.claims.begin(
                self._claim, ids, made_by=BY_PASS, pass_id=self._me.pass_id, now=now, fit=self._is_wanted
            )
            fit = [each for each in loaded if isinstance(each, QueuedMessage) and self._is_wanted(each)]
            self._record([(each, _unfit(each)) for each in loaded if each not in fit])
            for each in fit:
                group.create_task(self._attempt(gateway, each, now))
            self._in_flight += len(fit)
            self._begun += len(fit)
            if self._rules.rate_per_second:
                self._next_begin = now + timedelta(seconds=1 / self._rules.rate_per_second)

    async def _attempt(self, gateway: Gateway, queued: QueuedMessage, begun_at: datetime) -> None:
        outcome = await gateway.deliver(queued)
        finished_at = self._world.now()
        self._answered.put_nowait(_Attempt(queued, outcome, finished_at - begun_at, finished_at))

    async def _answers(self) -> list[_Attempt]:
        """Wait for an answer, and take with it all that have come meanwhile."""
        pause = (self._next_begin - self._world.now()).total_seconds() if self._rules.rate_per_second else 0
        if not self._in_flight:
            await self._world.sleep(max(pause, 0))
            return []
        try:
            async with asyncio.timeout(pause if pause > 0 else None):
                answers = [await self._answered.get()]
        except TimeoutError:
            return []
        while not self._answered.empty():
            answers.append(self._answered.get_nowait())
        self._in_flight -= len(answers)
        return answers

    def _room(self) -> int:
        """How many attempts may begin now."""
        if not self._may_begin():
            return 0
        room = self._width - self._in_flight
        if self._rules.limit is not None:
            room = min(room, self._rules.limit - self._begun)
        if self._rules.rate_per_second:
            room = min(room, int(self._world.now() >= self._next_begin))
        return max(room, 0)

    def _may_begin(self) -> bool:
        """Whether the pass goes on; the first reason against it is kept."""
        if self._nothing_due or self._stop:
            return False
        if self._world.stop_requested():
            self._stop_for(StopReason.SIGNAL)
        elif self._world.now() >= self._deadline:
            self._stop_for(StopReason.DEADLINE)
        elif self._rules.limit is not None and self._begun >= self._rules.limit:
            self._stop_for(StopReason.LIMIT)
        return self._stop is None

    def _take(self, room: int) -> list[int]:
        """So many claimed messages, the one that has waited longest first; more are claimed as they run out."""
        if room and not self._claimed:
            self._world.ledger.heartbeat(self._me.pass_id, self._world.now())
            self._claimed.extend(self._world.claims.claim(self._claim, self._due_by, BATCH))
            self._nothing_due = not self._claimed
        return [self._claimed.popleft() for _ in range(min(room, len(self._claimed)))]

    def _is_wanted(self, queued: QueuedMessage) -> bool:
        return not self._policy(queued).expired(queued, self.started_at)

    # -- decide and record ------------------------------------------------------------------------------------

    def _settle(self, answers: Iterable[_Attempt]) -> None:
        """Decide what each answer does to its message, and write all of it down at once."""
        settled = []
        for attempt in answers:
            if not _is_forbidden(attempt.outcome):
                settled += [*self._take_forbidden(), self._judge(attempt)]
                continue
            self._forbidden.append(attempt)
            if len(self._forbidden) == FORBIDDEN_LIMIT:
                self._stop_for(StopReason.CREDENTIALS_REFUSED, f"HTTP {FORBIDDEN}, {FORBIDDEN_LIMIT} times in a row")
                settled += self._take_forbidden()
        self._record(settled)

    def _judge(self, attempt: _Attempt) -> tuple[QueuedMessage, Settled]:
        """One answer: what it says about the destination, and what it does to the message."""
        queued, outcome = attempt.queued, attempt.outcome
        charged = self._breaker.state is not BreakerState.OPEN
        self._learn(outcome, attempt.finished_at)
        if StopReason.CREDENTIALS_REFUSED in self._stop_details and _is_forbidden(outcome):
            outcome = replace(outcome, kind=OutcomeKind.UNAUTHORIZED)
        transition = self._decide(queued, outcome, attempt.finished_at, charged=charged)
        return queued, Settled(queued.message_id, transition, outcome, attempt.duration, attempt.finished_at)

    def _learn(self, outcome: Outcome, at: datetime) -> None:
        """What an outcome says about the destination. Once the pass stops for it, nothing more is learnt."""
        if self._stop_details.keys() & {StopReason.BREAKER_OPEN, StopReason.THROTTLED}:
            return
        self._width = wider(self._width, outcome.kind, self._rules.concurrency)
        before = self._breaker
        match outcome.kind:
            case OutcomeKind.THROTTLED:
                self._breaker = before.rest(at + (outcome.retry_after or timedelta(0)))
                self._stop_for(StopReason.THROTTLED)
            case OutcomeKind.UNAUTHORIZED:
                self._stop_for(StopReason.CREDENTIALS_REFUSED, _refusal(outcome))
            case kind:
                self._breaker = before.after(kind, self._rules.breaker, since=self.started_at)
        if self._breaker == before:
            return
        self._world.ledger.save_breaker(self._breaker)
        if self._breaker.state is BreakerState.OPEN and self._breaker.probe_at:
            self._emit(BreakerOpened(before.destination, self._breaker.failures, self._breaker.probe_at))
            self._stop_for(StopReason.BREAKER_OPEN)
        elif before.state is BreakerState.OPEN:
            self._emit(BreakerClosed(before.destination))

    def _take_forbidden(self) -> list[tuple[QueuedMessage, Settled]]:
        """The 403 that were held back until it is clear whom they are about: the messages, or us."""
        attempts, self._forbidden = self._forbidden, []
        return [self._judge(each) for each in attempts]

    def _settle_forbidden(self) -> None:
        self._record(self._take_forbidden())

    def _record(self, settled: Sequence[tuple[QueuedMessage | UnusableMessage, Settled]]) -> None:
        if not settled:
            return
        moved_on = self._world.claims.record(self._claim, [each for _, each in settled], self._world.now())
        for message, each in settled:
            if each.message_id in moved_on:
                self._emit(MessageMovedOn(each.message_id, each.outcome.kind if each.outcome else None))
            else:
                self._emit(event_of(message, each))

    def _decide(self, queued: QueuedMessage, outcome: Outcome, at: datetime, *, charged: bool = True) -> Transition:
        return self._policy(queued).decide(
            queued, outcome, since=self.started_at, now=at, jitter=self._world.jitter(), charged=charged
        )

    def _policy(self, queued: QueuedMessage) -> RetryPolicy:
        return self._rules.policies[queued.message.message_type]

    def _stop_for(self, reason: StopReason, detail: str | None = None) -> None:
        """Begin nothing more. The first reason is the pass's, but a limit gives way to what is wrong with the API."""
        if reason in self._stop_details:
            return
        self._stop_details[reason] = detail
        if self._stop in {None, StopReason.LIMIT}:
            self._stop = reason
        self._emit(PassStopped(reason))

    def _emit(self, event: Event) -> None:
        self._tally.count(event)
        self._world.emit(event)

    # -- report -----------------------------------------------------------------------------------------------

    def report(self) -> PassSummary:
        """Write down how the pass ended."""
        match self._stop:
            case None | StopReason.LIMIT:
                return self.finish(PassResult.COMPLETED, self._stop)
            case StopReason.SIGNAL:
                return self.finish(PassResult.INTERRUPTED, self._stop)
            case reason:
                detail = self._stop_details[reason] or self._breaker_in_words(reason)
                return self.finish(PassResult.STOPPED, reason, detail)

    def _breaker_in_words(self, reason: StopReason) -> str | None:
        probe_at = self._breaker.probe_at
        if reason not in {StopReason.BREAKER_OPEN, StopReason.THROTTLED} or probe_at is None:
            return None
        return f"{self._breaker.destination}, to be tried again at {probe_at.isoformat(timespec='seconds')}"

    def finish(self, result: PassResult, reason: StopReason | None = None, detail: str | None = None) -> PassSummary:
        """Write down how the pass ended, for a reason of its own."""
        now = self._world.now()
        summary = self._tally.summary(self._me.pass_id, result, now - self.started_at, reason=reason, detail=detail)
        self._world.ledger.finish_pass(summary, now, swept_to=self._swept_to)
        self._finished = True
        return summary

    def finish_if_it_failed(self) -> None:
        """Write down that a fault ended the pass, where the database can still be written."""
        if not self._finished:
            with suppress(DatabaseUnavailable):
                self.finish(PassResult.FAILED, StopReason.FAULT)


def _is_forbidden(outcome: Outcome) -> bool:
    return outcome.status_code == FORBIDDEN and outcome.kind is OutcomeKind.PERMANENT


def _refusal(outcome: Outcome) -> str | None:
    """What refused us, without the answer's words, which are not for a log."""
    return outcome.error if outcome.status_code is None else f"HTTP {outcome.status_code}"


def _unfit(message: QueuedMessage | UnusableMessage) -> Settled:
    """Settle a message for which no attempt is made."""
    if isinstance(message, UnusableMessage):
        return Settled(message.message_id, Transition.invalid(message.problem))
    return Settled(message.message_id, Transition.expired())
