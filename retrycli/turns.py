"""Whose turn it is: one ticket with ten thousand messages does not hold up the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

SHARE, LARGEST_SHARE = 50, 250
"""How many messages of one ticket are taken at once while others wait; twice as many with each round."""
MOST_PASSED_OVER = 500
"""So many tickets are passed over at most: each claim reads past the messages of all of them."""


class Turns:
    """Which due messages a pass takes next. Tickets that have had their share are passed over until the others have.

    Args:
        in_order: of one ticket's messages, take none before the earlier ones are delivered or in a person's hands.
    """

    def __init__(self, *, in_order: bool = False) -> None:
        self.in_order = in_order
        self.passed_over: set[str] = set()
        self._share = SHARE

    def take(self, candidates: Iterable[tuple[int, str | None]]) -> list[int]:
        """Those among messages, given with their tickets, whose turn it is."""
        if len(self.passed_over) > MOST_PASSED_OVER:
            self.next_round()
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

    def next_round(self) -> bool:
        """Pass over nobody any more; whether anybody was."""
        anybody = bool(self.passed_over)
        self.passed_over.clear()
        self._share = min(2 * self._share, LARGEST_SHARE)
        return anybody
