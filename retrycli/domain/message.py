"""Messages: rows of the application's table, checked once and then frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from retrycli.domain.errors import InvalidMessage
from retrycli.domain.row_parsing import (
    checked_ticket,
    json_list,
    quoted_value,
    reject_undecodable,
    retry_count,
    utc_time,
    whole_number,
)


class MessageType(StrEnum):
    """The recipients of a message."""

    CUSTOMER = "customer"
    SUPPLIER = "supplier"
    INTERNAL = "internal"


class MessageStatus(StrEnum):
    """The application's status of a message. retrycli picks up ``failed`` and writes ``sent``."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    SENT = "sent"
    FAILED = "failed"


class State(StrEnum):
    """The state of a message in retrycli's queue.

    ::

        failed ──enrol──▶ WAITING ──claim──▶ SENDING ──delivered──▶ (row deleted, status = sent)
                             ▲                  │
                             ├──rescheduled─────┤
                             ├──released────────┤
                             └──lapsed──────────┤
                             │                  └──escalated──▶ ESCALATED ──retry by hand──▶ SENDING
                             ├──requeued────────────────────────────┤
                             └──changed by the application──────────┘

    A row also leaves the queue, from any state, when the application sends, rejects or takes back its message, and from
    any but SENDING when an operator rejects it.
    """

    WAITING = "waiting"
    """Has a time, ``next_attempt_at``, and no claim."""
    SENDING = "sending"
    """A pass or an operator holds a claim on it until ``claim_expires_at``."""
    ESCALATED = "escalated"
    """It needs an operator. No pass sends it unless the application changes its text, count or error."""


class EscalationReason(StrEnum):
    """The reasons for an escalation."""

    EXHAUSTED = "exhausted"
    """It has used up its retries."""
    PERMANENT = "permanent"
    """The ticketing API rejects it for good."""
    UNKNOWN = "unknown"
    """It may have arrived, so sending it again would be a guess."""
    INVALID = "invalid"
    """Its row can't be turned into a request, or rejects changes."""
    EXPIRED = "expired"
    """It is too old to be sent."""
    CHANGED = "changed"
    """Its row is not what was sent, or was already delivered, so sending it again would be a guess."""


REQUIRED_COLUMNS = (
    "id",
    "ticket_id",
    "message_type",
    "subject",
    "body",
    "status",
    "retry_count",
    "last_error",
)
OPTIONAL_COLUMNS = (
    "created_at",
    "updated_at",
    "sent_at",
    "recipient_email",
    "cc_emails",
    "bcc_emails",
    "attachments",
)
BY_PASS = "pass"  # noqa: S105  not a password
"""The name under which passes make attempts; operators use their own."""
LIST_COLUMNS = ("cc_emails", "bcc_emails", "attachments")


@dataclass(frozen=True, slots=True)
class Message:
    """One failed message, with its data checked.

    ``fields`` holds every column of the row for the templates of a preset, list columns as lists, also those that the
    table does not have. Times are aware and in UTC.
    """

    id: int
    ticket_id: int | str
    message_type: MessageType
    retry_count: int
    last_error: str | None
    created_at: datetime | None
    updated_at: datetime | None
    fields: Mapping[str, object]

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> Message:
        """Check a row of the application's table and freeze it.

        Raises:
            InvalidMessage: a value is missing or of the wrong type; the text names the column.
        """
        fields = dict(row)
        for name in LIST_COLUMNS:
            fields[name] = json_list(name, fields.get(name))
        reject_undecodable(fields)
        if not isinstance(fields["body"], str):
            raise InvalidMessage("body is missing" if fields["body"] is None else "body is not text")
        if not isinstance(fields["subject"], str | None):
            raise InvalidMessage("subject is not text")
        return cls(
            id=whole_number("id", fields["id"]),
            ticket_id=checked_ticket(fields["ticket_id"]),
            message_type=_message_type(fields["message_type"]),
            retry_count=retry_count(fields["retry_count"]),
            last_error=None if fields["last_error"] is None else str(fields["last_error"]),
            created_at=utc_time("created_at", fields.get("created_at")),
            updated_at=utc_time("updated_at", fields.get("updated_at")),
            fields=fields,
        )


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """A message with its data in retrycli's queue."""

    message: Message
    delivery_key: str
    first_failed_at: datetime
    unknown_count: int = 0
    attempt_number: int = 1
    delivered_to: frozenset[str] = frozenset()
    """Recipients that have it from earlier attempts."""
    unsettled_since: datetime | None = None
    """The end of the newest attempt that may have delivered it; None if there is no such attempt."""
    birth: str = ""
    """See `retrycli.domain.identity`."""
    digest: str = ""
    deliveries: int = 0
    """Number of recorded deliveries of this text."""
    delivered_at: datetime | None = None
    """The last delivery of this text; None if there is none, or if an operator has requeued the message since."""
    requests: int = 0
    """Number of requests that passes have sent under this key since the last requeue."""
    elsewhere: str | None = None
    """Another ticket under which this text may have arrived."""
    as_read: tuple[object, ...] = ()
    """The columns that identify it, as the database returned them."""

    @property
    def message_id(self) -> int:
        """Return the message's id."""
        return self.message.id

    @property
    def ticket_id(self) -> int | str:
        """Return the message's ticket."""
        return self.message.ticket_id


@dataclass(frozen=True, slots=True)
class UnusableMessage:
    """A row that `Message.from_row` rejects, with the values that are certain."""

    message_id: int
    ticket_id: int | str
    message_type: str
    retry_count: int
    problem: str
    delivery_key: str = ""
    birth: str = ""
    digest: str = ""
    as_read: tuple[object, ...] = ()

    @classmethod
    def from_row(cls, row: Mapping[str, Any], problem: str) -> UnusableMessage:
        """Take the valid values of a rejected row."""
        count = row["retry_count"]
        return cls(
            message_id=row["id"],
            ticket_id=ticket if isinstance(ticket := row["ticket_id"], int | str) else "",
            message_type=str(row["message_type"]),
            retry_count=count if isinstance(count, int) else 0,
            problem=problem,
        )


def _message_type(value: object) -> MessageType:
    try:
        return MessageType(str(value))
    except ValueError:
        known = ", ".join(MessageType)
        raise InvalidMessage(f"message_type is {quoted_value(value)}, not one of {known}") from None
