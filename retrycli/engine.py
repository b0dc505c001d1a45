"""One pass: recover, enrol, claim, deliver, decide, record, report."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from retrycli.breaker import Breaker, BreakerState
from retrycli.destination import Attempt, Destination
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
from retrycli.outcome import LAPSED, Outcome
from retrycli.policy import RetryPolicy, Settled, Transition
from retrycli.ports import Gateway, Identity, Lock, PassRules, World

BATCH = 500
"""How many messages are recovered or claimed in one transaction."""
PRUNE_AT_MOST = 10_000
"""How many attempts, and how many passes, one pass forgets at most."""
CLAIM_MARGIN = timedelta(seconds=30)
"""How long a claim outlives the last moment at which its pass can be at work."""
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
        the_pass.forget_the_old()
        return the_pass.report()
    except LockHeld as error:
        return the_pass.finish(PassResult.SKIPPED, StopReason.LOCK_HELD, str(error))
    finally:
        the_pass.finish_if_it_failed()
        lock.release()


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
        self._remembered = Breaker(rules.destination)
        self._destination = self._meet(self._remembered)
        self._events: list[Event] = []
        self._tally = Tally()
        self._own_reason: StopReason | None = None
        self._swept_to: int | None = None
        self._finished = False
        self._nothing_due = False
        self._claimed: deque[int] = deque()
        self._begun = 0
        self._next_begin = self.started_at
        self._in_flight = 0
        self._answered: asyncio.Queue[Attempt] = asyncio.Queue()

    # -- recover and enrol ------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Take back the messages of passes that died: what they were sending may have arrived."""
        world = self._world
        world.ledger.bury_dead_passes(self._me.pass_id, host=self._me.host, now=self.started_at)
        while lapsed := world.claims.take_over_lapsed(self._claim, self.started_at, BATCH):
            unknown = sum(each.attempt_by is not None for each in lapsed)
            self._events.append(ClaimsLapsed(released=len(lapsed) - unknown, unknown=unknown))
            self._record([(each.message, self._of_the_dead(each)) for each in lapsed])
            self._tell()

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
        self._swept_to = follow_the_table(self._world, self._rules, self.started_at, emit=self._events.append)
        self._tell()

    # -- claim and deliver ------------------------------------------------------------------------------------

    async def deliver_what_is_due(self) -> None:
        """Claim, send and record until nothing is due or there is a reason to stop."""
        due = self._world.claims.count_due(self._due_by)
        self._events.append(PassStarted(self._me.pass_id, due))
        self._tell()
        if not due:
            return
        # Only now: while this pass waited for the lock, the one before it may have opened the breaker.
        self._destination = self._meet(self._world.ledger.breaker(self._rules.destination))
        if self._may_begin():
            try:
                async with self._world.open_gateway() as gateway, asyncio.TaskGroup() as group:
                    await self._deliver(gateway, group)
            except ExceptionGroup as faults:
                # A task group wraps whatever ends it; the caller must see a database that is gone as just that.
                raise faults.exceptions[0] from None

    async def _deliver(self, gateway: Gateway, group: asyncio.TaskGroup) -> None:
        answers: list[Attempt] = []
        while answers or self._in_flight or self._may_begin():
            # One transaction records what came of some attempts and begins the next ones. No request goes out
            # before it is committed: the attempts' tasks first run when this one waits.
            with self._world.claims.together():
                self._settle(self._destination.judge(answers))
                self._begin_attempts(gateway, group)
            self._tell()
            answers = await self._answers()
        self._settle(self._destination.judge_doubtful())
        if self._claimed:
            self._world.claims.release(self._claim, self._claimed)
        self._tell()

    def _begin_attempts(self, gateway: Gateway, group: asyncio.TaskGroup) -> None:
        """Begin as many attempts as there is room for, each written down first."""
        while ids := self._take(self._room()):
            now = self._world.now()
            loaded = self._world.claims.begin(
                self._claim, ids, made_by=BY_PASS, pass_id=self._me.pass_id, now=now, fit=self._is_wanted
            )
            unfit: list[tuple[QueuedMessage | UnusableMessage, Settled]] = []
            for each in loaded:
                if isinstance(each, UnusableMessage):
                    unfit.append((each, Settled(each.message_id, Transition.invalid(each.problem))))
                elif not self._is_wanted(each):
                    unfit.append((each, Settled(each.message_id, Transition.expired())))
                else:
                    group.create_task(self._attempt(gateway, each, now))
                    self._in_flight += 1
                    self._begun += 1
            self._record(unfit)
            if self._rules.rate_per_second:
                self._next_begin = now + timedelta(seconds=1 / self._rules.rate_per_second)

    async def _attempt(self, gateway: Gateway, queued: QueuedMessage, begun_at: datetime) -> None:
        outcome = await gateway.deliver(queued)
        finished_at = self._world.now()
        self._answered.put_nowait(Attempt(queued, outcome, finished_at - begun_at, finished_at))

    async def _answers(self) -> list[Attempt]:
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
        room = self._destination.width - self._in_flight
        if self._rules.limit is not None:
            room = min(room, self._rules.limit - self._begun)
        if self._rules.rate_per_second:
            room = min(room, int(self._world.now() >= self._next_begin))
        return max(room, 0)

    def _may_begin(self) -> bool:
        """Whether the pass goes on; the first reason against it is kept."""
        if self._nothing_due or self._own_reason or self._destination.trouble:
            return False
        if self._world.stop_requested():
            self._own_reason = StopReason.SIGNAL
        elif self._world.now() >= self._deadline:
            self._own_reason = StopReason.DEADLINE
        elif self._rules.limit is not None and self._begun >= self._rules.limit:
            self._own_reason = StopReason.LIMIT
        return self._own_reason is None

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

    def _settle(self, judged: Sequence[Attempt]) -> None:
        """Decide what each attempt does to its message, and write it down."""
        self._record([(each.queued, self._settled(each)) for each in judged])
        self._remember()

    def _settled(self, attempt: Attempt) -> Settled:
        change = self._decide(attempt.queued, attempt.outcome, attempt.finished_at, charged=attempt.charged)
        return Settled(attempt.queued.message_id, change, attempt.outcome, attempt.duration, attempt.finished_at)

    def _record(self, settled: Sequence[tuple[QueuedMessage | UnusableMessage, Settled]]) -> None:
        if not settled:
            return
        moved_on = self._world.claims.record(self._claim, [each for _, each in settled], self._world.now())
        for message, each in settled:
            if each.message_id in moved_on:
                self._events.append(MessageMovedOn(each.message_id, each.outcome.kind if each.outcome else None))
            else:
                self._events.append(event_of(message, each))

    def _remember(self) -> None:
        """Keep for later passes what this one has learnt of its destination."""
        before, breaker = self._remembered, self._destination.breaker
        if breaker == before:
            return
        self._world.ledger.save_breaker(breaker)
        self._remembered = breaker
        if breaker.state is BreakerState.OPEN and breaker.probe_at is not None:
            self._events.append(BreakerOpened(breaker.destination, breaker.failures, breaker.probe_at))
        elif before.state is BreakerState.OPEN:
            self._events.append(BreakerClosed(breaker.destination))

    def _meet(self, breaker: Breaker) -> Destination:
        rules = self._rules
        destination = Destination(
            breaker, rules.breaker, since=self.started_at, due_by=self._due_by, concurrency=rules.concurrency
        )
        self._remembered = destination.breaker
        return destination

    def _decide(self, queued: QueuedMessage, outcome: Outcome, at: datetime, *, charged: bool = True) -> Transition:
        return self._policy(queued).decide(
            queued, outcome, since=self.started_at, now=at, jitter=self._world.jitter(), charged=charged
        )

    def _policy(self, queued: QueuedMessage) -> RetryPolicy:
        return self._rules.policies[queued.message.message_type]

    # -- forget and report -----------------------------------------------------------------------------------------------

    def forget_the_old(self) -> None:
        """Forget attempts and passes that are older than anybody wants to look back."""
        if self._rules.retention is not None:
            self._world.ledger.prune(self.started_at - self._rules.retention, PRUNE_AT_MOST)

    def report(self) -> PassSummary:
        """Write down how the pass ended."""
        match self._reason():
            case None | StopReason.LIMIT as reason:
                return self.finish(PassResult.COMPLETED, reason)
            case StopReason.SIGNAL as reason:
                return self.finish(PassResult.INTERRUPTED, reason)
            case reason:
                detail = self._destination.detail if reason is self._destination.trouble else None
                return self.finish(PassResult.STOPPED, reason, detail)

    def _reason(self) -> StopReason | None:
        """Why the pass ended early. A limit that was asked for gives way to what is wrong with the destination."""
        if self._own_reason in {None, StopReason.LIMIT}:
            return self._destination.trouble or self._own_reason
        return self._own_reason

    def finish(self, result: PassResult, reason: StopReason | None = None, detail: str | None = None) -> PassSummary:
        """Write down how the pass ended, for a reason of its own."""
        now = self._world.now()
        summary = self._tally.summary(self._me.pass_id, result, now - self.started_at, reason=reason, detail=detail)
        self._world.ledger.finish_pass(summary, now, swept_to=self._swept_to)
        self._finished = True
        if reason is not None:
            self._world.emit(PassStopped(reason))
        return summary

    def finish_if_it_failed(self) -> None:
        """Write down that a fault ended the pass, where the database can still be written."""
        if not self._finished:
            with suppress(DatabaseUnavailable):
                self.finish(PassResult.FAILED, StopReason.FAULT)

    def _tell(self) -> None:
        """Tell the world what is committed, and only then."""
        events, self._events = self._events, []
        for event in events:
            self._tally.count(event)
            self._world.emit(event)
