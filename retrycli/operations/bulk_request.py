"""A request for an action on many messages, and its checks."""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from functools import cached_property

from retrycli.domain.bulk import BulkAction
from retrycli.domain.duration import LONGEST
from retrycli.domain.errors import InvalidArgument
from retrycli.domain.listing import Filter
from retrycli.domain.message import LARGEST_ID, SMALLEST_ID, State
from retrycli.domain.sanitize import storable
from retrycli.operations.message_actions import Canary

LONGEST_REASON = 1_000  # maximum number of characters of a reason; it is stored once per message
MAX_CANARIES = 1_000
# The actions that apply only to escalated messages. A filter for them never matches other messages.
OF_ESCALATIONS = frozenset({BulkAction.REQUEUE, BulkAction.ACKNOWLEDGE})


@dataclass(frozen=True)
class BulkRequest:
    """An action on many messages.

    Attributes:
        action: the action.
        ids: the messages, in the order in which they are reached; or
        wanted: a filter with at least one condition. Its messages are reached in the order of their ids.
        expected: the number of messages that the operator confirmed; nothing is done if the filter matches more or
            fewer. None if nothing was confirmed.
        reason: for ``reject`` the reason, which is required; for ``mark_sent`` how the operator knows that the messages
            arrived.
        due: for ``requeue``, when the first message is due; by default now.
        spread: for ``requeue``, the period over which the messages become due.
        canary: for ``requeue``, the test before it.
    """

    action: BulkAction
    ids: Sequence[int | str] = ()
    wanted: Filter | None = None
    expected: int | None = None
    reason: str | None = None
    due: datetime | None = None
    spread: timedelta = timedelta(0)
    canary: Canary | None = None

    def check(self) -> None:
        """Check the request.

        Raises:
            InvalidArgument: a value is missing, invalid, or not used by the action.
        """
        for is_wrong, why in self._faults():
            if is_wrong:
                raise InvalidArgument(why)
        if self.wanted is not None:
            self.wanted.check()

    def _faults(self) -> Sequence[tuple[bool, str]]:
        reason, canary = self.reason or "", self.canary or Canary()
        takes_reason = self.action in {BulkAction.REJECT, BulkAction.MARK_SENT}
        requeue_only = (self.due, self.canary) != (None, None) or bool(self.spread)
        return (
            (any(not _is_id(each) for each in self.ids), "an id must be text, or an integer of 64 bits"),
            (bool(self.ids) == (self.wanted is not None), "give either ids or a filter"),
            (self.wanted == Filter(), "the filter has no condition; give at least one"),
            (self.action is BulkAction.REJECT and not reason.strip(), "the reason is empty; give one"),
            (bool(reason) and not takes_reason, f"{self.action} takes no reason"),
            (not storable(reason), "the reason contains an invalid character; remove it"),
            (len(reason) > LONGEST_REASON, f"the reason is longer than {LONGEST_REASON:,} characters; shorten it"),
            (requeue_only and self.action is not BulkAction.REQUEUE, f"{self.action} takes no due, spread or canary"),
            (self.due is not None and self.due.tzinfo is None, "due must have an offset from UTC"),
            (not timedelta(0) <= self.spread <= LONGEST, f"spread must be from 0 to {LONGEST.days} days"),
            (not 1 <= canary.number <= MAX_CANARIES, f"canary must be from 1 to {MAX_CANARIES:,}: {canary.number}"),
            (not 0 <= canary.abort_over <= 1, f"abort_over must be from 0 to 1: {canary.abort_over:g}"),
        )

    @property
    def selection(self) -> Filter | None:
        """Return the filter, restricted to messages in a state that suits the action; None if no message does."""
        wanted = self.wanted or Filter()
        if self.action not in OF_ESCALATIONS:
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
