"""Hand messages over to the application's own sender."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Protocol

from retrycli.domain.circuit_breaker import APPLICATION, Breaker
from retrycli.domain.errors import TransactionLost
from retrycli.domain.hand_over import Answers, HandedOver
from retrycli.domain.message import BY_PASS, QueuedMessage, UnusableMessage
from retrycli.domain.passes import Event, StopReason
from retrycli.domain.transition import Claim, Decision, IdRange, Route, Transition, WriteResult
from retrycli.engine.destination import Destination
from retrycli.engine.limits import PassLimits
from retrycli.engine.ports import SYNC_INTERVAL, Dependencies, PassIdentity, PassRules
from retrycli.engine.recording import escalation_before_send, events_of
from retrycli.engine.stages import ResultWriter, Supply, restore, snapshot, sync


class HandOvers(Protocol):
    """Hand messages over to the application's own sender, and compare them with the application's table."""

    def hand_over(
        self,
        claim: Claim,
        decisions: Sequence[Decision],
        *,
        made_by: str,
        pass_id: str | None,
        destination_of: Callable[[str], str | None],
        now: datetime,
    ) -> WriteResult:
        """Hand claimed messages over, and start their attempts."""

    def find(self, span: IdRange, limit: int) -> list[HandedOver]:
        """Return messages that were handed over, with what became of them."""

    def take(self, claim: Claim, found: Mapping[int, HandedOver]) -> list[QueuedMessage | UnusableMessage]:
        """Claim messages that failed again, with the retry counts that they had before."""

    def leave(self, decisions: Sequence[Decision], now: datetime) -> None:
        """End the attempts of messages, and remove the messages from the queue."""

    def see(self, ids: Sequence[int]) -> None:
        """Store the current states of rows, so that a later change by the application is noticed."""

    def leave_behind(self, decisions: Sequence[Decision], now: datetime) -> None:
        """Escalate messages that the sender has left behind."""

    def answers(self, since: datetime, until: datetime) -> Answers:
        """Return when the application's sender answered."""


def hand_over(
    deps: Dependencies,
    rules: PassRules,
    claim: Claim,
    messages: Sequence[QueuedMessage],
    *,
    made_by: str,
    pass_id: str | None,
    now: datetime,
) -> tuple[list[Event], list[Decision]]:
    """Hand claimed messages over to the application's own sender.

    Returns:
        Events for the messages whose rows the application has not locked, and the decisions about the other messages.
    """
    decisions = [Decision(message.message_id, Transition.handed_over(), message=message) for message in messages]
    if not decisions:
        return [], []
    written = deps.claims.hand_overs.hand_over(
        claim, decisions, made_by=made_by, pass_id=pass_id, destination_of=rules.destination_of, now=now
    )
    return events_of(decisions, written)


class HandOver:
    """The hand-over of one route in one pass.

    Args:
        deps: the ports and functions that the engine calls.
        rules: the rules of the pass, with the destination, limit and deadline of the route.
        me: identifies the pass as the owner of claims.
        route: the messages to hand over.
        since: the start of the pass.
        tell: receives events after the commit.
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
        self.ended_by = PassLimits(deps, rules, since=since)
        self._deps = deps
        self._rules = rules
        self._me = me
        self._since = since
        self._tell = tell
        self._supply = Supply(deps.claims, rules, me, route, since=since)
        self._destination = Destination(Breaker(APPLICATION), rules, since=since)
        self._results = ResultWriter(deps, rules, self._supply)
        self._locked: Sequence[int] = ()
        self._synced_at = since

    async def run(self) -> None:
        """Hand messages over until none is due, or there is a reason to stop."""
        breaker = self._deps.ledger.breaker(self.destination)
        if breaker.blocks(self._since):
            self.ended_by.stop(StopReason.BREAKER_OPEN, breaker.description)
        while self._supply and self.ended_by.may_begin():
            room = self.ended_by.room(self._rules.claim_at_once)
            if room:
                self._tell(self._transact(partial(self._hand_over_some, room)))
            else:
                await self._deps.sleep(self.ended_by.seconds_to_turn())
        self.release()

    @property
    def begun(self) -> int:
        """Return the number of messages handed over."""
        return self.ended_by.begun

    def release(self) -> None:
        """Release claimed messages that were not handed over."""
        self._supply.release()
        self._deps.claims.release(self._supply.claim, self._locked)
        self._locked = ()

    def _transact(self, work: Callable[[], list[Event]]) -> list[Event]:
        """Run `work` in one transaction, and repeat a lost transaction.

        After any error, restore what `work` has changed, so that `release` releases all claims.
        """
        while True:
            before = snapshot(self, self._supply, self._supply.fair_share, self.ended_by, self._results)
            try:
                with self._deps.database.transaction():
                    return work()
            except BaseException as error:
                restore(before)
                if not isinstance(error, TransactionLost):
                    raise

    def _hand_over_some(self, room: int) -> list[Event]:
        self._sync()
        if not self.ended_by.may_begin() or not (ids := self._supply.take(room, self._destination)):
            return []
        now = self._deps.now()
        loaded = self._deps.claims.results.begin(
            self._supply.claim,
            ids,
            made_by=BY_PASS,
            pass_id=self._me.pass_id,
            now=now,
            fit=lambda _: False,  # `hand_over` starts the attempts
            destination_of=self._rules.destination_of,
        )
        fit: list[QueuedMessage] = []
        unfit: list[Decision] = []
        for message in loaded:
            if isinstance(message, UnusableMessage):
                unfit.append(Decision(message.message_id, Transition.invalid(message.problem), message=message))
            elif escalation := escalation_before_send(self._deps, self._rules, message, self._since):
                unfit.append(Decision(message.message_id, escalation, message=message))
            else:
                fit.append(message)
        self._results.write(unfit)
        events, locked = hand_over(
            self._deps, self._rules, self._supply.claim, fit, made_by=BY_PASS, pass_id=self._me.pass_id, now=now
        )
        self._locked = [*self._locked, *(decision.message_id for decision in locked)]
        given = len(fit) - len(locked)
        self.ended_by.count(given)
        written, self._results.events = self._results.events, ()
        return [*written, *events]

    def _sync(self) -> None:
        now = self._deps.now()
        if now - self._synced_at >= SYNC_INTERVAL:
            self._synced_at = now
            sync(self._deps, self._rules, self._me, self._supply, self.ended_by)
