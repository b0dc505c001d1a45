"""Messages and their history as an operator reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from retrycli.domain.message import MessageType, State

if TYPE_CHECKING:
    from retrycli.domain.retry_policy import RetryPolicy


@dataclass(frozen=True, slots=True)
class ListedMessage:
    """A failed message in a list. What a bad row holds in place of a number or a time is None."""

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

    def expires_at(
        self, policies: Mapping[MessageType, RetryPolicy], *, unknown: datetime | None = None
    ) -> datetime | None:
        """Return when it expires; None if it never does, or if neither its row nor the queue says how old it is.

        Args:
            policies: the rules by message type.
            unknown: when it was made, if nothing says.
        """
        made_at = self.created_at or self.first_failed_at or unknown
        policy = next((rules for kind, rules in policies.items() if kind == self.message_type), None)
        return None if policy is None or made_at is None else policy.wanted_until(made_at)


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt as it is written down; ``outcome`` is None while it runs."""

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
class ActRecord:
    """What a person did about a message, as it is written down."""

    at: datetime
    by: str
    act: str
    detail: str | None
    before: Mapping[str, Any] | None = None
    """What an edit replaced, by column, if bodies are read."""
    after: Mapping[str, Any] | None = None
    """What it wrote."""


@dataclass(frozen=True, slots=True)
class MessageDetails:
    """Everything about one message."""

    row: Mapping[str, Any]
    queue: Mapping[str, Any] | None
    attempts: list[AttemptRecord]
    acts: list[ActRecord]
    ended: frozenset[str] = frozenset()
    """Passes that have ended although these attempts of theirs have no outcome."""


@dataclass(frozen=True, slots=True)
class EscalationGroup:
    """Escalated messages of one cause."""

    fingerprint: str | None
    """None where they were escalated before there were fingerprints."""
    cause: str | None
    """The error of one of them, with its numbers and ids taken out."""
    count: int
    new: int
    """How many of them nobody has acknowledged."""
    oldest: datetime
    newest: datetime
    types: dict[str, int]
    """How many there are of each message type."""
    example: ListedMessage
    """The one with the lowest id."""
