"""What a person does about a message: the acts there are, and why one can't be done."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from retrycli.domain.errors import Expired, InvalidMessage, NoSuchMessage, NotActionable, RetrycliError
from retrycli.domain.message import MessageStatus, State
from retrycli.domain.outcome import LookUp

LONGEST_NAME = 255
"""A person's: what the history has room for."""


class ActionKind(StrEnum):
    """The acts, by the words that the history keeps."""

    EDITED = "edited"
    REJECTED = "rejected"
    REQUEUED = "requeued"
    ACKNOWLEDGED = "acknowledged"
    NOTED = "noted"
    MARKED_SENT = "marked_sent"
    LOOKED_UP = "looked_up"
    PAUSED = "paused"
    RESUMED = "resumed"


class OperatorAction(NamedTuple):
    """One thing that an operator does, mostly to one message. Each constructor below fixes its own fields.

    None means: this field stays as it is.
    """

    kind: ActionKind
    by: str
    at: datetime
    detail: str | None = None
    """What the history says besides; never a word of the message's."""
    ticket: str | None = None
    """The ticket whose words `before` and `after` are."""
    before: Mapping[str, object] | None = None
    """The values that an edit replaced, by column: customers' words."""
    after: Mapping[str, object] | None = None
    """The values that it wrote."""
    due: datetime | None = None
    last_error: str | None = None
    note: str | None = None

    @classmethod
    def edited(
        cls, before: Mapping[str, object], after: Mapping[str, str], *, ticket: str, by: str, at: datetime
    ) -> OperatorAction:
        """Another text, and so another message to the other side: it gets a new delivery key."""
        return cls(ActionKind.EDITED, by, at, ", ".join(after), ticket=ticket, before=before, after=after)

    @classmethod
    def rejected(cls, reason: str, *, by: str, at: datetime) -> OperatorAction:
        """Never to be sent: it is the application's again."""
        return cls(ActionKind.REJECTED, by, at, reason, last_error=f"Rejected by {by}: {reason}")

    @classmethod
    def requeued(cls, due: datetime, *, by: str, at: datetime) -> OperatorAction:
        """Out of a person's hands and back to wait, with all its tries before it.

        It is the same message as before and keeps its delivery key, by which the other side knows it should it have
        arrived after all.
        """
        return cls(ActionKind.REQUEUED, by, at, f"due {due.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}", due=due)

    @classmethod
    def acknowledged(cls, *, by: str, at: datetime) -> OperatorAction:
        """Somebody has seen it and sees to it."""
        return cls(ActionKind.ACKNOWLEDGED, by, at)

    @classmethod
    def noted(cls, text: str, *, by: str, at: datetime) -> OperatorAction:
        """A word to whoever looks next, in place of any earlier one."""
        return cls(ActionKind.NOTED, by, at, text, note=text)

    @classmethod
    def marked_sent(cls, note: str | None, *, by: str, at: datetime) -> OperatorAction:
        """State that the other side has it."""
        return cls(ActionKind.MARKED_SENT, by, at, note)

    @classmethod
    def looked_up(cls, found: LookUp, *, by: str, at: datetime) -> OperatorAction:
        """Record a question and its answer. It changes nothing by itself."""
        return cls(ActionKind.LOOKED_UP, by, at, ": ".join(filter(None, (found.result, found.error))))

    @classmethod
    def paused(cls, end: str, *, by: str, at: datetime) -> OperatorAction:
        """Hold deliveries back; ``end`` says until when, and why."""
        return cls(ActionKind.PAUSED, by, at, end)

    @classmethod
    def resumed(cls, pause: str, *, by: str, at: datetime) -> OperatorAction:
        """End a pause, which ``pause`` describes."""
        return cls(ActionKind.RESUMED, by, at, pause)


class MessageStanding(NamedTuple):
    """Where a message is, as far as it decides what can be done to it; no state: the queue does not know it."""

    message_id: int
    status: str
    state: State | None = None
    claimed_by: str | None = None
    claim_expires_at: datetime | None = None
    acknowledged_by: str | None = None


VERBS = {
    ActionKind.EDITED: "edit",
    ActionKind.REJECTED: "reject",
    ActionKind.REQUEUED: "requeue",
    ActionKind.ACKNOWLEDGED: "acknowledge",
    ActionKind.NOTED: "note",
    ActionKind.MARKED_SENT: "mark as sent",
    ActionKind.LOOKED_UP: "look up",
}
"""What is done to messages, for errors."""
OF_ESCALATIONS = (ActionKind.REQUEUED, ActionKind.ACKNOWLEDGED, ActionKind.NOTED)
"""What is done only to messages in a person's hands."""


def no_such(message_id: int) -> NoSuchMessage:
    """That there is no such row, in words."""
    return NoSuchMessage(f"there is no message {message_id}; `retrycli list-failed` shows those that wait")


def not_free(standing: MessageStanding, verb: str, now: datetime) -> NotActionable | None:
    """Why nobody may touch a message: it is not failed, or somebody is sending it; None where one may."""
    message_id = standing.message_id
    if standing.status != MessageStatus.FAILED:
        return NotActionable(f"message {message_id} is {standing.status}, not failed: there is nothing to {verb}")
    if standing.state is State.SENDING:
        until = max(standing.claim_expires_at or now, now).astimezone(UTC)
        return NotActionable(
            f"message {message_id} is being sent just now ({standing.claimed_by}); "
            f"look again with `retrycli show {message_id}`, at {until:%Y-%m-%dT%H:%M:%SZ} at the latest"
        )
    return None


def unfit(message_id: int, problem: str) -> InvalidMessage:
    """Return the error that a row can't be turned into a request."""
    return InvalidMessage(f"message {message_id} can't be sent: {problem}; mend its row first")


def would_expire(message_id: int, *, is_rejected: bool = False) -> Expired:
    """Return the error that passes would escalate a message as expired, again. `retry` takes no rejected one."""
    retry = "" if is_rejected else f", or `retrycli retry {message_id}` sends it"
    return Expired(
        f"message {message_id} has expired and would expire again: raise schedule.expires_after_hours{retry}"
    )


def not_taken(message_id: int, why: str) -> NotActionable:
    """Return the error that the application's table did not let a row change."""
    return NotActionable(f"message {message_id} can't be changed: {why}; nothing was changed")


def not_written(kind: ActionKind, message_id: int, why: str) -> NotActionable:
    """Return the error of an act whose row the application's table did not let change."""
    if kind is not ActionKind.MARKED_SENT:
        return not_taken(message_id, why)
    return NotActionable(
        f"message {message_id} is recorded as delivered, and no pass sends it, but its row can't be changed: {why}. "
        f"Correct the table, then run `retrycli mark-sent {message_id}` again"
    )


def refusal(kind: ActionKind, message_id: int, standing: MessageStanding | None, now: datetime) -> RetrycliError:
    """Why an act was not done to a message, as well as its standing afterwards tells; None: it has no row."""
    if standing is None:
        return no_such(message_id)
    if kind is ActionKind.REQUEUED and standing.status == MessageStatus.REJECTED:
        return NotActionable(
            f"message {message_id} is rejected, not failed: there is nothing to requeue. The application rejected it, "
            "or changed its row after retrycli had rejected it; set its status to failed there"
        )
    if (reason := not_free(standing, VERBS[kind], now)) is not None:
        return reason
    if kind in OF_ESCALATIONS and standing.state is not State.ESCALATED:
        return NotActionable(
            f"message {message_id} is in no person's hands but waits for its next attempt: "
            f"there is nothing to {VERBS[kind]}; `retrycli retry {message_id}` tries it now"
        )
    if kind is ActionKind.ACKNOWLEDGED and standing.acknowledged_by is not None:
        return NotActionable(f"message {message_id} is acknowledged already, by {standing.acknowledged_by}")
    return NotActionable(
        f"message {message_id} was being changed by another just now; see `retrycli show {message_id}`"
    )
