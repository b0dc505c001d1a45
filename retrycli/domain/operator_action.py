"""Operators' actions on messages, and the errors for actions that are not possible."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from retrycli.domain.errors import Expired, InvalidMessage, NoSuchMessage, NotActionable, RetrycliError, StaleEdit
from retrycli.domain.message import MessageStatus, State
from retrycli.domain.outcome import LookUp
from retrycli.domain.suggested import command
from retrycli.domain.transition import ActionKind


class OperatorAction(NamedTuple):
    """One action of an operator, usually on one message.

    Use the constructors below, which set only the fields of their kind. None leaves a field unchanged.
    """

    kind: ActionKind
    by: str
    at: datetime
    detail: str | None = None  # further details for the history; never the message's text
    ticket: str | None = None  # ticket to which `before` and `after` belong
    # The values that an edit replaced, by column. They may contain customers' text.
    before: Mapping[str, object] | None = None
    after: Mapping[str, object] | None = None  # values that the edit wrote, by column
    due: datetime | None = None
    last_error: str | None = None
    note: str | None = None

    @classmethod
    def edited(
        cls, before: Mapping[str, object], after: Mapping[str, str], *, ticket: str, by: str, at: datetime
    ) -> "OperatorAction":
        """Edit a message. The message gets a new delivery key, so the destination treats it as another message."""
        return cls(ActionKind.EDITED, by, at, ", ".join(after), ticket=ticket, before=before, after=after)

    @classmethod
    def rejected(cls, reason: str, *, by: str, at: datetime) -> "OperatorAction":
        """Reject a message. No pass sends a rejected message unless its status becomes ``failed`` again."""
        return cls(ActionKind.REJECTED, by, at, reason, last_error=f"Rejected by {by}: {reason}")

    @classmethod
    def requeued(cls, due: datetime, *, by: str, at: datetime) -> "OperatorAction":
        """Make an escalated or rejected message wait again, with all its retries.

        The message keeps its delivery key, so the destination can recognise a message that has already arrived.
        """
        return cls(ActionKind.REQUEUED, by, at, f"due {due.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}", due=due)

    @classmethod
    def noted(cls, text: str, *, by: str, at: datetime) -> "OperatorAction":
        """Add a note, which replaces an earlier note."""
        return cls(ActionKind.NOTED, by, at, text, note=text)

    @classmethod
    def looked_up(cls, found: LookUp, *, by: str, at: datetime) -> "OperatorAction":
        """Record a look-up and its result. The look-up itself changes nothing."""
        return cls(ActionKind.LOOKED_UP, by, at, ": ".join(filter(None, (found.result, found.error))))


class MessageStanding(NamedTuple):
    """The data that determine which actions on a message are possible.

    ``state`` is None if the message is not in the queue.
    """

    message_id: int
    status: str
    state: State | None = None
    claimed_by: str | None = None
    claim_expires_at: datetime | None = None
    acknowledged_by: str | None = None


# The verb for each action in error messages.
VERBS = {
    ActionKind.EDITED: "edit",
    ActionKind.REJECTED: "reject",
    ActionKind.REQUEUED: "requeue",
    ActionKind.ACKNOWLEDGED: "acknowledge",
    ActionKind.NOTED: "add a note to",
    ActionKind.MARKED_SENT: "mark as sent",
    ActionKind.LOOKED_UP: "look up",
}
# Actions that are not possible while a message waits for its next attempt.
OF_ESCALATIONS = (ActionKind.REQUEUED, ActionKind.ACKNOWLEDGED, ActionKind.NOTED)


def no_such(message_id: int | str) -> NoSuchMessage:
    """Return the error for an unknown id, or for a text that is not an id."""
    return NoSuchMessage(f"no message {message_id}; `retrycli list-failed` lists the failed messages")


def not_free(standing: MessageStanding, verb: str, now: datetime) -> NotActionable | None:
    """Return the error if a message is not failed, or is being sent; None if actions are possible."""
    message_id = standing.message_id
    if standing.status != MessageStatus.FAILED:
        return NotActionable(f"message {message_id} is {standing.status}, not failed: there is nothing to {verb}")
    if standing.state is State.SENDING:
        until = (standing.claim_expires_at or now).astimezone(UTC)
        if until <= now:
            return NotActionable(
                f"message {message_id} was claimed by a pass or command that has not renewed its claim. If a pass runs "
                "or is suspended, end it; if the settings are not accepted, run `retrycli table accept`. Then run this "
                "again"
            )
        return NotActionable(
            f"message {message_id} is being sent now (claimed by {standing.claimed_by}); "
            f"run {command('show', message_id)} after {until:%Y-%m-%dT%H:%M:%SZ}"
        )
    return None


def unfit(message_id: int, problem: str) -> InvalidMessage:
    """Return the error for a row that can't be turned into a request."""
    return InvalidMessage(f"message {message_id} can't be sent: {problem}")


def would_expire(message_id: int, *, is_rejected: bool = False) -> Expired:
    """Return the error for a message that would expire again.

    For a rejected message the error does not suggest `retry`, which accepts only failed messages.
    """
    retry = "" if is_rejected else f", or send it with {command('retry', message_id)}"
    return Expired(
        f"message {message_id} has expired, so a pass would escalate it; "
        f"raise expires_after_hours for its message type{retry}"
    )


def stale(message_id: int) -> StaleEdit:
    """Return the error for an edit of a text that was modified since it was read."""
    return StaleEdit(
        f"message {message_id} was modified since you read it; nothing was written. "
        f"See {command('show', message_id)}, and edit the message again"
    )


def not_as_shown(message_id: int) -> NotActionable:
    """Return the error for a message about which there is news since the operator decided."""
    return NotActionable(
        f"message {message_id} was attempted or changed, or failed anew, after it was shown. See "
        f"{command('show', message_id)}, and decide anew"
    )


def other_text(message_id: int) -> NotActionable:
    """Return the error for a message that can't be marked as sent, because only an earlier text may have arrived."""
    return NotActionable(
        f"message {message_id} can't be marked as sent: an earlier text may have arrived, but the text that is now in "
        f"its row was not sent. See {command('show', message_id)}; if nobody needs the new text, run "
        f"{command('mark-sent', message_id)} again after the next pass"
    )


def not_taken(message_id: int, why: str) -> NotActionable:
    """Return the error for a change that the application's table rejected."""
    return NotActionable(f"message {message_id} can't be changed: {why}")


def not_written(kind: ActionKind, message_id: int, why: str) -> NotActionable:
    """Return the error for an action whose change the application's table rejected.

    After `mark-sent` the delivery is already recorded, so the error differs.
    """
    if kind is not ActionKind.MARKED_SENT:
        return not_taken(message_id, why)
    return NotActionable(
        f"message {message_id} is recorded as delivered, and no pass will send it, but its row can't be changed: "
        f"{why}. Once the table accepts the change, run {command('mark-sent', message_id)} again"
    )


def refusal(kind: ActionKind, message_id: int, standing: MessageStanding | None, now: datetime) -> RetrycliError:
    """Return the error for an action that changed nothing, derived from the message's current state.

    If ``standing`` is None, the row does not exist.
    """
    if standing is None:
        return no_such(message_id)
    if kind is ActionKind.REQUEUED and standing.status == MessageStatus.REJECTED:
        return NotActionable(
            f"message {message_id} can't be requeued: the application rejected it, or its row is locked or has changed "
            "since retrycli rejected it. Try again, or set its status to failed in the application"
        )
    if (reason := not_free(standing, VERBS[kind], now)) is not None:
        return reason
    if kind in OF_ESCALATIONS and standing.state is not State.ESCALATED:
        return NotActionable(
            f"message {message_id} is not escalated; it is waiting for its next attempt, "
            f"so there is nothing to {VERBS[kind]}. {command('retry', message_id)} attempts it now"
        )
    if kind is ActionKind.ACKNOWLEDGED and standing.acknowledged_by is not None:
        return NotActionable(f"message {message_id} was already acknowledged by {standing.acknowledged_by}")
    return NotActionable(
        f"message {message_id} was locked or modified by another transaction; "
        f"see {command('show', message_id)}, and try again"
    )
