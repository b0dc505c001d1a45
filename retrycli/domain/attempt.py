"""An attempt that has an outcome and is not yet recorded."""

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
    """Number of probes its message has been since the breaker opened, with this one; 0 if it is not a probe."""
    trial: bool = False
    """It was made to find out what answers in doubt are about; see `retrycli.domain.doubt`."""
    counts_as_retry: bool = True
    """A failure uses up one of the message's retries."""
    about_us: bool = False
    """Its answer is about us, so its message waits again, unchanged."""

    @property
    def begun_at(self) -> datetime:
        """Return the time before which its request was not sent."""
        return self.finished_at - self.duration

    @property
    def is_spared(self) -> bool:
        """Tell if the message keeps its retry until the answer is judged."""
        return self.outcome.in_doubt or (bool(self.probe) and self.outcome.kind is not OutcomeKind.DELIVERED)

    @property
    def ticket(self) -> str:
        """Return the ticket of its message, as the queue keeps it."""
        return str(self.queued.ticket_id)
