"""Filters: the messages that an operator wants to see or to act on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias, TypeVar

from retrycli.domain.message import EscalationReason, MessageType, State

Value = TypeVar("Value", bound=str)
Either: TypeAlias = Value | Collection[Value] | None
"""One value, several alternatives, or None for any."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions that messages must meet, all of them."""

    state: Either[State] = None
    message_type: Either[MessageType] = None
    ticket: Either[str] = None
    error: Either[str] = None
    """A part of ``last_error``, ignoring case; SQLite ignores the case of ASCII letters only."""
    failed_before: datetime | None = None
    due_by: datetime | None = None
    """Waiting, and due by this time."""
    reason: Either[EscalationReason] = None
    fingerprint: Either[str] = None
    new: bool = False
    """Not acknowledged yet."""
    escalated_after: datetime | None = None
    escalated_until: datetime | None = None
    other_than: Collection[str] = ()
    """Fingerprints of causes to leave out."""
