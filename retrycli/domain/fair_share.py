"""Fair shares for tickets, so that a ticket with ten thousand messages does not delay other tickets."""

from collections import Counter
from collections.abc import Iterable

# At first, a ticket gets at most an eighth of the messages of a claim. The share doubles, up to half of a claim, each
# time passed-over tickets are admitted again.
SHARE, LARGEST_SHARE = 8, 2
MAX_PASSED_OVER = 500  # maximum number of tickets to pass over, because each claim must skip all their messages


class FairShare:
    """Select the due messages that a pass delivers next. A ticket that has used its share is passed over until
    no other ticket has due messages, or more than `MAX_PASSED_OVER` tickets are passed over.

    Attributes are replaced and never mutated, so that a shallow copy can restore them after a failed transaction.

    Args:
        at_once: the maximum number of messages in a claim.
        per_ticket_order: deliver a ticket's messages in order, each only after the earlier ones are delivered or
            escalated.
    """

    def __init__(self, at_once: int, *, per_ticket_order: bool = False) -> None:
        self.per_ticket_order = per_ticket_order
        self.passed_over: frozenset[str] = frozenset()
        self._share = max(at_once // SHARE, 1)
        self._largest_share = max(at_once // LARGEST_SHARE, 1)

    def take(self, candidates: Iterable[tuple[int, str | None]]) -> list[int]:
        """Return the ids of the candidates within their tickets' shares, and pass over the tickets of the others.

        Args:
            candidates: ids of due messages with their tickets; a message without a ticket is always selected.
        """
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
        """Stop passing over tickets, and double the share up to its limit. Return whether a ticket was passed over."""
        anybody = bool(self.passed_over)
        self.passed_over = frozenset()
        self._share = min(2 * self._share, self._largest_share)
        return anybody
