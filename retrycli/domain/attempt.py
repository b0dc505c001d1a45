"""An attempt whose outcome is not recorded yet."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from retrycli.domain.message import QueuedMessage
from retrycli.domain.outcome import CLAIM_EXPIRED_BEFORE_SEND, Outcome
from retrycli.domain.transition import Decision, Transition


class Attempt(NamedTuple):
    """An attempt of a pass."""

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
    def ticket(self) -> str:
        """Return the ticket of its message, as the queue keeps it."""
        return str(self.queued.ticket_id)

    @classmethod
    def started(cls, queued: QueuedMessage, at: datetime, *, probe: int, trial: bool) -> Attempt:
        """Return an attempt that was recorded at a time and is not sent yet."""
        return cls(queued, CLAIM_EXPIRED_BEFORE_SEND, timedelta(0), at, probe, trial)

    def ended(self, outcome: Outcome, at: datetime, *, about_us: bool = False) -> Attempt:
        """Return the attempt with its outcome."""
        return self._replace(outcome=outcome, duration=at - self.begun_at, finished_at=at, about_us=about_us)

    def decided(self, transition: Transition) -> Decision:
        """Return the decision that the attempt causes a transition."""
        return Decision(self.queued.message_id, transition, self.outcome, self.duration, self.finished_at, self.queued)
