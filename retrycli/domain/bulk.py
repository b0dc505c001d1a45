"""The progress of an action on many messages, which is done in slices of time."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from retrycli.domain.cursor import number, pack, time, unpack
from retrycli.domain.errors import InvalidArgument

MOST = 10**9  # maximum number of messages of an action


class BulkAction(StrEnum):
    """The actions that can be applied to many messages."""

    REQUEUE = "requeue"
    REJECT = "reject"
    MARK_SENT = "mark_sent"
    ACKNOWLEDGE = "acknowledge"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Progress:
    """What the earlier slices of an action have done.

    Attributes:
        request: the digest of the request; progress is only valid for its own request.
        total: number of messages when the action began.
        begin: the due time of the first requeued message.
        handled: number of messages that were reached; their order is that of the request.
        last: the id of the last message that was reached; None before the first.
        delivered: number of delivered canaries.
        failed: number of failed canaries.
        spread_from: number of messages that were reached before the canaries ended; None until then.
        streak: number of consecutive failures that the ticketing API has probably caused, up to the last message.
    """

    request: str
    total: int
    begin: datetime
    handled: int = 0
    last: int | None = None
    delivered: int = 0
    failed: int = 0
    spread_from: int | None = None
    streak: int = 0

    def due(self, position: int, spread: timedelta) -> datetime:
        """Return when a requeued message becomes due. The messages are spread evenly over a period.

        Args:
            position: the number of messages before it, including those that were reached.
            spread: the period.
        """
        first = self.spread_from or 0
        return self.begin + spread * (position - first) / max(self.total - first, 1)

    def __str__(self) -> str:
        """Return the progress as opaque text, with which the next slice goes on."""
        counts = [self.handled, self.last, self.delivered, self.failed, self.spread_from, self.streak]
        return pack([self.request, self.total, self.begin.isoformat(), *counts])

    @classmethod
    def parse(cls, text: str, request: str) -> "Progress":
        """Parse the progress of a request.

        Raises:
            InvalidArgument: the text is not the progress of this request, or its numbers are impossible.
        """
        with suppress(ValueError):
            name, total, begin, handled, last, delivered, failed, spread_from, streak = unpack(text)
            found = cls(
                request,
                number(total),
                time(begin),
                number(handled),
                _optional(last),
                number(delivered),
                number(failed),
                _optional(spread_from),
                number(streak),
            )
            if name == request and all(found._checks()):
                return found
        raise InvalidArgument("not the progress of this request: begin the action again")

    def _checks(self) -> Iterator[bool]:
        yield 0 <= self.handled <= self.total <= MOST
        yield (self.last is None) == (self.handled == 0)
        yield min(self.delivered, self.failed) >= 0
        yield self.delivered + self.failed <= self.handled
        yield self.spread_from is None or 0 <= self.spread_from <= self.handled
        yield 0 <= self.streak <= self.handled


def _optional(value: object) -> int | None:
    return None if value is None else number(value)
