"""Enrolment: synchronise the queue with the application's table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import partial

from retrycli.domain.errors import again_if_lost
from retrycli.domain.events import Event
from retrycli.domain.message import EscalationReason, Message, UnusableMessage
from retrycli.domain.retry_policy import first_failure
from retrycli.domain.transition import ChangedMessage, Decision, IdRange, Transition, TransitionKind
from retrycli.engine.rules import Dependencies, PassRules, escalation_before_send

BATCH = 500
"""The number of messages enrolled in one transaction."""
CHANGED_AT_ONCE = 100
"""The number of escalated messages read in full at once, because their texts may be long."""


def sync_queue(deps: Dependencies, rules: PassRules, now: datetime, *, emit: Callable[[Event], None]) -> int | None:
    """Enrol failed messages, and drop messages that the application has withdrawn.

    Args:
        deps: everything outside the engine.
        rules: how messages are retried.
        now: the start of the pass: waits count from it.
        emit: receives events once they are committed.

    Returns:
        Where the next pass continues with older messages; None if this pass was stopped before.
    """
    spans, swept_to = deps.enrolment.plan_sweep(deps.ledger.swept_to())
    for span in spans:
        if not follow(deps, rules, span, now, emit=emit):
            return None
    return swept_to


def follow(
    deps: Dependencies, rules: PassRules, span: IdRange, now: datetime, *, emit: Callable[[Event], None]
) -> bool:
    """Synchronise the queue with a range of the table; return False if a stop was requested."""
    changed = deps.enrolment.retire(span)
    for start in range(0, len(changed), CHANGED_AT_ONCE):
        review_escalations(deps, rules, changed[start : start + CHANGED_AT_ONCE], now, emit=emit)
    rest = span
    while fresh := deps.enrolment.newly_failed(rest, BATCH):
        for escalated in enrol(deps, rules, fresh, now):
            emit(escalated)
        if deps.stop_requested():
            return False
        last = fresh[-1]
        rest = IdRange(last.message_id if isinstance(last, UnusableMessage) else last.id, span.upto)
    return True


def review_escalations(
    deps: Dependencies, rules: PassRules, ids: Collection[int], now: datetime, *, emit: Callable[[Event], None]
) -> None:
    """Let escalated messages wait again if the application has changed their text, count or error.

    The result is the same as if the application had withdrawn the message and failed it again, so it does not depend on
    whether a pass came in between.
    """
    from retrycli.engine.recording import event_of  # not needed by a pass with nothing new

    decide = partial(_review, deps, rules, now=now)
    for decision in again_if_lost(lambda: deps.enrolment.review(ids, decide, deps.now())):
        if decision.transition.kind is TransitionKind.ESCALATED and decision.message is not None:
            emit(event_of(decision.message, decision))


def _review(deps: Dependencies, rules: PassRules, found: ChangedMessage, now: datetime) -> Decision:
    """Decide if an escalated message waits again; `RELEASED` means that it stays escalated."""
    queued = found.message
    stays = Decision(queued.message_id, Transition.released(), message=queued)
    if isinstance(queued, UnusableMessage) or not found.changed:
        return stays
    policy = rules.policies[queued.message.message_type]
    if escalation := escalation_before_send(deps, rules, queued, now):
        # An error or count that the application writes at every tick deserves no new notification.
        return stays._replace(transition=escalation) if escalation.reason is EscalationReason.CHANGED else stays
    failed_at = first_failure(queued.message, now)
    transition = policy.enrol(queued.message, first_failed_at=failed_at, now=now, jitter=deps.jitter())
    return stays._replace(transition=transition._replace(unknown_count=queued.unknown_count))


def enrol(
    deps: Dependencies, rules: PassRules, fresh: Sequence[Message | UnusableMessage], now: datetime
) -> list[Event]:
    """Enrol messages; return events for those that are escalated at once."""
    from retrycli.engine.recording import event_of  # as above

    entries = []
    for message in fresh:
        if isinstance(message, UnusableMessage):
            decision, failed_at = Decision(message.message_id, Transition.invalid(message.problem)), now
        else:
            failed_at = first_failure(message, now)
            policy = rules.policies[message.message_type]
            transition = policy.enrol(message, first_failed_at=failed_at, now=now, jitter=deps.jitter())
            decision = Decision(message.id, transition)
        entries.append((decision, failed_at, message.ticket_id))
    # Not the start of the pass: operators may have been notified of escalations up to a later time.
    refused = again_if_lost(lambda: deps.enrolment.enrol(entries, deps.now()))
    return [
        event_of(message, decision, refusal=refused.get(decision.message_id))
        for message, (decision, _, _) in zip(fresh, entries, strict=True)
        if decision.transition.kind is TransitionKind.ESCALATED or decision.message_id in refused
    ]
