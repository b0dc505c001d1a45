"""Recover messages whose claims have expired, usually because a process has died."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from retrycli.domain.errors import again_if_lost
from retrycli.domain.identity import Difference
from retrycli.domain.message import BY_PASS, UnusableMessage
from retrycli.domain.outcome import PROCESS_DIED, Outcome
from retrycli.domain.passes import (
    ClaimsExpired,
    Event,
)
from retrycli.domain.transition import Claim, Decision, ExpiredClaim, Transition
from retrycli.engine.ports import Dependencies, PassRules
from retrycli.engine.recording import decide, record


def recover(
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
