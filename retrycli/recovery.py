"""Recovery: the messages of passes that died, which may have been sending them."""

from __future__ import annotations

from datetime import datetime

from retrycli.events import ClaimsLapsed, Event
from retrycli.message import Claim, Lapsed, UnusableMessage
from retrycli.outcome import LAPSED
from retrycli.policy import Settled, Transition
from retrycli.ports import PassRules, World
from retrycli.record import record

BATCH = 500
"""How many messages are taken over with one transaction."""
BY_PASS = "pass"  # noqa: S105  no password
"""Who makes a pass's attempts."""


def recover(world: World, rules: PassRules, claim: Claim, now: datetime) -> list[Event]:
    """Take back messages whose claims have lapsed; an attempt that was under way has an unknown outcome."""
    events: list[Event] = []
    while lapsed := world.claims.take_over_lapsed(claim, now, BATCH):
        unknown = sum(each.attempt_by is not None for each in lapsed)
        events.append(ClaimsLapsed(released=len(lapsed) - unknown, unknown=unknown))
        events += record(world, claim, [(each.message, _settled(world, rules, each, now)) for each in lapsed])
    return events


def _settled(world: World, rules: PassRules, lapsed: Lapsed, now: datetime) -> Settled:
    message = lapsed.message
    outcome = LAPSED if lapsed.attempt_by else None
    if isinstance(message, UnusableMessage):
        retry_count = message.retry_count + 1 if lapsed.attempt_by == BY_PASS else None
        transition = Transition.invalid(message.problem, retry_count=retry_count)
    elif outcome is None:
        transition = Transition.released()
    elif lapsed.attempt_by == BY_PASS:
        kind = message.message.message_type
        looked_for, jitter = world.looks_up(kind), world.jitter()
        transition = rules.policies[kind].decide(
            message, outcome, since=now, now=now, jitter=jitter, looked_for=looked_for
        )
    else:
        transition = Transition.released(unknown_count=message.unknown_count + 1)
    return Settled(message.message_id, transition, outcome, finished_at=now)
