"""One attempt at one message, for a person who asks for it."""

from __future__ import annotations

import uuid

from retrycli.engine import CLAIM_MARGIN
from retrycli.errors import InvalidMessage, NotActionable
from retrycli.events import MessageMovedOn, event_of
from retrycli.intake import enrol
from retrycli.message import Claim, Span, UnusableMessage
from retrycli.outcome import Outcome, OutcomeKind
from retrycli.policy import Settled, Transition
from retrycli.ports import PassRules, World


async def attempt_by_hand(world: World, rules: PassRules, message_id: int, *, by: str) -> Outcome:
    """Try one message now, for a person; it takes none of the message's tries.

    Raises:
        NoSuchMessage: there is no such row.
        NotActionable: it is not failed, or is being sent just now.
        InvalidMessage: its data can't be turned into a request.
    """
    now = world.now()
    claim = Claim(str(uuid.uuid4()), now + rules.request_timeout + CLAIM_MARGIN)
    for escalated in enrol(world, rules, world.enrolment.newly_failed(Span(message_id - 1, message_id), limit=1), now):
        world.emit(escalated)
    world.claims.claim_one(claim, message_id, now)
    loaded = world.claims.begin(claim, [message_id], made_by=by, pass_id=None, now=now, fit=lambda _: True)
    if not loaded:
        raise NotActionable(f"message {message_id} was changed by another just now; see `retrycli show {message_id}`")
    (queued,) = loaded
    if isinstance(queued, UnusableMessage):
        world.claims.record(claim, [Settled(message_id, Transition.invalid(queued.problem))], now)
        raise InvalidMessage(f"message {message_id} can't be sent: {queued.problem}; mend its row first")
    async with world.open_gateway() as gateway:
        outcome = await gateway.deliver(queued)
    finished_at = world.now()
    if outcome.kind is OutcomeKind.DELIVERED:
        transition = Transition.delivered()
    else:
        transition = Transition.released(unknown_count=queued.unknown_count + (outcome.kind is OutcomeKind.UNKNOWN))
    settled = Settled(message_id, transition, outcome, finished_at - now, finished_at)
    moved_on = world.claims.record(claim, [settled], finished_at)
    world.emit(MessageMovedOn(message_id, outcome.kind) if moved_on else event_of(queued, settled))
    return outcome
