"""Events of a pass. The engine emits them; logging, the screen and metrics listen."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import NamedTuple

from retrycli.domain.message import EscalationReason, MessageType
from retrycli.domain.outcome import OutcomeKind
from retrycli.domain.passes import PassResult, PassSummary, StopReason


class PassStarted(NamedTuple):
    """A pass has the lock and has read the table; ``due`` messages are due."""

    pass_id: str
    due: int


class ClockWasAhead(NamedTuple):
    """Earlier passes wrote future times by a wrong clock. These times have been corrected."""

    by: timedelta
    """At least: how far the latest of these times lay in the future."""
    messages: int
    """Messages that would have waited longer."""
    claims: int
    """Claims that would have lasted longer."""


class ClaimsExpired(NamedTuple):
    """Messages of dead passes were recovered; ``unknown`` of them may have been delivered."""

    released: int
    unknown: int


class MessageDelivered(NamedTuple):
    """A message was delivered."""

    message_id: int
    ticket_id: int | str
    message_type: MessageType | str
    retry_count: int


class MessageRescheduled(NamedTuple):
    """A message waits again and has used up one retry."""

    message_id: int
    ticket_id: int | str
    message_type: MessageType | str
    retry_count: int
    outcome: OutcomeKind
    status_code: int | None
    next_attempt_at: datetime


class MessageReleased(NamedTuple):
    """A message waits again and has used up no retry."""

    message_id: int
    ticket_id: int | str
    message_type: MessageType | str
    retry_count: int
    outcome: OutcomeKind | None
    """None if no attempt was made because its claim had expired."""
    status_code: int | None


class MessageEscalated(NamedTuple):
    """A message was escalated."""

    message_id: int
    ticket_id: int | str
    message_type: MessageType | str
    retry_count: int
    reason: EscalationReason
    problem: str | None = None
    """For ``invalid``: what is wrong with the row, without any text of the message."""
    fingerprint: str = ""
    """Identifies its cause; see `retrycli.domain.fingerprint`."""
    status_code: int | None = None
    """The status that the last attempt got, if that attempt escalated the message."""


class MessageMovedOn(NamedTuple):
    """The application changed the message, or another pass did after this pass's claim had expired."""

    message_id: int
    outcome: OutcomeKind | None


class ResultKept(NamedTuple):
    """The application locked a message's row until the end of the pass. A later pass writes the result."""

    message_id: int


class BreakerOpened(NamedTuple):
    """The breaker considers the destination down; it is probed at ``probe_at``."""

    destination: str
    failures: int
    probe_at: datetime


class BreakerClosed(NamedTuple):
    """The destination works again."""

    destination: str


class PassStopped(NamedTuple):
    """The pass has ended for a reason."""

    reason: StopReason


Event = (
    PassStarted
    | ClockWasAhead
    | ClaimsExpired
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
    """Count a pass's events as they occur, in constant memory."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def count(self, event: Event) -> None:
        """Count one event."""
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
        """Return the summary of the events counted so far."""
        return PassSummary(
            pass_id=pass_id,
            result=result,
            reason=reason,
            detail=detail,
            duration_seconds=round(duration.total_seconds(), 3),
            **self._counts,
        )
