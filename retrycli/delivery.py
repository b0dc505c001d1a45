"""Delivery: the messages of one lane are claimed, sent, decided and recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

from retrycli.attempt import Attempt
from retrycli.breaker import Breaker
from retrycli.destination import Destination
from retrycli.errors import DatabaseBusy
from retrycli.events import Event, ResultKept, StopReason
from retrycli.liaison import Liaison
from retrycli.message import BY_PASS, Lane, QueuedMessage, UnusableMessage
from retrycli.outcome import STOOD_STILL
from retrycli.pace import Pace
from retrycli.policy import RetryPolicy, Settled, Transition
from retrycli.ports import LOOK_EVERY, Gateway, Identity, PassRules, World
from retrycli.record import Decided, record, record_free
from retrycli.supply import Supply

TRY_AGAIN_SECONDS = 0.05
"""How long to wait for the application before a transaction is begun again."""
RECORD_WITHIN_SECONDS = 0.1
"""How long an answer may wait to be written down while a rate holds the next attempt back."""
ENOUGH, SHARE = 8, 1 / 4
"""An answer waits for others, to be written down with them in one transaction, until there are so many, or that share
of the requests in flight if it is more. If it waited for all, all requests would soon go out, and be answered, in step.
"""
ROUNDS_FOR_A_FILE, ROUNDS_FOR_A_SERVER = 5, 60
"""How long an answer waits for others, in rounds of the event loop: a transaction in a file costs little, and one at a
server waits for it five times."""


class Begun(NamedTuple):
    """An attempt that is recorded and goes out next."""

    queued: QueuedMessage
    at: datetime
    probe: int
    """Which of the message's probes it is; 0 if it is none."""
    on_trial: bool


class Delivery:
    """One lane as a pass delivers it.

    Args:
        world: everything outside the engine.
        rules: destination, limit and deadline are the lane's.
        me: which pass this is.
        lane: which messages.
        since: the start of the pass.
        tell: is given what has happened, once that is committed.
    """

    def __init__(
        self,
        world: World,
        rules: PassRules,
        me: Identity,
        lane: Lane,
        *,
        since: datetime,
        tell: Callable[[Sequence[Event]], None],
    ) -> None:
        self.begun = 0
        """How many attempts have begun."""
        self._world = world
        self._rules = rules
        self._me = me
        self._since = since
        self._tell_all = tell
        self._events: list[Event] = []
        self._pace = Pace(rules, since, world.now, world.stop_requested, self._take_turn)
        self._liaison = Liaison(world, rules, me, since=since, tell=self._events.append)
        self._destination = Destination(Breaker(rules.destination), rules, since=since)
        self._supply = Supply(world.claims, self._liaison, rules, lane, since=since)
        self._held_up: list[Decided] = []
        """What is not written down yet, for the application holds its message."""
        self._stuck = False
        """Whether that is all there was to be written down last. Then one more shows whether anything can be."""
        self._in_flight = 0
        self._begun: list[Begun] = []
        """Attempts that go out as soon as they are on the disk."""
        self._unrecorded: dict[int, Attempt] = {}
        """Answers whose outcomes are not on the disk yet, by message."""
        self._decided: set[int] = set()
        """Messages whose outcomes the present transaction writes."""
        self._answered: asyncio.Queue[Attempt] = asyncio.Queue()

    async def run(self) -> None:
        """Claim, send and record until nothing is due or there is a reason to stop."""
        # Not before it runs, for it takes the one probe that may be due.
        self._destination = self._liaison.meet()
        if self._may_begin():
            try:
                async with self._world.open_gateway() as gateway, asyncio.TaskGroup() as group:
                    await self._deliver(gateway, group)
            except ExceptionGroup as faults:
                # A task group wraps whatever ends it; the caller must see a database that is gone as just that.
                raise faults.exceptions[0] from None

    @property
    def destination(self) -> str:
        """Where its messages go."""
        return self._rules.destination

    @property
    def reason(self) -> StopReason | None:
        """Why it ended early. A limit that was asked for gives way to what is wrong with the destination."""
        if self._pace.reason in {None, StopReason.LIMIT}:
            return self._destination.trouble or self._pace.reason
        return self._pace.reason

    @property
    def detail(self) -> str | None:
        """The same in words, where there is more to be said of it."""
        if self.reason is StopReason.PAUSED:
            return self._liaison.paused
        return self._destination.detail if self.reason is self._destination.trouble else None

    def release(self) -> None:
        """Give back what was claimed and not begun."""
        self._supply.release()

    # -- claim and deliver ------------------------------------------------------------------------------------

    async def _deliver(self, gateway: Gateway, group: asyncio.TaskGroup) -> None:
        answers: list[Attempt] = []
        try:
            while answers or self._in_flight or self._may_begin():
                # One transaction records the results of some attempts and begins the next ones. No request goes out
                # before it is committed.
                async with self._transaction():
                    self._look_around()
                    self._settle(answers)
                    self._begin_attempts()
                self._send(gateway, group)
                self._tell()
                answers = await self._answers()
            async with self._transaction():
                self._settle([], last=True)
                self.release()
        except DatabaseBusy:
            await self._keep_answers()
            raise
        self._tell()
        self._write_held()
        self._tell()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        """Write in one transaction. Answers go on coming in while the application holds a SQLite file.

        Raises:
            DatabaseBusy: it is held until the claims have expired and the pass should have ended.
        """
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(self._world.claims.together(wait=False))
                    break
                except DatabaseBusy:
                    if self._world.now() >= max(self._liaison.claim.expires_at, self._since + self._rules.deadline):
                        raise
                await self._world.sleep(TRY_AGAIN_SECONDS)
            yield
        for each in self._decided:
            self._unrecorded.pop(each, None)
        self._decided.clear()

    def _send(self, gateway: Gateway, group: asyncio.TaskGroup) -> None:
        """Let the attempts go out that have been recorded."""
        for each in self._begun:
            group.create_task(self._attempt(gateway, each))
        self._begun.clear()

    async def _keep_answers(self) -> None:
        """Record the outcomes of all answers, and nothing else, because the application holds what else is written.

        A later pass writes their rows. This one waits for the answers that are still to come.
        """
        self._in_flight -= len(self._begun)
        self._begun.clear()
        while self._in_flight:
            self._note(await self._answered.get())
            self._in_flight -= 1
        kept = [_settled(each, Transition.released()) for each in self._unrecorded.values()]
        while kept:
            try:
                self._world.claims.keep_outcomes(self._liaison.claim, kept, self._world.now())
                break
            except DatabaseBusy:
                if self._world.now() >= self._liaison.claim.expires_at:
                    raise
            await self._world.sleep(TRY_AGAIN_SECONDS)

    def _write_held(self) -> None:
        """Write the results of messages whose rows the application held, or leave them to a later pass."""
        try:
            self._events += record(self._world, self._liaison.claim, self._held_up)
        except DatabaseBusy:  # their attempts' outcomes are recorded
            self._events += [ResultKept(each.message_id) for each, _ in self._held_up]

    def _look_around(self) -> None:
        self._liaison.look_around(self._destination)
        if self._liaison.paused:
            self._pace.stop(StopReason.PAUSED)

    def _begin_attempts(self) -> None:
        """Begin as many attempts as there is room for, each written down first."""
        while ids := self._take(self._room()):
            now = self._world.now()
            probing = self._destination.probing
            escalations: dict[int, Transition] = {}
            loaded = self._world.claims.begin(
                self._liaison.claim,
                ids,
                made_by=BY_PASS,
                pass_id=self._me.pass_id,
                now=now,
                fit=partial(self._is_fit, escalations),
                destination_of=self._rules.destination_of,
                probe=probing,
            )
            unfit: list[Decided] = []
            begun = 0
            for each in loaded:
                if isinstance(each, UnusableMessage):
                    invalid = Transition.invalid(each.problem)
                    unfit.append((each, Settled(each.message_id, invalid, message=each)))
                elif escalation := escalations.get(each.message_id):
                    unfit.append((each, Settled(each.message_id, escalation, message=each)))
                else:
                    probe = self._count_probes(each.message_id) if probing else 0
                    self._begun.append(Begun(each, now, probe, self._destination.on_trial))
                    begun += 1
            self._in_flight += begun
            self._pace.begun(begun)
            self.begun += begun
            self._record(unfit)

    def _count_probes(self, message_id: int) -> int:
        return self._world.claims.count_probes(message_id, self._destination.breaker.opened_at or self._since)

    async def _attempt(self, gateway: Gateway, begun: Begun) -> None:
        stood_still = self._world.now() >= self._liaison.claim.expires_at
        outcome = STOOD_STILL if stood_still else await gateway.deliver(begun.queued)
        now = self._world.now()
        self._answered.put_nowait(Attempt(begun.queued, outcome, now - begun.at, now, begun.probe, begun.on_trial))

    async def _answers(self) -> list[Attempt]:
        """Wait for an answer or for the rate, and take all answers that have come meanwhile."""
        answers = []
        if pause := self._pace.pause():
            await self._world.sleep(min(pause, RECORD_WITHIN_SECONDS))
        elif self._in_flight:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY.total_seconds()):
                    answers.append(self._note(await self._answered.get()))
            await self._gather()
        while not self._answered.empty():
            answers.append(self._note(self._answered.get_nowait()))
        self._in_flight -= len(answers)
        return answers

    def _note(self, answer: Attempt) -> Attempt:
        self._unrecorded[answer.queued.message_id] = answer
        return answer

    async def _gather(self) -> None:
        """Let other answers come in that are there already, but for being read."""
        enough = min(self._in_flight, max(ENOUGH, int(self._in_flight * SHARE)))
        for _ in range(ROUNDS_FOR_A_SERVER if self._rules.at_a_server else ROUNDS_FOR_A_FILE):
            await asyncio.sleep(0)
            if 1 + self._answered.qsize() >= enough:
                return

    def _may_begin(self) -> bool:
        return bool(self._supply) and self._destination.trouble is None and self._pace.may_begin()

    def _room(self) -> int:
        """How many attempts may begin now."""
        one_by_one = self._stuck or self._destination.on_trial or self._destination.probing
        width = 1 if one_by_one else self._destination.width
        return self._pace.room(width - self._in_flight) if self._may_begin() else 0

    def _take(self, room: int) -> list[int]:
        """Take what goes out next; if nothing can tell what the answers in doubt are about, decide them before."""
        found = self._supply.take(room, self._destination) if room else []
        if room and not found and self._destination.tickets_in_doubt and not self._in_flight:
            self._settle([], last=True)
            return self._take(self._room())
        return found

    def _take_turn(self, interval: timedelta, too_late: datetime) -> datetime:
        return self._world.ledger.take_turn(self._rules.destination, self._world.now(), interval, too_late)

    def _is_fit(self, escalations: dict[int, Transition], queued: QueuedMessage) -> bool:
        """Tell if a message may be sent; if not, note what becomes of it instead."""
        has_lookup = self._world.looks_up(queued.message.message_type)
        escalation = self._policy(queued).escalation_before_send(queued, self._since, has_lookup=has_lookup)
        if escalation is not None:
            escalations[queued.message_id] = escalation
        return escalation is None

    # -- decide and record ------------------------------------------------------------------------------------

    def _settle(self, attempts: Sequence[Attempt], *, last: bool = False) -> None:
        """Decide what each attempt does to its message, and write it down."""
        judged = self._liaison.judge(self._destination, attempts, last=last)
        if in_doubt := self._destination.newly_in_doubt():
            # Their messages stay claimed. If this process dies, their answers are known, and they are sent again.
            answers = [_settled(each, Transition.released()) for each in in_doubt]
            self._world.claims.record_answers(self._liaison.claim, answers, self._world.now())
        self._record([(each.queued, self._decide(each)) for each in judged])

    def _record(self, decided: Sequence[Decided]) -> None:
        """Write down what was decided, but for messages that the application holds: they come with the next ones.

        Where it holds one after the other it may hold the table, and is waited for: no more is to go out than can be
        written down.
        """
        open_ones = [*self._held_up, *decided]
        events, self._held_up = record_free(self._world, self._liaison.claim, open_ones)
        self._stuck = 0 < len(self._held_up) == len(open_ones)
        if self._stuck and decided and len(open_ones) > 1:
            events, self._held_up = record(self._world, self._liaison.claim, open_ones), []
            self._stuck = False
        self._events += events
        self._decided.update(message.message_id for message, _ in open_ones)
        if self._rules.in_order:
            held_up = {each.message_id for _, each in self._held_up}
            decided_ones = (message for message, each in open_ones if each.message_id not in held_up)
            self._supply.free(str(each.ticket_id) for each in decided_ones)

    def _decide(self, attempt: Attempt) -> Settled:
        queued = attempt.queued
        if attempt.about_us:
            return _settled(attempt, Transition.released(attempt.finished_at))
        transition = self._policy(queued).decide(
            queued,
            attempt.outcome,
            since=self._since,
            now=attempt.finished_at,
            jitter=self._world.jitter(),
            charged=attempt.charged,
            looked_for=self._world.looks_up(queued.message.message_type),
        )
        return _settled(attempt, transition)

    def _policy(self, queued: QueuedMessage) -> RetryPolicy:
        return self._rules.policies[queued.message.message_type]

    def _tell(self) -> None:
        events = self._events.copy()
        self._events.clear()
        self._tell_all(events)


def _settled(attempt: Attempt, transition: Transition) -> Settled:
    message_id = attempt.queued.message_id
    return Settled(message_id, transition, attempt.outcome, attempt.duration, attempt.finished_at, attempt.queued)
