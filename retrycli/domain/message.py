"""Messages: rows of the application's table, checked once and then immutable."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple, Self

from retrycli.domain.errors import InvalidMessage
from retrycli.domain.sanitize import as_utf8, encodable


class MessageId(int):
    """The number that retrycli has given to a message, written as the key that the message has in its table.

    The number identifies the message in retrycli's own tables, where it is smaller and faster than a key. Operators and
    other programs know only the key, so every text shows it.
    """

    key: str

    def __new__(cls, number: int, key: str) -> Self:
        """Return the number with its key."""
        made = super().__new__(cls, number)
        made.key = as_utf8(key)
        return made

    def __str__(self) -> str:
        return self.key

    def __format__(self, how: str) -> str:
        return format(self.key, how)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (int(self), self.key)


def shown_id(message_id: int) -> int | str:
    """Return an id as the application's table has it, for JSON and for templates."""
    return message_id.key if isinstance(message_id, MessageId) else message_id


# The range of ids that both databases can store.
SMALLEST_ID, LARGEST_ID = -(2**63), 2**63 - 1


class MessageType(StrEnum):
    """The kinds of message, by recipient."""

    CUSTOMER = "customer"
    SUPPLIER = "supplier"
    INTERNAL = "internal"


class MessageStatus(StrEnum):
    """The application's status of a message.

    retrycli delivers ``failed`` messages and sets them to ``sent``. If an operator rejects a message, retrycli sets it
    to ``rejected``. If an operator requeues a rejected message, retrycli sets it back to ``failed``.
    """

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
                             └──claim expired───┤
                             │                  └──escalated──▶ ESCALATED ──retry by hand──▶ SENDING
                             ├──requeued────────────────────────────┤
                             └──changed by the application──────────┘

    A message that was escalated before an attempt by hand returns to ESCALATED instead of WAITING.

    When the application sends, rejects or withdraws a message, its row leaves the queue; a row in SENDING leaves it
    after the attempt. When an operator rejects a message or marks it as sent, its row leaves the queue from any state
    except SENDING.
    """

    WAITING = "waiting"  # the message is due at ``next_attempt_at`` and is not claimed
    SENDING = "sending"  # a pass or an operator has a claim on the message until ``claim_expires_at``
    # No pass sends the message until an operator requeues it, or the application changes its text, count or error.
    ESCALATED = "escalated"


class EscalationReason(StrEnum):
    """The reasons why a message needs an operator."""

    EXHAUSTED = "exhausted"  # the message has used up its retries
    PERMANENT = "permanent"  # the message can't be accepted as it is, or it arrived, but not as intended
    UNKNOWN = "unknown"  # the message may have arrived, so sending it again may duplicate it
    INVALID = "invalid"  # the row can't be turned into a request, or rejects changes
    EXPIRED = "expired"  # the message is too old to be sent
    # The row differs from what was sent, or its text was already delivered, so an operator must decide.
    CHANGED = "changed"


REQUIRED_COLUMNS = ("id", "ticket_id", "message_type", "subject", "body", "status", "retry_count", "last_error")
OPTIONAL_COLUMNS = ("created_at", "updated_at", "sent_at", "recipient_email", "cc_emails", "bcc_emails", "attachments")
# The name that the history stores for attempts by passes. For other attempts it stores the operator's name.
BY_PASS = "pass"  # noqa: S105  not a password
LONGEST_NAME = 255  # maximum length of an operator's name in the history
LIST_COLUMNS = ("cc_emails", "bcc_emails", "attachments")
# Columns that some rows have in addition: the key, if it is not an integer; and the separator of the addresses in
# ``recipient_email``, if settings describe the table; empty for one address.
KEY, ADDRESS_SEPARATOR = "retrycli_key", "retrycli_separator"


class Message(NamedTuple):
    """One failed message with validated data.

    ``fields`` holds every column, for the templates of presets. List columns are lists; a list column that the table
    lacks is empty. ``created_at`` and ``updated_at`` are in UTC.
    """

    id: int
    ticket_id: int | str
    message_type: MessageType
    retry_count: int
    last_error: str | None
    created_at: datetime | None
    updated_at: datetime | None
    fields: Mapping[str, object]
    # True if the message must name its recipient, because the settings name the columns of the table.
    needs_recipient: bool = False

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> "Message":
        """Check a row of the application's table, and return it as an immutable message.

        Raises:
            InvalidMessage: a value is missing or of the wrong type; the error names the column.
        """
        fields = dict(row)
        separator = fields.pop(ADDRESS_SEPARATOR, None)
        if separator and fields["recipient_email"] is not None:
            from retrycli.domain.email_address import split_addresses  # only tables with lists of addresses need it

            found = split_addresses(fields["recipient_email"], str(separator))
            fields["recipient_email"], others = (found[0] if found else None), found[1:]
            fields["cc_emails"] = [*others, *_json_list("cc_emails", fields.get("cc_emails"))]
        for name in LIST_COLUMNS:
            fields[name] = _json_list(name, fields.get(name))
        _reject_undecodable(fields)
        if not isinstance(fields["body"], str):
            raise InvalidMessage("body is missing" if fields["body"] is None else "body must be text")
        if not isinstance(fields["subject"], str | None):
            raise InvalidMessage("subject must be text")
        its_id = _whole_number("id", fields["id"])
        fields["id"] = fields.pop(KEY, its_id)
        return cls(
            id=its_id,
            ticket_id=_checked_ticket(fields["ticket_id"]),
            message_type=_message_type(fields["message_type"]),
            retry_count=retry_count(fields["retry_count"]),
            last_error=None if fields["last_error"] is None else str(fields["last_error"]),
            created_at=utc_time("created_at", fields.get("created_at")),
            updated_at=utc_time("updated_at", fields.get("updated_at")),
            fields=fields,
            needs_recipient=separator is not None,
        )


class Place(NamedTuple):
    """Where an attempt is made, and how."""

    destination: str | None = None
    preset: str | None = None  # a hash of the preset's requests; None if no look-up finds them


class EarlierText(NamedTuple):
    """Another text of a message, which may have arrived under the ticket that the message then had."""

    delivery_key: str
    ticket: str | None
    tried_at: datetime  # the end of its newest attempt that may have delivered it
    unsettled: bool  # as `PastAttempt.unsettled`; otherwise only a look-up asks for it
    partly: bool  # some recipients have it


class QueuedMessage(NamedTuple):
    """A message with its data from retrycli's queue."""

    message: Message
    delivery_key: str
    first_failed_at: datetime
    unknown_count: int = 0
    attempt_number: int = 1
    delivered_to: frozenset[str] = frozenset()  # recipients that earlier attempts have reached
    partly: bool = False  # some were reached, and no operator has requeued the message since
    # The end of the newest attempt after which a look-up, if there is one, comes first; None if there is none.
    unsettled_since: datetime | None = None
    refused: bool = False  # all such attempts were refused, but the destination may have stored the message
    unsettled_at: frozenset[Place] = frozenset()  # the places of all such attempts, also at earlier texts
    birth: str = ""  # see `retrycli.domain.identity`
    digest: str = ""
    deliveries: int = 0  # number of recorded deliveries of this text
    # When this text was last delivered; None if it was never delivered, or if the message was requeued since.
    delivered_at: datetime | None = None
    # Number of passes' attempts at this message since its last delivery or requeue; see `History.requests`.
    requests: int = 0
    elsewhere: str | None = None  # another ticket under which this text may have arrived
    with_others: bool = False  # its content may have arrived with other recipients
    earlier: tuple[EarlierText, ...] = ()  # its other texts that may have arrived
    other_unknowns: int = 0  # number of its other texts with an unknown outcome; see `History.other_unknowns`
    # The values of the columns that identify the message, as the database returned them.
    as_read: tuple[object, ...] = ()

    @property
    def in_doubt(self) -> bool:
        """Return whether an earlier attempt may have delivered the message, and did not just get a refusal."""
        return self.unsettled_since is not None and not self.refused

    @property
    def message_id(self) -> int:
        """Return the message's id in the application's table."""
        return self.message.id

    @property
    def ticket_id(self) -> int | str:
        """Return the id of the message's ticket, as the row holds it."""
        return self.message.ticket_id


class UnusableMessage(NamedTuple):
    """A row that `Message.from_row` rejects because of ``problem``."""

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
    def from_row(cls, row: Mapping[str, Any], problem: str) -> "UnusableMessage":
        """Return a rejected row. A ticket of the wrong type becomes empty, and a count of the wrong type becomes 0."""
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
        raise InvalidMessage(f"message_type must be one of {', '.join(MessageType)}: {_quoted_value(value)}") from None


# -- checks of a row's columns --------------------------------------------------------------------------------


def retry_count(value: object) -> int:
    """Return the number of retries made so far; null counts as 0.

    Raises:
        InvalidMessage: the value is not a whole number, or is negative.
    """
    if isinstance(value, float) and value.is_integer():  # a column of a floating-point type
        value = int(value)
    count = 0 if value is None else _whole_number("retry_count", value)
    if count < 0:
        raise InvalidMessage(f"retry_count must not be negative: {count}")
    return count


def type_text(message_type: str) -> str:
    """Return a message type for logs and notifications. An unknown one may be a customer's words."""
    return message_type if message_type in set(MessageType) else "invalid"


def ticket_text(ticket_id: object) -> str:
    """Return a ticket id as retrycli's own tables store it. The id may be invalid."""
    text = str(ticket_id if isinstance(ticket_id, int | str) else "")
    return text.encode(errors="backslashreplace").decode()[:TICKET_LENGTH]


# Maximum length of ``ticket_id`` in characters. Tickets are indexed, and PostgreSQL limits the size of an index entry.
TICKET_LENGTH = 255

LEAP_SECOND = re.compile(r"(?<=\d:\d\d):60(?!\d)")


def utc_time(column: str, value: object) -> datetime | None:
    """Return a column's time as an aware time in UTC; a naive time counts as UTC, and null gives None.

    Raises:
        InvalidMessage: the value is not a time.
    """
    if value is None:
        return None
    if not isinstance(value, str | date):
        raise InvalidMessage(f"{column} is not a valid date: {_quoted_value(value)}")
    try:
        if isinstance(value, datetime):
            time = value
        else:
            text, leaps = str(value), 0
            if ":60" in text:  # a leap second, which Python rejects, becomes the next second, as in PostgreSQL
                text, leaps = LEAP_SECOND.subn(":59", text)
            time = datetime.fromisoformat(text) + timedelta(seconds=leaps)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidMessage(f"{column} is not a valid date: {_quoted_value(value)}") from error


def _whole_number(column: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise InvalidMessage(f"{column} must be an integer: {_quoted_value(value)}")


def _checked_ticket(value: object) -> int | str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise InvalidMessage("ticket_id is missing")
    if isinstance(value, str) and len(value) > TICKET_LENGTH:
        raise InvalidMessage(f"ticket_id must have at most {TICKET_LENGTH} characters; it has {len(value):,}")
    if isinstance(value, int | str) and not isinstance(value, bool):
        return value
    raise InvalidMessage("ticket_id must be an integer or text")


def _json_list(column: str, value: object) -> list[object]:
    if value in (None, "", "[]"):
        return []
    if isinstance(value, str):
        try:
            value = json.loads(value, parse_constant=_reject_constant)
        except (ValueError, RecursionError):
            raise InvalidMessage(f"{column} is not valid JSON") from None
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidMessage(f"{column} must be a JSON list")
    return value


def _reject_constant(name: str) -> None:
    """Reject NaN and Infinity, which Python reads but JSON does not allow (RFC 8259, section 6)."""
    raise ValueError(name)


def _reject_undecodable(fields: Mapping[str, object]) -> None:
    """Reject text that can't be encoded as UTF-8, because such text can be neither sent nor shown."""
    for column, value in fields.items():
        if isinstance(value, str):
            text = value
        elif isinstance(value, list) and value:
            text = _as_text(column, value)
        else:
            continue
        if not text.isascii() and not encodable(text):
            raise InvalidMessage(f"{'id' if column == KEY else column} is not valid UTF-8")


def _as_text(column: str, value: list[object]) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:
        raise InvalidMessage(f"{column} is nested too deeply") from None


def _quoted_value(value: object) -> str:
    """Return a value for an error, which reaches the log. A text of several words may be a customer's."""
    if isinstance(value, str | bytes):
        words = value if isinstance(value, str) else value.decode("latin-1")
        if not ONE_WORD.fullmatch(words):
            return f"{len(words):,} {'characters' if isinstance(value, str) else 'bytes'}"
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTATION else text[: LONGEST_QUOTATION - 3] + "…" + text[-1]


ONE_WORD = re.compile(r"\S*(?: [\d:.+-]+)?(?: BC)?")  # or a date with a time
LONGEST_QUOTATION = 40  # characters
