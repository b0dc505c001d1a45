"""Evaluate the gates: the conditions that a message's next attempt must meet.

The gates use the same code as a pass: `Claims.is_due`, `Destination`, `RetryPolicy`, `Ledger.pause`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from retrycli.domain.circuit_breaker import BreakerState
from retrycli.domain.delivery_window import DeliveryWindows
from retrycli.domain.hold import Hold, withheld
from retrycli.domain.listing import MessageDetails
from retrycli.domain.message import Message, MessageStatus, QueuedMessage, State, UnusableMessage
from retrycli.domain.passes import PassRecord, PassResult, StopReason
from retrycli.domain.transition import Route
from retrycli.engine.destination import Destination
from retrycli.engine.limits import capacity
from retrycli.engine.ports import PassRules
from retrycli.operations.expiry import EXPIRED
from retrycli.store.claims import Claims
from retrycli.store.database import Database
from retrycli.store.listing import MessageQueries
from retrycli.store.messages import message_of
from retrycli.store.passes import Ledger
from retrycli.store.refusals import refusing_destinations
from retrycli.store.write_check import lack_of_room

ENDED_EARLY = frozenset({PassResult.STOPPED, PassResult.INTERRUPTED, PassResult.FAILED})
# Gates that do not open by themselves once they are closed. While one is closed, no next attempt is predicted.
FOR_GOOD = frozenset({"status", "data", "escalation", "tries", "expiry"})
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
    """The gates of the messages in one database, given the rules of a pass and the newest passes, newest first."""

    def __init__(self, database: Database, rules: PassRules, passes: Sequence[PassRecord]) -> None:
        self._views = MessageQueries(database)
        self._ledger = Ledger(database)
        self._claims = Claims(database)
        self._rules = rules
        self.refusals = refusing_destinations(database, passes)
        ended = next((record for record in passes if record.result not in {None, PassResult.SKIPPED}), None)
        self._ended_early = ended if ended is not None and ended.result in ENDED_EARLY else None
        self._disk = lack_of_room(database.file)

    def of(self, found: MessageDetails, at: datetime, ended: Collection[str]) -> Iterator[Gate]:
        """Yield the gates of a message, except cron's, for a pass that begins at a given time."""
        failed = found.row["status"] == MessageStatus.FAILED
        yield Gate("status", failed, str(found.row["status"]))
        if not failed or found.queue is None:
            return
        message = message_of(found.row)
        yield Gate("data", isinstance(message, Message), getattr(message, "problem", "can be sent"))
        queue = found.queue
        yield Gate("escalation", queue["state"] != State.ESCALATED, queue["escalation_reason"] or "none")
        yield _claim(queue, has_ended=queue["claimed_by"] in ended)
        wait = self._wait(queue, at)
        yield wait
        yield _retry_after(found, wait)
        if self._rules.per_ticket_order:
            yield self._order(found, at)
        if not isinstance(message, UnusableMessage):
            queued = QueuedMessage(message, queue["delivery_key"], queue["first_failed_at"], queue["unknown_count"])
            yield from self._policy_gates(queued, at, is_waiting=queue["state"] == State.WAITING)
        yield self.pause(at)
        yield self.hold(found, at)
        yield self._window(found, at)
        yield self.breaker(found, at)
        yield self._last_pass(found)
        yield Gate("disk", self._disk is None, self._disk or "enough space")
        yield from self._limits(queue["message_id"], at)

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
