"""What a sender of the application receives, and the exceptions with which it says why a message was not delivered.

A sender is a function of the application that delivers one message (``gateway.kind = "python"``).
"""

from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import ClassVar

from retrycli.domain.errors import InvalidMessage
from retrycli.domain.message import LIST_COLUMNS, Message, MessageType, QueuedMessage, shown_id
from retrycli.domain.outcome import RETRY_AFTER_CAP, Outcome, OutcomeKind


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """One message to deliver.

    Attributes:
        id: the id of the message's row, as the table has it.
        ticket_id: the message's ticket, as the row has it.
        message_type: customer, supplier or internal. It is also a string.
        subject: the subject; empty if the row has none.
        body: the text.
        recipient_email: the recipient; None if the row has none.
        cc_emails, bcc_emails: the recipients of copies.
        attachments: the entries of the row's list of attachments.
        delivery_key: identifies this text of this message. Every attempt to deliver it has the same key, so that the
            receiver can recognise a message that has already arrived.
        attempt: the number of this attempt, from 1.
        may_have_arrived: an earlier attempt may have delivered this text, perhaps to only some of its recipients. If
            the receiver can be asked, ask it first.
        fields: every column of the row, by name. It can't be changed.
    """

    id: int | str
    ticket_id: int | str
    message_type: MessageType
    # Fields with customers' words or addresses are not part of the repr, which may reach a log.
    subject: str = field(repr=False)
    body: str = field(repr=False)
    recipient_email: str | None = field(repr=False)
    cc_emails: tuple[str, ...] = field(repr=False)
    bcc_emails: tuple[str, ...] = field(repr=False)
    attachments: tuple[object, ...] = field(repr=False)
    delivery_key: str
    attempt: int
    may_have_arrived: bool
    fields: Mapping[str, object] = field(repr=False)

    @classmethod
    def of(cls, queued: QueuedMessage) -> "OutgoingMessage":
        """Return what a sender receives for a message in the queue.

        Raises:
            InvalidMessage: a recipient is not text.
        """
        message = queued.message
        # The sender gets lists of its own, because the result of the attempt refers to those of the message.
        own = {name: deepcopy(value) if name in LIST_COLUMNS else value for name, value in message.fields.items()}
        attachments = own["attachments"]
        return cls(
            id=shown_id(queued.message_id),
            ticket_id=message.ticket_id,
            message_type=message.message_type,
            subject=str(own["subject"] or ""),
            body=str(own["body"]),
            recipient_email=_recipient(message),
            cc_emails=_copies(message, "cc_emails"),
            bcc_emails=_copies(message, "bcc_emails"),
            attachments=tuple(attachments) if isinstance(attachments, list) else (),
            delivery_key=queued.delivery_key,
            attempt=queued.attempt_number,
            may_have_arrived=queued.in_doubt or bool(queued.delivered_to),
            fields=MappingProxyType(own),
        )


def _recipient(message: Message) -> str | None:
    value = message.fields.get("recipient_email")
    if not isinstance(value, str | None):
        raise InvalidMessage("recipient_email must be text")
    return value or None


def _copies(message: Message, column: str) -> tuple[str, ...]:
    values = message.fields[column]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InvalidMessage(f"{column} must contain only strings")
    return tuple(values)


# -- exceptions ----------------------------------------------------------------------------------------------


class SendingFailed(Exception):
    """The base class of the exceptions that a sender may raise. Their text becomes the row's ``last_error``."""

    kind: ClassVar[OutcomeKind]

    @property
    def outcome(self) -> Outcome:
        """Return the outcome of the attempt. Its error is the exception's text, or its name if it has no text."""
        try:
            text = str(self)
        except Exception:  # noqa: BLE001  the application may have defined __str__
            text = ""
        return Outcome(self.kind, error=text.strip() or type(self).__name__)


class Permanent(SendingFailed):
    """The message can't be delivered as it is. It is escalated."""

    kind = OutcomeKind.PERMANENT


class Transient(SendingFailed):
    """The message was certainly not delivered. It is sent again after its next wait."""

    kind = OutcomeKind.TRANSIENT


class RetryAfter(SendingFailed):
    """The receiver asks for a pause. The message was not delivered, and uses up no retry. Nothing is sent in the pause.

    Args:
        seconds: the length of the pause, also as text, such as that of a Retry-After header. At most 6 hours count. A
            negative number, or a value that is not a number, is ignored: the next pass sends again.
        text: the error.
    """

    kind = OutcomeKind.THROTTLED

    def __init__(self, seconds: float | str, text: str = "") -> None:
        super().__init__(text)
        self.seconds = seconds

    @property
    def outcome(self) -> Outcome:
        """Return the outcome of the attempt, with the pause."""
        limit = RETRY_AFTER_CAP.total_seconds()
        seconds: object = getattr(self, "seconds", None)  # a class of the application may not call `__init__`
        if isinstance(seconds, str):
            with suppress(ValueError):
                seconds = float(seconds)
        if not (isinstance(seconds, int | float) and seconds >= 0):  # true for NaN
            return super().outcome
        return super().outcome._replace(retry_after=timedelta(seconds=min(seconds, limit)))


class Unauthorized(SendingFailed):
    """The receiver rejects the credentials. The message uses up no retry, and the pass sends nothing more."""

    kind = OutcomeKind.UNAUTHORIZED


class Unknown(SendingFailed):
    """The message may have been delivered. It is sent again at most ``gateway.unknown_limit`` times."""

    kind = OutcomeKind.UNKNOWN
