"""Which messages an operator wants to see, or to act on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias, TypeVar

from retrycli.domain.message import EscalationReason, MessageType, State

Value = TypeVar("Value", bound=str)
Either: TypeAlias = Value | Collection[Value] | None
"""One value, or several of which either will do; none at all is any."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which messages to show. They meet every condition that is set."""

    state: Either[State] = None
    message_type: Either[MessageType] = None
    ticket: Either[str] = None
    error: Either[str] = None
    """A piece of ``last_error``, in any case; SQLite knows the two cases of ASCII letters alone."""
    failed_before: datetime | None = None
    due_by: datetime | None = None
    """Waiting, and due by then."""
    reason: Either[EscalationReason] = None
    fingerprint: Either[str] = None
    new: bool = False
    """Acknowledged by nobody yet."""
    escalated_after: datetime | None = None
    escalated_until: datetime | None = None
    other_than: Collection[str] = ()
    """Escalated by none of these causes."""
