"""Writing down what was decided, and what the world is then to be told."""

from __future__ import annotations

from collections.abc import Sequence

from retrycli.events import Event, MessageMovedOn, event_of
from retrycli.message import Claim, QueuedMessage, UnusableMessage
from retrycli.policy import Recorded, Settled
from retrycli.ports import World

Decided = tuple[QueuedMessage | UnusableMessage, Settled]
"""A claimed message, and what was decided of it."""


def record(world: World, claim: Claim, decided: Sequence[Decided]) -> list[Event]:
    """Write down what was decided of claimed messages, in one transaction; an event for each."""
    if not decided:
        return []
    return _events(decided, world.claims.record(claim, [each for _, each in decided], world.now()))


def record_free(world: World, claim: Claim, decided: Sequence[Decided]) -> tuple[list[Event], list[Decided]]:
    """The same, but for messages that the application holds just now: these are left, to be written down later."""
    if not decided:
        return [], []
    recorded = world.claims.record_free(claim, [each for _, each in decided], world.now())
    return _events(decided, recorded), [each for each in decided if each[1].message_id in recorded.held]


def _events(decided: Sequence[Decided], recorded: Recorded) -> list[Event]:
    return [
        MessageMovedOn(each.message_id, each.outcome.kind if each.outcome else None)
        if each.message_id in recorded.moved_on
        else event_of(
            message, recorded.changed.get(each.message_id, each), refusal=recorded.refused.get(each.message_id)
        )
        for message, each in decided
        if each.message_id not in recorded.held
    ]
