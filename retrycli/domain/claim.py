"""Claims, and the messages, routes and ranges of ids that they are about."""

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
    """The maker of the attempt whose result the row does not show; None if there is no such attempt."""
    outcome: Outcome | None = None
    """The attempt's outcome, if its answer was recorded before the claim expired."""
    difference: Difference | None = None
    """The change of the row since the attempt began; None if that is unknown."""
    started_at: datetime | None = None
    duration: timedelta | None = None
    """The time until the answer."""


class ChangedMessage(NamedTuple):
    """An escalated message whose row the application has written since."""

    message: QueuedMessage | UnusableMessage
    changed: bool
    """Its text, count or error has changed."""


class Route(NamedTuple):
    """The messages that go to one destination."""

    destination: str
    but: frozenset[MessageType] = frozenset()
    """Types that have another route. All others, unknown ones too, take this one."""
    only: frozenset[MessageType] | None = None
    """The only types that take this route; None if it is not limited."""


class IdRange(NamedTuple):
    """A range of message ids: above ``after``, up to and including ``upto``; None is unbounded."""

    after: int | None
    upto: int | None


class Claim(NamedTuple):
    """An exclusive lease on messages: its owner, and when it expires unless renewed."""

    owner: str
    expires_at: datetime
