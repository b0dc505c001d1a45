"""What is asked of an action on messages, and how far it has come.

An action on many messages is made in slices of time, so that a request of the console or the HTTP API ends soon. Each
slice returns how many messages are left, and an opaque text with which the next slice goes on.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from retrycli.domain.cursor import number, pack, unpack
from retrycli.domain.cursor import time as as_time
from retrycli.domain.duration import LONGEST
from retrycli.domain.errors import InvalidArgument
from retrycli.domain.listing import Filter
from retrycli.domain.message import LARGEST_ID, SMALLEST_ID, State
from retrycli.domain.sanitize import storable
from retrycli.domain.transition import ActionKind

MOST = 10**9  # maximum number of messages of an action


class BulkAction(StrEnum):
    """The actions that can be applied to many messages."""

    REQUEUE = "requeue"
    REJECT = "reject"
    MARK_SENT = "mark_sent"
    ACKNOWLEDGE = "acknowledge"
    RETRY = "retry"


class ActionEntry(NamedTuple):
    """What distinguishes an action from the others."""

    kind: ActionKind | None  # the action that is recorded for each message; None if attempts are recorded instead
    result: str  # its name in results
    label: str  # its name in a list of actions
    plan: str  # what is to be done, with a place for the number of messages
    done: str  # what was done, with the same place
    of_escalations: bool = False  # it applies only to escalated messages, and a filter for it matches no others
    takes_reason: bool = False
    is_final: bool = False  # it can't be undone


ACTIONS: Mapping[BulkAction, ActionEntry] = {
    BulkAction.REQUEUE: ActionEntry(
        ActionKind.REQUEUED,
        result="requeued",
        label="requeue",
        plan="Requeue {}",
        done="Requeued {}.",
        of_escalations=True,
    ),
    BulkAction.RETRY: ActionEntry(None, result="retried", label="retry now", plan="Retry {}", done="Sent {}."),
    BulkAction.REJECT: ActionEntry(
        ActionKind.REJECTED, result="rejected", label="reject", plan="Reject {}", done="Rejected {}.", takes_reason=True
    ),
    BulkAction.ACKNOWLEDGE: ActionEntry(
        ActionKind.ACKNOWLEDGED,
        result="acknowledged",
        label="acknowledge",
        plan="Acknowledge {}",
        done="Acknowledged {}.",
        of_escalations=True,
    ),
    BulkAction.MARK_SENT: ActionEntry(
        ActionKind.MARKED_SENT,
        result="marked_sent",
        label="mark as sent",
        plan="Mark {} as sent",
        done="Marked {} as sent.",
        takes_reason=True,
        is_final=True,
    ),
}


@dataclass(frozen=True, slots=True)
class Canary:
    """A test before a requeue: if too many of the first messages fail, the other messages are not requeued.

    Attributes:
        number: the number of messages to attempt.
        abort_over: the share of the attempts that may fail.
    """

    number: int = 3
    abort_over: float = 0.3

    def is_exceeded(self, delivered: int, failed: int) -> bool:
        """Return whether the share of failed attempts exceeds ``abort_over``."""
        return failed > 0 and failed / (delivered + failed) > self.abort_over


@dataclass(frozen=True, slots=True)
class Progress:
    """What the earlier slices of an action have done."""

    total: int  # number of messages when the action began
    begin: datetime  # the due time of the first requeued message
    handled: int = 0  # number of messages that were reached; their order is that of the request
    last: int | None = None  # the id of the last message that was reached; None before the first
    delivered: int = 0  # number of delivered canaries
    failed: int = 0  # number of failed canaries
    spread_from: int | None = None  # number of messages that were reached before the canaries ended; None until then
    streak: int = 0  # number of consecutive failures, up to the last message, that the API has probably caused

    def due(self, position: int, spread: timedelta) -> datetime:
        """Return when the message at a position of the whole action becomes due: evenly spread over a period."""
        first = self.spread_from or 0
        return self.begin + spread * (position - first) / max(self.total - first, 1)

    def text(self, request: str) -> str:
        """Return the progress as opaque text for the next slice. It is valid only for the request with this digest."""
        counts = [self.handled, self.last, self.delivered, self.failed, self.spread_from, self.streak]
        return pack([request, self.total, self.begin.isoformat(), *counts])

    @classmethod
    def parse(cls, text: str, request: str) -> "Progress":
        """Parse the progress of a request.

        Raises:
            InvalidArgument: the text is not the progress of this request, or its numbers are impossible.
        """
        with suppress(ValueError):
            name, total, begin, handled, last, delivered, failed, spread_from, streak = unpack(text)
            found = cls(
                number(total),
                as_time(begin),
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


LONGEST_REASON = 2_000  # maximum number of characters of a reason or a note; it is stored once per message
MAX_CANARIES = 1_000


@dataclass(frozen=True)
class BulkRequest:
    """An action on many messages. Only ``requeue`` takes ``due``, ``spread`` and ``canary``, and only ``retry``
    ``send_again``.
    """

    action: BulkAction
    ids: Sequence[int | str] = ()  # the messages, in the order in which they are reached; or
    wanted: Filter | None = None  # a filter with a condition; its messages are reached in the order of their ids
    # The number of messages that the operator confirmed, if any; nothing is done if the filter matches more or fewer.
    expected: int | None = None
    reason: str | None = None  # required by ``reject``; for ``mark_sent``, how the operator knows that they arrived
    due: datetime | None = None  # when the first message is due; by default now
    spread: timedelta = timedelta(0)  # the period over which the messages become due
    canary: Canary | None = None
    send_again: bool = False  # send also messages that may have arrived
    # When the messages were shown to the operator. Messages about which there is news since then are left unchanged.
    as_of: datetime | None = None

    def check(self, *, to_act: bool = True) -> None:
        """Check the request. A preview (``to_act`` is False) needs no reason.

        Raises:
            InvalidArgument: a value is missing, invalid, or not used by the action.
        """
        if to_act and self.action is BulkAction.REJECT and not (self.reason or "").strip():
            raise InvalidArgument("the reason is empty; give one")
        for is_wrong, why in self._faults():
            if is_wrong:
                raise InvalidArgument(why)
        if self.wanted is not None:
            self.wanted.check()

    def _faults(self) -> Sequence[tuple[bool, str]]:
        reason, canary = self.reason or "", self.canary or Canary()
        requeue_only = (self.due, self.canary) != (None, None) or bool(self.spread)
        return (
            (any(not _is_id(each) for each in self.ids), "an id must be text, or an integer of 64 bits"),
            (bool(self.ids) == (self.wanted is not None), "give either ids or a filter"),
            (self.wanted == Filter(), "the filter has no condition; give at least one"),
            (bool(reason) and not ACTIONS[self.action].takes_reason, f"{self.action} takes no reason"),
            (not storable(reason), "the reason contains an invalid character; remove it"),
            (len(reason) > LONGEST_REASON, f"the reason is longer than {LONGEST_REASON:,} characters; shorten it"),
            (requeue_only and self.action is not BulkAction.REQUEUE, f"{self.action} takes no due, spread or canary"),
            (self.send_again and self.action is not BulkAction.RETRY, f"{self.action} takes no send_again"),
            (self.due is not None and self.due.tzinfo is None, "due must have an offset from UTC"),
            (not timedelta(0) <= self.spread <= LONGEST, f"spread must be from 0 to {LONGEST.days} days"),
            (not 1 <= canary.number <= MAX_CANARIES, f"canary must be from 1 to {MAX_CANARIES:,}: {canary.number}"),
            (not 0 <= canary.abort_over <= 1, f"abort_over must be from 0 to 1: {canary.abort_over:g}"),
        )

    @property
    def selection(self) -> Filter | None:
        """Return the filter, restricted to messages in a state that suits the action; None if no message does."""
        wanted = self.wanted or Filter()
        if not ACTIONS[self.action].of_escalations:
            return wanted
        if State.ESCALATED not in (wanted.states or [State.ESCALATED]):
            return None
        return replace(wanted, state=State.ESCALATED, new=wanted.new or self.action is BulkAction.ACKNOWLEDGE)

    @cached_property
    def digest(self) -> str:
        """Return a digest of the request, which is part of its progress."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in {"ids", "expected"}}
        text = json.dumps([own, [*self.ids]], default=_plain, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _plain(value: object) -> object:
    if isinstance(value, Filter):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, str) or not isinstance(value, Collection):
        return str(value)
    return sorted(map(str, value))


def _is_id(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and SMALLEST_ID <= value <= LARGEST_ID)
