"""Messages and their history as operators see them, and filters that select messages to show or to change."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum, Flag, StrEnum, auto
from typing import Annotated, Any, TypeAlias, TypeVar, get_type_hints

from retrycli.domain.errors import InvalidArgument, InvalidMessage
from retrycli.domain.identity import digest_of
from retrycli.domain.message import EscalationReason, MessageType, State, utc_time
from retrycli.domain.retry_policy import RetryPolicy
from retrycli.domain.sanitize import shortened, storable
from retrycli.domain.transition import ActionKind, Withheld

Value = TypeVar("Value", bound=str)
Either: TypeAlias = Value | Collection[Value] | None  # one value, several alternatives, or None for any value

# SQLite evaluates at most 1,000 alternatives (sqlite.org/limits.html).
MOST_VALUES = 100  # of one condition
MOST_TEXTS = 10  # to look for in the last error; each is looked for in every row
LONGEST_VALUE = 1_000  # characters
LISTED_TEXT = 200  # characters of a subject, or of the recipients, in a list
LISTED_ERROR = 2_000  # characters of an error in a list; an application may store whole pages as an error


class ListedState(StrEnum):
    """The states that a filter selects: those of the queue, that of the waiting messages under a hold, and that of the
    messages whose tickets an operator must check before they are sent again.
    """

    WAITING = State.WAITING
    SENDING = State.SENDING
    ESCALATED = State.ESCALATED
    HELD = "held"
    MAY_HAVE_ARRIVED = "may_have_arrived"


# Reasons of escalations that concern a message's text.
OF_TEXT = frozenset({EscalationReason.CHANGED, EscalationReason.INVALID, EscalationReason.PERMANENT})


def is_in_doubt(reason: object, *, may_have_arrived: bool) -> bool:
    """Return whether an operator must check the ticket before the message is sent again. ``reason`` is the reason of
    its escalation, or None. A changed row says itself what arrived.
    """
    return reason == EscalationReason.UNKNOWN or (may_have_arrived and reason != EscalationReason.CHANGED)


@dataclass(frozen=True, slots=True)
class FilterField:
    """A condition that an operator gives as an option, in a query or in a form.

    Attributes:
        name: the option is ``--NAME``.
        kind: the type of its values. For a `datetime` the console and the commands also take a duration ago or a time
            of day. The HTTP API, whose requests may be repeated, does not.
        help: the help of the option.
        label: the label of its field in the console; without one, only links have it.
        about: the description in the OpenAPI document, if the name does not say enough.
        most: the maximum number of values.
    """

    name: str
    kind: type
    help: str
    label: str = ""
    about: str | None = None
    most: int = MOST_VALUES

    @property
    def is_time(self) -> bool:
        """Return whether the value is a time."""
        return self.kind is datetime

    @property
    def choices(self) -> Sequence[str]:
        """Return the possible values; an empty sequence if there are too many to list."""
        return [*self.kind] if issubclass(self.kind, StrEnum) else []


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions, all of which a message must meet. An operator may give those that are a `FilterField`."""

    state: Annotated[
        Either[State | ListedState], FilterField("state", ListedState, "Only messages in this state.", "State")
    ] = None
    message_type: Annotated[
        Either[MessageType], FilterField("type", MessageType, "Only messages of this type.", "Type")
    ] = None
    ticket: Annotated[Either[str], FilterField("ticket", str, "Only messages of this ticket.", "Ticket")] = None
    # SQLite ignores the case of ASCII letters only.
    error: Annotated[
        Either[str],
        FilterField(
            "error",
            str,
            f"Only messages whose last error contains this string in its first {LISTED_ERROR:,} characters.",
            "Error contains",
            about=f"part of the first {LISTED_ERROR:,} characters of the last error, ignoring case",
            most=MOST_TEXTS,
        ),
    ] = None
    reason: Annotated[
        Either[EscalationReason],
        FilterField(
            "reason",
            EscalationReason,
            "Only messages escalated for this reason.",
            "Reason",
            about="why a message was escalated",
        ),
    ] = None
    recipient: Annotated[
        Either[str],
        FilterField(
            "recipient",
            str,
            "Only messages whose recipient contains this string.",
            "Recipient",
            about="part of the recipient, ignoring case",
            most=MOST_TEXTS,
        ),
    ] = None
    subject: Annotated[
        Either[str],
        FilterField(
            "subject",
            str,
            "Only messages whose subject contains this string.",
            "Subject contains",
            about="part of the subject, ignoring case",
            most=MOST_TEXTS,
        ),
    ] = None
    failed_after: Annotated[
        datetime | None,
        FilterField(
            "failed_after",
            datetime,
            "Only messages that first failed at this time or later: 2h (ago), 02:00, or 2026-01-02 08:00.",
            "Failed after",
            about="the first failure was at this time or later",
        ),
    ] = None
    failed_before: Annotated[
        datetime | None,
        FilterField(
            "failed_before",
            datetime,
            "Only messages that first failed before this time.",
            "Failed before",
            about="the first failure was before this time",
        ),
    ] = None
    fingerprint: Annotated[
        Either[str],
        FilterField(
            "fingerprint",
            str,
            "Only messages escalated for the cause with this fingerprint; see `escalations`.",
            about="identifies a cause",
        ),
    ] = None
    due_by: datetime | None = None  # the message is waiting, and due by this time
    new: bool = False  # the message is not acknowledged yet
    escalated_after: datetime | None = None
    escalated_until: datetime | None = None
    other_than: Collection[str] = ()  # fingerprints of causes to exclude
    held_by: Withheld | None = None  # what the active holds cover; operations set it for `ListedState.HELD`

    @property
    def states(self) -> Collection[State | ListedState]:
        """Return the states, one of which a message must have; none if it may have any state."""
        return [self.state] if isinstance(self.state, str) else self.state or ()

    def check(self) -> None:
        """Check that the databases can compare the values of the filter with their own.

        Raises:
            InvalidArgument: a condition has too many values, or a text is too long, contains NUL or is not valid UTF-8.
        """
        for name, condition in FILTER_FIELDS.items():
            if condition.is_time:
                continue
            given: Either[str] = getattr(self, name)
            values = [given] if isinstance(given, str) else given or ()
            if len(values) > condition.most:
                raise InvalidArgument(f"the filter {name} has {len(values):,} values; give at most {condition.most}")
            for text in values:
                if not storable(text):
                    raise InvalidArgument(f"the filter {name} contains an invalid character; remove it")
                if len(text) > LONGEST_VALUE:
                    raise InvalidArgument(f"the filter {name} is longer than {LONGEST_VALUE:,} characters; shorten it")


Mark = TypeVar("Mark")


def _marks(declared: type, kind: type[Mark]) -> Mapping[str, Mark]:
    """Return the marks of a kind in the annotations of a class, by field."""
    hints = get_type_hints(declared, include_extras=True)
    return {
        name: mark
        for name, hint in hints.items()
        for mark in getattr(hint, "__metadata__", ())
        if isinstance(mark, kind)
    }


FILTER_FIELDS: Mapping[str, FilterField] = _marks(Filter, FilterField)
"""The conditions that an operator gives, by field of `Filter`."""
TIMES = tuple(name for name, each in FILTER_FIELDS.items() if each.is_time)
"""The fields of `Filter` that are times."""


class View(Flag):
    """The lists that show a value of a message."""

    NONE = 0
    LIST = auto()  # `list-failed --json` and its endpoint
    ESCALATIONS = auto()  # `escalations --json` and its endpoint
    TABLE = auto()  # the table of `list-failed`, and the console's list

    JSON = LIST | ESCALATIONS


class Origin(Enum):
    """Where a value of a list comes from."""

    ROW = "row"  # a column of the application's table
    QUEUE = "queue"  # a column of retrycli's queue
    EXPRESSION = "expression"  # one of the store, over both
    CALCULATED = "calculated"  # by retrycli, after it has read the others


def time_of(value: object) -> datetime | None:
    """Return a time of a row; None if it is invalid."""
    try:
        return utc_time("created_at", value)
    except InvalidMessage:
        return None


def number_of(value: object) -> int | None:
    """Return a count of a row, which is 0 if the row has none; None if it is invalid."""
    return 0 if value is None else value if isinstance(value, int) else None


@dataclass(frozen=True, slots=True)
class ListedColumn:
    """A value of a message in lists: where it is read, and which lists show it.

    A new column of the table is its last one, because programs read the columns by their positions.

    Attributes:
        views: the lists that show it.
        origin: where it comes from.
        name: its column, if it is not the field's name.
        is_optional: the application's table may lack the column.
        read: converts the database's value.
        longest: the number of characters that lists show of a text; None for all of them.
        heading: the heading in the table.
        about: the description in the OpenAPI document, if the name does not say enough.
    """

    views: View
    origin: Origin
    name: str | None = None
    is_optional: bool = False
    read: Callable[[Any], Any] = lambda value: value
    longest: int | None = None
    heading: str = ""
    about: str | None = None

    def value(self, found: Any) -> Any:  # noqa: ANN401  as the column's type
        """Return what lists show of the database's value."""
        if self.longest is None or found is None:
            return self.read(found)
        return shortened(str(found), self.longest)

    @property
    def description(self) -> str | None:
        """Return the description in the OpenAPI document."""
        return self.about or (None if self.longest is None else f"its first {self.longest:,} characters")


@dataclass(frozen=True, slots=True)
class ListedMessage:
    """A failed message in a list. Numbers and times that are invalid in its row are None."""

    id: Annotated[int, ListedColumn(View.JSON | View.TABLE, Origin.ROW, heading="ID")]
    ticket_id: Annotated[Any, ListedColumn(View.JSON | View.TABLE, Origin.ROW, heading="Ticket")]
    message_type: Annotated[str, ListedColumn(View.JSON | View.TABLE, Origin.ROW, read=str, heading="Type")]
    state: Annotated[
        State,
        ListedColumn(
            View.LIST | View.TABLE, Origin.QUEUE, read=lambda state: State(state or State.WAITING), heading="State"
        ),
    ]
    reason: Annotated[str | None, ListedColumn(View.ESCALATIONS, Origin.QUEUE, "escalation_reason")]
    retry_count: Annotated[
        int | None, ListedColumn(View.JSON | View.TABLE, Origin.ROW, read=number_of, heading="Tries")
    ]
    next_attempt_at: Annotated[datetime | None, ListedColumn(View.LIST, Origin.QUEUE)]
    # When a pass may attempt it: `next_attempt_at` or, if later, the next probe.
    attempt_from: Annotated[
        datetime | None, ListedColumn(View.TABLE, Origin.QUEUE, "next_attempt_at", heading="Next attempt")
    ] = None
    last_error: Annotated[
        str | None, ListedColumn(View.JSON | View.TABLE, Origin.ROW, longest=LISTED_ERROR, heading="Last error")
    ] = None
    may_have_arrived: Annotated[
        bool, ListedColumn(View.LIST, Origin.EXPRESSION, read=bool, about="an attempt may have delivered it")
    ] = False
    max_retries: Annotated[int | None, ListedColumn(View.LIST, Origin.CALCULATED)] = None  # None if its type is unknown
    # None if it never expires, or if its age is unknown
    expires_at: Annotated[
        datetime | None, ListedColumn(View.LIST | View.TABLE, Origin.CALCULATED, heading="Expires")
    ] = None
    held: Annotated[
        bool, ListedColumn(View.LIST, Origin.CALCULATED, about="the message waits, and a hold covers it")
    ] = False
    escalated_at: Annotated[datetime | None, ListedColumn(View.ESCALATIONS, Origin.QUEUE)] = None
    fingerprint: Annotated[str | None, ListedColumn(View.ESCALATIONS, Origin.QUEUE)] = None
    acknowledged_by: Annotated[str | None, ListedColumn(View.ESCALATIONS, Origin.QUEUE)] = None
    acknowledged_at: Annotated[datetime | None, ListedColumn(View.ESCALATIONS, Origin.QUEUE)] = None
    note: Annotated[str | None, ListedColumn(View.ESCALATIONS, Origin.QUEUE)] = None
    claimed_by: Annotated[str | None, ListedColumn(View.NONE, Origin.QUEUE)] = None
    first_failed_at: Annotated[datetime | None, ListedColumn(View.NONE, Origin.QUEUE)] = None
    created_at: Annotated[
        datetime | None, ListedColumn(View.LIST | View.TABLE, Origin.ROW, is_optional=True, read=time_of, heading="Age")
    ] = None
    recipient: Annotated[
        str | None,
        ListedColumn(
            View.JSON | View.TABLE, Origin.ROW, "recipient_email", is_optional=True, longest=LISTED_TEXT, heading="To"
        ),
    ] = None
    subject: Annotated[
        str | None, ListedColumn(View.JSON | View.TABLE, Origin.ROW, longest=LISTED_TEXT, heading="Subject")
    ] = None

    @property
    def in_doubt(self) -> bool:
        """Return whether an operator must check the ticket before the message is sent again."""
        return is_in_doubt(self.reason, may_have_arrived=self.may_have_arrived)

    @property
    def tries(self) -> str:
        """Return the number of retries made and allowed, with ``?`` for an invalid count or an unknown message type."""
        made, allowed = ("?" if number is None else number for number in (self.retry_count, self.max_retries))
        return f"{made}/{allowed}"

    def under(self, policies: Mapping[MessageType, RetryPolicy], *, unknown: datetime | None = None) -> "ListedMessage":
        """Return the message with its limits under the retry policy of its type.

        Args:
            policies: the retry policies, by message type.
            unknown: the creation time to assume if neither the row nor the queue shows the message's age.
        """
        policy = next((policy for kind, policy in policies.items() if kind == self.message_type), None)
        if policy is None:
            return self
        made_at = self.created_at or self.first_failed_at or unknown
        end = None if made_at is None else policy.wanted_until(made_at)
        return replace(self, max_retries=policy.max_retries, expires_at=end)


COLUMNS: Mapping[str, ListedColumn] = _marks(ListedMessage, ListedColumn)
"""The values of a listed message, by field."""


def columns_of(view: View) -> list[str]:
    """Return the fields of a listed message that a list shows, in their order."""
    return [name for name, column in COLUMNS.items() if view in column.views]


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """The record of one attempt; ``outcome`` is None until the outcome is recorded."""

    number: int
    made_by: str
    pass_id: str | None
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    status_code: int | None
    error: str | None
    retry_after_s: int | None
    duration_ms: int | None
    external_id: str | None


@dataclass(frozen=True, slots=True)
class ActionRecord:
    """The record of an operator's action on a message."""

    at: datetime
    by: str
    act: str
    detail: str | None
    # The values that an edit replaced, by column. None if they were erased or not requested.
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None  # values that the edit wrote; read like `before`


@dataclass(frozen=True, slots=True)
class MessageDetails:
    """One message with its history."""

    row: Mapping[str, Any]
    queue: Mapping[str, Any] | None
    attempts: list[AttemptRecord]
    acts: list[ActionRecord]
    ended: frozenset[str] = frozenset()  # ids of ended passes; their attempts without an outcome are no longer running
    is_unsettled: bool = False  # an attempt with the queue's delivery key may have delivered its message
    attempt_from: datetime | None = None  # see `ListedMessage`

    @property
    def may_have_arrived(self) -> bool:
        """Return whether the outcomes of earlier attempts leave open if the text in the row has arrived."""
        if self.queue is None or not self.is_unsettled:
            return False
        # Without its body, a row can't show whether its text has changed since the attempts.
        return self.row["body"] == "" or self.queue["digest"] in {None, digest_of(self.row)}

    @property
    def is_repaired(self) -> bool:
        """Return whether an operator has edited the message since it was escalated for its text, so that the reason of
        the escalation no longer describes it.
        """
        if self.queue is None or self.queue["state"] != State.ESCALATED:
            return False
        edits = (act.at for act in self.acts if act.act == ActionKind.EDITED)
        return self.queue["escalation_reason"] in OF_TEXT and any(at >= self.queue["escalated_at"] for at in edits)


@dataclass(frozen=True, slots=True)
class EscalationGroup:
    """Escalated messages with the same cause."""

    fingerprint: str | None  # None if the messages were escalated by a version without fingerprints
    cause: str | None  # error of one of the messages, without its numbers and ids
    count: int
    new: int  # number of messages that are not acknowledged
    oldest: datetime
    newest: datetime
    types: dict[str, int]
    example: ListedMessage  # message with the lowest id
