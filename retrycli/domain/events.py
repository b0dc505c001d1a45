"""What a pass tells the world. The engine emits these; logging, the screen and metrics listen."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import NamedTuple

from retrycli.domain.fingerprint import fingerprint
from retrycli.domain.message import EscalationReason, Message, MessageType, QueuedMessage, UnusableMessage
from retrycli.domain.outcome import OutcomeKind
from retrycli.domain.pass_summary import PassResult, PassSummary, StopReason
from retrycli.domain.transition import Decision, TransitionKind


class PassStarted(NamedTuple):
    """A pass has its lock and has looked at the table; ``due`` messages are due."""

    pass_id: str
    due: int


class ClockWasAhead(NamedTuple):
    """What earlier passes wrote by a clock that has since been put right was still to come, and is put right too."""

    by: timedelta
    """At least: how far the latest of it was to come."""
    messages: int
    """How many would have waited for longer."""
    claims: int
    """How many would have held for longer."""


class ClaimsLapsed(NamedTuple):
    """Messages whose pass died were taken back; ``unknown`` of them may have been delivered by it."""

    released: int
    unknown: int


class MessageDelivered(NamedTuple):
    """The other side has it."""

    message_id: int
    ticket_id: int | str
    message_type: MessageType | str
    retry_count: int


class MessageRescheduled(NamedTuple):
    """It goes back to wait, with one try less."""

    message_id: int
    ticket_id: int | str
    message_type: MessageType | str
    retry_count: int
    outcome: OutcomeKind
    status_code: int | None
    next_attempt_at: datetime


class MessageReleased(NamedTuple):
    """It goes back to wait with its tries untouched."""

    message_id: int
    ticket_id: int | str
    message_type: MessageType | str
    retry_count: int
    outcome: OutcomeKind | None
    """None where no attempt was made: its claim lapsed before."""
    status_code: int | None


class MessageEscalated(NamedTuple):
    """It is in a person's hands now."""

    message_id: int
    ticket_id: int | str
    message_type: MessageType | str
    retry_count: int
    reason: EscalationReason
    problem: str | None = None
    """For ``invalid``: what is wrong with the row, in words that quote no text of the message."""
    fingerprint: str = ""
    """Of its cause; see `retrycli.domain.fingerprint`."""
    status_code: int | None = None
    """What the last attempt was answered with, if it was this that escalated the message."""


class MessageMovedOn(NamedTuple):
    """The application, or another pass after this one's claim had lapsed, changed the message meanwhile."""

    message_id: int
    outcome: OutcomeKind | None


class ResultKept(NamedTuple):
    """The application held a message's row until the end of the pass. A later pass writes the result."""

    message_id: int


class BreakerOpened(NamedTuple):
    """The destination is taken to be down; it is probed at ``probe_at``."""

    destination: str
    failures: int
    probe_at: datetime


class BreakerClosed(NamedTuple):
    """The destination is back."""

    destination: str


class PassStopped(NamedTuple):
    """The pass has ended, and there is a reason to tell."""

    reason: StopReason


Event = (
    PassStarted
    | ClockWasAhead
    | ClaimsLapsed
    | MessageDelivered
    | MessageRescheduled
    | MessageReleased
    | MessageEscalated
    | MessageMovedOn
    | ResultKept
    | BreakerOpened
    | BreakerClosed
    | PassStopped
)


class Tally:
    """Counts a pass's events as they come: a pass of a million messages needs no more room than of ten."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def count(self, event: Event) -> None:
        """Take in one event."""
        match event:
            case MessageDelivered():
                self._counts["sent"] += 1
            case MessageRescheduled(outcome=outcome):
                self._counts["rescheduled"] += 1
                self._counts["unknown"] += outcome is OutcomeKind.UNKNOWN
            case MessageReleased(outcome=outcome):
                self._counts["released"] += 1
                self._counts["unknown"] += outcome is OutcomeKind.UNKNOWN
            case MessageEscalated(reason=reason):
                self._counts["escalated"] += 1
                self._counts["unknown"] += reason is EscalationReason.UNKNOWN
            case _:
                pass

    def summary(
        self,
        pass_id: str,
        result: PassResult,
        duration: timedelta,
        *,
        reason: StopReason | None = None,
        detail: str | None = None,
    ) -> PassSummary:
        """What the events counted so far come to."""
        return PassSummary(
            pass_id=pass_id,
            result=result,
            reason=reason,
            detail=detail,
            duration_seconds=round(duration.total_seconds(), 3),
            **self._counts,
        )


def event_of(
    message: Message | QueuedMessage | UnusableMessage, decision: Decision, *, refusal: str | None = None
) -> Event:
    """What the world is told of a transition, or why the message's row takes none: then a person has it."""
    if refusal is not None:
        decision = decision.refused(refusal)
    change = decision.transition
    outcome = decision.outcome
    row = message.message if isinstance(message, QueuedMessage) else message
    about = (
        decision.message_id,
        row.ticket_id,
        row.message_type,
        row.retry_count if change.retry_count is None else change.retry_count,
    )
    match change.kind:
        case TransitionKind.DELIVERED:
            return MessageDelivered(*about)
        case TransitionKind.ESCALATED:
            unusable = message.problem if isinstance(message, UnusableMessage) else None
            problem = "; ".join(filter(None, (unusable, refusal))) or None
            reason = change.reason or EscalationReason.INVALID
            status = None if outcome is None else outcome.status_code
            return MessageEscalated(*about, reason, problem, fingerprint(decision), status)
        case TransitionKind.RESCHEDULED if outcome is not None and change.next_attempt_at is not None:
            return MessageRescheduled(*about, outcome.kind, outcome.status_code, change.next_attempt_at)
        case _ if outcome is not None:
            return MessageReleased(*about, outcome.kind, outcome.status_code)
        case _:
            return MessageReleased(*about, None, None)
