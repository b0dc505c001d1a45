"""Explain why a message waits, by the conditions (gates) that its next attempt must meet, and predict that attempt.

Before a pass claims messages, it corrects times recorded with a wrong clock, enrols new failures and recovers expired
claims. This module runs the same code, and rolls its changes back. The gates, too, use the code of a pass:
`Claims.is_due`, `Destination`, `RetryPolicy`, `Ledger.pause`.
"""

import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from retrycli.config.settings import Settings
from retrycli.domain import incidents
from retrycli.domain.circuit_breaker import PROBED, BreakerState
from retrycli.domain.delivery_window import DeliveryWindows
from retrycli.domain.duration import utc_text
from retrycli.domain.errors import LockUnusable
from retrycli.domain.listing import MessageDetails
from retrycli.domain.message import Message, MessageStatus, QueuedMessage, State, UnusableMessage
from retrycli.domain.outcome import OutcomeKind
from retrycli.domain.outlook import MAX_CLOCK_SKEW, NO_SCHEDULER, Outlook, Ticks
from retrycli.domain.passes import Hold, PassRecord, PassResult, StopReason, withheld
from retrycli.domain.retry_policy import LATEST, later
from retrycli.domain.transition import Claim, IdRange, Route
from retrycli.engine import enrolment, runner
from retrycli.engine.destination import Destination
from retrycli.engine.ports import Dependencies, PassRules
from retrycli.engine.recording import escalation_before_send
from retrycli.engine.stages import capacity
from retrycli.operations.expiry import EXPIRED
from retrycli.operations.ids import resolve_one
from retrycli.operations.schedule.next_run import next_run
from retrycli.operations.status import ended_passes
from retrycli.operations.wiring import (
    DEFAULT_RUNTIME,
    Runtime,
    dry_run_database,
    lock_path,
    looks_up,
    make_dependencies,
    pass_rules,
)
from retrycli.store import own_tables
from retrycli.store.claims import Claims
from retrycli.store.database import Database, WriteNeeded
from retrycli.store.history import message_details
from retrycli.store.listing import MessageQueries
from retrycli.store.messages import message_of
from retrycli.store.passes import Ledger, refusing_destinations
from retrycli.store.write_check import lack_of_room
from retrycli.system.host import Host
from retrycli.system.pass_lock import PassLock

ENDED_EARLY = frozenset({PassResult.STOPPED, PassResult.INTERRUPTED, PassResult.FAILED})
# Gates that do not open by themselves once they are closed. While one is closed, no next attempt is predicted.
FOR_GOOD = frozenset({"status", "acceptance", "data", "escalation", "tries", "expiry"})
# Gates evaluated for the start of a pass, shortly after its tick.
COMPARED_WITH_START = frozenset({"pause", "hold", "window", "breaker"})
QUOTAS = frozenset({"limit", "rate"})  # gates that may close again if the messages ahead use up a pass's attempts


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition that a message's next attempt must meet."""

    name: str
    open: bool
    figure: str  # the value on which the gate depends; if `time` is set, words that introduce the time
    time: datetime | None = None


class Gates:
    """The gates of the messages in one database, given what a pass is given, and the newest passes, newest first."""

    def __init__(self, database: Database, deps: Dependencies, rules: PassRules, passes: Sequence[PassRecord]) -> None:
        self._views = MessageQueries(database)
        self._ledger = Ledger(database)
        self._claims = Claims(database)
        self._deps = deps
        self._rules = rules
        self._loaded: tuple[MessageDetails | None, QueuedMessage | None] = None, None
        self.refusals = refusing_destinations(database, passes)
        ended = next((record for record in passes if record.result not in {None, PassResult.SKIPPED}), None)
        self._ended_early = ended if ended is not None and ended.result in ENDED_EARLY else None
        self._disk = lack_of_room(database.file)
        self._unaccepted = own_tables.objection_to(database)

    def of(self, found: MessageDetails, at: datetime, ended: Collection[str]) -> Iterator[Gate]:
        """Yield the gates of a message, except cron's, for a pass that begins at a given time."""
        failed = found.row["status"] == MessageStatus.FAILED
        yield Gate("status", failed, str(found.row["status"]))
        if not failed or found.queue is None:
            return
        if self._unaccepted is not None:
            yield Gate("acceptance", open=False, figure=self._unaccepted)
        queue, message = found.queue, message_of(found.row)
        yield Gate("data", isinstance(message, Message), getattr(message, "problem", "can be sent"))
        queue = found.queue
        queued = self._queued(found)
        yield self._escalation(found, queued, queue, at)
        yield _claim(queue, has_ended=queue["claimed_by"] in ended)
        wait = self._wait(queue, at)
        yield wait
        yield _retry_after(found, wait)
        if self._rules.per_ticket_order:
            yield self._order(found, at)
        if queued is not None:
            yield from self._policy_gates(queued, at, is_waiting=queue["state"] == State.WAITING)
        yield self.pause(at)
        yield self.hold(found, at)
        yield self._window(found, at)
        yield self.breaker(found, at)
        yield self._last_pass(found)
        yield Gate("disk", self._disk is None, self._disk or "enough space")
        yield from self._limits(queue["message_id"], at)

    def _queued(self, found: MessageDetails) -> QueuedMessage | None:
        """Return the message as a pass would load it; None if it can't be sent. Keep it while ticks are compared.

        Only the digest of the text tells which attempts were made with it. Without attempts, the text is not read.
        """
        if self._loaded[0] is not found:
            message, queue = message_of(found.row), found.queue
            queued: QueuedMessage | UnusableMessage | None = None
            if found.attempts:
                queued = self._claims.queued(found.row["id"])
            elif queue is not None and isinstance(message, Message):
                queued = QueuedMessage(message, queue["delivery_key"], queue["first_failed_at"], queue["unknown_count"])
            self._loaded = found, queued if isinstance(queued, QueuedMessage) else None
        return self._loaded[1]

    def _escalation(
        self, found: MessageDetails, queued: QueuedMessage | None, queue: Mapping[str, Any], at: datetime
    ) -> Gate:
        """Evaluate whether the message is escalated, or a pass would escalate it instead of sending it. Expiry and used
        up retries have gates of their own.
        """
        if queue["state"] == State.ESCALATED:
            return Gate("escalation", open=False, figure=queue["escalation_reason"])
        last = found.attempts[-1] if found.attempts else None
        if last is not None and last.outcome == OutcomeKind.DELIVERED and last.finished_at is None:
            return Gate("escalation", open=False, figure="none: it was delivered, and a pass will mark it as sent")
        if queued is not None:
            policy = self._rules.policies[queued.message.message_type]
            has_own_gate = policy.expired(queued, at) or not policy.has_retries_left(queued.message)
            escalation = escalation_before_send(self._deps, self._rules, queued, at)
            if escalation is not None and not has_own_gate:
                return Gate("escalation", open=False, figure=f"a pass will escalate it: {escalation.last_error}")
        return Gate("escalation", open=True, figure="none")

    def _policy_gates(self, queued: QueuedMessage, at: datetime, *, is_waiting: bool) -> Iterator[Gate]:
        message = queued.message
        policy = self._rules.policies[message.message_type]
        yield Gate("tries", policy.has_retries_left(message), f"{message.retry_count} of {policy.max_retries} used")
        until = policy.expires_at(queued)
        figure = "expires at" if until else "never expires"
        if expired := policy.expired(queued, at):
            figure = f"{EXPIRED if is_waiting else 'expired'}; it expired at"
        yield Gate("expiry", not expired, figure, until)

    def _wait(self, queue: Mapping[str, Any], at: datetime) -> Gate:
        is_open = queue["state"] != State.WAITING or self._claims.is_due(queue["message_id"], self._rules.due_by(at))
        due = queue["next_attempt_at"]
        return Gate("wait", is_open, "due at" if due else "none", due)

    def _order(self, found: MessageDetails, at: datetime) -> Gate:
        earlier_in_ticket = self._views.earlier_in_ticket(found.row["id"])
        if not earlier_in_ticket:
            return Gate("order", open=True, figure="no other message of its ticket goes first")
        last = max(due for _, due, _ in earlier_in_ticket)
        first, _, _ = earlier_in_ticket[0]
        others = f" and {len(earlier_in_ticket) - 1:,} more" if len(earlier_in_ticket) > 1 else ""
        figure = f"message {first}{others} of the same ticket must be delivered or escalated first"
        covers, ticket = withheld(self._holds(at), self._rules.destination_of).covers, found.row["ticket_id"]
        left_out = next(
            (message_id for message_id, _, kind in earlier_in_ticket if covers(message_id, kind, ticket)), None
        )
        if left_out is not None:
            return Gate("order", open=False, figure=f"{figure}; message {left_out} is held")
        return Gate("order", last <= self._rules.due_by(at), f"{figure}; due by", last)

    def pause(self, at: datetime) -> Gate:
        """Evaluate whether a pause holds deliveries back at a given time."""
        pause = self._ledger.pause(at)
        if pause is None:
            return Gate("pause", open=True, figure="none")
        figure = f"by {pause.by}" + (f" ({pause.reason})" if pause.reason else "")
        return Gate("pause", open=False, figure=figure + (", until" if pause.until else ""), time=pause.until)

    def route(self, at: datetime) -> Route:
        """Return the messages that a pass may claim at a given time, of any destination."""
        return Route("", withheld=self._rules.withheld(self._holds(at), at))

    def _holds(self, at: datetime) -> Sequence[Hold]:
        return self._ledger.pause_and_holds(at)[1]

    def holds_of(self, found: MessageDetails, at: datetime) -> list[Hold]:
        """Return the holds that cover a message at a given time."""
        message = (found.row["id"], str(found.row["message_type"]), found.row["ticket_id"])
        return [hold for hold in self._holds(at) if withheld([hold], self._rules.destination_of).covers(*message)]

    def hold(self, found: MessageDetails, at: datetime) -> Gate:
        """Evaluate whether a hold keeps a message from passes at a given time."""
        holds = self.holds_of(found, at)
        if not holds:
            return Gate("hold", open=True, figure="none")
        figure = "; ".join(f"{hold.part} by {hold.by}" + (f" ({hold.reason})" if hold.reason else "") for hold in holds)
        if any(hold.until is None for hold in holds):
            return Gate("hold", open=False, figure=figure)
        until = max(hold.until for hold in holds if hold.until is not None)
        return Gate("hold", open=False, figure=f"{figure}, until", time=until)

    def windows_of(self, found: MessageDetails) -> Iterator[tuple[int, DeliveryWindows]]:
        """Yield the delivery windows that decide about a message, each with the id of the message to which it belongs:
        if tickets keep their order, first those of the earlier messages of its ticket.
        """
        if not self._rules.windows:
            return
        message_id = found.row["id"]
        earlier = self._views.earlier_in_ticket(message_id) if self._rules.per_ticket_order else []
        for number, kind in [*((number, kind) for number, _, kind in earlier), (message_id, found.row["message_type"])]:
            windows = next((windows for name, windows in self._rules.windows.items() if name == kind), None)
            if windows is not None:
                yield number, windows

    def _window(self, found: MessageDetails, at: datetime) -> Gate:
        figure = "always open"
        for number, windows in self.windows_of(found):
            figure = windows.text
            if not windows.is_open(at):
                first = "" if number == found.row["id"] else f"message {number} of the same ticket goes first; "
                return Gate("window", open=False, figure=f"{first}{figure}; opens at", time=windows.next_opening(at))
        return Gate("window", open=True, figure=figure)

    def breaker(self, found: MessageDetails, at: datetime) -> Gate:
        """Evaluate whether the circuit breaker of a message's destination lets a pass send at a given time."""
        breaker = self._ledger.breaker(self._rules.destination_of(str(found.row["message_type"])))
        is_open = Destination(breaker, self._rules, since=at).stop_reason is None
        match breaker.state:
            case BreakerState.CLOSED:
                figure = "closed"
            case BreakerState.OPEN:
                figure = f"the destination failed {breaker.failures:,} times in a row; the next probe is at"
            case BreakerState.UNREAD:
                figure = "the preset can't judge the responses; the next probe is at"
            case BreakerState.RESTING:
                figure = "the API asked retrycli to wait until"
        return Gate("breaker", is_open, figure, breaker.probe_at)

    def _last_pass(self, found: MessageDetails) -> Gate:
        """Report why the last pass was refused or ended early. This gate is always open, because each pass tries again.
        The next pass may end in the same way.
        """
        refused = self.refusals.get(self._rules.destination_of(str(found.row["message_type"])))
        if (ended := refused or self._ended_early) is None:
            return Gate("last_pass", open=True, figure="nothing stopped it")
        if refused or ended.reason == StopReason.FAULT:
            words = "the last pass that sent requests was refused" if refused else "the last pass failed"
            figure = f"the next pass will try again, but {words}: {ended.detail}; it began at"
        else:
            why = ": ".join(filter(None, ((ended.reason or "").replace("_", " "), ended.detail)))
            figure = f"the last pass ended early: {why}; it began at"
        return Gate("last_pass", open=True, figure=figure, time=ended.started_at)

    def _limits(self, message_id: int, at: datetime) -> Iterator[Gate]:
        limit, rate = self._rules.limit, self._rules.rate_per_second
        is_bounded = capacity(self._rules) is not None
        ahead = self._views.count_ahead(message_id, self._rules.due_by(at), self.route(at)) if is_bounded else 0
        first = f", {ahead:,} go first"
        yield Gate("limit", limit is None or ahead < limit, f"{limit:,} per pass{first}" if limit else "none")
        by_rate = capacity(self._rules._replace(limit=None))
        yield Gate("rate", by_rate is None or ahead < by_rate, f"{rate:g} per second{first}" if rate else "none")


def _claim(queue: Mapping[str, Any], *, has_ended: bool) -> Gate:
    if queue["state"] != State.SENDING:
        return Gate("claim", open=True, figure="not claimed")
    who = "claimed by a pass that has ended" if has_ended else f"being sent by {queue['claimed_by']}"
    return Gate("claim", open=False, figure=f"{who}; the claim expires at", time=queue["claim_expires_at"])


def _retry_after(found: MessageDetails, wait: Gate) -> Gate:
    """Evaluate whether the message waits because of a Retry-After. The last attempt is not enough evidence, because a
    manual attempt sets no wait, and a requeue ends the wait.
    """
    last = next((attempt for attempt in reversed(found.attempts) if attempt.finished_at is not None), None)
    if last is None or last.finished_at is None or last.retry_after_s is None:
        return Gate("retry_after", open=True, figure="none")
    until = last.finished_at + timedelta(seconds=last.retry_after_s)
    # Retry-After is recorded in whole seconds, so the two times may differ by a second.
    holds = not wait.open and wait.time is not None and abs(wait.time - until) <= timedelta(seconds=1)
    return Gate(
        "retry_after", not holds, f"the ticketing API asked retrycli to wait {last.retry_after_s:,} s, until", until
    )


# The delay between a tick and the start of its pass. A gate that opens within this delay does not hold a message back.
LATE_START = timedelta(seconds=3)
MAX_OPENINGS = 1_000  # maximum number of openings of a window to look ahead: nearly three years at one a day


@dataclass(frozen=True, slots=True)
class Explanation:
    """The reasons why a message waits, and the predicted time of its next attempt."""

    message_id: int
    ticket_id: object
    message_type: str
    gates: list[Gate]
    # The start of the pass that is predicted to attempt the message; None if no attempt is predicted.
    next_attempt_at: datetime | None
    holds: tuple[Hold, ...] = ()  # the active holds that cover the message
    looks_up: bool = False  # the message's gateway can look it up
    may_have_arrived: bool = False  # the outcome of an earlier attempt is unknown
    is_claimed: bool = False  # an unexpired claim prevents other passes and operators from sending the message
    being_sent: bool = False  # an operator, or a pass that is not known to have ended, has claimed the message
    has_begun: bool = False  # an attempt at the message has begun, and no outcome is recorded
    pass_runs: bool = False  # a pass is running on this host
    one_goes_first: bool = False  # the pass attempts a single message first, and several are due
    expires_first: bool = False  # the message has not expired, but will before a pass reaches it


def explain(
    settings: Settings, message_id: int | str, *, host: Host | None = None, runtime: Runtime = DEFAULT_RUNTIME
) -> Explanation:
    """Explain why a message waits, and predict its next attempt. Nothing is written.

    The prediction assumes that a probe of the ticketing API succeeds, that the current owner of the claim has died, and
    that the messages ahead take no more time than the pass has.

    Args:
        settings: the settings of the passes.
        message_id: the message's id in the application's table.
        host: this machine; None for the real one.
        runtime: clock and randomness.

    Raises:
        NoSuchMessage: the application's table has no such row.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    try:  # usually nothing has to be written, and then no writer has to wait for the explanation, or it for a writer
        with dry_run_database(settings, to_read=True, one_transaction=True) as database:
            found = _Explainer(settings, database, host, runtime).explain(message_id)
    except WriteNeeded:
        with dry_run_database(settings) as database:
            found = _Explainer(settings, database, host, runtime).explain(message_id)
    with suppress(LockUnusable):
        return replace(found, pass_runs=PassLock(lock_path(settings)).holder() is not None)
    return found


class _Explainer:
    def __init__(self, settings: Settings, database: Database, host: Host | None, runtime: Runtime) -> None:
        self._settings, self._database = settings, database
        self._deps = make_dependencies(settings, database, runtime)._replace(jitter=lambda: 0.0)
        self._rules = pass_rules(settings)
        self._views, self._ledger = MessageQueries(database), Ledger(database)
        self._now = self._deps.now()
        passes = self._ledger.last_passes(incidents.LOOKBACK, until=self._now + MAX_CLOCK_SKEW)
        self._gates = Gates(database, self._deps, self._rules, passes)
        self._ended = frozenset[str]()
        self._expires_first = False
        outlook = next_run(settings, database, passes, self._now, host)
        self._grid = outlook.ticks
        # The time after which to look for ticks: just before the next run.
        self._after = self._now if outlook.next_run is None else outlook.next_run - timedelta.resolution
        self._cron = self._cron_gate(outlook)

    def explain(self, given: int | str) -> Explanation:
        message_id = resolve_one(self._database, given)
        first = self._now if self._grid is None else self._grid.next(self._after)
        self._deps.repair_clock_skew(first, self._rules.lease, self._rules.longest_wait)
        runner.follow(self._deps, self._rules, IdRange(message_id - 1, message_id), first, emit=lambda _: None)
        if self._rules.per_ticket_order:  # enrol the ticket's earlier messages, which may be new too
            runner.sync_queue(self._deps, self._rules, first, emit=lambda _: None)
        found = message_details(self._database, message_id)
        if found.may_have_arrived:  # then its body shows whether it is still the text of the attempts
            found = message_details(self._database, message_id, body=True)
        owner = None if found.queue is None else found.queue["claimed_by"]
        self._ended = ended_passes(self._settings, self._ledger, {owner} if owner else frozenset())
        gates = [*self._gates.of(found, self._now, self._ended), self._cron]
        is_claimed = any(gate.name == "claim" and gate.time is not None and gate.time > self._now for gate in gates)
        next_attempt_at = self._next_attempt(message_id, found) if gates[-1].open else None
        return Explanation(
            message_id=message_id,
            ticket_id=found.row["ticket_id"],
            message_type=str(found.row["message_type"]),
            gates=gates,
            holds=tuple(self._gates.holds_of(found, self._now)),
            next_attempt_at=next_attempt_at,
            looks_up=looks_up(self._settings, str(found.row["message_type"])),
            may_have_arrived=found.may_have_arrived,
            is_claimed=is_claimed,
            being_sent=is_claimed and owner not in self._ended,
            has_begun=any(attempt.outcome is None for attempt in found.attempts),
            one_goes_first=next_attempt_at is not None and self._one_goes_first(found, next_attempt_at),
            expires_first=self._expires_first and all(gate.open for gate in gates if gate.name == "expiry"),
        )

    def _cron_gate(self, outlook: Outlook) -> Gate:
        grid = outlook.ticks
        if grid is None:
            silence = outlook.silence or NO_SCHEDULER
            return Gate("cron", open=False, figure=f"{silence.words(utc_text)}; {silence.remedy}")
        number = grid.after(self._after)
        minutes = (grid[number + 1] - grid[number]) / timedelta(minutes=1)
        return Gate("cron", open=True, figure=f"every {minutes:g} min; next at", time=grid[number])

    def _next_attempt(self, message_id: int, found: MessageDetails) -> datetime | None:
        grid = self._grid
        if grid is None or found.queue is None:
            return None
        number = grid.after(self._after)
        if found.queue["state"] == State.SENDING:
            number = max(number, grid.after(found.queue["claim_expires_at"] - timedelta.resolution))
            claim = Claim(str(uuid.uuid4()), grid[number])
            for _ in enrolment.recover_all(self._deps, self._rules, claim, grid[number]):
                pass
            found = message_details(self._database, message_id)
        opens = grid.first(number, lambda tick: self._gates_are_open(found, tick))
        windows = dict(self._gates.windows_of(found))
        for each in windows.values():
            opens = None if opens is None else self._open_tick(each, grid, opens)
        if opens is not None and (most := capacity(self._rules)) is not None:
            opens = self._tick_of_turn(found, grid, number, opens, most, windows.get(message_id))
        if opens is None:
            return None
        closed_for_good = [
            gate for gate in self._gates.of(found, grid[opens], self._ended) if not gate.open and gate.name in FOR_GOOD
        ]
        self._expires_first = [gate.name for gate in closed_for_good] == ["expiry"]
        return None if closed_for_good else grid[opens]

    def _gates_are_open(self, found: MessageDetails, tick: datetime) -> bool:
        """Return whether all gates except `FOR_GOOD` and `QUOTAS` are open for the pass that begins at a tick."""
        not_here = FOR_GOOD | QUOTAS | COMPARED_WITH_START
        gates = self._gates.of(found, tick, self._ended)
        return all(gate.open or gate.name in not_here for gate in gates) and self._may_send(found, tick)

    def _may_send(self, found: MessageDetails, tick: datetime) -> bool:
        begins = tick + LATE_START
        gates = self._gates
        return gates.pause(begins).open and gates.hold(found, begins).open and gates.breaker(found, begins).open

    def _one_goes_first(self, found: MessageDetails, tick: datetime) -> bool:
        """Return whether a pass attempts one of several messages first, because the destination is down or refuses."""
        to = self._rules.destination_of(str(found.row["message_type"]))
        if self._ledger.breaker(to).state not in PROBED and to not in self._gates.refusals:
            return False
        runner.sync_queue(self._deps, self._rules, tick, emit=lambda _: None)
        return Claims(self._database).count_due(self._rules.due_by(tick), self._gates.route(tick)) > 1

    def _open_tick(self, windows: DeliveryWindows, grid: Ticks, number: int) -> int | None:
        """Return the first tick from ``number`` on whose pass begins in the windows; None if no near one does."""
        for _ in range(MAX_OPENINGS):
            begins = later(grid[number], LATE_START)
            if begins == LATEST:
                break
            if windows.is_open(begins):
                return number
            number = grid.after(windows.next_opening(begins) - LATE_START - timedelta.resolution)
        return None

    def _tick_of_turn(
        self, found: MessageDetails, grid: Ticks, number: int, opens: int, most: int, windows: DeliveryWindows | None
    ) -> int | None:
        """Return the tick of the pass that attempts a message, if each begins ``most`` attempts, in ``windows``."""
        message_id, route = found.row["id"], self._gates.route(grid[opens])
        runner.sync_queue(self._deps, self._rules, grid[number], emit=lambda _: None)

        def at_most_opens(tick: int | None, passes: int = 0) -> int:
            tick = None if tick is None else self._skip(windows, grid, tick, passes)
            return opens if tick is None else min(tick, opens)

        tick = at_most_opens(grid.first(number, lambda tick: self._may_send(found, tick)))
        due, gone = 0, 0
        counted_to: datetime | None = None
        while True:
            by = self._rules.due_by(grid[tick])
            due, counted_to = due + self._views.count_ahead(message_id, by, route, after=counted_to), by
            if tick >= opens:  # the message is due, so no further message can get ahead of it
                return self._skip(windows, grid, opens, (due - gone) // most)
            full = 1 if windows is not None else min(max((due - gone) // most, 1), opens - tick)
            tick, gone = at_most_opens(tick, full), min(due, gone + full * most)
            if gone == due:
                adds = partial(self._adds_messages_ahead, message_id, route, counted_to)
                tick = at_most_opens(grid.first(tick, adds))

    def _skip(self, windows: DeliveryWindows | None, grid: Ticks, number: int, passes: int) -> int | None:
        """Return the tick after some passes from ``number`` on, counting only passes that begin in the windows."""
        if windows is None:
            return number + passes
        tick = self._open_tick(windows, grid, number)
        for _ in range(passes):
            tick = None if tick is None else self._open_tick(windows, grid, tick + 1)
        return tick

    def _adds_messages_ahead(self, message_id: int, route: Route, counted_to: datetime, tick: datetime) -> bool:
        return self._views.count_ahead(message_id, self._rules.due_by(tick), route, after=counted_to) > 0
