"""Deliver the messages of one route: claim, send, decide, record."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TypeVar

from retrycli.domain.errors import DatabaseBusy, DatabaseUnavailable
from retrycli.domain.message import BY_PASS, QueuedMessage, UnusableMessage
from retrycli.domain.outcome import OutcomeKind
from retrycli.domain.passes import Event, ResultKept, StopReason
from retrycli.domain.transition import Attempt, Decision, Overdue, Route, Transition, TransitionKind
from retrycli.engine.destination import Destination, claim_destination, judge
from retrycli.engine.ports import SYNC_INTERVAL, Dependencies, Gateway, PassIdentity, PassRules
from retrycli.engine.recording import decide, escalation_before_send, place_of
from retrycli.engine.stages import (
    TRY_AGAIN_SECONDS,
    InFlight,
    PassLimits,
    ResultWriter,
    Snapshot,
    Supply,
    commit_patiently,
    restore,
    snapshot,
    sync,
)

# Attempts are recorded ahead only if the destination answers within this time. So no message is sent long after its row
# was read.
QUICK = timedelta(seconds=0.25)
# Answers are recorded when none has arrived for `QUIET_SECONDS`, because the transaction then delays no other answer,
# but at most `RECORD_WITHIN_SECONDS` after the first one. While the rate limit delays the next attempt, the limit is
# `RECORD_WITHIN_TURN_SECONDS`.
QUIET_SECONDS, RECORD_WITHIN_SECONDS, RECORD_WITHIN_TURN_SECONDS = 0.005, 0.02, 0.1
# Minimum number of consecutive results that met a locked row, to assume that the next rows are locked too.
MANY_LOCKED = 8


class Pace:
    """Decide how many attempts may be recorded, and send them as soon as there is room.

    While a destination is healthy, more attempts are recorded than there is room for. So a request need not wait for
    the commit of its attempt. Attributes are replaced and never mutated, so that a shallow copy can restore them.
    """

    def __init__(
        self,
        deps: Dependencies,
        rules: PassRules,
        destination: Destination,
        limits: PassLimits,
        supply: Supply,
        results: ResultWriter,
    ) -> None:
        self.in_flight = InFlight(deps, supply)  # the requests that have no answer yet
        self.reserve: Sequence[Attempt] = ()  # recorded attempts that have not been sent yet
        self._is_quick = False
        # Without resends after unknown outcomes, a dead process would cause an escalation for each attempt that it had
        # recorded ahead.
        resends = all(policy.unknown_limit for policy in rules.policies.values())
        self._may_run_ahead = resends and rules.concurrency > 1
        self._deps = deps
        self._rules = rules
        self._destination = destination
        self._limits = limits
        self._supply = supply
        self._results = results

    def observe(self, answered: Sequence[Attempt]) -> None:
        """Note whether the destination gave any of the latest answers quickly."""
        self._is_quick = any(attempt.duration <= QUICK for attempt in answered)

    def keep(self, attempts: Sequence[Attempt]) -> None:
        """Keep attempts in the reserve. Call this after the commit of their transaction."""
        self.reserve = [*self.reserve, *attempts]

    def withdraw(self) -> None:
        """Delete the attempts of the reserve, and return their messages to the supply."""
        if self.reserve:
            ids = [attempt.queued.message_id for attempt in self.reserve]
            self._deps.claims.results.withdraw(self._supply.claim, ids)
            self._supply.put_back(ids)
            self._limits.count(-len(ids))
            self.reserve = ()

    async def exchange(self, gateway: Gateway, group: asyncio.TaskGroup) -> list[Attempt]:
        """Send recorded attempts while there is room, and return the answers to record in one transaction.

        After each quick delivery, send the next recorded attempt at once. Any other answer may change what may be sent.
        """
        self._send(gateway, group)
        if seconds := self._limits.seconds_to_turn():
            await self._deps.sleep(min(seconds, RECORD_WITHIN_TURN_SECONDS))
            return self.in_flight.arrived()
        answers = more = await self.in_flight.answers()
        time = asyncio.get_running_loop().time
        until = time() + RECORD_WITHIN_SECONDS
        while more and time() < until and (self.reserve or not self._supply) and all(map(_is_usual, more)):
            self._send(gateway, group)
            more = await self.in_flight.answers(QUIET_SECONDS)
            answers += more
        return answers

    def _send(self, gateway: Gateway, group: asyncio.TaskGroup) -> None:
        room = self.width - self.in_flight.count
        if self.reserve and room > 0 and self._limits.may_send():
            self.in_flight.send(self.reserve[:room], gateway, group)
            self.reserve = self.reserve[room:]

    @property
    def may_go_on(self) -> bool:
        """Return whether results can be written, and the destination and the settings allow more requests."""
        return not self.is_write_blocked and self.in_flight.fault is None and self._destination.stop_reason is None

    @property
    def is_write_blocked(self) -> bool:
        """Return whether the latest results all met locked rows, so that the next rows are probably locked too."""
        return self._results.locked_in_a_row >= max(MANY_LOCKED, self._rules.concurrency)

    @property
    def width(self) -> int:
        """Return the maximum number of requests in flight."""
        return 1 if self._destination.on_trial or self._destination.probing else self._destination.width

    @property
    def ahead(self) -> int:
        """Return how many attempts to record before there is room to send them: some if the destination is healthy."""
        is_healthy = self.width == self._rules.concurrency and not self._destination.doubt.tickets
        may_run_ahead = self._may_run_ahead and is_healthy and self.may_go_on and self._is_quick
        # Never more than may be in flight: if the process dies, the outcomes of these attempts are unknown, too.
        return self._rules.concurrency if may_run_ahead else 0


def _is_usual(answer: Attempt) -> bool:
    return answer.outcome.kind is OutcomeKind.DELIVERED and answer.duration <= QUICK


Result = TypeVar("Result")


class Delivery:
    """The delivery of one route in one pass. The rules have the destination, the limit and the deadline of the route.
    Events are told after the commit.

    If a transaction fails, the attributes that it changed are restored from a shallow copy. So attributes are always
    replaced and never mutated.
    """

    def __init__(
        self,
        deps: Dependencies,
        rules: PassRules,
        me: PassIdentity,
        route: Route,
        *,
        since: datetime,
        tell: Callable[[Sequence[Event]], None],
    ) -> None:
        self.destination = rules.destination
        self._deps = deps
        self._rules = rules
        self._me = me
        self._since = since
        self._tell_all = tell
        self._destination = claim_destination(deps, rules, since=since)
        self._limits = PassLimits(deps, rules, since=since)
        self._supply = Supply(deps.claims, rules, me, route, since=since)
        self._results = ResultWriter(deps, rules, self._supply)
        self._pace = Pace(deps, rules, self._destination, self._limits, self._supply, self._results)
        self.overdue: Sequence[Overdue] = ()  # attempts that went on after their time limit
        self._new: Sequence[Attempt] = ()  # finished attempts whose results have not been processed yet
        self._synced_at = since

    async def run(self) -> None:
        """Claim, send and record until nothing is due or there is a reason to stop."""
        if self._may_begin():
            try:
                async with self._deps.open_gateway() as gateway, asyncio.TaskGroup() as group:
                    await self._deliver(gateway, group)
            except ExceptionGroup as faults:
                # The task group wraps the error. Raise the error itself, because callers handle errors by type.
                raise faults.exceptions[0] from None

    @property
    def begun(self) -> int:
        """Return the number of started attempts."""
        return self._limits.begun

    @property
    def ended_by(self) -> Destination | PassLimits:
        """Return the object that stores why the delivery ended.

        A stop by the destination takes priority over the attempt limit, but not over a signal, a pause or the deadline.
        """
        is_limit = self._limits.stop_reason in {None, StopReason.LIMIT}
        return self._destination if is_limit and self._destination.stop_reason else self._limits

    def release(self) -> None:
        """Release claimed messages that were not attempted."""
        self._pace.withdraw()
        self._supply.release()

    async def _deliver(self, gateway: Gateway, group: asyncio.TaskGroup) -> None:
        try:
            while self._is_busy or self._may_begin() or await self._wait_for_rows():
                self._pace.keep(await self._transact(self._record_and_begin))
                self._new = [*self._new, *await self._pace.exchange(gateway, group)]
            await self._transact(self._finish)
            self.overdue = gateway.overdue
        except DatabaseUnavailable as error:
            if not (await self._save_answers() and isinstance(error, DatabaseBusy) and self._deps.stop_requested()):
                raise
            self._limits.stop(StopReason.SIGNAL)
            self.release()
        unwritten = [decision.message_id for decision in self._results.locked]
        unwritten += [attempt.queued.message_id for attempt in self._new]
        self._tell_all([ResultKept(message_id) for message_id in unwritten])
        if self._pace.in_flight.fault is not None:
            raise self._pace.in_flight.fault
        if self._pace.is_write_blocked and self._supply.any_left():
            raise DatabaseBusy(
                f"another transaction, probably the application's, has locked message rows "
                f"({len(self._results.locked)}), so their results can't be written; end that transaction. A later pass "
                "will update these rows and send the remaining messages"
            )

    # -- transactions -----------------------------------------------------------------------------------------

    async def _transact(self, work: Callable[[], Result]) -> Result:
        """Run `work` in one transaction. Repeat the transaction while the application holds locks that `work` needs.

        Never block the event loop within a transaction, because no answers would be read and requests would time out.
        Only the commit may wait, and the event loop continues during this wait.

        Raises:
            DatabaseBusy: the application still held a lock when the claims had expired and the deadline had passed.
                After a stop request, this error may be raised earlier.
        """
        while True:
            before = self._snapshot()
            try:
                with self._deps.database.transaction(wait=False) as commit:
                    result = work()
                    await commit_patiently(commit, self._deps.sleep)
                break
            except DatabaseBusy:
                restore(before)
                if self._keep_answers() and self._deps.stop_requested() and not self._pace.in_flight.count:
                    raise
                if self._deps.now() >= self._give_up_at:
                    raise
            except DatabaseUnavailable:
                # The transaction may have been committed. Its messages are not put back into the supply, because they
                # must be neither sent nor released.
                restore(before, but=self._supply)
                raise
            await self._deps.sleep(TRY_AGAIN_SECONDS)
        events, self._results.events = self._results.events, ()
        self._tell_all(events)
        return result

    def _snapshot(self) -> Snapshot:
        destination, supply = self._destination, self._supply
        parts = (destination, destination.doubt, supply, supply.fair_share, self._pace, self._limits, self._results)
        return snapshot(self, *parts)

    @property
    def _give_up_at(self) -> datetime:
        expires_at = self._supply.claim.expires_at
        return expires_at if self._deps.stop_requested() else max(expires_at, self._since + self._rules.deadline)

    def _keep_answers(self) -> bool:
        """Record the outcomes of all answers in retrycli's own tables, because the application's table is locked.

        The outcomes then survive a crash, and the pass that takes over the messages applies them. Attempts whose
        messages will be released are recorded as finished, because their outcomes change no row of the application's
        table. Do not renew the claims here, because a pass that the application blocks would then never give up.

        Returns:
            False if retrycli's tables are locked as well, or readers of a SQLite file block the commit.
        """
        self._new = [*self._new, *self._pace.in_flight.arrived()]
        before = self._snapshot()
        try:
            with self._deps.database.transaction(wait=False) as commit:
                decisions = [self._decide(attempt) for attempt in self._destination.observe(self._new)]
                ended = [decision for decision in decisions if decision.transition.kind is TransitionKind.RELEASED]
                now, claim = self._deps.now(), self._supply.claim
                self._deps.claims.results.record_answers(claim, [*self._newly_in_doubt(), *ended], now)
                self._deps.claims.results.keep_outcomes(claim, decisions, now)  # of those that are unfinished
                is_kept = commit()
        except DatabaseBusy:
            is_kept = False
        restore(before)
        return is_kept

    async def _save_answers(self) -> bool:
        while self._pace.in_flight.count:
            self._new = [*self._new, *await self._pace.in_flight.answers()]
        with suppress(DatabaseUnavailable):
            while not (is_kept := self._keep_answers()) and self._deps.now() < self._supply.claim.expires_at:
                await self._deps.sleep(TRY_AGAIN_SECONDS)
            return is_kept
        return False

    async def _wait_for_rows(self) -> bool:
        """Wait for the application to unlock rows. Call this only while no requests are in flight.

        Returns:
            True if enough results could be written for more attempts to start.
        """
        if not self._results.locked:
            return False
        until = self._deps.now() + self._deps.database.patience()
        while self._results.locked and self._deps.now() < until and not self._deps.stop_requested():
            await self._deps.sleep(TRY_AGAIN_SECONDS)
            await self._transact(self._retry_locked_rows)
            if self._may_begin():
                return True
        return False

    # -- work in transactions ------------------------------------------------------------------------------

    def _record_and_begin(self) -> list[Attempt]:
        """Record results, and begin the next attempts. Their requests are sent only after the commit."""
        if self._sync() and self._results.locked:
            self._results.write_locked()
        self._pace.observe(self._new)
        self._decide_and_record()
        if not self._pace.ahead:
            self._pace.withdraw()
        return self._begin_attempts()

    def _finish(self) -> None:
        self._decide_and_record(last=True)
        self.release()

    def _retry_locked_rows(self) -> None:
        self._sync()
        self._results.write_locked()

    def _sync(self) -> bool:
        """Write the heartbeat, renew the claims, and read pause, holds and breaker, if `SYNC_INTERVAL` has passed.

        Withdraw attempts that have not been sent, so that holds and changes by the application apply to them, too.

        Returns:
            False if the interval has not passed.
        """
        now = self._deps.now()
        if now - self._synced_at < SYNC_INTERVAL:
            return False
        self._synced_at = now
        self._pace.withdraw()
        sync(self._deps, self._rules, self._me, self._supply, self._limits)
        self._destination.adopt(self._deps.ledger.breaker(self._rules.destination), now)
        return True

    def _decide_and_record(self, *, last: bool = False) -> None:
        observed, events = judge(self._destination, self._deps, self._new, last=last)
        self._new = ()
        self._results.events = [*self._results.events, *events]
        if in_doubt := self._newly_in_doubt():
            # The messages stay claimed. Because their answers are recorded, a crash leaves no unknown outcomes, and a
            # later pass sends the messages again.
            self._deps.claims.results.record_answers(self._supply.claim, in_doubt, self._deps.now())
        self._results.write([self._decide(attempt) for attempt in observed])

    def _newly_in_doubt(self) -> list[Decision]:
        return [attempt.decided(Transition.released()) for attempt in self._destination.doubt.new()]

    def _decide(self, attempt: Attempt) -> Decision:
        if attempt.about_access:
            return attempt.decided(Transition.released(attempt.finished_at))
        return attempt.decided(
            decide(
                self._deps,
                self._rules,
                attempt.queued,
                attempt.outcome,
                since=self._since,
                now=attempt.finished_at,
                counts_as_retry=attempt.counts_as_retry,
            )
        )

    def _begin_attempts(self) -> list[Attempt]:
        started: list[Attempt] = []
        while ids := self._next_ids(len(started)):
            now = self._deps.now()
            probing = self._destination.probing
            opened_at = self._destination.breaker.opened_at or self._since
            loaded = self._deps.claims.results.begin(
                self._supply.claim,
                ids,
                made_by=BY_PASS,
                pass_id=self._me.pass_id,
                now=now,
                fit=lambda queued: self._escalation(queued) is None,
                place_of=lambda of: place_of(self._deps, self._rules, of),
                probe=probing,
            )
            unfit: list[Decision] = []
            before = len(started)
            for message in loaded:
                if isinstance(message, UnusableMessage):
                    unfit.append(Decision(message.message_id, Transition.invalid(message.problem), message=message))
                elif escalation := self._escalation(message):
                    unfit.append(Decision(message.message_id, escalation, message=message))
                else:
                    probe = self._deps.claims.count_probes(message.message_id, opened_at) if probing else 0
                    started.append(Attempt.started(message, now, probe=probe, trial=self._destination.on_trial))
            self._limits.count(len(started) - before)
            self._results.write(unfit)
        return started

    def _escalation(self, queued: QueuedMessage) -> Transition | None:
        return escalation_before_send(self._deps, self._rules, queued, self._since)

    # -- what may start ---------------------------------------------------------------------------------------

    @property
    def _is_busy(self) -> bool:
        return bool(self._new or self._pace.in_flight.count or self._pace.reserve)

    def _may_begin(self) -> bool:
        return bool(self._supply) and self._pace.may_go_on and self._limits.may_begin()

    def _next_ids(self, started: int) -> Sequence[int]:
        """Return the ids to send next. First decide ambiguous answers that no message of another ticket can settle."""
        destination, under_way = self._destination, self._pace.in_flight.count + len(self._pace.reserve) + started
        room = self._limits.room(self._pace.width + self._pace.ahead - under_way) if self._may_begin() else 0
        found = self._supply.take(room, destination) if room else ()
        if room and not found and destination.doubt.tickets and not under_way:
            self._decide_and_record(last=True)
            return self._next_ids(started)
        return found
