"""What a pass tells the world. The engine emits these; logging, the screen and metrics listen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from retrycli.domain.fingerprint import fingerprint
from retrycli.domain.message import EscalationReason, Message, MessageType, QueuedMessage, UnusableMessage
from retrycli.domain.outcome import OutcomeKind
from retrycli.domain.retry_policy import Settled, TransitionKind


class StartedBy(StrEnum):
    """Who started a pass."""

    CRON = "cron"
    TIMER = "timer"
    """One of systemd's."""
    PERSON = "person"
    LIBRARY = "library"
    """An application that calls `retrycli.run_once`."""
    UNKNOWN = "unknown"


SCHEDULERS = frozenset({StartedBy.CRON, StartedBy.TIMER})


class PassResult(StrEnum):
    """How a pass ended."""

    COMPLETED = "completed"
    """Nothing due is left, or the limit that was asked for is reached."""
    STOPPED = "stopped"
    """Something due is left; the reason says why."""
    SKIPPED = "skipped"
    """Another pass holds the lock."""
    PAUSED = "paused"
    """An operator has paused deliveries."""
    INTERRUPTED = "interrupted"
    """A signal ended it, or its process died."""
    FAILED = "failed"
    """A fault ended it."""


class StopReason(StrEnum):
    """Why a pass ended before everything due was tried."""

    BREAKER_OPEN = "breaker_open"
    CREDENTIALS_REFUSED = "credentials_refused"
    SAME_ANSWER = "same_answer"
    """A destination answers everything with the same status, which is about no message."""
    THROTTLED = "throttled"
    DEADLINE = "deadline"
    LIMIT = "limit"
    SIGNAL = "signal"
    LOCK_HELD = "lock_held"
    PAUSED = "paused"
    FAULT = "fault"
    DIED = "died"

    @property
    def in_words(self) -> str:
        """Return it as the end of a sentence."""
        return WORDS[self]


WORDS: dict[StopReason, str] = {
    StopReason.BREAKER_OPEN: "the ticketing API is down",
    StopReason.CREDENTIALS_REFUSED: "our credentials are refused",
    StopReason.SAME_ANSWER: "everything gets the same answer",
    StopReason.THROTTLED: "the ticketing API has asked for a rest",
    StopReason.DEADLINE: "its time is up",
    StopReason.LIMIT: "its limit is reached",
    StopReason.SIGNAL: "a signal has come",
    StopReason.LOCK_HELD: "another pass holds the lock",
    StopReason.PAUSED: "deliveries are paused",
    StopReason.FAULT: "it has failed",
    StopReason.DIED: "its process has died",
}


@dataclass(frozen=True, slots=True)
class PassStarted:
    """A pass has its lock and has looked at the table; ``due`` messages are due."""

    pass_id: str
    due: int


@dataclass(frozen=True, slots=True)
class ClockWasAhead:
    """What earlier passes wrote by a clock that has since been put right was still to come, and is put right too."""

    by: timedelta
    """At least: how far the latest of it was to come."""
    messages: int
    """How many would have waited for longer."""
    claims: int
    """How many would have held for longer."""


@dataclass(frozen=True, slots=True)
class ClaimsLapsed:
    """Messages whose pass died were taken back; ``unknown`` of them may have been delivered by it."""

    released: int
    unknown: int


@dataclass(frozen=True, slots=True)
class MessageEvent:
    """Something happened to one message. It carries no word of the message's or of the answer's text."""

    message_id: int
    ticket_id: int | str
    message_type: MessageType | str
    retry_count: int


@dataclass(frozen=True, slots=True)
class MessageDelivered(MessageEvent):
    """The other side has it."""


@dataclass(frozen=True, slots=True)
class MessageRescheduled(MessageEvent):
    """It goes back to wait, with one try less."""

    outcome: OutcomeKind
    status_code: int | None
    next_attempt_at: datetime


@dataclass(frozen=True, slots=True)
class MessageReleased(MessageEvent):
    """It goes back to wait with its tries untouched."""

    outcome: OutcomeKind | None
    """None where no attempt was made: its claim lapsed before."""
    status_code: int | None


@dataclass(frozen=True, slots=True)
class MessageEscalated(MessageEvent):
    """It is in a person's hands now."""

    reason: EscalationReason
    problem: str | None = None
    """For ``invalid``: what is wrong with the row, in words that quote no text of the message."""
    fingerprint: str = ""
    """Of its cause; see `retrycli.domain.fingerprint`."""
    status_code: int | None = None
    """What the last attempt was answered with, if it was this that escalated the message."""


@dataclass(frozen=True, slots=True)
class MessageMovedOn:
    """The application, or another pass after this one's claim had lapsed, changed the message meanwhile."""

    message_id: int
    outcome: OutcomeKind | None


@dataclass(frozen=True, slots=True)
class ResultKept:
    """The application held a message's row until the end of the pass. A later pass writes the result."""

    message_id: int


@dataclass(frozen=True, slots=True)
class BreakerOpened:
    """The destination is taken to be down; it is probed at ``probe_at``."""

    destination: str
    failures: int
    probe_at: datetime


@dataclass(frozen=True, slots=True)
class BreakerClosed:
    """The destination is back."""

    destination: str


@dataclass(frozen=True, slots=True)
class PassStopped:
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


@dataclass(frozen=True, slots=True)
class PassSummary:
    """What one pass came to; ``retrycli run-once --json`` shows these fields."""

    pass_id: str
    result: PassResult
    sent: int = 0
    rescheduled: int = 0
    escalated: int = 0
    unknown: int = 0
    released: int = 0
    reason: str | None = None
    """A `StopReason`, or None for a pass that had nothing to say."""
    detail: str | None = None
    """The reason in words, with its figures."""
    duration_seconds: float = 0.0

    @property
    def exit_status(self) -> int:
        """What a command that made this pass exits with; where a signal has ended it, as by SIGTERM."""
        return EXIT_STATUSES.get(self.reason, 0)


EXIT_STATUSES: dict[str | None, int] = {
    StopReason.BREAKER_OPEN: 69,
    StopReason.SAME_ANSWER: 69,
    StopReason.LOCK_HELD: 75,
    StopReason.CREDENTIALS_REFUSED: 77,
    StopReason.SIGNAL: 143,
}
"""By the reason; any other is 0."""


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
    message: Message | QueuedMessage | UnusableMessage, settled: Settled, *, refusal: str | None = None
) -> Event:
    """What the world is told of a transition, or why the message's row takes none: then a person has it."""
    if refusal is not None:
        settled = settled.refused(refusal)
    change = settled.transition
    outcome = settled.outcome
    row = message.message if isinstance(message, QueuedMessage) else message
    about = (
        settled.message_id,
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
            return MessageEscalated(*about, reason, problem, fingerprint(settled), status)
        case TransitionKind.RESCHEDULED if outcome is not None and change.next_attempt_at is not None:
            return MessageRescheduled(*about, outcome.kind, outcome.status_code, change.next_attempt_at)
        case _ if outcome is not None:
            return MessageReleased(*about, outcome.kind, outcome.status_code)
        case _:
            return MessageReleased(*about, None, None)
