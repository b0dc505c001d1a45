"""The stages of a delivery: claim messages, send them, and write their results."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from retrycli.domain.errors import ConfigurationError, DatabaseBusy
from retrycli.domain.fair_share import FairShare
from retrycli.domain.outcome import not_sent
from retrycli.domain.passes import Event, StopReason
from retrycli.domain.transition import Attempt, Claim, Decision, Route, Withheld
from retrycli.engine.destination import Destination
from retrycli.engine.ports import CLAIM_MARGIN, SYNC_INTERVAL, Claims, Dependencies, Gateway, PassIdentity, PassRules
from retrycli.engine.recording import record


def capacity(rules: PassRules) -> int | None:
    """Return the maximum number of attempts of a pass; None if neither limit nor rate is set."""
    by_rate = None
    if rules.rate_per_second is not None:
        by_rate = math.ceil(rules.deadline.total_seconds() * rules.rate_per_second)
    return min((limit for limit in (rules.limit, by_rate) if limit is not None), default=None)


class PassLimits:
    """The limits on the attempts of one route in a pass, which began at ``since``.

    Attributes are replaced and never mutated, so that a shallow copy can restore them after a failed transaction.
    """

    def __init__(self, deps: Dependencies, rules: PassRules, *, since: datetime) -> None:
        self.stop_reason: StopReason | None = None  # the first reason to start no more attempts
        self.detail: str | None = None
        self.begun = 0  # number of recorded attempts
        self._deps = deps
        self._destination = rules.destination
        self._deadline = since + rules.deadline
        self._limit = rules.limit
        self._interval = timedelta(seconds=1 / rules.rate_per_second) if rules.rate_per_second else None
        self._turn: datetime | None = None  # reserved time of the next request; None if no time is reserved yet

    def may_begin(self) -> bool:
        """Return whether this pass may start another attempt; if not, store the reason."""
        if reason := self._ends():
            self.stop(reason)
        elif self.begun == self._limit:
            self.stop(StopReason.LIMIT)
        return self.stop_reason is None

    def _ends(self) -> StopReason | None:
        if self._deps.stop_requested():
            return StopReason.SIGNAL
        return StopReason.DEADLINE if self._deps.now() >= self._deadline else None

    def stop(self, reason: StopReason, detail: str | None = None) -> None:
        """Allow no more attempts, and store the reason unless an earlier one is stored."""
        if self.stop_reason is None:
            self.stop_reason, self.detail = reason, detail

    def room(self, wanted: int) -> int:
        """Return how many of the wanted attempts may start now."""
        if not self.may_begin():
            return 0
        if self._limit is not None:
            wanted = min(wanted, self._limit - self.begun)
        if self._interval is not None and wanted > 0:
            wanted = 1 if self._has_turn(self._interval) else 0
        return max(wanted, 0)

    def _has_turn(self, interval: timedelta) -> bool:
        """Return whether the next request may be sent now. Reserve a time for the request if none is reserved."""
        now = self._deps.now()
        if self._turn is None:
            turn = self._deps.ledger.take_turn(self._destination, now, interval, self._deadline)
            if turn >= self._deadline:
                self.stop(StopReason.DEADLINE)
                return False
            self._turn = turn
        return now >= self._turn

    def may_send(self) -> bool:
        """Return whether this pass may still send recorded attempts, although it may perhaps record no more."""
        return self._ends() is None and self.stop_reason in {None, StopReason.LIMIT, StopReason.DEADLINE}

    def count(self, begun: int) -> None:
        """Count recorded attempts towards the limit, and use up the reserved time. The number is negative if attempts
        were withdrawn before they were sent.
        """
        self.begun += begun
        if begun:
            self._turn = None
        if begun < 0 and self.stop_reason is StopReason.LIMIT:
            self.stop_reason = None

    def seconds_to_turn(self) -> float:
        """Return the number of seconds until the next request may be sent; 0 if the rate does not delay it."""
        return 0.0 if self._turn is None else max((self._turn - self._deps.now()).total_seconds(), 0.0)


MAX_LOCKED_ROWS = 8  # a transaction waits for at most this many locked rows: `MAX_LOCK_WAITS` in `row_changes`
TRY_AGAIN_SECONDS = 0.05  # seconds to wait before a transaction is started or committed again
# Maximum number of tries to commit. The transaction is then rolled back, because its lock blocks the application's
# readers.
COMMIT_TIMES = 100


class Supply:
    """The claimed messages of a route to send next, in the pass ``me``, which began at ``since``.

    Attributes are replaced and never mutated, so that a shallow copy can restore them after a failed transaction.
    """

    def __init__(self, claims: Claims, rules: PassRules, me: PassIdentity, route: Route, *, since: datetime) -> None:
        self.claim = Claim(me.pass_id, since + rules.lease)
        self.fair_share = FairShare(rules.claim_at_once, per_ticket_order=rules.per_ticket_order)
        self._claims = claims
        self._rules = rules
        self._route = route
        self._since = since
        self._due_by = rules.due_by(since)
        self._claimed: Sequence[int] = ()
        self._all_claimed = False
        # Tickets whose next message may be sent, if tickets keep their order.
        self._unblocked_tickets: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self._claimed or self._unblocked_tickets or not self._all_claimed)

    def renew(self, now: datetime) -> None:
        """Renew the claims if half of their margin has passed.

        Then each request that starts before the next call must end before its claim does, even if the process is
        suspended meanwhile.
        """
        if self.claim.expires_at - now <= self._rules.request_timeout + CLAIM_MARGIN / 2:
            self.claim = Claim(self.claim.owner, now + self._rules.lease)
            self._claims.renew(self.claim)

    def take(self, room: int, destination: Destination) -> Sequence[int]:
        """Return at most `room` claimed messages. If none are left, claim more.

        If the next request is a probe, or must settle ambiguous answers, return only its message.
        """
        if destination.doubt.tickets or destination.probing:
            self.release()
            return self._claim_one(destination)
        if not self._claimed:
            self._claimed = self._claim_due(room) or self._claim_unblocked()
        taken, self._claimed = self._claimed[:room], self._claimed[room:]
        return taken

    def put_back(self, ids: Sequence[int]) -> None:
        """Let messages be taken again, before all others."""
        self._claimed = [*ids, *self._claimed]

    def unblock(self, tickets: Iterable[str]) -> None:
        """Let the next message of each ticket be claimed, because the result of the previous message is written."""
        self._unblocked_tickets |= frozenset(tickets)

    def release(self) -> None:
        """Release claimed messages that were not attempted."""
        if self._claimed:
            self._claims.release(self.claim, self._claimed)
            self._claimed = ()
            self._all_claimed = False

    def leave_out(self, withheld: Withheld) -> None:
        """Claim none of these messages from now on.

        If they differ from those left out so far, release claimed messages, because some of them may now be withheld.
        """
        if withheld != self._route.withheld:
            self._route = self._route._replace(withheld=withheld)
            self._all_claimed = False
            self.release()

    def any_left(self) -> bool:
        """Return whether any unclaimed message of the route is due."""
        return self._claims.any_due(self._due_by, self._route)

    def _claim_one(self, destination: Destination) -> Sequence[int]:
        """Claim a message of a ticket outside `Doubt.tickets` or, if that set is empty, a message to probe with."""
        order = self._rules.per_ticket_order
        if tickets := destination.doubt.tickets:
            self._all_claimed = False
            return self._claims.claim_elsewhere(self.claim, self._due_by, tickets, self._route, per_ticket_order=order)
        since = destination.breaker.opened_at or self._since
        found = self._claims.claim_probe(self.claim, self._due_by, since, self._route, per_ticket_order=order)
        if not found:
            self._all_claimed = True
            self._unblocked_tickets = frozenset()
        return found

    def _claim_due(self, room: int) -> Sequence[int]:
        found: Sequence[int] = ()
        while not (found or self._all_claimed):
            limit = max(room, self._rules.claim_at_once)
            found = self._claims.claim(self.claim, self._due_by, limit, self.fair_share, self._route)
            self._all_claimed = not found and not self.fair_share.widen()
        return found

    def _claim_unblocked(self) -> Sequence[int]:
        unblocked, self._unblocked_tickets = self._unblocked_tickets, frozenset()
        return self._claims.claim_first_of(self.claim, self._due_by, unblocked, self._route) if unblocked else ()


class InFlight:
    """Send recorded attempts, and collect their answers. No attempt is sent after the supply's claim has expired."""

    def __init__(self, deps: Dependencies, supply: Supply) -> None:
        self.count = 0  # number of attempts that were sent and have no answer yet
        self.fault: ConfigurationError | None = None  # error that affects every message, so nothing more is sent
        self._now = deps.now
        self._supply = supply
        self._answered: asyncio.Queue[Attempt] = asyncio.Queue()

    def send(self, started: Sequence[Attempt], gateway: Gateway, group: asyncio.TaskGroup) -> None:
        """Begin to send recorded attempts, without waiting for their answers."""
        self.count += len(started)
        for attempt in started:
            group.create_task(self._send(gateway, attempt))

    def arrived(self) -> list[Attempt]:
        """Return the answers that have arrived, without waiting."""
        answers = [self._answered.get_nowait() for _ in range(self._answered.qsize())]
        self.count -= len(answers)
        return answers

    async def answers(self, seconds: float = SYNC_INTERVAL.total_seconds()) -> list[Attempt]:
        """Wait for an answer, at most for the given time, and return all answers that have arrived by then."""
        answers = []
        if self.count:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    answers.append(await self._answered.get())
            self.count -= len(answers)
        return answers + self.arrived()

    async def _send(self, gateway: Gateway, attempt: Attempt) -> None:
        now = self._now()
        attempt, outcome, about_access = attempt.sent(now), attempt.outcome, False
        try:
            if now < self._supply.claim.expires_at:
                outcome = await gateway.deliver(attempt.queued)
        except ConfigurationError as fault:  # `Delivery` raises it again when no requests are in flight
            self.fault = self.fault or fault
            outcome, about_access = not_sent(fault), True
        self._answered.put_nowait(attempt.ended(outcome, self._now(), about_access=about_access))


class ResultWriter:
    """Write decisions. If the application has locked their rows, keep the decisions for a later try.

    Attributes are replaced and never mutated, so that a shallow copy can restore them after a failed transaction.
    """

    def __init__(self, deps: Dependencies, rules: PassRules, supply: Supply) -> None:
        # Decisions to write later, because the application has locked their rows. Their outcomes are already recorded.
        self.locked: Sequence[Decision] = ()
        self.locked_in_a_row = 0  # number of consecutive results whose rows were locked
        self.events: Sequence[Event] = ()  # events to emit after the commit
        self._deps = deps
        self._rules = rules
        self._supply = supply

    def write(self, decisions: Sequence[Decision]) -> None:
        """Write new decisions. Add those whose rows are locked to `locked`."""
        if decisions:
            locked = self._write(decisions)
            self.locked_in_a_row = len(locked) + (self.locked_in_a_row if len(locked) == len(decisions) else 0)
            self.locked = [*self.locked, *locked]

    def write_locked(self) -> None:
        """Try again to write the decisions in `locked`."""
        locked = self._write(self.locked)
        if len(locked) < len(self.locked):
            self.locked_in_a_row = 0
        # Rotate the list, so that the next transaction waits for other rows.
        self.locked = locked[MAX_LOCKED_ROWS:] + locked[:MAX_LOCKED_ROWS]

    def _write(self, decisions: Sequence[Decision]) -> list[Decision]:
        events, locked = record(self._deps, self._supply.claim, decisions)
        self.events = [*self.events, *events]
        if self._rules.per_ticket_order:
            unwritten = {decision.message_id for decision in locked}
            self._supply.unblock(
                str(decision.message.ticket_id)
                for decision in decisions
                if decision.message is not None and decision.message_id not in unwritten
            )
        return locked


Snapshot = Sequence[tuple[object, Mapping[str, object]]]


def snapshot(*parts: object) -> Snapshot:
    """Return shallow copies of the attributes of objects, to restore after a failed transaction."""
    return [(part, vars(part).copy()) for part in parts]


def restore(before: Snapshot, *, but: object = None) -> None:
    """Restore the attributes of all objects of a snapshot except one."""
    for part, values in before:
        if part is not but:
            vars(part).update(values)


def sync(deps: Dependencies, rules: PassRules, me: PassIdentity, supply: Supply, limits: PassLimits) -> None:
    """Write the heartbeat, renew the claims, and apply the pause and the holds in force."""
    now = deps.now()
    deps.ledger.heartbeat(me.pass_id, now)
    supply.renew(now)
    pause, holds = deps.ledger.pause_and_holds(now)
    if pause is not None:
        limits.stop(StopReason.PAUSED, pause.why)
    supply.leave_out(rules.withheld(holds, now))


async def commit_patiently(commit: Callable[[], bool], sleep: Callable[[float], Awaitable[None]]) -> None:
    """Commit as soon as no reader of a SQLite file blocks the commit.

    Raises:
        DatabaseBusy: readers of the file blocked the commit for too long.
    """
    for _ in range(COMMIT_TIMES):
        if commit():
            return
        await sleep(TRY_AGAIN_SECONDS)
    raise DatabaseBusy("another transaction has been reading for too long; end it, or use WAL")
