"""Holds: an operator keeps a part of the queue from passes."""

import shlex
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from retrycli.domain.identity import birth_of, is_of_one_message
from retrycli.domain.message import MessageType
from retrycli.domain.passes import end_in_words
from retrycli.domain.transition import Withheld


class HoldKind(StrEnum):
    """What a hold covers. Each kind has an option of `pause` and `resume` with its name."""

    MESSAGE = "message"
    TICKET = "ticket"
    TYPE = "type"
    DESTINATION = "destination"


@dataclass(frozen=True, slots=True)
class HoldTarget:
    """A part of the queue: the message with an id, or the messages of a ticket, of a type, or to a destination.

    ``text`` is the id, the ticket, the message type, or the base URL of the destination.
    """

    kind: HoldKind
    text: str

    def __str__(self) -> str:
        return f"{self.kind} {self.text}"

    @property
    def option(self) -> str:
        """Return the option of `pause` and `resume` that names this part, quoted for a shell."""
        return f"--{self.kind} {shlex.quote(self.text)}"


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold. No pass claims the messages that it covers. If ``until`` is None, it lasts until an operator ends it."""

    kind: HoldKind
    target: str  # the text of its `HoldTarget`
    since: datetime
    until: datetime | None
    by: str
    reason: str | None
    birth: str | None = None  # birth of a held message, because its id may later belong to another message

    @property
    def part(self) -> HoldTarget:
        """Return what the hold covers."""
        return HoldTarget(self.kind, self.target)

    @property
    def end(self) -> str:
        """Describe the hold's end and reason, for the history."""
        return end_in_words(self.until, self.reason)

    @property
    def in_words(self) -> str:
        """Describe what is held, who holds it, until when, and why."""
        return f"the hold of {self.part} by {self.by} {self.end}"

    def is_of(self, birth: str | None) -> bool:
        """Return whether the queued message with the hold's id may be the held message.

        Args:
            birth: the queued message's birth, as the database writes it; None if it is unknown.
        """
        return birth is None or self.birth is None or is_of_one_message(birth_of(self.birth), birth_of(birth))


def withheld(
    holds: Iterable[Hold], destination_of: Callable[[MessageType], str | None], closed: Collection[MessageType] = ()
) -> Withheld:
    """Return the messages that no pass may claim, because of active holds or because the delivery window of their type
    is closed.
    """
    texts: dict[HoldKind, set[str]] = {kind: set() for kind in HoldKind}
    for hold in holds:
        texts[hold.kind].add(hold.target)
    types = (
        kind
        for kind in MessageType
        if kind in closed or kind in texts[HoldKind.TYPE] or destination_of(kind) in texts[HoldKind.DESTINATION]
    )
    return Withheld(frozenset(types), frozenset(texts[HoldKind.TICKET]), frozenset(texts[HoldKind.MESSAGE]))
