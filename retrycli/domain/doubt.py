"""Answers in doubt: they may be about retrycli's access, or about a system in between, and not about their messages.

A 403 can mean a closed ticket or a user without rights, a 404 a deleted ticket or a misconfigured proxy. A redirect is
often a maintenance page. One answer alone does not show which. So each route withholds such answers until one of these
rules decides:

- A delivery whose request was sent after such answers shows that the route works, so the answers are about their
  messages. If a look-up found the message, nothing was sent, so such a delivery shows nothing.
- If ten tickets in a row get the same status, three messages of other tickets are sent, one at a time: the trial. If
  one is delivered, the ten answers are about their messages. If none is delivered, all answers are about retrycli's
  access.
- If the pass ends before ten tickets got the status, the answers are about their messages.

The trial takes the messages that came due last. The ten tickets' messages came due first, and neighbouring messages in
the queue may fail for a common reason, for example when many tickets are closed at the same time.
"""

from retrycli.domain.attempt import Attempt
from retrycli.domain.outcome import ALIVE, OutcomeKind

TICKETS = 10  # number of tickets in a row with the same status that start a trial
TRIAL_MESSAGES = 3  # number of messages that a trial sends
MAX_HELD = 100  # number of withheld answers at which a pass turns to messages of other tickets


class Doubt:
    """The answers in doubt of one route in one pass. Its attributes are replaced, never changed in place."""

    def __init__(self) -> None:
        # The status that `TICKETS` tickets in a row got; None if there is no such status.
        self.status: int | None = None
        self._held: list[Attempt] = []
        self._new: list[Attempt] = []
        self._trials: list[Attempt] = []

    def holds(self, attempt: Attempt) -> bool:
        """Return whether an attempt must be withheld.

        In a trial every answer except a delivery is withheld. If the trial fails, such an answer escalates nothing and
        uses up no retry.
        """
        kind = attempt.outcome.kind
        answered = kind in ALIVE and kind is not OutcomeKind.DELIVERED
        return attempt.outcome.in_doubt or (attempt.trial and answered)

    def hold(self, attempt: Attempt) -> None:
        """Withhold an attempt until other answers show what it is about."""
        self._held = [*self._held, attempt]
        self._new = [*self._new, attempt]
        if self.status is None and len(self._tickets_with(attempt.outcome.status_code)) >= TICKETS:
            self.status = attempt.outcome.status_code

    def count_trial(self, attempt: Attempt) -> None:
        """Count an attempt of the trial, unless nothing was sent because the row is invalid or the message had
        already arrived.
        """
        if attempt.outcome.kind is not OutcomeKind.INVALID and not attempt.outcome.found:
            self._trials = [*self._trials, attempt]

    @property
    def is_settled(self) -> bool:
        """Return whether the trial has failed."""
        return self.status is not None and len(self._trials) >= TRIAL_MESSAGES

    @property
    def tickets(self) -> frozenset[str]:
        """Return the tickets that get no requests until it is clear what their answers are about."""
        if self.status is None and len(self._held) < MAX_HELD:
            return frozenset()
        return frozenset(attempt.ticket for attempt in (*self._held, *self._trials))

    def new(self) -> list[Attempt]:
        """Return the attempts that were withheld since the last call."""
        new, self._new = self._new, []
        return new

    def let_go(self, delivery: Attempt | None = None) -> list[Attempt]:
        """Return withheld attempts and stop withholding them.

        Args:
            delivery: return only attempts that were answered before the request of this delivery was sent; by default
                all.
        """
        if not self._held:  # the usual case
            return []
        known = [attempt for attempt in self._held if delivery is None or attempt.finished_at <= delivery.begun_at]
        done = set(map(id, known))
        self._held = [attempt for attempt in self._held if id(attempt) not in done]
        self._new = [attempt for attempt in self._new if id(attempt) not in done]
        if len(self._tickets_with(self.status)) < TICKETS:
            self.status, self._trials = None, []
        return known

    @property
    def words(self) -> str:
        """Describe the route's answers to an operator."""
        alike = self._trials and all(attempt.outcome.status_code == self.status for attempt in self._trials)
        number = len(self._tickets_with(self.status))
        return f"HTTP {self.status} to every request" if alike else f"HTTP {self.status} to {number} tickets in a row"

    def _tickets_with(self, status: int | None) -> set[str]:
        return {
            attempt.ticket
            for attempt in self._held
            if attempt.outcome.in_doubt and attempt.outcome.status_code == status
        }
