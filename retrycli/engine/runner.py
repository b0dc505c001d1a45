"""Run one pass: lock, recover, enrol, claim, deliver, decide, record, report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime
from math import ceil
from typing import TYPE_CHECKING

from retrycli.domain.errors import ConfigurationError, DatabaseUnavailable, LockHeld, cause_of
from retrycli.domain.message import UnusableMessage
from retrycli.domain.passes import Event, PassResult, PassStarted, PassStopped, PassSummary, StopReason, Tally
from retrycli.domain.transition import Claim, IdRange, Route, Withheld
from retrycli.engine import enrolment
from retrycli.engine.enrolment import BATCH, recover_all
from retrycli.engine.ports import SYNC_INTERVAL, Dependencies, Lock, PassIdentity, PassRules

if TYPE_CHECKING:
    from retrycli.engine.delivery import Delivery

# Maximum number of escalated messages to hold in memory with their texts, which may be long.
CHANGED_AT_ONCE = 100
# Maximum number of attempts that one pass examines for pruning. The same limit applies to the deleted actions, and to
# the deleted passes. So pruning locks the database for about 50 ms, even with a history of a million attempts.
PRUNE_AT_MOST = 10_000
# Reasons for an early end, in order of precedence. If routes end for different reasons, the pass reports the one that
# comes first in this list.
GRAVITY = (
    StopReason.SIGNAL,
    StopReason.PAUSED,
    StopReason.CREDENTIALS_REFUSED,
    StopReason.UNREAD_ANSWER,
    StopReason.SAME_ANSWER,
    StopReason.BREAKER_OPEN,
    StopReason.THROTTLED,
    StopReason.DEADLINE,
    StopReason.LIMIT,
    None,  # no early end
)
ENDS_THE_PASS = frozenset({StopReason.SIGNAL, StopReason.PAUSED})  # reasons that end the deliveries of all routes
# The results of passes whose deliveries end early, by stop reason. The result is `COMPLETED` for `LIMIT`, and `STOPPED`
# for any other reason.
RESULTS: dict[StopReason | None, PassResult] = {
    StopReason.SIGNAL: PassResult.INTERRUPTED,
    StopReason.PAUSED: PassResult.PAUSED,
}


async def run_pass(deps: Dependencies, lock: Lock, rules: PassRules, me: PassIdentity) -> PassSummary:
    """Run one pass, and record its end even if it fails.

    If another pass holds the lock, return a summary with the result `SKIPPED`.

    Raises:
        RetrycliError: the pass failed.
    """
    the_pass = _Pass(deps, rules, me)
    deps.ledger.start_pass(me.pass_id, host=me.host, pid=me.pid, now=the_pass.began_at, started_by=me.started_by)
    try:
        lock.acquire()
        the_pass.start()
        pause, holds = deps.ledger.pause_and_holds(the_pass.started_at)
        try:
            deps.require_accepted()
        except ConfigurationError:
            if pause is None:  # a paused pass sends nothing, so an operator may accept the settings at leisure
                raise
        else:
            the_pass.recover()  # also during a pause, or nobody could act on messages of a pass that has died
        if pause is not None:
            return the_pass.finish(PassResult.PAUSED, StopReason.PAUSED, pause.why)
        the_pass.enrol()
        await the_pass.deliver_what_is_due(rules.withheld(holds, the_pass.started_at))
        the_pass.prune_history()
        return the_pass.report()
    except LockHeld as error:
        return the_pass.finish(PassResult.SKIPPED, StopReason.LOCK_HELD, str(error))
    except BaseException as error:
        the_pass.finish_failed(error)
        raise
    finally:
        lock.release()


class _Pass:
    def __init__(self, deps: Dependencies, rules: PassRules, me: PassIdentity) -> None:
        self.began_at = self.started_at = deps.now()
        self._deps = deps
        self._rules = rules
        self._me = me
        self._deliveries: list[Delivery] = []
        self._tally = Tally()
        self._swept_to: int | None = None
        self._finished = False

    # -- start, recover and enrol -----------------------------------------------------------------------------

    def start(self) -> None:
        """Set the start of the pass to the current time, because this pass may have waited for the lock while another
        pass ran.

        Correct future times that were recorded while a clock was wrong, so that no message waits for them.
        """
        self.started_at = self._deps.now()
        if self.started_at - self.began_at >= SYNC_INTERVAL:
            self._deps.ledger.heartbeat(self._me.pass_id, self.started_at)
        repaired = self._deps.repair_clock_skew(self.started_at, self._rules.lease, self._rules.longest_wait)
        self._tell([] if repaired is None else [repaired])

    def recover(self) -> None:
        self._deps.ledger.mark_dead_passes(self._me.pass_id, silent_since=self.started_at - self._rules.lease)
        claim = Claim(self._me.pass_id, self.started_at + self._rules.lease)
        for events in recover_all(self._deps, self._rules, claim, self.started_at):
            self._tell(events)

    def enrol(self) -> None:
        self._swept_to = sync_queue(self._deps, self._rules, self.started_at, emit=lambda event: self._tell([event]))

    # -- deliver ----------------------------------------------------------------------------------------------

    async def deliver_what_is_due(self, withheld: Withheld) -> None:
        """Deliver the due messages route by route, each route within its share of the time and the limit. Each delivery
        keeps the withheld messages up to date.
        """
        due_by = self._rules.due_by(self.started_at)
        due = self._deps.claims.count_due(due_by, Route(self._rules.destination, withheld=withheld))
        self._tell([PassStarted(self._me.pass_id, due)])
        routes = routes_in_turn(self._deps, self._rules, due_by, withheld) if due else []
        for number, route in enumerate(routes):
            rules = self._rules_for(route, number, of=len(routes))
            if self._deliveries and rules.limit == 0:
                break
            from retrycli.engine.delivery import Delivery  # not needed by a pass with nothing due

            delivery = Delivery(self._deps, rules, self._me, route, since=self.started_at, tell=self._tell)
            self._deliveries.append(delivery)
            await delivery.run()
            if delivery.ended_by.stop_reason in ENDS_THE_PASS:
                break
        if overdue := [attempt for delivery in self._deliveries for attempt in delivery.overdue]:
            from retrycli.engine.manual_attempt import settle_overdue  # lazy, because it is rarely needed

            await settle_overdue(self._deps, self._rules, overdue, since=self.started_at, tell=self._tell)

    def _rules_for(self, route: Route, number: int, *, of: int) -> PassRules:
        begun = sum(delivery.begun for delivery in self._deliveries)
        return self._rules._replace(
            destination=route.destination,
            limit=share(self._rules.limit, begun, of - number),
            deadline=self._rules.deadline * ((number + 1) / of),
        )

    # -- prune and report ----------------------------------------------------------------------------------

    def prune_history(self) -> None:
        if self._rules.retention is not None:
            self._deps.prune(self.started_at - self._rules.retention, PRUNE_AT_MOST)

    def report(self) -> PassSummary:
        ends = [(delivery.ended_by.stop_reason, delivery.ended_by.detail) for delivery in self._deliveries]
        reason = min((end for end, _ in ends), key=GRAVITY.index, default=None)
        # Several destinations may have failed for this reason.
        detail = "; ".join(detail for end, detail in ends if end is reason and detail) or None
        if reason in {None, StopReason.LIMIT}:
            down = self._untried_outage()
            return self.finish(PassResult.COMPLETED, StopReason.BREAKER_OPEN if down else reason, down)
        return self.finish(RESULTS.get(reason, PassResult.STOPPED), reason, detail)

    def _untried_outage(self) -> str | None:
        """Describe a destination that was down before this pass and that this pass did not try, or return None.

        Deliveries to other destinations do not show whether an untried destination works again.
        """
        tried = {delivery.destination for delivery in self._deliveries}
        others = (route.destination for route in self._rules.routes if tried and route.destination not in tried)
        breakers = map(self._deps.ledger.breaker, others)
        return next((breaker.description for breaker in breakers if breaker.is_down(self.started_at)), None)

    def finish(self, result: PassResult, reason: StopReason | None = None, detail: str | None = None) -> PassSummary:
        now = self._deps.now()
        summary = self._tally.summary(self._me.pass_id, result, now - self.began_at, reason=reason, detail=detail)
        self._deps.ledger.finish_pass(summary, now, swept_to=self._swept_to)
        self._finished = True
        if reason is not None:
            self._deps.emit(PassStopped(reason))
        return summary

    def finish_failed(self, error: BaseException) -> None:
        if not self._finished:
            with suppress(DatabaseUnavailable):
                for delivery in self._deliveries:
                    delivery.release()
            with suppress(DatabaseUnavailable):
                self.finish(PassResult.FAILED, StopReason.FAULT, cause_of(error))

    def _tell(self, events: Sequence[Event]) -> None:
        for event in events:
            self._tally.count(event)
            self._deps.emit(event)


def routes_in_turn(
    deps: Dependencies, rules: PassRules, due_by: datetime, withheld: Withheld, new: Collection[str] = ()
) -> list[Route]:
    """Return the routes with due messages, beginning after the route with which the previous pass began.

    Each route then gets its turn, even if the limit is smaller than the number of routes. Destinations in `new` have
    due messages that are not in the queue yet.
    """
    routes = [route._replace(withheld=withheld) for route in rules.routes or (Route(rules.destination),)]
    last = deps.ledger.last_start() if len(routes) > 1 else None
    first = next((number for number, route in enumerate(routes, 1) if route.destination == last), 0)
    in_turn = (*routes[first:], *routes[:first])
    return [route for route in in_turn if route.destination in new or deps.claims.any_due(due_by, route)]


def share(limit: int | None, begun: int, routes: int) -> int | None:
    """Return the next route's share of a limit, after some attempts and with some routes left."""
    return None if limit is None else ceil((limit - begun) / routes)


def sync_queue(deps: Dependencies, rules: PassRules, now: datetime, *, emit: Callable[[Event], None]) -> int | None:
    """Enrol failed messages, and drop messages that are no longer failed. Emit events after the commit.

    Returns:
        The id at which the next pass continues with older messages; None if a stop was requested.
    """
    spans, swept_to = deps.enrolment.plan_sweep(deps.ledger.swept_to())
    for span in spans:
        if not follow(deps, rules, span, now, emit=emit):
            return None
    return swept_to


def follow(
    deps: Dependencies, rules: PassRules, span: IdRange, now: datetime, *, emit: Callable[[Event], None]
) -> bool:
    """Update the queue from a range of the application's table. Return False if a stop was requested."""
    changed = deps.enrolment.retire(span)
    for start in range(0, len(changed), CHANGED_AT_ONCE):
        enrolment.review_escalations(deps, rules, changed[start : start + CHANGED_AT_ONCE], now, emit=emit)
    rest = span
    while fresh := deps.enrolment.newly_failed(rest, BATCH):
        for escalated in enrolment.enrol(deps, rules, fresh, now):
            emit(escalated)
        if deps.stop_requested():
            return False
        last = fresh[-1]
        rest = IdRange(last.message_id if isinstance(last, UnusableMessage) else last.id, span.upto)
    return True
