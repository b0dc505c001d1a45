"""Passes: what starts them, their results, records and events, and what keeps messages from them: pauses and holds.

The engine emits the events. The log and the terminal show them.
"""

import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from retrycli.domain.duration import utc_text
from retrycli.domain.identity import are_of_two_kinds, birth_of, is_of_one_message
from retrycli.domain.message import EscalationReason, MessageType
from retrycli.domain.outcome import OutcomeKind
from retrycli.domain.transition import Withheld


class StartedBy(StrEnum):
    """What started a pass."""

    CRON = "cron"
    TIMER = "timer"  # a systemd timer
    PERSON = "person"
    LIBRARY = "library"  # an application that calls `retrycli.run_once`
    APPLICATION = "application"  # the `retrycli.Scheduler` of an application
    UNKNOWN = "unknown"


SCHEDULERS = frozenset({StartedBy.CRON, StartedBy.TIMER, StartedBy.APPLICATION})


class PassResult(StrEnum):
    """The possible results of a pass."""

    COMPLETED = "completed"  # no due messages are left, or the requested limit is reached
    STOPPED = "stopped"  # a destination or the deadline stopped deliveries; the reason says why
    SKIPPED = "skipped"  # another pass holds the lock
    PAUSED = "paused"  # an operator has paused deliveries, before or during the pass
    INTERRUPTED = "interrupted"  # a signal ended the pass, or its process died
    FAILED = "failed"  # an error ended the pass


class StopReason(StrEnum):
    """The reasons why a pass ends before it has attempted every due message."""

    BREAKER_OPEN = "breaker_open"
    CREDENTIALS_REFUSED = "credentials_refused"
    # Messages of many tickets got the same status and none was delivered, so the status does not concern the messages.
    SAME_ANSWER = "same_answer"
    UNREAD_ANSWER = "unread_answer"  # the preset can't tell from an answer whether the message was accepted
    THROTTLED = "throttled"
    DEADLINE = "deadline"
    LIMIT = "limit"
    SIGNAL = "signal"
    LOCK_HELD = "lock_held"
    PAUSED = "paused"
    FAULT = "fault"
    DIED = "died"


class PassSummary(NamedTuple):
    """The result of one pass; ``retrycli run-once --json`` shows these fields."""

    pass_id: str
    result: PassResult
    sent: int = 0
    rescheduled: int = 0
    escalated: int = 0
    unknown: int = 0
    released: int = 0
    reason: str | None = None  # a `StopReason`; None if the pass did not end early and found no destination down
    detail: str | None = None
    duration_seconds: float = 0.0

    @property
    def exit_status(self) -> int:
        """Return the exit status of a command that ran this pass. Every signal gives the status of SIGTERM."""
        return EXIT_STATUSES.get(self.reason, 0)


# Exit statuses by reason; 0 for any other reason.
EXIT_STATUSES: dict[str | None, int] = {
    StopReason.BREAKER_OPEN: 69,
    StopReason.SAME_ANSWER: 69,
    StopReason.LOCK_HELD: 75,
    StopReason.CREDENTIALS_REFUSED: 77,
    StopReason.UNREAD_ANSWER: 78,
    StopReason.SIGNAL: 143,
}


# The counts of a pass, in the order in which they are shown.
COUNTS = ("sent", "rescheduled", "escalated", "unknown", "released")
LATE_AFTER_INTERVALS = 2
LATE_GRACE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class PassRecord:
    """The record of one pass; ``result`` and ``finished_at`` are None until the end of the pass is recorded."""

    pass_id: str
    host: str
    pid: int
    started_at: datetime
    finished_at: datetime | None
    result: PassResult | None
    reason: str | None
    detail: str | None
    sent: int
    rescheduled: int
    escalated: int
    unknown: int
    released: int
    started_by: StartedBy = StartedBy.UNKNOWN

    def result_in_words(self, unrecorded: Collection[str]) -> str:
        """Describe the pass's result, or its state if it has no result.

        Args:
            unrecorded: the ids of passes that ended without recording a result.
        """
        return self.result or ("ended without a recorded result" if self.pass_id in unrecorded else "running")


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause of deliveries. If ``until`` is None, the pause lasts until an operator resumes deliveries."""

    since: datetime
    until: datetime | None
    by: str
    reason: str | None

    @property
    def end(self) -> str:
        """Describe the pause's end and reason, for the history."""
        return end_in_words(self.until, self.reason)

    @property
    def why(self) -> str:
        """Describe why a pass sent nothing, for the pass's record."""
        until = f" until {utc_text(self.until)}" if self.until else ""
        return f"paused by {self.by}{until}" + (f": {self.reason}" if self.reason else "")

    @property
    def in_words(self) -> str:
        """Describe who paused deliveries, until when, and why."""
        return f"the pause by {self.by} {self.end}"


def end_in_words(until: datetime | None, reason: str | None) -> str:
    """Describe the end and the reason of a pause or a hold."""
    end = "until resumed" if until is None else f"until {utc_text(until)}"
    return f"{end}: {reason}" if reason else end


@dataclass(frozen=True, slots=True)
class PauseRecord:
    """A record in the history: an operator paused or resumed deliveries, or held a part of the queue."""

    at: datetime
    by: str
    act: str  # ``paused``, ``held`` or ``resumed``
    # What is held, and the end and reason of the pause or hold; or a description of the pause or hold that ended.
    detail: str | None


def is_late(newest: datetime, now: datetime, interval: timedelta) -> bool:
    """Return whether the next pass is overdue: the newest began at least two intervals and five minutes ago."""
    return now - newest >= LATE_AFTER_INTERVALS * interval + LATE_GRACE


# -- events ---------------------------------------------------------------------------------------------------


class PassStarted(NamedTuple):
    """A pass holds the lock and has read the table. ``due`` is the number of due messages."""

    pass_id: str
    due: int


class ClockWasAhead(NamedTuple):
    """Recorded times were in the future, because a clock had been wrong. These times have been corrected."""

    by: timedelta  # how far the latest recorded event was in the future; the clock was wrong by at least this much
    messages: int  # number of messages whose due times were corrected
    claims: int  # number of claims whose expiry was corrected


class ClaimsExpired(NamedTuple):
    """Messages whose claims had expired were recovered.

    ``unknown`` counts those with an attempt that has no recorded answer; ``released`` counts the others.
    """

    released: int
    unknown: int


class MessageDelivered(NamedTuple):
    """A message was delivered, and its row is marked as sent."""

    message_id: int
    ticket_id: int | str
    message_type: MessageType | str
    retry_count: int
    unverified: bool = False  # `gateway.verify` is set, but the message could not be read back


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
    """A message waits again, or stays escalated, without using up a retry."""

    message_id: int
    ticket_id: int | str
    message_type: MessageType | str
    retry_count: int
    outcome: OutcomeKind | None  # None if no attempt was made
    status_code: int | None


class MessageEscalated(NamedTuple):
    """A message was escalated to an operator."""

    message_id: int
    ticket_id: int | str
    message_type: MessageType | str
    retry_count: int
    reason: EscalationReason
    problem: str | None = None  # for ``invalid``: the problem with the row, without any text of the message
    fingerprint: str = ""  # identifies the cause; see `retrycli.domain.fingerprint`
    status_code: int | None = None  # status of the last attempt's answer, if that attempt escalated the message


class MessageMovedOn(NamedTuple):
    """A decision was not recorded: the claim was lost, or the row is no longer failed or belongs to another message."""

    message_id: int
    outcome: OutcomeKind | None


class ResultKept(NamedTuple):
    """The application locked a message's row until the pass ended. A later pass writes the result to the row."""

    message_id: int


class BreakerOpened(NamedTuple):
    """The destination is considered down. The next probe is due at ``probe_at``."""

    destination: str
    failures: int
    probe_at: datetime


class BreakerClosed(NamedTuple):
    """The destination works again."""

    destination: str


class PassStopped(NamedTuple):
    """The pass ended before it had attempted every due message, or a destination that it did not try is down."""

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
    """A counter of a pass's events, in constant memory."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def count(self, event: Event) -> None:
        """Add one event to the counts of the summary."""
        match event:
            case MessageDelivered():
                self._counts["sent"] += 1
            case MessageRescheduled(outcome=outcome):
                self._counts.update(rescheduled=1, unknown=int(outcome is OutcomeKind.UNKNOWN))
            case MessageReleased(outcome=outcome):
                self._counts.update(released=1, unknown=int(outcome is OutcomeKind.UNKNOWN))
            case MessageEscalated(reason=reason):
                self._counts.update(escalated=1, unknown=int(reason is EscalationReason.UNKNOWN))
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


class HoldKind(StrEnum):
    """What a hold covers. Each kind has an option of `pause` and `resume` with its name."""

    MESSAGE = "message"
    TICKET = "ticket"
    TYPE = "type"
    DESTINATION = "destination"


class HoldTarget(NamedTuple):
    """A part of the queue: the message with an id, or the messages of a ticket, of a type, or to a destination.

    ``text`` is the id, the ticket, the message type, or the base URL of the destination.
    """

    kind: HoldKind
    text: str

    def __str__(self) -> str:
        return f"{self.kind} {self.text}"

    @property
    def option(self) -> str:
        """Return the option of `pause` and `resume` that names this part, quoted for a shell."""
        return f"--{self.kind} {shlex.quote(self.text)}"


class Hold(NamedTuple):
    """A hold. No pass claims the messages that it covers. If ``until`` is None, it lasts until an operator ends it."""

    kind: HoldKind
    target: str  # the text of its `HoldTarget`
    since: datetime
    until: datetime | None
    by: str
    reason: str | None
    birth: str | None = None  # birth of a held message, because its id may later belong to another message

    @property
    def part(self) -> HoldTarget:
        """Return what the hold covers."""
        return HoldTarget(self.kind, self.target)

    @property
    def end(self) -> str:
        """Describe the hold's end and reason, for the history."""
        return end_in_words(self.until, self.reason)

    @property
    def in_words(self) -> str:
        """Describe what is held, who holds it, until when, and why."""
        return f"the hold of {self.part} by {self.by} {self.end}"

    def is_of(self, birth: str | None) -> bool:
        """Return whether the queued message with the hold's id may be the held message.

        Args:
            birth: the queued message's birth, as the database writes it; None if it is unknown.
        """
        if birth is None or self.birth is None:
            return True
        known, now = birth_of(self.birth), birth_of(birth)
        return is_of_one_message(known, now) or are_of_two_kinds(known, now)


def withheld(
    holds: Iterable[Hold], destination_of: Callable[[MessageType], str | None], closed: Collection[MessageType] = ()
) -> Withheld:
    """Return the messages that no pass may claim, because of active holds or because the delivery window of their type
    is closed.
    """
    texts: dict[HoldKind, set[str]] = {kind: set() for kind in HoldKind}
    for hold in holds:
        texts[hold.kind].add(hold.target)
    types = (
        kind
        for kind in MessageType
        if kind in closed or kind in texts[HoldKind.TYPE] or destination_of(kind) in texts[HoldKind.DESTINATION]
    )
    return Withheld(frozenset(types), frozenset(texts[HoldKind.TICKET]), frozenset(texts[HoldKind.MESSAGE]))
