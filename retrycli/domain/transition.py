"""Claims on messages, decisions about messages, and the transitions that follow."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from retrycli.domain.duration import utc_text
from retrycli.domain.identity import Difference
from retrycli.domain.message import EscalationReason, MessageType, QueuedMessage, UnusableMessage, ticket_text
from retrycli.domain.outcome import CLAIM_EXPIRED_BEFORE_SEND, Outcome, OutcomeKind, may_have_arrived


class ExpiredClaim(NamedTuple):
    """A message whose claim has expired, with its unfinished attempt, if any."""

    message: QueuedMessage | UnusableMessage
    # `BY_PASS` or the name of the operator who made the unfinished attempt; None if no attempt is unfinished.
    attempt_by: str | None
    outcome: Outcome | None = None  # outcome of the attempt, if its answer was recorded before the claim expired
    # How the row has changed since the attempt began; None without an unfinished attempt, or if unknown.
    difference: Difference | None = None
    started_at: datetime | None = None
    duration: timedelta | None = None  # time from `started_at` to the answer; None if unknown


class ChangedMessage(NamedTuple):
    """An escalated message whose row the application has written to since the escalation."""

    message: QueuedMessage | UnusableMessage
    changed: bool  # True if the text, retry count or error is different; False if only other columns are


class Withheld(NamedTuple):
    """Waiting messages that no pass may claim, because of holds or closed delivery windows."""

    types: frozenset[MessageType] = frozenset()
    tickets: frozenset[str] = frozenset()
    messages: frozenset[str] = frozenset()  # ids as text

    def covers(self, message_id: int, message_type: object, ticket: object) -> bool:
        """Return whether a message with this id, type and ticket is withheld."""
        return message_type in self.types or ticket_text(ticket) in self.tickets or str(message_id) in self.messages


NOTHING_WITHHELD = Withheld()


class Route(NamedTuple):
    """The messages that go to one destination."""

    destination: str
    # If `only` is None: the types that have another route. All other types, including unknown ones, use this route.
    but: frozenset[MessageType] = frozenset()
    only: frozenset[MessageType] | None = None  # the only types that use this route; None if the route is not limited
    withheld: Withheld = NOTHING_WITHHELD  # messages of the route that may not be claimed


class IdRange(NamedTuple):
    """A range of message ids: above ``after``, up to and including ``upto``; None means no bound."""

    after: int | None
    upto: int | None


class Claim(NamedTuple):
    """An exclusive lease on messages: the owner, and the time at which the lease expires unless it is renewed."""

    owner: str
    expires_at: datetime


LONGEST_SLACK = timedelta(hours=1)  # largest `schedule.due_slack_seconds`


class TransitionKind(StrEnum):
    """The kinds of transition that a pass or an operator's attempt can cause."""

    ENROLLED = "enrolled"
    DELIVERED = "delivered"
    RESCHEDULED = "rescheduled"
    ESCALATED = "escalated"
    RELEASED = "released"


class Transition(NamedTuple):
    """One transition of a message.

    Use the constructors below, which set only the fields of their kind. None leaves a field unchanged.
    """

    kind: TransitionKind
    next_attempt_at: datetime | None = None
    retry_count: int | None = None
    unknown_count: int | None = None
    last_error: str | None = None
    reason: EscalationReason | None = None
    problem: str | None = None  # why the schedule escalated the message, for the log; it quotes no message
    if_lowered: "Transition | None" = None  # replaces this one if the sender lowered the retry count meanwhile

    @classmethod
    def enrolled(cls, at: datetime) -> "Transition":
        """Make a message wait, because it is new to the queue or the application changed it after its escalation."""
        return cls(TransitionKind.ENROLLED, next_attempt_at=at)

    @classmethod
    def delivered(cls) -> "Transition":
        """Mark a message's row as sent, and remove the message from the queue."""
        return cls(TransitionKind.DELIVERED)

    @classmethod
    def rescheduled(cls, at: datetime, *, retry_count: int, unknown_count: int, last_error: str | None) -> "Transition":
        """Use up one retry and schedule the next attempt."""
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
    ) -> "Transition":
        """Escalate a message to an operator, so that passes stop sending it."""
        return cls(
            TransitionKind.ESCALATED,
            retry_count=retry_count,
            unknown_count=unknown_count,
            last_error=last_error,
            reason=reason,
        )

    @classmethod
    def invalid(cls, problem: str, *, retry_count: int | None = None) -> "Transition":
        """Escalate a message whose row can't be turned into a request."""
        return cls.escalated(EscalationReason.INVALID, last_error=f"Can't be sent: {problem}", retry_count=retry_count)

    @property
    def changes_row(self) -> bool:
        """Return whether the transition writes to the application's table."""
        return self.kind is TransitionKind.DELIVERED or self.last_error is not None or self.retry_count is not None

    @classmethod
    def unwritten(cls, noted: str | None = None) -> "Transition":
        """Escalate a message whose row can't be written. It may still take an error."""
        return cls.escalated(EscalationReason.INVALID, last_error=noted)

    @classmethod
    def expired(cls) -> "Transition":
        """Escalate the message, because it is too old to be sent."""
        return cls.escalated(EscalationReason.EXPIRED, last_error="Expired: the message is too old to be sent")

    @classmethod
    def changed(cls, why: str) -> "Transition":
        """Escalate a message whose row differs from what was sent, or whose text may already have been delivered."""
        return cls.escalated(EscalationReason.CHANGED, last_error=why)

    @classmethod
    def already_delivered(cls, at: datetime) -> "Transition":
        """Escalate a message whose text is recorded as delivered."""
        return cls.changed(f"Not sent: this text was already delivered at {utc_text(at)}")

    @classmethod
    def after_attempt_by_hand(cls, queued: QueuedMessage, outcome: Outcome) -> "Transition":
        """Return the transition after an operator's attempt, which uses up no retry."""
        if outcome.kind is OutcomeKind.DELIVERED:
            return cls.delivered()
        return cls.released(unknown_count=queued.unknown_count + (outcome.kind is OutcomeKind.UNKNOWN))

    @classmethod
    def released(cls, at: datetime | None = None, *, unknown_count: int | None = None) -> "Transition":
        """Return a message to waiting, or to escalated if it was escalated before, without using up a retry.

        If ``at`` is None, the message keeps its due time.
        """
        return cls(TransitionKind.RELEASED, next_attempt_at=at, unknown_count=unknown_count)


class ActionKind(StrEnum):
    """The actions of operators, as the history stores them."""

    EDITED = "edited"
    REJECTED = "rejected"
    REQUEUED = "requeued"
    ACKNOWLEDGED = "acknowledged"
    NOTED = "noted"
    MARKED_SENT = "marked_sent"
    LOOKED_UP = "looked_up"
    PAUSED = "paused"
    HELD = "held"
    RESUMED = "resumed"  # also the end of a hold


# Actions that decide only whether passes may claim a message, and nothing about the message itself.
OF_HOLDS = frozenset({ActionKind.HELD, ActionKind.RESUMED})


class Decision(NamedTuple):
    """The transition of a message and the outcome of its attempt, before they are recorded."""

    message_id: int
    transition: Transition
    outcome: Outcome | None = None  # None if no attempt was made
    duration: timedelta | None = None
    finished_at: datetime | None = None
    # The message as it was read, which shows whether the row has changed since. None skips this check.
    message: QueuedMessage | UnusableMessage | None = None

    @property
    def was_delivered(self) -> bool:
        """Return whether the attempt delivered the message, even if the row can't be written."""
        return self.outcome is not None and (self.outcome.kind is OutcomeKind.DELIVERED or self.outcome.arrived)

    def with_count_of_row(self, count: object) -> "Decision":
        """Return the decision to record if the row has this retry count now. A count that the sender changed stands."""
        if self.message is None or self.transition.retry_count is None or not isinstance(count, int):
            return self
        row = self.message.message if isinstance(self.message, QueuedMessage) else self.message
        if count == row.retry_count:
            return self
        change = self.transition.if_lowered if count < row.retry_count else None
        return self._replace(transition=(change or self.transition)._replace(retry_count=count))

    def refused(self, why: str) -> "Decision":
        """Return the decision if the row can't be written: an escalation. Add the problem to the outcome's error."""
        outcome = self.outcome
        if outcome is not None:
            outcome = outcome._replace(error="; ".join(filter(None, (outcome.error, why))))
        noted = f"Delivered, but its row could not be marked as sent: {why}" if self.was_delivered else None
        return self._replace(transition=Transition.unwritten(noted), outcome=outcome)

    def superseded(self, difference: Difference) -> "Decision":
        """Return the decision to record if the row now holds another text or ticket.

        If no attempt was made, the message returns to its former state, and a later pass decides about the new row. If
        the message only moved to another ticket and was certainly not delivered, the decision stays unchanged.
        Otherwise the message is escalated.
        """
        outcome = self.outcome
        if outcome is None:
            return self._replace(transition=Transition.released())
        arrived = _arrival(outcome)
        if difference is Difference.MOVED and arrived is None:
            return self
        what = "ticket" if difference is Difference.MOVED else "text"
        why = f"Changed while it was being sent: the row now has another {what}; the version that was sent "
        return self._replace(transition=Transition.changed(why + (arrived or "was not delivered")))


def _arrival(outcome: Outcome) -> str | None:
    """Describe whether a message has arrived; None if it certainly has not."""
    if outcome.kind is OutcomeKind.DELIVERED or outcome.arrived:
        return "was delivered"
    return "may have arrived" if may_have_arrived(outcome.kind, outcome.status_code) else None


class WriteResult(NamedTuple):
    """The messages whose decisions were not recorded, or were replaced by other decisions."""

    # The claim was lost, or the row is no longer failed or belongs to another message. At most the outcome is recorded.
    # A message that was delivered and whose row was deleted is not lost.
    lost: frozenset[int] = frozenset()
    # The application has locked the rows. Only the outcomes were recorded.
    locked: frozenset[int] = frozenset()
    # Messages that were escalated because the application's table rejects the change, with the reason.
    not_written: Mapping[int, str] = MappingProxyType({})
    # Decisions that replaced the given ones, because the rows now hold another text or ticket.
    changed: Mapping[int, Decision] = MappingProxyType({})


def as_written(decisions: Sequence[Decision], refused: Mapping[int, str]) -> list[Decision]:
    """Return the decisions, but an escalation for each message whose row could not be written."""
    return [
        decision.refused(refused[decision.message_id]) if decision.message_id in refused else decision
        for decision in decisions
    ]


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
    # `retrycli.engine.destination`.
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
