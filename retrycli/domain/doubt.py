"""Answers in doubt: they may be about us, or a system in between, and not about their messages.

A 403 is a closed ticket or a user without rights, a 404 a deleted ticket or a misconfigured proxy, a redirect often a
maintenance page. One answer does not tell. So each route withholds such answers, and others decide:

- A delivery whose request was sent after them shows that the route works: they are about their messages. A message that
  a look-up found was not sent: it shows nothing.
- If ten tickets in a row get the same status, three messages of other tickets go out, one at a time: the trial. If one
  is delivered, the ten are about their messages. If none is, all are about us.
- If the pass ends before ten tickets got the status, the answers are about their messages.

The trial takes the messages that came due last. The ten came due first, and messages that are close in the queue may
have a common cause, as when many tickets are closed at once.
"""

from __future__ import annotations

from retrycli.domain.attempt import Attempt
from retrycli.domain.outcome import ALIVE, OutcomeKind

TICKETS = 10
"""Number of tickets in a row with the same status that start a trial."""
TRIAL_MESSAGES = 3
"""Number of messages that a trial sends."""
MAX_HELD = 100
"""With this many withheld answers of fewer tickets, a pass prefers messages of other tickets."""


class Doubt:
    """The answers in doubt of one route in one pass. Its attributes are replaced, never changed in place."""

    def __init__(self) -> None:
        self.status: int | None = None
        """The status that `TICKETS` tickets in a row have got; None if no status has that many."""
        self._held: list[Attempt] = []
        self._new: list[Attempt] = []
        self._trials: list[Attempt] = []

    def holds(self, attempt: Attempt) -> bool:
        """Tell if an attempt is withheld.

        In a trial every answer but a delivery is: if the trial fails, it escalates nothing and uses up no retry.
        """
        kind = attempt.outcome.kind
        answered = kind in ALIVE and kind is not OutcomeKind.DELIVERED
        return attempt.outcome.in_doubt or (attempt.trial and answered)

    def hold(self, attempt: Attempt) -> None:
        """Withhold an attempt until more is known."""
        self._held = [*self._held, attempt]
        self._new = [*self._new, attempt]
        if self.status is None and len(self._tickets_with(attempt.outcome.status_code)) >= TICKETS:
            self.status = attempt.outcome.status_code

    def count_trial(self, attempt: Attempt) -> None:
        """Count an attempt of the trial, unless it sent nothing because its row is invalid or it had arrived."""
        if attempt.outcome.kind is not OutcomeKind.INVALID and not attempt.outcome.found:
            self._trials = [*self._trials, attempt]

    @property
    def is_settled(self) -> bool:
        """Tell if the trial has failed."""
        return self.status is not None and len(self._trials) >= TRIAL_MESSAGES

    @property
    def tickets(self) -> frozenset[str]:
        """Return the tickets that get no request until it is clear what their answers are about."""
        if self.status is None and len(self._held) < MAX_HELD:
            return frozenset()
        return frozenset(attempt.ticket for attempt in (*self._held, *self._trials))

    def new(self) -> list[Attempt]:
        """Return the attempts that were withheld since the last call."""
        new, self._new = self._new, []
        return new

    def let_go(self, delivery: Attempt | None = None) -> list[Attempt]:
        """Return withheld attempts and withhold them no longer.

        Args:
            delivery: only those that were answered before the request of this delivery went out.
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
        """Describe the answers of the route, for an operator."""
        alike = self._trials and all(attempt.outcome.status_code == self.status for attempt in self._trials)
        number = len(self._tickets_with(self.status))
        return f"HTTP {self.status} to every request" if alike else f"HTTP {self.status} to {number} tickets in a row"

    def _tickets_with(self, status: int | None) -> set[str]:
        return {
            attempt.ticket
            for attempt in self._held
            if attempt.outcome.in_doubt and attempt.outcome.status_code == status
        }
