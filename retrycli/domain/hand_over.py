"""Judge what became of messages that were handed over to the application's own sender.

retrycli sets the row of such a message to ``queued``. The sender then sends the message, and sets the row to ``sent``
or ``failed``. A message that the sender leaves behind may have been sent, unless the sender is down.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from retrycli.domain.errors import InvalidMessage
from retrycli.domain.message import BY_PASS, MessageStatus, State, utc_time
from retrycli.domain.outcome import Outcome, OutcomeKind, one_line
from retrycli.domain.transition import Transition


class Fate(StrEnum):
    """What became of a message that was handed over, as its row shows it."""

    KEPT = "kept"  # the row says ``queued``, or has a status that only the application knows
    SENT = "sent"
    FAILED = "failed"  # the sender tried, and failed
    PUT_BACK = "put_back"  # the row is as it was before it was handed over, for example from a backup
    WITHDRAWN = "withdrawn"  # the application deleted the row, or took the message back


class HandedOver(NamedTuple):
    """A message that was handed over, with what its row shows now."""

    message_id: int
    fate: Fate
    at: datetime  # when it was handed over
    state: State  # `HANDED_OVER`; or `ESCALATED`, if the sender left the message behind
    attempt_by: str  # `BY_PASS`, or the name of the operator who handed it over
    retry_count: int | None  # before it was handed over; None if the row's count was invalid
    error: str | None  # the row's error; None if the application's table has none
    ticket_id: int | str = ""
    message_type: str = ""

    @property
    def by_pass(self) -> bool:
        """Return whether a pass handed the message over, so that a failure uses up a retry."""
        return self.attempt_by == BY_PASS


class Answers(NamedTuple):
    """The answers of the application's sender since the oldest hand-over that is overdue."""

    last: datetime | None = None  # the time of the last answer
    # The time of the newest hand-over among those that were answered at least ``answer_minutes`` ago.
    overtaken: datetime | None = None


# Statuses in which the sender does not send a message, although it has not failed either.
WITHDRAWN = frozenset({MessageStatus.PENDING, MessageStatus.APPROVED, MessageStatus.REJECTED})


def fate_of(status: str | None, updated_at: object, before: object) -> Fate:
    """Return what became of a message.

    Args:
        status: the row's status; None if the row does not exist, or belongs to another message.
        updated_at: the row's ``updated_at``; None if the table has no such column.
        before: ``updated_at`` as it was before the message was handed over.
    """
    if status is None or status in WITHDRAWN:
        return Fate.WITHDRAWN
    if status == MessageStatus.SENT:
        return Fate.SENT
    if status != MessageStatus.FAILED:
        return Fate.KEPT
    return Fate.PUT_BACK if _is_not_newer(updated_at, before) else Fate.FAILED


def _is_not_newer(updated_at: object, before: object) -> bool:
    if updated_at is None or before is None:
        return False
    try:
        now, then = utc_time("updated_at", updated_at), utc_time("updated_at", before)
    except InvalidMessage:
        return updated_at == before
    return now is not None and then is not None and now <= then


def outcome_of(found: HandedOver) -> Outcome:
    """Return the outcome of the attempt of a message that the application's sender no longer has."""
    match found.fate:
        case Fate.SENT:
            return Outcome(OutcomeKind.DELIVERED)
        case Fate.FAILED:
            return Outcome(OutcomeKind.REFUSED, error=one_line(found.error or "") or "the application's sender failed")
        case Fate.PUT_BACK:
            return Outcome(OutcomeKind.UNKNOWN, error="the row was put back as it was before it was handed over")
        case Fate.WITHDRAWN | Fate.KEPT:
            return Outcome(OutcomeKind.UNKNOWN, error="the application withdrew or deleted the message")


PUT_BACK = Transition.changed(
    "Not sent again: the row was put back as it was before it was handed over to the application's sender, which may "
    "have sent the message"
)


def is_overdue(found: HandedOver, now: datetime, answer_within: timedelta) -> bool:
    """Return whether the sender should have answered by now. It is not asked again about an escalated message."""
    return found.fate is Fate.KEPT and found.state is State.HANDED_OVER and found.at + answer_within <= now


def is_down(overdue: list[HandedOver], answers: Answers) -> bool:
    """Return whether the sender is down: it has answered nothing since an overdue message was handed over."""
    return any(answers.last is None or answers.last <= found.at for found in overdue)


def is_left_behind(found: HandedOver, answers: Answers, now: datetime, answer_within: timedelta) -> bool:
    """Return whether a sender that is not down has left an overdue message behind.

    The sender may need a long time for many messages. So a message is left behind only if the sender has finished with
    a later one, or has answered nothing more.
    """
    was_overtaken = answers.overtaken is not None and answers.overtaken > found.at
    return was_overtaken or (answers.last is not None and answers.last + answer_within <= now)


def left_behind(at: datetime) -> str:
    """Describe why a message that was left behind is escalated."""
    return f"handed over at {at:%Y-%m-%dT%H:%M:%SZ}, and the application's sender has reported nothing"
