"""Enrol newly failed messages, review escalations whose rows the application has changed, and recover messages whose
claims have expired, usually because a process has died.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from functools import partial

from retrycli.domain.errors import again_if_lost
from retrycli.domain.identity import Difference
from retrycli.domain.message import BY_PASS, EscalationReason, Message, UnusableMessage
from retrycli.domain.outcome import PROCESS_DIED, Outcome
from retrycli.domain.passes import ClaimsExpired, Event
from retrycli.domain.retry_policy import first_failure
from retrycli.domain.transition import ChangedMessage, Claim, Decision, ExpiredClaim, Transition, TransitionKind
from retrycli.engine.ports import Dependencies, PassRules
from retrycli.engine.recording import decide, escalation_before_send, event_of, record

BATCH = 500  # maximum number of messages that are recovered, or enrolled, in one transaction


def review_escalations(
    deps: Dependencies, rules: PassRules, ids: Collection[int], now: datetime, *, emit: Callable[[Event], None]
) -> None:
    """Let escalated messages wait again if the application has changed their text, retry count or error, unless a pass
    would escalate them again.

    A message that the application withdraws and later marks as failed is enrolled again if a pass ran in between. This
    review has the same result if no pass ran in between.
    """
    decide = partial(_review, deps, rules, now=now)
    for decision in again_if_lost(lambda: deps.enrolment.review(ids, decide, deps.now())):
        if decision.transition.kind is TransitionKind.ESCALATED and decision.message is not None:
            emit(event_of(decision.message, decision))


def _review(deps: Dependencies, rules: PassRules, found: ChangedMessage, now: datetime) -> Decision:
    """Decide whether an escalated message waits again, is escalated again, or stays escalated (`RELEASED`)."""
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
    escalated, refused = again_if_lost(lambda: deps.enrolment.enrol(entries, deps.now()))
    as_made = {decision.message_id: decision for decision in escalated}
    return [
        event_of(message, as_made.get(decision.message_id, decision), refusal=refused.get(decision.message_id))
        for message, (decision, _, _) in zip(fresh, entries, strict=True)
        if decision.transition.kind is TransitionKind.ESCALATED or decision.message_id in refused
    ]


def recover_all(deps: Dependencies, rules: PassRules, claim: Claim, now: datetime) -> Iterator[list[Event]]:
    """Take over all messages whose claims have expired, and write what is known of their attempts, batch by batch."""
    while expired := deps.claims.take_over_expired(claim, now, BATCH):
        yield _recover(deps, rules, claim, expired, now)


def _recover(
    deps: Dependencies, rules: PassRules, claim: Claim, expired: Sequence[ExpiredClaim], now: datetime
) -> list[Event]:
    """Write the results of attempts at messages that this pass took over because their claims had expired.

    An attempt whose answer was recorded gets the outcome of that answer. Any other attempt gets an unknown outcome.
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
