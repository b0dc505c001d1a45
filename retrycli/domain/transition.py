"""What an attempt does to a message: a transition, and the decision that carries it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from retrycli.domain.identity import Difference
from retrycli.domain.message import EscalationReason, QueuedMessage, UnusableMessage
from retrycli.domain.outcome import Outcome, OutcomeKind, may_have_arrived


class TransitionKind(StrEnum):
    """What an outcome does to a message."""

    ENROLLED = "enrolled"
    DELIVERED = "delivered"
    RESCHEDULED = "rescheduled"
    ESCALATED = "escalated"
    RELEASED = "released"


class Transition(NamedTuple):
    """One change of a message. Made by the constructors below, each of which fixes exactly its own fields.

    None means: this field stays as it is.
    """

    kind: TransitionKind
    next_attempt_at: datetime | None = None
    retry_count: int | None = None
    unknown_count: int | None = None
    last_error: str | None = None
    reason: EscalationReason | None = None

    @classmethod
    def enrolled(cls, at: datetime, *, unknown_count: int | None = None) -> Transition:
        """New to the queue, or waiting again, with its first time."""
        return cls(TransitionKind.ENROLLED, next_attempt_at=at, unknown_count=unknown_count)

    @classmethod
    def delivered(cls) -> Transition:
        """The other side has it."""
        return cls(TransitionKind.DELIVERED)

    @classmethod
    def rescheduled(cls, at: datetime, *, retry_count: int, unknown_count: int, last_error: str | None) -> Transition:
        """One try less, and a later time."""
        return cls(
            TransitionKind.RESCHEDULED,
            next_attempt_at=at,
            retry_count=retry_count,
            unknown_count=unknown_count,
            last_error=last_error,
        )

    @classmethod
    def escalated(
        cls,
        reason: EscalationReason,
        *,
        last_error: str | None,
        retry_count: int | None = None,
        unknown_count: int | None = None,
    ) -> Transition:
        """Into a person's hands."""
        return cls(
            TransitionKind.ESCALATED,
            retry_count=retry_count,
            unknown_count=unknown_count,
            last_error=last_error,
            reason=reason,
        )

    @classmethod
    def invalid(cls, problem: str, *, retry_count: int | None = None) -> Transition:
        """Its row can't be turned into a request."""
        return cls.escalated(EscalationReason.INVALID, last_error=f"Can't be sent: {problem}", retry_count=retry_count)

    @property
    def changes_row(self) -> bool:
        """Whether anything of it is written into the application's table."""
        return self.kind is TransitionKind.DELIVERED or self.last_error is not None or self.retry_count is not None

    @classmethod
    def unwritten(cls) -> Transition:
        """Its row takes nothing of what came of it."""
        return cls.escalated(EscalationReason.INVALID, last_error=None)

    @classmethod
    def expired(cls) -> Transition:
        """Nobody wants it any more."""
        return cls.escalated(EscalationReason.EXPIRED, last_error="Expired: it is too old to be sent")

    @classmethod
    def changed(cls, why: str) -> Transition:
        """The row is not what was sent, or its text was delivered already: an operator decides."""
        return cls.escalated(EscalationReason.CHANGED, last_error=why)

    @classmethod
    def after_attempt_by_hand(cls, queued: QueuedMessage, outcome: Outcome) -> Transition:
        """Delivered, or back to where it was: an operator's attempt uses up no retry."""
        if outcome.kind is OutcomeKind.DELIVERED:
            return cls.delivered()
        return cls.released(unknown_count=queued.unknown_count + (outcome.kind is OutcomeKind.UNKNOWN))

    @classmethod
    def released(cls, at: datetime | None = None, *, unknown_count: int | None = None) -> Transition:
        """Back to wait, with no try taken: the failure was not the message's own. No time: its own stays."""
        return cls(TransitionKind.RELEASED, next_attempt_at=at, unknown_count=unknown_count)


class Decision(NamedTuple):
    """A message whose fate is decided and not yet written down."""

    message_id: int
    transition: Transition
    outcome: Outcome | None = None
    """None where no attempt was made."""
    duration: timedelta | None = None
    finished_at: datetime | None = None
    message: QueuedMessage | UnusableMessage | None = None
    """The message as it was read; its row is written only if it is still the same. None: whatever it is."""

    @property
    def was_delivered(self) -> bool:
        """Tell if the attempt delivered, whatever becomes of the message's row."""
        return self.outcome is not None and self.outcome.kind is OutcomeKind.DELIVERED

    def refused(self, why: str) -> Decision:
        """The same where its row takes no change: it is for a person, who finds in the history what came of it."""
        outcome = self.outcome
        if outcome is not None:
            outcome = replace(outcome, error="; ".join(filter(None, (outcome.error, why))))
        return self._replace(transition=Transition.unwritten(), outcome=outcome)

    def superseded(self, difference: Difference) -> Decision:
        """Return what becomes of the message if its row holds another text or ticket by now.

        A message that only moved, and that was certainly not delivered, goes on as decided. If there was no attempt, it
        is decided afresh, at its next turn.
        """
        outcome = self.outcome
        if outcome is None:
            return self._replace(transition=Transition.released())
        arrived = _arrival(outcome)
        if difference is Difference.MOVED and arrived is None:
            return self
        what = "ticket" if difference is Difference.MOVED else "text"
        result = arrived or "was not delivered"
        why = f"Changed while it was being sent: the row has another {what} now, and what was sent {result}"
        return self._replace(transition=Transition.changed(why))


def _arrival(outcome: Outcome) -> str | None:
    """Say whether a message has arrived; None if it certainly has not."""
    if outcome.kind is OutcomeKind.DELIVERED:
        return "was delivered"
    return "may have arrived" if may_have_arrived(outcome.kind, outcome.status_code) else None


class WriteResult(NamedTuple):
    """What was not written as it was decided, by the messages' ids."""

    lost: frozenset[int] = frozenset()
    """The claim was lost, or the row is another message's now: at most the attempt's outcome was written."""
    locked: frozenset[int] = frozenset()
    """The application holds their rows: only the attempts' outcomes were written."""
    not_written: Mapping[int, str] = MappingProxyType({})
    """The application's table takes no change of their rows, and why: they were escalated."""
    changed: Mapping[int, Decision] = MappingProxyType({})
    """Their rows hold another text now: they were escalated instead."""


def as_written(decisions: Sequence[Decision], refused: Mapping[int, str]) -> list[Decision]:
    """What becomes of messages of which the application's table takes no change of some."""
    return [
        decision.refused(refused[decision.message_id]) if decision.message_id in refused else decision
        for decision in decisions
    ]
