"""Attempts and look-ups by an operator, one message at a time, and the arrivals that a pass notices late."""

import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from retrycli.domain.circuit_breaker import Breaker, BreakerState
from retrycli.domain.errors import (
    ConfigurationError,
    DatabaseBusy,
    InvalidMessage,
    MayHaveArrived,
    NoSuchMessage,
    NotActionable,
    again_if_lost,
)
from retrycli.domain.message import BY_PASS, Message, QueuedMessage, UnusableMessage
from retrycli.domain.operator_action import unfit
from retrycli.domain.outcome import CLAIM_EXPIRED_BEFORE_SEND, LookUp, Outcome, OutcomeKind, Presence, not_sent
from retrycli.domain.passes import BreakerClosed, Event, MessageDelivered
from retrycli.domain.suggested import command
from retrycli.domain.transition import Claim, Decision, IdRange, Overdue, Transition
from retrycli.engine.enrolment import enrol
from retrycli.engine.ports import Dependencies, Gateway, PassRules
from retrycli.engine.recording import can_settle, place_of, record, would_repeat

TRY_AGAIN_SECONDS = 0.2  # seconds between tries to write a result while the row or the database is locked

Result = TypeVar("Result")


async def attempt_through(
    gateway: Gateway, deps: Dependencies, rules: PassRules, message_id: int, *, by: str, send_again: bool = False
) -> Outcome:
    """Attempt one message now, for an operator, through an open gateway. The attempt uses up no retry.

    Raises:
        NoSuchMessage: the application's table has no such row.
        MayHaveArrived: the text may have arrived and can't be looked up, or was delivered, at least to some recipients.
            It was not sent, because ``send_again`` is not set.
        NotActionable: the message is not failed, or is already being sent.
        InvalidMessage: the message's data can't be turned into a request.
        ConfigurationError: the gateway's settings can't be used. The message was not sent.
    """
    now = deps.now()
    claim = Claim(str(uuid.uuid4()), now + rules.lease)
    queued = _claim_to_send(deps, rules, claim, message_id, by, now, send_again=send_again)
    fault = None
    try:
        outcome = await gateway.deliver(queued) if deps.now() < claim.expires_at else CLAIM_EXPIRED_BEFORE_SEND
    except ConfigurationError as error:
        outcome, fault = not_sent(error), error
    finished_at = deps.now()
    decision = Decision(
        message_id, Transition.after_attempt_by_hand(queued, outcome), outcome, finished_at - now, finished_at, queued
    )
    for event in await _record_patiently(deps, claim, decision):
        deps.emit(event)
    if fault is not None:
        raise fault
    destination = rules.destination_of(queued.message.message_type)
    if outcome.kind is OutcomeKind.DELIVERED:  # the destination works, but may have asked for a rest
        _update_breaker(
            deps,
            destination,
            lambda before: (
                Breaker(destination, BreakerState.RESTING, probe_at=before.probe_at)
                if before.state is BreakerState.RESTING
                else Breaker(destination)
            ),
        )
    elif outcome.unread:
        _update_breaker(deps, destination, lambda before: before.unread(rules.breaker, since=now))
    elif outcome.kind is OutcomeKind.THROTTLED:
        _rest(deps, destination, outcome.retry_after, since=now)
    return outcome


async def look_up_through(
    gateway: Gateway, deps: Dependencies, rules: PassRules, message_id: int, *, by: str
) -> LookUp:
    """Ask whether a message has arrived, and record it as delivered if it has. Send nothing.

    The message is claimed during the look-up, so that no pass sends it. If the message has not arrived, its state does
    not change.

    Raises:
        NoSuchMessage: the application's table has no such row.
        NotActionable: the message is not failed, is being sent, can't be looked up, or is known to have been delivered.
        InvalidMessage: the message's data can't be turned into a request.
    """
    now = deps.now()
    claim = Claim(str(uuid.uuid4()), now + rules.lease)
    arrived = False
    try:
        queued = _claim_to_look_up(deps, rules, claim, message_id, by, now)
        found = await gateway.look_up(queued)
        arrived = found.result is Presence.ARRIVED
    finally:
        if not arrived:
            deps.claims.release(claim, [message_id])
    if arrived:
        outcome = Outcome(OutcomeKind.DELIVERED, error="found by look-up", found=True)
        return await record_arrival(deps, rules, claim, queued, outcome, by=by, began=now)
    if found.retry_after is not None:
        _rest(deps, rules.destination_of(queued.message.message_type), found.retry_after, since=now)
    if found.result is Presence.ABSENT and (queued.partly or any(text.partly for text in queued.earlier)):
        return LookUp(Presence.UNKNOWN, "not found here, but some recipients already have it by mail")
    if found.result is Presence.ABSENT and queued.elsewhere is not None:
        return LookUp(
            Presence.UNKNOWN, f"not found; an earlier attempt was for ticket {queued.elsewhere}, so check that ticket"
        )
    if found.result is Presence.ABSENT and not can_settle(deps, rules, queued):
        there = " and ".join(sorted({str(place.destination) for place in queued.unsettled_at}))
        why = f"not found; an earlier attempt was sent to {there} with another base_url or preset, so check there"
        return LookUp(Presence.UNKNOWN, why)
    return found


def _claim_to_look_up(
    deps: Dependencies, rules: PassRules, claim: Claim, message_id: int, by: str, now: datetime
) -> QueuedMessage:
    queued = claim_to_settle(deps, rules, claim, message_id, by=by, now=now)
    if deps.findable_requests(queued.message.message_type) is None:
        raise NotActionable(
            f"message {message_id} can't be looked up: its gateway has no look-up. Search ticket {queued.ticket_id} "
            f"for it. If it is there, run {command('mark-sent', message_id)}, otherwise {command('retry', message_id)}"
        )
    if queued.delivered_at is not None:
        raise NotActionable(
            f"message {message_id} has arrived: its text was delivered at {queued.delivered_at:%Y-%m-%dT%H:%M:%SZ}. "
            f"Run {command('mark-sent', message_id)}; {command('retry', message_id)} sends it again"
        )
    return queued


def claim_to_settle(
    deps: Dependencies, rules: PassRules, claim: Claim, message_id: int, *, by: str, now: datetime
) -> QueuedMessage:
    """Claim a message, and start no attempt, because it is asked whether an earlier one delivered it.

    Raises:
        NoSuchMessage: the application's table has no such row.
        NotActionable: the message is not failed, or is being sent.
        InvalidMessage: the message's data can't be turned into a request.
    """
    queued, _ = _claim_and_load(deps, rules, claim, message_id, by, now, "look up", fit=lambda _: False)
    if isinstance(queued, UnusableMessage):
        raise unfit(queued.message_id, queued.problem)
    return queued


async def record_arrival(
    deps: Dependencies,
    rules: PassRules,
    claim: Claim,
    queued: QueuedMessage,
    outcome: Outcome,
    *,
    by: str,
    began: datetime,
) -> LookUp:
    """Record that an earlier attempt delivered a claimed message, and mark its row as sent."""
    finished_at = deps.now()
    decision = Decision(queued.message_id, Transition.delivered(), outcome, finished_at - began, finished_at, queued)
    destination = rules.destination_of(queued.message.message_type)
    await _write_patiently(
        deps,
        claim,
        lambda: deps.claims.results.record_arrival(
            claim, decision, made_by=by, destination=destination, started_at=began
        ),
    )
    events = await _record_patiently(deps, claim, decision)
    for event in events:
        deps.emit(event)
    if any(isinstance(event, MessageDelivered) for event in events):
        return LookUp(Presence.ARRIVED)
    return LookUp(Presence.ARRIVED, f"its row could not be marked as sent; see {command('show', queued.message_id)}")


async def _record_patiently(deps: Dependencies, claim: Claim, decision: Decision) -> list[Event]:
    """Write the result. While the application holds locks, try again until the claim expires.

    If only the row stays locked, the outcome is recorded, and a later pass writes the result.

    Raises:
        DatabaseBusy: the whole database stayed locked, so the outcome may not be recorded.
    """
    while True:
        events, held = await _write_patiently(deps, claim, lambda: record(deps, claim, [decision]))
        if not held or deps.now() >= claim.expires_at:
            return events
        await deps.sleep(TRY_AGAIN_SECONDS)


async def _write_patiently(deps: Dependencies, claim: Claim, write: Callable[[], Result]) -> Result:
    while True:
        try:
            return write()
        except DatabaseBusy:
            if deps.now() >= claim.expires_at:
                raise
        await deps.sleep(TRY_AGAIN_SECONDS)


def _rest(deps: Dependencies, destination: str, wait: timedelta | None, *, since: datetime) -> None:
    until = deps.now() + (wait or timedelta(0))
    _update_breaker(deps, destination, lambda before: before.rest(until, since=since))


def _update_breaker(deps: Dependencies, destination: str, update: Callable[[Breaker], Breaker]) -> None:
    """Change a destination's breaker after an answer.

    If the database is locked for too long, do nothing: the answer is already recorded, and the next probe or pass finds
    out again.
    """
    try:
        with deps.database.transaction():
            before = deps.ledger.breaker_to_judge(destination)
            after = update(before)
            if after != before:
                deps.ledger.save_breaker(after)
    except DatabaseBusy:
        return
    if before.state is BreakerState.OPEN and after.state is BreakerState.CLOSED:
        deps.emit(BreakerClosed(destination))


def enrol_message(
    deps: Dependencies, rules: PassRules, message_id: int, now: datetime
) -> list[Message | UnusableMessage]:
    """Enrol a failed message that is not in the queue yet. Return the message, or an empty list."""
    span = IdRange(message_id - 1, message_id)
    deps.enrolment.retire(span)  # the id may belong to another message now
    unknown_yet = deps.enrolment.newly_failed(span, limit=1)
    for escalated in enrol(deps, rules, unknown_yet, now):
        deps.emit(escalated)
    return unknown_yet


def _claim_to_send(
    deps: Dependencies, rules: PassRules, claim: Claim, message_id: int, by: str, now: datetime, *, send_again: bool
) -> QueuedMessage:
    def may_send(queued: QueuedMessage) -> bool:
        is_unsettled = queued.in_doubt or any(text.unsettled for text in queued.earlier)
        in_doubt = (
            queued.with_others or queued.elsewhere is not None or (is_unsettled and not can_settle(deps, rules, queued))
        )
        in_doubt = in_doubt or any(text.partly for text in queued.earlier)
        is_repeated = queued.delivered_at is not None or would_repeat(rules, queued)
        return send_again or not (in_doubt or is_repeated)

    deps.require_accepted()
    queued, was_escalated = _claim_and_load(deps, rules, claim, message_id, by, now, "retry", fit=may_send)
    if isinstance(queued, UnusableMessage):
        invalid = Decision(message_id, Transition.invalid(queued.problem), message=queued)
        events, _ = again_if_lost(lambda: record(deps, claim, [invalid]))
        for event in events:
            if not was_escalated:  # otherwise the message's escalation was reported earlier
                deps.emit(event)
        raise unfit(queued.message_id, queued.problem)
    if not may_send(queued):
        deps.claims.release(claim, [message_id])
        ticket = queued.elsewhere or queued.ticket_id
        raise MayHaveArrived(
            f"message {message_id} may have arrived, and would then be sent twice. Check ticket "
            f"{ticket}: run {command('mark-sent', message_id)} if the message is there, "
            f"or {command('retry', message_id, '--yes')}",
            str(ticket),
        )
    return queued


def _claim_and_load(
    deps: Dependencies,
    rules: PassRules,
    claim: Claim,
    message_id: int,
    by: str,
    now: datetime,
    verb: str,
    *,
    fit: Callable[[QueuedMessage], bool],
) -> tuple[QueuedMessage | UnusableMessage, bool]:
    """Claim and load a message. If ``fit`` accepts it, record the start of an attempt. Return the message, and whether
    it was escalated.
    """
    for message in enrol_message(deps, rules, message_id, now):
        if isinstance(message, UnusableMessage):
            raise unfit(message.message_id, message.problem)
    was_escalated = deps.claims.claim_one(claim, message_id, now, verb)
    loaded = deps.claims.results.begin(
        claim, [message_id], made_by=by, pass_id=None, now=now, fit=fit, place_of=lambda of: place_of(deps, rules, of)
    )
    if not loaded:
        raise NotActionable(f"message {message_id} was modified concurrently; see {command('show', message_id)}")
    return loaded[0], was_escalated


LOOK_SECONDS = 0.05  # seconds between looks for an attempt that has ended


async def settle_overdue(
    deps: Dependencies,
    rules: PassRules,
    overdue: Sequence[Overdue],
    *,
    since: datetime,
    tell: Callable[[Sequence[Event]], None],
) -> None:
    """Record, as a look-up would, which messages have arrived although their attempts were recorded as unknown. Tell
    events after the commit.

    Wait for running attempts as long as one more request may take, but neither beyond the deadline of the pass nor
    after a stop request.
    """
    telling = deps._replace(emit=lambda event: tell([event]))
    until = min(deps.now() + rules.request_timeout, since + rules.deadline)
    while overdue:
        ended = [attempt for attempt in overdue if attempt.outcome.done()]
        overdue = [attempt for attempt in overdue if attempt not in ended]
        for attempt in ended:
            await _settle(telling, rules, attempt)
        if not overdue or deps.stop_requested() or deps.now() >= until:
            return
        await deps.sleep(LOOK_SECONDS)


async def _settle(deps: Dependencies, rules: PassRules, attempt: Overdue) -> None:
    outcome, now = attempt.outcome.result(), deps.now()
    if outcome.kind is not OutcomeKind.DELIVERED:
        return
    claim = Claim(str(uuid.uuid4()), now + rules.lease)
    is_same_text = False
    try:
        queued = claim_to_settle(deps, rules, claim, attempt.message_id, by=BY_PASS, now=now)
        is_same_text = queued.delivery_key == attempt.delivery_key
    except (InvalidMessage, NoSuchMessage, NotActionable):
        return  # the application has changed the row since, or another process sends it
    finally:
        if not is_same_text:
            deps.claims.release(claim, [attempt.message_id])
    if not is_same_text:
        return
    late = outcome._replace(error="delivered after the time limit", found=True)
    await record_arrival(deps, rules, claim, queued, late, by=BY_PASS, began=now)
