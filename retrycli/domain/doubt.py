"""Ambiguous answers: such an answer concerns either one message, or retrycli's access and therefore all messages.

A 403 can mean a closed ticket or a user without permission. A 404 can mean a deleted ticket or a misconfigured proxy. A
redirect is often a maintenance page. A single answer does not show its cause. So each route withholds ambiguous answers
until one of these rules applies:

- A delivery whose request was sent after the answers shows that the route works, so the answers concern their
  messages. If a look-up found the message, the delivery shows nothing, because nothing was sent.
- If ten tickets get the same status without a delivery in between, a trial sends three messages of other tickets, one
  at a time. If one of the three is delivered, the ten answers concern their messages. Otherwise all answers concern
  retrycli's access.
- If the pass ends during a trial, or because the destination rejects retrycli's access, the answers concern the access.
  If the pass ends otherwise, they concern their messages.

Messages that came due one after another may fail for a common reason, for example because many tickets were closed at
the same time. The ten tickets' messages came due first, so the trial sends the messages that came due last.
"""

from retrycli.domain.attempt import Attempt
from retrycli.domain.outcome import ALIVE, OutcomeKind

TICKETS = 10  # number of tickets with the same status, without a delivery in between, that start a trial
TRIAL_MESSAGES = 3
MAX_HELD = 100  # once this many answers are withheld, their tickets get no further requests


class Doubt:
    """The ambiguous answers of one route in one pass.

    Attributes are replaced and never mutated, so that a shallow copy can restore them after a failed transaction.
    """

    def __init__(self) -> None:
        # The status that started the trial; None if no trial is running.
        self.status: int | None = None
        self._held: list[Attempt] = []
        self._new: list[Attempt] = []
        self._trials: list[Attempt] = []

    def holds(self, attempt: Attempt) -> bool:
        """Return whether an attempt must be withheld.

        Ambiguous answers are always withheld. A trial also withholds rejections, because a failed trial must escalate
        no message and use up no retry.
        """
        kind = attempt.outcome.kind
        answered = kind in ALIVE and kind is not OutcomeKind.DELIVERED
        return attempt.outcome.in_doubt or (attempt.trial and answered)

    def hold(self, attempt: Attempt) -> None:
        """Withhold an attempt until other answers show whether its answer concerns the message or retrycli's access."""
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
        """Return whether the trial has failed: all its attempts ended without a delivery."""
        return self.status is not None and len(self._trials) >= TRIAL_MESSAGES

    @property
    def tickets(self) -> frozenset[str]:
        """Return the tickets that get no further requests while their answers are withheld.

        The set is empty until a trial begins or `MAX_HELD` answers are withheld.
        """
        if self.status is None and len(self._held) < MAX_HELD:
            return frozenset()
        return frozenset(attempt.ticket for attempt in (*self._held, *self._trials))

    def new(self) -> list[Attempt]:
        """Return the attempts that have been withheld since the last call and are still withheld."""
        new, self._new = self._new, []
        return new

    def let_go(self, delivery: Attempt | None = None) -> list[Attempt]:
        """Return withheld attempts and stop withholding them: all, or only those that were answered before the request
        of a delivery was sent.
        """
        if not self._held:
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
        """Describe the answers that started the trial, for an operator."""
        alike = self._trials and all(attempt.outcome.status_code == self.status for attempt in self._trials)
        number = len(self._tickets_with(self.status))
        return (
            f"HTTP {self.status} to every request"
            if alike
            else f"HTTP {self.status} for {number} tickets, without a delivery in between"
        )

    def _tickets_with(self, status: int | None) -> set[str]:
        return {
            attempt.ticket
            for attempt in self._held
            if attempt.outcome.in_doubt and attempt.outcome.status_code == status
        }
