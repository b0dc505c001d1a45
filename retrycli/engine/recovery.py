"""Recovery: the messages of dead passes, which may have been sending them, or could not write their results."""

from __future__ import annotations

from datetime import datetime
from functools import partial

from retrycli.domain.claim import Claim, ExpiredClaim
from retrycli.domain.errors import again_if_lost
from retrycli.domain.events import ClaimsLapsed, Event
from retrycli.domain.identity import Difference
from retrycli.domain.message import BY_PASS, UnusableMessage
from retrycli.domain.outcome import PROCESS_DIED, Outcome
from retrycli.domain.transition import Decision, Transition
from retrycli.engine.recording import record
from retrycli.engine.rules import Dependencies, PassRules

BATCH = 500
"""How many messages are taken over with one transaction."""


def recover(deps: Dependencies, rules: PassRules, claim: Claim, now: datetime) -> list[Event]:
    """Take back messages whose claims have expired, and write the results of their attempts.

    An attempt whose answer was recorded has that outcome. One without an answer has an unknown outcome.
    """
    events: list[Event] = []
    while lapsed := deps.claims.take_over_expired(claim, now, BATCH):
        unknown = sum(each.attempt_by is not None and each.outcome is None for each in lapsed)
        events.append(ClaimsLapsed(released=len(lapsed) - unknown, unknown=unknown))
        decided = [(each.message, _settled(deps, rules, each, now)) for each in lapsed]
        recorded, _ = again_if_lost(partial(record, deps, claim, decided))
        events += recorded
    return events


def _settled(deps: Dependencies, rules: PassRules, lapsed: ExpiredClaim, now: datetime) -> Decision:
    outcome = lapsed.outcome or PROCESS_DIED if lapsed.attempt_by else None
    transition = _transition(deps, rules, lapsed, outcome, now)
    finished_at = now
    if lapsed.started_at is not None and lapsed.duration is not None:
        finished_at = lapsed.started_at + lapsed.duration
    message = lapsed.message
    settled = Decision(message.message_id, transition, outcome, lapsed.duration, finished_at, message)
    if lapsed.difference in {Difference.EDITED, Difference.MOVED}:
        return settled.superseded(lapsed.difference)
    return settled


def _transition(
    deps: Dependencies, rules: PassRules, lapsed: ExpiredClaim, outcome: Outcome | None, now: datetime
) -> Transition:
    message = lapsed.message
    by_pass = lapsed.attempt_by == BY_PASS
    if isinstance(message, UnusableMessage):
        retry_count = message.retry_count + 1 if by_pass else None
        return Transition.invalid(message.problem, retry_count=retry_count)
    if outcome is None:
        return Transition.released()
    if by_pass:
        kind = message.message.message_type
        has_lookup, jitter = deps.looks_up(kind), deps.jitter()
        policy = rules.policies[kind]
        return policy.decide(message, outcome, since=now, now=now, jitter=jitter, has_lookup=has_lookup)
    return Transition.after_attempt_by_hand(message, outcome)
