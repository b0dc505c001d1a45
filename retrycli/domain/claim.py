"""What a pass claims, and what it finds when it does: claims, routes and ranges of ids."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from retrycli.domain.identity import Difference
    from retrycli.domain.message import MessageType, QueuedMessage, UnusableMessage
    from retrycli.domain.outcome import Outcome


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


class IdRange(NamedTuple):
    """A range of message ids: above ``after``, up to and including ``upto``; None is no bound."""

    after: int | None
    upto: int | None


class Claim(NamedTuple):
    """The exclusive right to some messages: who has it, and until when it outlives a crash."""

    owner: str
    expires_at: datetime
