"""Messages and their history as operators see them, and filters that select messages to show or to change."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, TypeAlias, TypeVar, get_type_hints

from retrycli.domain.errors import InvalidArgument
from retrycli.domain.identity import digest_of
from retrycli.domain.message import EscalationReason, MessageType, State
from retrycli.domain.retry_policy import RetryPolicy
from retrycli.domain.sanitize import storable
from retrycli.domain.transition import ActionKind, Withheld

Value = TypeVar("Value", bound=str)
Either: TypeAlias = Value | Collection[Value] | None  # one value, several alternatives, or None for any value

# SQLite evaluates at most 1,000 alternatives, and patterns of at most 50,000 bytes (sqlite.org/limits.html).
MOST_VALUES = 100  # of one condition
MOST_TEXTS = 10  # to look for in the last error; each is looked for in every row
LONGEST_VALUE = 1_000  # characters


class ListedState(StrEnum):
    """The states that a filter selects: those of the queue, and that of the waiting messages under a hold."""

    WAITING = State.WAITING
    SENDING = State.SENDING
    ESCALATED = State.ESCALATED
    HELD = "held"


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
        kind: the type of its values. A `timedelta` counts back from now; the console and the commands take one value.
        help: the help of the option.
        about: the description in the OpenAPI document, if the name does not say enough.
    """

    name: str
    kind: type
    help: str
    about: str | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions, all of which a message must meet. An operator may give those that are a `FilterField`."""

    state: Annotated[Either[State | ListedState], FilterField("state", ListedState, "Only messages in this state.")] = (
        None
    )
    message_type: Annotated[Either[MessageType], FilterField("type", MessageType, "Only messages of this type.")] = None
    ticket: Annotated[Either[str], FilterField("ticket", str, "Only messages of this ticket.")] = None
    # SQLite ignores the case of ASCII letters only.
    error: Annotated[
        Either[str],
        FilterField(
            "error",
            str,
            "Only messages whose last error contains this string.",
            "part of the last error, ignoring case",
        ),
    ] = None
    reason: Annotated[
        Either[EscalationReason],
        FilterField(
            "reason", EscalationReason, "Only messages escalated for this reason.", "why a message was escalated"
        ),
    ] = None
    failed_before: Annotated[
        datetime | None,
        FilterField(
            "older_than", timedelta, "Only messages that first failed at least this long ago, such as 30m, 2h or 7d."
        ),
    ] = None
    fingerprint: Annotated[
        Either[str],
        FilterField(
            "fingerprint",
            str,
            "Only messages escalated for the cause with this fingerprint; see `escalations`.",
            "identifies a cause",
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
            if condition.kind is timedelta:
                continue
            given: Either[str] = getattr(self, name)
            values = [given] if isinstance(given, str) else given or ()
            most = MOST_TEXTS if name == "error" else MOST_VALUES
            if len(values) > most:
                raise InvalidArgument(f"the filter {name} has {len(values):,} values; give at most {most}")
            for text in values:
                if not storable(text):
                    raise InvalidArgument(f"the filter {name} contains an invalid character; remove it")
                if len(text) > LONGEST_VALUE:
                    raise InvalidArgument(f"the filter {name} is longer than {LONGEST_VALUE:,} characters; shorten it")


FILTER_FIELDS: Mapping[str, FilterField] = {
    name: mark
    for name, hint in get_type_hints(Filter, include_extras=True).items()
    for mark in getattr(hint, "__metadata__", ())
}
"""The conditions that an operator gives, by field of `Filter`."""


@dataclass(frozen=True, slots=True)
class ListedMessage:
    """A failed message in a list. Numbers and times that are invalid in its row are None."""

    id: int
    ticket_id: object
    message_type: str
    state: State
    retry_count: int | None
    next_attempt_at: datetime | None
    last_error: str | None
    created_at: datetime | None
    first_failed_at: datetime | None
    reason: str | None
    escalated_at: datetime | None
    claimed_by: str | None
    fingerprint: str | None = None
    acknowledged_by: str | None = None
    acknowledged_at: datetime | None = None
    note: str | None = None
    recipient: str | None = None
    held: bool = False  # the message waits, and a hold covers it
    may_have_arrived: bool = False  # an attempt may have delivered it
    attempt_from: datetime | None = None  # when a pass may attempt it: `next_attempt_at` or, if later, the next probe

    @property
    def in_doubt(self) -> bool:
        """Return whether an operator must check the ticket before the message is sent again."""
        return is_in_doubt(self.reason, may_have_arrived=self.may_have_arrived)

    def expires_at(
        self, policies: Mapping[MessageType, RetryPolicy], *, unknown: datetime | None = None
    ) -> datetime | None:
        """Return when the message expires; None if it never expires, or if its age is unknown.

        Args:
            policies: the retry policies, by message type.
            unknown: the creation time to assume if neither the row nor the queue shows the message's age.
        """
        made_at = self.created_at or self.first_failed_at or unknown
        policy = self._policy(policies)
        return None if policy is None or made_at is None else policy.wanted_until(made_at)

    def max_retries(self, policies: Mapping[MessageType, RetryPolicy]) -> int | None:
        """Return how many retries the message may use; None if its type is unknown."""
        policy = self._policy(policies)
        return None if policy is None else policy.max_retries

    def tries(self, policies: Mapping[MessageType, RetryPolicy]) -> str:
        """Return the number of retries made and allowed, with ``?`` for an invalid count or an unknown message type."""
        allowed = self.max_retries(policies)
        return f"{'?' if self.retry_count is None else self.retry_count}/{'?' if allowed is None else allowed}"

    def _policy(self, policies: Mapping[MessageType, RetryPolicy]) -> RetryPolicy | None:
        return next((policy for kind, policy in policies.items() if kind == self.message_type), None)


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
    # The values that an edit replaced, by column. They are read only if bodies were requested.
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
