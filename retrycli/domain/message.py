"""What a message is: a row of the application's table, checked once and then frozen."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from retrycli.domain.errors import InvalidMessage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from retrycli.domain.identity import Difference
    from retrycli.domain.outcome import Outcome


class MessageType(StrEnum):
    """Whom a message is for."""

    CUSTOMER = "customer"
    SUPPLIER = "supplier"
    INTERNAL = "internal"


class MessageStatus(StrEnum):
    """The application's own word for where a message is; retrycli picks up ``failed`` and writes ``sent``."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    SENT = "sent"
    FAILED = "failed"


class State(StrEnum):
    """Where a message is in retrycli's queue.

    ::

        failed ──enrol──▶ WAITING ──claim──▶ SENDING ──delivered──▶ (row deleted, status = sent)
                             ▲                  │
                             ├──rescheduled─────┤
                             ├──released────────┤
                             └──lapsed──────────┤
                             │                  └──escalated──▶ ESCALATED ──retry by hand──▶ SENDING
                             ├──requeued────────────────────────────┤
                             └──changed by the application──────────┘

    A row also leaves the queue, from any state, when the application sends, rejects or takes back its
    message, and from any but SENDING when an operator rejects it.
    """

    WAITING = "waiting"
    """Has a time, ``next_attempt_at``, and nobody is working on it."""
    SENDING = "sending"
    """A pass or an operator holds a claim on it until ``claim_expires_at``."""
    ESCALATED = "escalated"
    """An operator has it. No pass sends it, unless the application changes its text, count or error."""


class EscalationReason(StrEnum):
    """Why a message was escalated."""

    EXHAUSTED = "exhausted"
    """It has used up its retries."""
    PERMANENT = "permanent"
    """The ticketing API says that it will never take it."""
    UNKNOWN = "unknown"
    """It may have arrived, and sending it again would be a guess."""
    INVALID = "invalid"
    """Its row can't be turned into a request, or takes no change."""
    EXPIRED = "expired"
    """It is too old to be sent."""
    CHANGED = "changed"
    """Its row is not what was sent, or was delivered already: to send it again would be a guess."""


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
"""Who makes a pass's attempts; an operator's have the operator's name."""
LIST_COLUMNS = ("cc_emails", "bcc_emails", "attachments")


@dataclass(frozen=True, slots=True)
class Message:
    """One failed message, with its data checked.

    ``fields`` holds every column of the row for the templates of a preset, list columns as lists, also those that
    the table has not. Times are aware and in UTC.
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
            InvalidMessage: a value is missing or of the wrong kind; the text names the column.
        """
        fields = dict(row)
        for name in LIST_COLUMNS:
            fields[name] = _json_list(name, fields.get(name))
        _reject_undecodable(fields)
        if not isinstance(fields["body"], str):
            raise InvalidMessage("body is missing" if fields["body"] is None else "body is not text")
        if not isinstance(fields["subject"], str | None):
            raise InvalidMessage("subject is not text")
        return cls(
            id=_whole_number("id", fields["id"]),
            ticket_id=_ticket_id(fields["ticket_id"]),
            message_type=_message_type(fields["message_type"]),
            retry_count=retry_count(fields["retry_count"]),
            last_error=None if fields["last_error"] is None else str(fields["last_error"]),
            created_at=utc_time("created_at", fields.get("created_at")),
            updated_at=utc_time("updated_at", fields.get("updated_at")),
            fields=fields,
        )


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """A message together with what retrycli's queue knows about it."""

    message: Message
    delivery_key: str
    first_failed_at: datetime
    unknown_count: int = 0
    attempt_number: int = 1
    delivered_to: frozenset[str] = frozenset()
    """Addresses that have it from earlier attempts."""
    unsettled_since: datetime | None = None
    """When the newest attempt ended that may have delivered it; None if there is none."""
    birth: str = ""
    """See `retrycli.domain.identity`."""
    digest: str = ""
    deliveries: int = 0
    """How many deliveries of this text are recorded."""
    delivered_at: datetime | None = None
    """When this text was last delivered; None if it was not, or if an operator has requeued the message since."""
    requests: int = 0
    """How many requests passes have sent under this key since the last requeue."""
    elsewhere: str | None = None
    """Another ticket under which this text may have arrived."""
    as_read: tuple[object, ...] = ()
    """The columns that identify it, as the database gave them."""

    @property
    def message_id(self) -> int:
        """The message's own id."""
        return self.message.id

    @property
    def ticket_id(self) -> int | str:
        """The ticket that it belongs to."""
        return self.message.ticket_id


@dataclass(frozen=True, slots=True)
class UnusableMessage:
    """A row that `Message.from_row` would not take, with what little of it is sure."""

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
        """Name a bad row."""
        count = row["retry_count"]
        return cls(
            message_id=row["id"],
            ticket_id=ticket if isinstance(ticket := row["ticket_id"], int | str) else "",
            message_type=str(row["message_type"]),
            retry_count=count if isinstance(count, int) else 0,
            problem=problem,
        )


class ExpiredClaim(NamedTuple):
    """A message whose claim has expired."""

    message: QueuedMessage | UnusableMessage
    attempt_by: str | None
    """Who made the attempt whose result the row does not show; None if there is no such attempt."""
    outcome: Outcome | None = None
    """The attempt's outcome, if its answer was recorded before the claim expired."""
    difference: Difference | None = None
    """What became of the row since the attempt began; None if nothing is known of that."""
    started_at: datetime | None = None
    duration: timedelta | None = None
    """How long the answer took."""


class ChangedMessage(NamedTuple):
    """An escalated message whose row the application has written since."""

    message: QueuedMessage | UnusableMessage
    changed: bool
    """Its text, count or error is another."""


class Route(NamedTuple):
    """The messages that go one way: to one destination."""

    destination: str
    but: frozenset[MessageType] = frozenset()
    """Types that go another way; all other messages go this one, also those of no known type."""
    only: frozenset[MessageType] | None = None
    """The only types that go this way; None where there is no such limit."""


class Span(NamedTuple):
    """A range of message ids: above ``after``, up to and including ``upto``; None is no bound."""

    after: int | None
    upto: int | None


class Claim(NamedTuple):
    """The exclusive right to some messages: who has it, and until when it outlives a crash."""

    owner: str
    expires_at: datetime


def retry_count(value: object) -> int:
    """The number of tries made so far; null counts as 0.

    Raises:
        InvalidMessage: it is no whole number, or below zero.
    """
    count = 0 if value is None else _whole_number("retry_count", value)
    if count < 0:
        raise InvalidMessage(f"retry_count is {count}, and can't be below 0")
    return count


def ticket_text(ticket_id: object) -> str:
    """Return a ticket as retrycli's own tables keep it, even one that makes its message unusable."""
    text = str(ticket_id if isinstance(ticket_id, int | str) else "")
    return text.encode(errors="backslashreplace").decode()[:TICKET_LENGTH]


TICKET_LENGTH = 255
"""The longest ``ticket_id`` in characters: PostgreSQL's index of the tickets takes no text of any length."""

LEAP_SECOND = re.compile(r"(?<=\d:\d\d):60(?!\d)")


def utc_time(column: str, value: object) -> datetime | None:
    """A column's time, aware and in UTC; naive times are UTC, and null is None.

    Raises:
        InvalidMessage: the value is no time.
    """
    if value is None:
        return None
    if not isinstance(value, str | date):
        raise InvalidMessage(f"{column} is no date: {_quoted(value)}")
    try:
        if isinstance(value, datetime):
            time = value
        else:  # a leap second, which Python does not know, is the one after it, as PostgreSQL has it
            text, leaps = str(value), 0
            if ":60" in text:
                text, leaps = LEAP_SECOND.subn(":59", text)
            time = datetime.fromisoformat(text)
            if leaps:
                time += timedelta(seconds=leaps)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidMessage(f"{column} is no date: {_quoted(value)}") from error


def _whole_number(column: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise InvalidMessage(f"{column} is no whole number: {_quoted(value)}")


def _ticket_id(value: object) -> int | str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise InvalidMessage("ticket_id is missing")
    if isinstance(value, str) and len(value) > TICKET_LENGTH:
        raise InvalidMessage(f"ticket_id has {len(value):,} characters, and can't have more than {TICKET_LENGTH}")
    if isinstance(value, int | str) and not isinstance(value, bool):
        return value
    raise InvalidMessage("ticket_id is no number or text")


def _message_type(value: object) -> MessageType:
    try:
        return MessageType(str(value))
    except ValueError:
        known = ", ".join(MessageType)
        raise InvalidMessage(f"message_type is {_quoted(value)}, not one of {known}") from None


def _json_list(column: str, value: object) -> list[object]:
    if value in (None, "", "[]"):
        return []
    if isinstance(value, str):
        try:
            value = json.loads(value, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise InvalidMessage(f"{column} is no JSON") from None
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidMessage(f"{column} is no JSON list")
    return value


def _no_constant(name: str) -> None:
    """NaN and Infinity, which Python reads, are no JSON (RFC 8259, section 6)."""
    raise ValueError(name)


def _reject_undecodable(fields: Mapping[str, object]) -> None:
    """Find text that came from a database as something else than UTF-8; it could be neither sent nor shown."""
    for column, value in fields.items():
        if isinstance(value, str):
            text = value
        elif isinstance(value, list) and value:
            text = _as_text(column, value)
        else:
            continue
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise InvalidMessage(f"{column} is not valid UTF-8") from None


def _as_text(column: str, value: list[object]) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:
        raise InvalidMessage(f"{column} is nested too deeply") from None


def _quoted(value: object) -> str:
    """A value in an error, short enough for one line."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…" + text[-1]  # noqa: PLR2004  a line's worth
