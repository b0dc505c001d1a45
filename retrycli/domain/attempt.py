"""An attempt that has an outcome, on its way to being judged and recorded."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from retrycli.domain.message import QueuedMessage
from retrycli.domain.outcome import Outcome, OutcomeKind


class Attempt(NamedTuple):
    """An attempt that has an outcome."""

    queued: QueuedMessage
    outcome: Outcome
    duration: timedelta
    finished_at: datetime
    probe: int = 0
    """How many probes its message has been since the breaker opened, this one included; 0 if it is no probe."""
    trial: bool = False
    """Whether it was made to find out what answers in doubt are about: see `retrycli.domain.doubt`."""
    counts_as_retry: bool = True
    """Whether a failure uses up one of the message's retries."""
    about_us: bool = False
    """Whether its answer is about us: then its message goes back to wait as it was."""

    @property
    def begun_at(self) -> datetime:
        """Return the time before which its request had not gone out."""
        return self.finished_at - self.duration

    @property
    def is_spared(self) -> bool:
        """Return whether nothing can be charged to the message before the answer is judged."""
        return self.outcome.in_doubt or (bool(self.probe) and self.outcome.kind is not OutcomeKind.DELIVERED)

    @property
    def ticket(self) -> str:
        """Return the ticket of its message, as the queue keeps it."""
        return str(self.queued.ticket_id)
