"""Compare the queue with the application's table: enrol failed messages, drop others, and review escalations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import partial

from retrycli.domain.errors import again_if_lost
from retrycli.domain.message import EscalationReason, Message, UnusableMessage
from retrycli.domain.passes import Event
from retrycli.domain.retry_policy import first_failure
from retrycli.domain.transition import ChangedMessage, Decision, IdRange, Transition, TransitionKind
from retrycli.engine.ports import Dependencies, PassRules

BATCH = 500  # maximum number of messages that are enrolled, or recovered, in one transaction
# Maximum number of escalated messages to hold in memory with their texts, which may be long.
CHANGED_AT_ONCE = 100


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
        _review_escalations(deps, rules, changed[start : start + CHANGED_AT_ONCE], now, emit=emit)
    rest = span
    while fresh := deps.enrolment.newly_failed(rest, BATCH):
        for escalated in enrol(deps, rules, fresh, now):
            emit(escalated)
        if deps.stop_requested():
            return False
        last = fresh[-1]
        rest = IdRange(last.message_id if isinstance(last, UnusableMessage) else last.id, span.upto)
    return True


def _review_escalations(
    deps: Dependencies, rules: PassRules, ids: Collection[int], now: datetime, *, emit: Callable[[Event], None]
) -> None:
    """Let escalated messages wait again if the application has changed their text, retry count or error, unless a pass
    would escalate them again.

    A message that the application withdraws and later marks as failed is enrolled again if a pass ran in between. This
    review has the same result if no pass ran in between.
    """
    from retrycli.engine.recording import event_of  # lazy, because only changed escalations need it

    decide = partial(_review, deps, rules, now=now)
    for decision in again_if_lost(lambda: deps.enrolment.review(ids, decide, deps.now())):
        if decision.transition.kind is TransitionKind.ESCALATED and decision.message is not None:
            emit(event_of(decision.message, decision))


def _review(deps: Dependencies, rules: PassRules, found: ChangedMessage, now: datetime) -> Decision:
    """Decide whether an escalated message waits again, is escalated again, or stays escalated (`RELEASED`)."""
    from retrycli.engine.recording import escalation_before_send

    queued = found.message
    stays = Decision(queued.message_id, Transition.released(), message=queued)
    if isinstance(queued, UnusableMessage) or not found.changed:
        return stays
    if escalation := escalation_before_send(deps, rules, queued, now):
        # Do not repeat an escalation for any reason other than `CHANGED`. Otherwise, an application that regularly
        # writes an error or a retry count would cause a notification each time.
        return stays._replace(transition=escalation) if escalation.reason is EscalationReason.CHANGED else stays
    transition = rules.policies[queued.message.message_type].enrol(
        queued.message, first_failed_at=first_failure(queued.message, now), now=now, jitter=deps.jitter()
    )
    return stays._replace(transition=transition._replace(unknown_count=queued.unknown_count))


def enrol(
    deps: Dependencies, rules: PassRules, fresh: Sequence[Message | UnusableMessage], now: datetime
) -> list[Event]:
    """Enrol messages. Return events for those that are escalated immediately."""
    from retrycli.engine.recording import event_of  # lazy, because a pass with nothing new does not need it

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
    # Use the current time and not the start of the pass. Another pass may have sent notifications since the start, and
    # the next notifications report only later escalations.
    refused = again_if_lost(lambda: deps.enrolment.enrol(entries, deps.now()))
    return [
        event_of(message, decision, refusal=refused.get(decision.message_id))
        for message, (decision, _, _) in zip(fresh, entries, strict=True)
        if decision.transition.kind is TransitionKind.ESCALATED or decision.message_id in refused
    ]
