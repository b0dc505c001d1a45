"""Record decisions about claimed messages, and about those of dead passes, and create the events that follow."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from retrycli.domain.errors import again_if_lost
from retrycli.domain.fingerprint import fingerprint
from retrycli.domain.identity import Difference
from retrycli.domain.message import BY_PASS, EscalationReason, Message, QueuedMessage, UnusableMessage
from retrycli.domain.outcome import PROCESS_DIED, Outcome
from retrycli.domain.passes import (
    ClaimsExpired,
    Event,
    MessageDelivered,
    MessageEscalated,
    MessageMovedOn,
    MessageReleased,
    MessageRescheduled,
)
from retrycli.domain.transition import Claim, Decision, ExpiredClaim, Transition, TransitionKind, WriteResult
from retrycli.engine.ports import Dependencies, PassRules, decide


def record(deps: Dependencies, claim: Claim, decisions: Sequence[Decision]) -> tuple[list[Event], list[Decision]]:
    """Record decisions about claimed messages in one transaction.

    Returns:
        An event for each message whose row is not locked by the application, and the decisions about the other
        messages, to be written later.
    """
    if not decisions:
        return [], []
    written = deps.claims.results.record(claim, decisions, deps.now())
    events = [_event(decision, written) for decision in decisions if decision.message_id not in written.locked]
    return events, [decision for decision in decisions if decision.message_id in written.locked]


def _event(decision: Decision, written: WriteResult) -> Event:
    message_id = decision.message_id
    if decision.message is None or message_id in written.lost:
        return MessageMovedOn(message_id, decision.outcome.kind if decision.outcome else None)
    return event_of(
        decision.message, written.changed.get(message_id, decision), refusal=written.not_written.get(message_id)
    )


def event_of(
    message: Message | QueuedMessage | UnusableMessage, decision: Decision, *, refusal: str | None = None
) -> Event:
    """Return the event of a decision. If there is a ``refusal``, the row rejected the change and the message is
    escalated.
    """
    if refusal is not None:
        decision = decision.refused(refusal)
    change = decision.transition
    outcome = decision.outcome
    kind, status = (None, None) if outcome is None else (outcome.kind, outcome.status_code)
    row = message.message if isinstance(message, QueuedMessage) else message
    about = (
        decision.message_id,
        row.ticket_id,
        row.message_type,
        row.retry_count if change.retry_count is None else change.retry_count,
    )
    match change.kind:
        case TransitionKind.DELIVERED:
            return MessageDelivered(*about)
        case TransitionKind.ESCALATED:
            unusable = message.problem if isinstance(message, UnusableMessage) else None
            problem = "; ".join(filter(None, (unusable, refusal))) or None
            reason = change.reason or EscalationReason.INVALID
            return MessageEscalated(*about, reason, problem, fingerprint(decision), status)
        case TransitionKind.RESCHEDULED if kind is not None and change.next_attempt_at is not None:
            return MessageRescheduled(*about, kind, status, change.next_attempt_at)
        case _:
            return MessageReleased(*about, kind, status)


# -- after a pass has died ----------------------------------------------------------------------------------


def recover(
    deps: Dependencies, rules: PassRules, claim: Claim, expired: Sequence[ExpiredClaim], now: datetime
) -> list[Event]:
    """Write the results of attempts at messages that were taken over, because their claims have expired.

    If an attempt's answer was recorded, its outcome is known. Without an answer, the outcome is unknown.
    """
    unknown = sum(claimed.attempt_by is not None and claimed.outcome is None for claimed in expired)
    events, _ = again_if_lost(
        partial(record, deps, claim, [_decide_expired(deps, rules, claimed, now) for claimed in expired])
    )
    return [ClaimsExpired(released=len(expired) - unknown, unknown=unknown), *events]


def _decide_expired(deps: Dependencies, rules: PassRules, expired: ExpiredClaim, now: datetime) -> Decision:
    outcome = expired.outcome or PROCESS_DIED if expired.attempt_by else None
    transition = _transition_of_expired(deps, rules, expired, outcome, now)
    started_at, duration, message = expired.started_at, expired.duration, expired.message
    finished_at = now if started_at is None or duration is None else started_at + duration
    decision = Decision(message.message_id, transition, outcome, duration, finished_at, message)
    if expired.difference in {Difference.EDITED, Difference.MOVED}:
        return decision.superseded(expired.difference)
    return decision


def _transition_of_expired(
    deps: Dependencies, rules: PassRules, expired: ExpiredClaim, outcome: Outcome | None, now: datetime
) -> Transition:
    message = expired.message
    by_pass = expired.attempt_by == BY_PASS
    if isinstance(message, UnusableMessage):
        return Transition.invalid(message.problem, retry_count=message.retry_count + 1 if by_pass else None)
    if outcome is None:
        return Transition.released()
    if by_pass:
        return decide(deps, rules, message, outcome, since=now, now=now)
    return Transition.after_attempt_by_hand(message, outcome)
