"""Record what became of messages that were handed over to the application's own sender."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial

from retrycli.domain.circuit_breaker import APPLICATION, Breaker, BreakerState
from retrycli.domain.errors import again_if_lost
from retrycli.domain.fingerprint import fingerprint
from retrycli.domain.hand_over import (
    PUT_BACK,
    Fate,
    HandedOver,
    is_down,
    is_left_behind,
    is_overdue,
    left_behind,
    outcome_of,
)
from retrycli.domain.message import EscalationReason, QueuedMessage, UnusableMessage
from retrycli.domain.passes import (
    BreakerClosed,
    BreakerOpened,
    Event,
    MessageDelivered,
    MessageEscalated,
)
from retrycli.domain.transition import Claim, Decision, IdRange, Transition, TransitionKind
from retrycli.engine.hand_over import HandOvers
from retrycli.engine.ports import Dependencies, PassRules
from retrycli.engine.recording import decide, record

# Changes only the queue, because the row is the application's.
LEFT_BEHIND = Transition.escalated(EscalationReason.UNKNOWN, last_error=None)
BATCH = 500  # maximum number of messages that are compared in one transaction


def settle(
    deps: Dependencies, rules: PassRules, claim: Claim, span: IdRange, now: datetime, *, emit: Callable[[Event], None]
) -> list[HandedOver]:
    """Record the results of messages that the application has sent, failed to send or withdrawn.

    Args:
        deps: the ports and functions that the engine calls.
        rules: the retry rules.
        claim: claims the messages that failed again, until their results are written.
        span: the ids of the messages.
        now: the current time.
        emit: receives events after the commit.

    Returns:
        The messages that the application still has.
    """
    kept: list[HandedOver] = []
    rest: IdRange | None = span
    while rest is not None:
        found, events = again_if_lost(partial(_settle_some, deps, rules, claim, rest, now))
        for event in events:
            emit(event)
        kept += [one for one in found if one.fate is Fate.KEPT]
        rest = IdRange(found[-1].message_id, span.upto) if len(found) == BATCH else None
    return kept


def _settle_some(
    deps: Dependencies, rules: PassRules, claim: Claim, span: IdRange, now: datetime
) -> tuple[list[HandedOver], list[Event]]:
    hand_overs = deps.claims.hand_overs
    with deps.database.transaction():
        found = hand_overs.find(span, BATCH)
        gone = [one for one in found if one.fate in {Fate.SENT, Fate.WITHDRAWN}]
        failed = {one.message_id: one for one in found if one.fate in {Fate.FAILED, Fate.PUT_BACK}}
        events: list[Event] = [
            MessageDelivered(one.message_id, one.ticket_id, one.message_type, one.retry_count or 0)
            for one in gone
            if one.fate is Fate.SENT
        ]
        if gone:
            hand_overs.leave([_decision(one, Transition.released(), now) for one in gone], now)
        if failed:
            decisions = [
                _decide_failed(deps, rules, failed[message.message_id], message, now)
                for message in hand_overs.take(claim, failed)
            ]
            recorded, _ = record(deps, claim, decisions)
            events += recorded
            back = [one.message_id for one in decisions if one.transition.kind is TransitionKind.RELEASED]
            hand_overs.see(back)
        return found, events


def _decision(
    found: HandedOver, transition: Transition, now: datetime, message: QueuedMessage | UnusableMessage | None = None
) -> Decision:
    # A message that was put back had no answer, so its attempt has no duration.
    duration = None if found.fate is Fate.PUT_BACK else max(now - found.at, timedelta(0))
    return Decision(found.message_id, transition, outcome_of(found), duration, now, message)


def _decide_failed(
    deps: Dependencies,
    rules: PassRules,
    found: HandedOver,
    message: QueuedMessage | UnusableMessage,
    now: datetime,
) -> Decision:
    outcome = outcome_of(found)
    if found.fate is Fate.PUT_BACK:
        return _decision(found, PUT_BACK, now, message)
    if isinstance(message, UnusableMessage):
        count = message.retry_count + 1 if found.by_pass else None
        return _decision(found, Transition.invalid(message.problem, retry_count=count), now, message)
    if not found.by_pass:
        # retrycli's own count, whatever the application has counted.
        back = Transition.after_attempt_by_hand(message, outcome)._replace(retry_count=message.message.retry_count)
        return _decision(found, back, now, message)
    transition = decide(deps, rules, message, outcome, since=now, now=now)
    if transition.kind is TransitionKind.RESCHEDULED and found.error is not None:
        transition = transition._replace(last_error=None)  # the row has the application's error, in full
    return _decision(found, transition, now, message)


def watch(
    deps: Dependencies,
    kept: Sequence[HandedOver],
    now: datetime,
    answer_within: timedelta,
    *,
    emit: Callable[[Event], None],
) -> None:
    """Open the breaker if the application's sender is down, and close it if the sender works again. If it is not down,
    escalate messages that it has left behind.
    """
    overdue = [one for one in kept if is_overdue(one, now, answer_within)]

    def judge() -> list[Event]:
        with deps.database.transaction():
            answers = None
            if overdue:
                since = min(one.at for one in overdue)
                answers = deps.claims.hand_overs.answers(since, now - answer_within)
            down = answers is not None and is_down(overdue, answers)
            events = _set_breaker(deps, now, down=down)
            if answers is None or down:
                return events
            left = [one for one in overdue if is_left_behind(one, answers, now, answer_within)]
            return [*events, *_leave_behind(deps.claims.hand_overs, left, now)]

    for event in again_if_lost(judge):
        emit(event)


def _set_breaker(deps: Dependencies, now: datetime, *, down: bool) -> list[Event]:
    if down is _is_open(deps.ledger.breaker(APPLICATION)) or down is _is_open(
        deps.ledger.breaker_to_judge(APPLICATION)
    ):
        return []
    if down:
        deps.ledger.save_breaker(Breaker(APPLICATION, BreakerState.OPEN, opened_at=now))
        return [BreakerOpened(APPLICATION, 0, None)]
    deps.ledger.save_breaker(Breaker(APPLICATION))
    return [BreakerClosed(APPLICATION)]


def _is_open(breaker: Breaker) -> bool:
    return breaker.state is BreakerState.OPEN


def _leave_behind(hand_overs: HandOvers, left: Sequence[HandedOver], now: datetime) -> list[Event]:
    decisions = [Decision(one.message_id, LEFT_BEHIND) for one in left]
    hand_overs.leave_behind(decisions, now)
    return [
        MessageEscalated(
            one.message_id,
            one.ticket_id,
            one.message_type,
            one.retry_count or 0,
            EscalationReason.UNKNOWN,
            left_behind(one.at),
            fingerprint(decision),
        )
        for one, decision in zip(left, decisions, strict=True)
    ]
