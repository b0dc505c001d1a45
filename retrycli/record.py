"""Writing down what was decided, and what the world is then to be told."""

from __future__ import annotations

from collections.abc import Sequence

from retrycli.events import Event, MessageMovedOn, event_of
from retrycli.message import Claim, QueuedMessage, UnusableMessage
from retrycli.policy import Settled
from retrycli.ports import World


def record(
    world: World, claim: Claim, settled: Sequence[tuple[QueuedMessage | UnusableMessage, Settled]]
) -> list[Event]:
    """Write down what was decided of claimed messages, in one transaction; an event for each."""
    if not settled:
        return []
    moved_on = world.claims.record(claim, [each for _, each in settled], world.now())
    return [
        MessageMovedOn(each.message_id, each.outcome.kind if each.outcome else None)
        if each.message_id in moved_on
        else event_of(message, each)
        for message, each in settled
    ]
