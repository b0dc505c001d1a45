"""Progress of a delivery, and the guard around it: an internal error ends one delivery, never the pass."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from dataclasses import replace
from traceback import walk_tb

from retrycli.domain.errors import ConfigurationError
from retrycli.domain.outcome import Outcome, OutcomeKind

logger = logging.getLogger("retrycli")


class DeliveryProgress:
    """Progress of one delivery, for the code that handles its timeout or failure."""

    def __init__(self) -> None:
        self.in_flight = False
        """Its request may be under way or may have arrived."""
        self.answered = False
        """Its request has an outcome other than `UNREACHABLE`."""
        self.landed: Outcome | None = None
        """Its outcome, if it is known to be delivered."""


async def guard(delivery: Awaitable[Outcome], message_id: int, progress: DeliveryProgress) -> Outcome:
    """Return the outcome of a delivery, also if it raises an unexpected error.

    Args:
        delivery: the delivery of one message.
        message_id: the message's id, for the log.
        progress: updated by the delivery.

    Raises:
        ConfigurationError: the error affects every message, and ends the pass.
    """
    try:
        return await delivery
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001  the guard: other messages must still go out
        text = f"an internal error: {_locate(error)}"
        logger.error("Message %s met %s", message_id, text)  # noqa: TRY400  a traceback may quote the message
        if progress.landed is not None:
            return replace(progress.landed, error=f"delivered, and then {text}")
        unsure = progress.in_flight or progress.answered
        # Not INVALID: an error that affects all messages would escalate them all at once, before it can be fixed.
        return Outcome(OutcomeKind.UNKNOWN if unsure else OutcomeKind.TRANSIENT, error=text)


def _locate(error: Exception) -> str:
    """Describe an error by its type and the last line of ours in its traceback. Its text may quote a message."""
    lines = [(frame.f_globals.get("__name__", ""), number) for frame, number in walk_tb(error.__traceback__)]
    module, number = next(line for line in reversed(lines) if line[0].startswith("retrycli."))
    return f"{type(error).__name__} at {module}:{number}"
