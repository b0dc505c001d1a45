"""Attempts that a person asks for, one message at a time."""

from __future__ import annotations

import uuid
from datetime import datetime

from retrycli.breaker import Breaker, BreakerState
from retrycli.errors import DatabaseBusy, InvalidMessage, NotActionable
from retrycli.events import BreakerClosed, Event
from retrycli.intake import enrol
from retrycli.message import Claim, Message, QueuedMessage, Span, UnusableMessage
from retrycli.outcome import Outcome, OutcomeKind
from retrycli.policy import Settled, Transition
from retrycli.ports import Gateway, PassRules, World
from retrycli.record import record, record_free

TRY_AGAIN_SECONDS = 0.2
"""How long to wait for the application before a result is written again."""


async def attempt_by_hand(world: World, rules: PassRules, message_id: int, *, by: str) -> Outcome:
    """Try one message now, for a person; it takes none of the message's tries.

    Raises:
        As `attempt_through`.
    """
    # Before anything is claimed: a preset that is wrong must leave the message where it is.
    async with world.open_gateway() as gateway:
        return await attempt_through(gateway, world, rules, message_id, by=by)


async def attempt_through(gateway: Gateway, world: World, rules: PassRules, message_id: int, *, by: str) -> Outcome:
    """The same through a gateway that is open already, as for one message of many.

    Raises:
        NoSuchMessage: there is no such row.
        NotActionable: it is not failed, or is being sent just now.
        InvalidMessage: its data can't be turned into a request.
    """
    now = world.now()
    claim = Claim(str(uuid.uuid4()), now + rules.lease)
    queued = _claimed(world, rules, claim, message_id, by, now)
    outcome = await gateway.deliver(queued)
    finished_at = world.now()
    if outcome.kind is OutcomeKind.DELIVERED:
        transition = Transition.delivered()
    else:
        transition = Transition.released(unknown_count=queued.unknown_count + (outcome.kind is OutcomeKind.UNKNOWN))
    settled = Settled(message_id, transition, outcome, finished_at - now, finished_at, queued)
    for event in await _recorded(world, claim, queued, settled):
        world.emit(event)
    if outcome.kind is OutcomeKind.DELIVERED:
        _close_breaker(world, rules.destination_of(queued.message.message_type))
    return outcome


async def _recorded(world: World, claim: Claim, queued: QueuedMessage, settled: Settled) -> list[Event]:
    """Write the result, however long the application holds the row or the file while the claim lives.

    After that a pass writes it: the attempt's outcome is recorded, unless the file was held all the time.
    """
    while True:
        try:
            events, held = record_free(world, claim, [(queued, settled)])
            if not held or world.now() >= claim.expires_at:
                return events
        except DatabaseBusy:
            if world.now() >= claim.expires_at:
                raise
        await world.sleep(TRY_AGAIN_SECONDS)


def _close_breaker(world: World, destination: str) -> None:
    """Remember that a destination works. A rest that it asked for goes on: it works, and is still to be left alone."""
    with world.claims.together():
        breaker = world.ledger.breaker_to_judge(destination)
        if breaker.at_ease or breaker.state is BreakerState.RESTING:
            return
        world.ledger.save_breaker(Breaker(destination))
    if breaker.state is BreakerState.OPEN:
        world.emit(BreakerClosed(destination))


def take_in(world: World, rules: PassRules, message_id: int, now: datetime) -> list[Message | UnusableMessage]:
    """Enrol a message that the queue does not know yet; nothing where it does, or where it is not failed."""
    span = Span(message_id - 1, message_id)
    world.enrolment.retire(span)  # the id may belong to another message now
    unknown_yet = world.enrolment.newly_failed(span, limit=1)
    for escalated in enrol(world, rules, unknown_yet, now):
        world.emit(escalated)
    return unknown_yet


def _claimed(world: World, rules: PassRules, claim: Claim, message_id: int, by: str, now: datetime) -> QueuedMessage:
    """Claim the message, which the queue may not know yet, and write down an attempt."""
    for each in take_in(world, rules, message_id, now):
        if isinstance(each, UnusableMessage):
            raise _unusable(each)
    was_escalated = world.claims.claim_one(claim, message_id, now)
    loaded = world.claims.begin(
        claim,
        [message_id],
        made_by=by,
        pass_id=None,
        now=now,
        fit=lambda _: True,
        destination_of=rules.destination_of,
    )
    if not loaded:
        raise NotActionable(f"message {message_id} was changed by another just now; see `retrycli show {message_id}`")
    (queued,) = loaded
    if isinstance(queued, UnusableMessage):
        invalid = Settled(message_id, Transition.invalid(queued.problem), message=queued)
        for event in record(world, claim, [(queued, invalid)]):
            if not was_escalated:  # else it has been told
                world.emit(event)
        raise _unusable(queued)
    return queued


def _unusable(message: UnusableMessage) -> InvalidMessage:
    return InvalidMessage(f"message {message.message_id} can't be sent: {message.problem}; mend its row first")
