"""Delivery of one route: claim, send, decide, record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from retrycli.domain.attempt import Attempt
from retrycli.domain.claim import Route
from retrycli.domain.errors import DatabaseBusy, DatabaseUnavailable
from retrycli.domain.events import Event, ResultKept
from retrycli.domain.message import BY_PASS, QueuedMessage, UnusableMessage
from retrycli.domain.pass_summary import StopReason
from retrycli.domain.transition import Decision, Transition
from retrycli.engine.coordination import PassCoordinator
from retrycli.engine.decisions import Decisions, as_decision, ended_and_undecided
from retrycli.engine.destination import Destination
from retrycli.engine.in_flight import ENOUGH, InFlight, StartedAttempt
from retrycli.engine.limits import PassLimits
from retrycli.engine.recording import TRY_AGAIN_SECONDS, Decided, ResultBuffer, commit_patiently
from retrycli.engine.rules import Dependencies, PassIdentity, PassRules
from retrycli.engine.supply import Supply

if TYPE_CHECKING:
    from retrycli.engine.ports import Gateway

RECORD_WITHIN_SECONDS = 0.1
"""The maximum time that an answer waits to be recorded while the rate limit delays the next attempt."""


class Delivery:
    """The delivery of one route in one pass.

    Args:
        deps: everything outside the engine.
        rules: with the destination, limit and deadline of the route.
        me: the pass.
        route: the messages.
        since: the start of the pass.
        tell: receives events once they are committed.
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
        self.begun = 0
        """Number of started attempts."""
        self._deps = deps
        self._rules = rules
        self._me = me
        self._since = since
        self._tell_all = tell
        self._events: list[Event] = []
        self._limits = PassLimits(rules, since, deps.now, deps.stop_requested, self._reserve_turn)
        self._coordinator = PassCoordinator(deps, rules, me, since=since, tell=self._events.append)
        self._decisions = Decisions(deps, rules, since=since)
        self._destination: Destination
        """Set by `run`, because loading it takes the one probe that may be due."""
        self._supply = Supply(deps.claims, self._coordinator, rules, route, since=since)
        self._in_flight = InFlight(deps, self._coordinator, at_a_server=rules.at_a_server)
        # An answer is in one of these three until its result is committed.
        self._new: list[Attempt] = []
        """Answers that are not decided yet."""
        self._in_doubt: list[Decision] = []
        """Answers that wait until it is clear what they are about. They are not recorded yet."""
        self._results = ResultBuffer(deps, tell=self._events.extend, written=self._unblock_tickets)

    async def run(self) -> None:
        """Claim, send and record until nothing is due or there is a reason to stop."""
        self._destination = self._coordinator.claim_destination()
        if self._may_begin():
            try:
                async with self._deps.open_gateway() as gateway, asyncio.TaskGroup() as group:
                    await self._deliver(gateway, group)
            except ExceptionGroup as faults:
                # A task group wraps the error that ends it; the caller must see the error itself.
                raise faults.exceptions[0] from None

    @property
    def destination(self) -> str:
        """Return where its messages go."""
        return self._rules.destination

    @property
    def reason(self) -> StopReason | None:
        """Return why it ended early. A problem of the destination takes precedence over a limit."""
        if self._limits.reason in {None, StopReason.LIMIT}:
            return self._destination.stop_reason or self._limits.reason
        return self._limits.reason

    @property
    def detail(self) -> str | None:
        """Return details of the reason, if there are any."""
        if self.reason is StopReason.PAUSED:
            return self._coordinator.paused
        return self._destination.detail if self.reason is self._destination.stop_reason else None

    def release(self) -> None:
        """Release claimed messages without an attempt."""
        self._supply.release()

    async def _deliver(self, gateway: Gateway, group: asyncio.TaskGroup) -> None:
        try:
            while self._new or self._in_flight.count or self._may_begin() or await self._wait_for_rows():
                await self._write(self._record_and_begin)
                self._in_flight.send(gateway, group)
                self._new += await self._answers()
            await self._write(self._finish)
        except DatabaseUnavailable as error:
            if not isinstance(error, DatabaseBusy):
                self._supply.forget()
            is_kept = await self._save_answers()
            if not (is_kept and isinstance(error, DatabaseBusy) and self._deps.stop_requested()):
                raise
            self._limits.stop(StopReason.SIGNAL)
            self.release()
        unjudged = [attempt.queued.message_id for attempt in self._new]
        undone = [decision.message_id for decision in self._results.waiting]
        self._events += map(ResultKept, [*self._results.unwritten, *undone, *unjudged])
        self._tell()
        if self._in_flight.fault is not None:
            raise self._in_flight.fault
        if self._is_write_blocked and self._supply.any_left():
            raise DatabaseBusy(
                f"the application holds the rows of {len(self._results.unwritten)} messages that were sent; end its "
                "transaction. A later pass writes these rows, and sends the other messages"
            )

    async def _write(self, work: Callable[[], None]) -> None:
        """Run `work` in one transaction; repeat while the application locks what it writes.

        Never wait within a transaction: answers could not be read meanwhile, and their requests would time out.

        Raises:
            DatabaseBusy: it is locked until the claims have expired and the pass should have ended.
        """
        while True:
            try:
                with self._deps.claims.transaction(wait=False) as commit:
                    work()
                    await commit_patiently(commit, self._deps.sleep)
                break
            except DatabaseBusy:
                self._restore()
                if self._keep_answers() and self._deps.stop_requested() and not self._in_flight.count:
                    raise
                if self._deps.now() >= self._give_up_at:
                    raise
            await self._deps.sleep(TRY_AGAIN_SECONDS)
        self._committed()
        self._tell()

    @property
    def _give_up_at(self) -> datetime:
        expires_at = self._coordinator.claim.expires_at
        return expires_at if self._deps.stop_requested() else max(expires_at, self._since + self._rules.deadline)

    def _committed(self) -> None:
        self._coordinator.committed()
        self._supply.committed()
        self._results.committed()
        self._in_doubt.clear()

    def _restore(self) -> None:
        """Restore what the failed transaction changed, to do it again."""
        self._coordinator.rolled_back()
        self._supply.rolled_back()
        self._results.rolled_back()
        self._events.clear()
        not_begun = self._in_flight.discard_unsent()
        self.begun -= not_begun
        self._limits.not_begun(not_begun)

    def _keep_answers(self) -> bool:
        """Record the outcomes of all answers in retrycli's own tables, because the application locks its own.

        Then they survive if this process dies. Return False if these tables are locked too.
        """
        self._new += self._in_flight.arrived()
        ended, kept = ended_and_undecided(self._new, self._in_doubt, self._results.waiting)
        try:
            with self._deps.claims.transaction(wait=False) as commit:
                self._sync()
                now, claim = self._deps.now(), self._coordinator.claim
                self._deps.claims.results.record_answers(claim, ended, now)
                self._deps.claims.results.keep_outcomes(claim, kept, now)
                is_kept = commit()
        except DatabaseBusy:
            is_kept = False
        if is_kept:
            self._coordinator.committed()
        else:
            self._coordinator.rolled_back()
        return is_kept

    async def _save_answers(self) -> bool:
        """Wait for all answers, and record their outcomes; return True if that was possible."""
        self._restore()
        while self._in_flight.count:
            self._new.append(await self._in_flight.next_answer())
        with suppress(DatabaseUnavailable):
            while not (is_kept := self._keep_answers()) and self._deps.now() < self._coordinator.claim.expires_at:
                await self._deps.sleep(TRY_AGAIN_SECONDS)
            return is_kept
        return False

    async def _wait_for_rows(self) -> bool:
        """Wait until the application unlocks rows, after all requests have been answered.

        Returns:
            True if more attempts may start, because some rows are unlocked.
        """
        if not self._results.unwritten:
            return False
        until = self._deps.now() + self._deps.claims.patience()
        while self._results.unwritten and self._deps.now() < until and not self._deps.stop_requested():
            await self._deps.sleep(TRY_AGAIN_SECONDS)
            await self._write(self._retry_locked_rows)
            if self._may_begin():
                return True
        return False

    def _retry_locked_rows(self) -> None:
        self._sync()
        self._results.write_locked(self._coordinator.claim)

    def _sync(self) -> None:
        self._coordinator.sync(self._destination)
        if self._coordinator.paused:
            self._limits.stop(StopReason.PAUSED)

    def _begin_attempts(self) -> None:
        """Start as many attempts as allowed; each is recorded first."""
        while ids := self._next_ids(self._room()):
            now = self._deps.now()
            probing = self._destination.probing
            opened_at = self._destination.breaker.opened_at or self._since
            escalations: dict[int, Transition] = {}
            loaded = self._deps.claims.results.begin(
                self._coordinator.claim,
                ids,
                made_by=BY_PASS,
                pass_id=self._me.pass_id,
                now=now,
                fit=partial(self._decisions.is_fit, escalations),
                destination_of=self._rules.destination_of,
                probe=probing,
            )
            unfit: list[Decided] = []
            begun = 0
            for message in loaded:
                if isinstance(message, UnusableMessage):
                    invalid = Transition.invalid(message.problem)
                    unfit.append((message, Decision(message.message_id, invalid, message=message)))
                elif escalation := escalations.get(message.message_id):
                    unfit.append((message, Decision(message.message_id, escalation, message=message)))
                else:
                    probe = self._deps.claims.count_probes(message.message_id, opened_at) if probing else 0
                    self._in_flight.add(StartedAttempt(message, now, probe, self._destination.on_trial))
                    begun += 1
            self._limits.begun(begun)
            self.begun += begun
            self._results.write(self._coordinator.claim, unfit)

    async def _answers(self) -> list[Attempt]:
        """Wait for an answer or for the rate limit, and return all answers that have arrived."""
        if pause := self._limits.pause():
            await self._deps.sleep(min(pause, RECORD_WITHIN_SECONDS))
            return self._in_flight.arrived()
        return await self._in_flight.answers()

    def _may_begin(self) -> bool:
        if self._is_write_blocked or self._in_flight.fault is not None:
            return False
        return bool(self._supply) and self._destination.stop_reason is None and self._limits.may_begin()

    @property
    def _is_write_blocked(self) -> bool:
        """Tell if the application has locked too many rows in a row to send anything more."""
        return self._results.blocked_in_a_row >= max(ENOUGH, self._rules.concurrency)

    def _room(self) -> int:
        """Return how many attempts may start now."""
        one_by_one = self._destination.on_trial or self._destination.probing
        width = 1 if one_by_one else self._destination.width
        return self._limits.room(width - self._in_flight.count) if self._may_begin() else 0

    def _next_ids(self, room: int) -> list[int]:
        """Return the messages to send next. If none can settle the answers in doubt, decide these first."""
        found = self._supply.take(room, self._destination) if room else []
        if room and not found and self._destination.tickets_in_doubt and not self._in_flight.count:
            self._decide_and_record(last=True)
            return self._next_ids(self._room())
        return found

    def _reserve_turn(self, interval: timedelta, too_late: datetime) -> datetime:
        return self._deps.ledger.take_turn(self._rules.destination, self._deps.now(), interval, too_late)

    def _record_and_begin(self) -> None:
        """Record results and start the next attempts. No request is sent before the commit."""
        self._sync()
        self._decide_and_record()
        self._begin_attempts()

    def _finish(self) -> None:
        self._decide_and_record(last=True)
        self._supply.release()

    def _decide_and_record(self, *, last: bool = False) -> None:
        """Decide new attempts and record the decisions."""
        if self._in_flight.fault is not None:  # a request that could not be built says nothing
            self._results.add(
                (attempt.queued, self._decisions.decide(attempt)) for attempt in self._new if attempt.about_us
            )
            self._new = [attempt for attempt in self._new if not attempt.about_us]
        observed = self._coordinator.observe(self._destination, self._new, last=last)
        self._new = []
        self._results.add((attempt.queued, self._decisions.decide(attempt)) for attempt in observed)
        self._in_doubt += [
            as_decision(attempt, Transition.released()) for attempt in self._destination.newly_in_doubt()
        ]
        self._coordinator.save(self._destination)
        if self._in_doubt:
            # Their messages stay claimed. If this process dies, their answers are known, and they are sent again.
            self._deps.claims.results.record_answers(self._coordinator.claim, self._in_doubt, self._deps.now())
        self._results.write(self._coordinator.claim)

    def _unblock_tickets(self, messages: Iterable[QueuedMessage | UnusableMessage]) -> None:
        if self._rules.per_ticket_order:
            self._supply.unblock(str(message.ticket_id) for message in messages)

    def _tell(self) -> None:
        events = self._events.copy()
        self._events.clear()
        self._tell_all(events)
