"""Make decisions about messages, record them, and create the events that follow."""

from collections.abc import Sequence
from datetime import datetime

from retrycli.domain.fingerprint import fingerprint
from retrycli.domain.message import (
    EscalationReason,
    Message,
    MessageType,
    Place,
    QueuedMessage,
    UnusableMessage,
    ticket_text,
    type_text,
)
from retrycli.domain.outcome import UNVERIFIED, Outcome
from retrycli.domain.passes import (
    Event,
    MessageDelivered,
    MessageEscalated,
    MessageMovedOn,
    MessageReleased,
    MessageRescheduled,
)
from retrycli.domain.transition import Claim, Decision, Transition, TransitionKind, WriteResult
from retrycli.engine.ports import Dependencies, PassRules


def decide(
    deps: Dependencies,
    rules: PassRules,
    queued: QueuedMessage,
    outcome: Outcome,
    *,
    since: datetime,
    now: datetime,
    counts_as_retry: bool = True,
) -> Transition:
    """Return the transition that an outcome causes: see `RetryPolicy.decide`."""
    message_type = queued.message.message_type
    return rules.policies[message_type].decide(
        queued,
        outcome,
        since=since,
        now=now,
        jitter=deps.jitter(),
        counts_as_retry=counts_as_retry,
        has_lookup=can_settle(deps, rules, queued),
    )


def place_of(deps: Dependencies, rules: PassRules, message_type: MessageType) -> Place:
    """Return where and by which preset messages of a type are sent now."""
    return Place(rules.destination_of(message_type), deps.findable_requests(message_type))


def can_settle(deps: Dependencies, rules: PassRules, queued: QueuedMessage) -> bool:
    """Return whether look-ups can show that no text of a message has arrived. A look-up at another destination than
    that of an earlier attempt, or by a preset with other requests, can't.
    """
    place = place_of(deps, rules, queued.message.message_type)
    return place.preset is not None and queued.unsettled_at <= {place}


def would_repeat(rules: PassRules, queued: QueuedMessage) -> bool:
    """Return whether an attempt would send a text again to recipients that have it. Only SMTP can leave them out."""
    return queued.partly and not rules.destination_of(queued.message.message_type).startswith("smtp")


def escalation_before_send(
    deps: Dependencies, rules: PassRules, queued: QueuedMessage, now: datetime
) -> Transition | None:
    """Return the escalation that replaces a message's next attempt: see `RetryPolicy.escalation_before_send`."""
    policy = rules.policies[queued.message.message_type]
    found = policy.escalation_before_send(queued, now, has_lookup=can_settle(deps, rules, queued))
    if found is None and would_repeat(rules, queued):
        return Transition.changed("Not sent: some recipients already have this text, and it would go to all of them")
    return found


def record(deps: Dependencies, claim: Claim, decisions: Sequence[Decision]) -> tuple[list[Event], list[Decision]]:
    """Record decisions about claimed messages in one transaction. Return events for the messages whose rows the
    application has not locked, and the decisions about the other messages, which must be written later.
    """
    if not decisions:
        return [], []
    return events_of(decisions, deps.claims.results.record(claim, decisions, deps.now()))


def events_of(decisions: Sequence[Decision], written: WriteResult) -> tuple[list[Event], list[Decision]]:
    """Return events for the messages whose rows were not locked, and the decisions about the other messages."""
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
    """Return the event that reports a decision.

    A ``refusal`` is the reason why the row could not be written, which escalates the message.
    """
    if refusal is not None:
        decision = decision.refused(refusal)
    change = decision.transition
    outcome = decision.outcome
    kind, status = (None, None) if outcome is None else (outcome.kind, outcome.status_code)
    row = message.message if isinstance(message, QueuedMessage) else message
    about = (
        decision.message_id,
        row.ticket_id if isinstance(row.ticket_id, int) else ticket_text(row.ticket_id),
        type_text(row.message_type),
        row.retry_count if change.retry_count is None else change.retry_count,
    )
    match change.kind:
        case TransitionKind.DELIVERED:
            error = None if outcome is None else outcome.error
            unverified = error is not None and error.startswith(UNVERIFIED)
            return MessageDelivered(*about, unverified)
        case TransitionKind.ESCALATED:
            unusable = message.problem if isinstance(message, UnusableMessage) else None
            problem = "; ".join(filter(None, (unusable, change.problem, refusal))) or None
            reason = change.reason or EscalationReason.INVALID
            return MessageEscalated(*about, reason, problem, fingerprint(decision), status)
        case TransitionKind.RESCHEDULED if kind is not None and change.next_attempt_at is not None:
            return MessageRescheduled(*about, kind, status, change.next_attempt_at)
        case _:
            return MessageReleased(*about, kind, status)
