"""Whose turn it is: one ticket with ten thousand messages does not hold up the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

SHARE, LARGEST_SHARE = 8, 2
"""One ticket's messages are an eighth of those that are taken at once while others wait, and half of them at most."""
MOST_PASSED_OVER = 500
"""So many tickets are passed over at most: each claim reads past the messages of all of them."""


class FairShare:
    """Which due messages a pass takes next. Tickets that have had their share are passed over until the others have.

    Args:
        at_once: how many messages are taken at once.
        per_ticket_order: take a ticket's message only after the earlier ones are delivered or escalated.
    """

    def __init__(self, at_once: int, *, per_ticket_order: bool = False) -> None:
        self.per_ticket_order = per_ticket_order
        self.passed_over: set[str] = set()
        self._share = max(at_once // SHARE, 1)
        self._largest_share = max(at_once // LARGEST_SHARE, 1)

    def take(self, candidates: Iterable[tuple[int, str | None]]) -> list[int]:
        """Those among messages, given with their tickets, whose turn it is."""
        if len(self.passed_over) > MOST_PASSED_OVER:
            self.widen()
        had: Counter[str] = Counter()
        taken = []
        for message_id, ticket in candidates:
            if ticket is not None:
                had[ticket] += 1
                if had[ticket] > self._share:
                    self.passed_over.add(ticket)
                    continue
            taken.append(message_id)
        return taken

    def widen(self) -> bool:
        """Pass over nobody any more, and take twice as many of each; whether anybody was passed over."""
        anybody = bool(self.passed_over)
        self.passed_over.clear()
        self._share = min(2 * self._share, self._largest_share)
        return anybody
