"""How far a message has got, and the net below it: a fault of retrycli's own ends its delivery, and no pass."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from dataclasses import replace
from traceback import walk_tb

from retrycli.domain.errors import ConfigurationError
from retrycli.domain.outcome import Outcome, OutcomeKind

logger = logging.getLogger("retrycli")


class DeliveryProgress:
    """How far a message has got, for whoever ends the wait for its answer."""

    def __init__(self) -> None:
        self.in_flight = False
        """Whether its request may be on its way, or may have arrived."""
        self.answered = False
        """Whether something came of its request, and not that it was never sent."""
        self.landed: Outcome | None = None
        """What came of it, where it is known to have been delivered."""


async def guard(delivery: Awaitable[Outcome], message_id: int, progress: DeliveryProgress) -> Outcome:
    """What comes of a delivery, also where something is raised that nobody foresaw.

    Args:
        delivery: of one message.
        message_id: which.
        progress: is told by the delivery how far the message has got.

    Raises:
        ConfigurationError: every message would meet it. It ends the pass.
    """
    try:
        return await delivery
    except ConfigurationError:
        raise
    except Exception as fault:  # noqa: BLE001  the net: the other messages are to go out
        said = f"a fault of retrycli's own: {_named(fault)}"
        logger.error("Message %s met %s", message_id, said)  # noqa: TRY400  a traceback may quote the message
        if progress.landed is not None:
            return replace(progress.landed, error=f"delivered, and then {said}")
        unsure = progress.in_flight or progress.answered
        # Not INVALID: a fault that all messages meet would give them all up at once, and not wait until it is mended.
        return Outcome(OutcomeKind.UNKNOWN if unsure else OutcomeKind.TRANSIENT, error=said)


def _named(fault: Exception) -> str:
    """A fault by its type and the line of ours that it came by; its text may quote anything."""
    lines = [(frame.f_globals.get("__name__", ""), number) for frame, number in walk_tb(fault.__traceback__)]
    module, number = next(line for line in reversed(lines) if line[0].startswith("retrycli."))
    return f"{type(fault).__name__} at {module}:{number}"
