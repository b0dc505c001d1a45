"""An attempt of the current pass."""

from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import NamedTuple

from retrycli.domain.message import QueuedMessage
from retrycli.domain.outcome import CLAIM_EXPIRED_BEFORE_SEND, Outcome
from retrycli.domain.transition import Decision, Transition


class Attempt(NamedTuple):
    """One delivery attempt by a pass. Until it ends, its outcome is `CLAIM_EXPIRED_BEFORE_SEND`."""

    queued: QueuedMessage
    outcome: Outcome
    duration: timedelta
    finished_at: datetime
    # Number of probes with this message since the breaker opened, including this attempt; 0 if this attempt is not a
    # probe.
    probe: int = 0
    # The attempt is part of a trial, which shows whether ambiguous answers concern messages or retrycli's access; see
    # `retrycli.domain.doubt`.
    trial: bool = False
    counts_as_retry: bool = True  # a failure uses up one of the message's retries
    # The outcome is attributed to retrycli's access or settings, not to the message. The message waits again, and uses
    # up no retry.
    about_access: bool = False

    @property
    def begun_at(self) -> datetime:
        """Return the earliest time at which the request could have been sent."""
        return self.finished_at - self.duration

    @property
    def ticket(self) -> str:
        """Return the ticket of the message, as the queue stores it."""
        return str(self.queued.ticket_id)

    @classmethod
    def started(cls, queued: QueuedMessage, at: datetime, *, probe: int, trial: bool) -> "Attempt":
        """Return an attempt that was recorded at the given time but has not been sent yet."""
        return cls(queued, CLAIM_EXPIRED_BEFORE_SEND, timedelta(0), at, probe, trial)

    def sent(self, at: datetime) -> "Attempt":
        """Return a copy of the attempt whose duration begins at the given time."""
        return self._replace(finished_at=at)

    def ended(self, outcome: Outcome, at: datetime, *, about_access: bool = False) -> "Attempt":
        """Return a copy of the attempt, ended at the given time with the given outcome."""
        return self._replace(outcome=outcome, duration=at - self.begun_at, finished_at=at, about_access=about_access)

    def decided(self, transition: Transition) -> Decision:
        """Return the decision to apply a transition to the attempt's message."""
        return Decision(self.queued.message_id, transition, self.outcome, self.duration, self.finished_at, self.queued)


class Overdue(NamedTuple):
    """An attempt whose time limit passed while it ran. It can't be stopped, and may still deliver its message."""

    message_id: int
    delivery_key: str
    outcome: Future[Outcome]
