"""Fair shares of tickets: one ticket with ten thousand messages does not delay the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

SHARE, LARGEST_SHARE = 8, 2
"""A ticket gets an eighth of the messages of a claim while others wait, and at most half of them."""
MAX_PASSED_OVER = 500
"""The maximum number of tickets to pass over: each claim reads past the messages of all of them."""


class FairShare:
    """Select the due messages that a pass takes next. Tickets that had their share wait until the others had theirs.

    Its attributes are replaced, never changed in place.

    Args:
        at_once: the number of messages in a claim.
        per_ticket_order: take a ticket's message only after the earlier ones are delivered or escalated.
    """

    def __init__(self, at_once: int, *, per_ticket_order: bool = False) -> None:
        self.per_ticket_order = per_ticket_order
        self.passed_over: frozenset[str] = frozenset()
        self._share = max(at_once // SHARE, 1)
        self._largest_share = max(at_once // LARGEST_SHARE, 1)

    def take(self, candidates: Iterable[tuple[int, str | None]]) -> list[int]:
        """Return the candidates whose turn it is; each candidate is an id with its ticket."""
        if len(self.passed_over) > MAX_PASSED_OVER:
            self.widen()
        had: Counter[str] = Counter()
        passed_over = set(self.passed_over)
        taken = []
        for message_id, ticket in candidates:
            if ticket is not None:
                had[ticket] += 1
                if had[ticket] > self._share:
                    passed_over.add(ticket)
                    continue
            taken.append(message_id)
        self.passed_over = frozenset(passed_over)
        return taken

    def widen(self) -> bool:
        """Pass over no ticket any more, and double the share; return True if any ticket was passed over."""
        anybody = bool(self.passed_over)
        self.passed_over = frozenset()
        self._share = min(2 * self._share, self._largest_share)
        return anybody
