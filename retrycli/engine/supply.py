"""The messages of one route that a pass has claimed and not begun yet, and which it claims next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from retrycli.domain.claim import Route
from retrycli.domain.fair_share import FairShare
from retrycli.engine.coordination import PassCoordinator
from retrycli.engine.destination import Destination
from retrycli.engine.rules import PassRules

if TYPE_CHECKING:
    from retrycli.engine.ports import Claims


class Supply:
    """What goes out next.

    Args:
        claims: the queue.
        coordinator: who claims, and until when.
        rules: how many messages are claimed at once, and whether tickets keep their order.
        route: which messages.
        since: the start of the pass.
    """

    def __init__(
        self, claims: Claims, coordinator: PassCoordinator, rules: PassRules, route: Route, *, since: datetime
    ) -> None:
        self._claims = claims
        self._coordinator = coordinator
        self._rules = rules
        self._route = route
        self._since = since
        self._due_by = rules.due_by(since)
        self._fair_share = FairShare(rules.claim_at_once, per_ticket_order=rules.per_ticket_order)
        self._claimed: deque[int] = deque()
        self._all_claimed = False
        self._unblocked_tickets: set[str] = set()
        """Tickets of which the next message may go out, where their order is kept."""
        self._taken: list[int] = []
        """Claimed messages that went out or were given back in the present transaction."""
        self._is_unsure = False
        """Whether a transaction has failed that may have claimed some of the messages."""

    def __bool__(self) -> bool:
        """Return whether there may be more to send."""
        return bool(self._claimed or self._unblocked_tickets or not self._all_claimed)

    def take(self, room: int, destination: Destination) -> list[int]:
        """Return at most so many claimed messages, the one that has waited longest first, and claim more as needed.

        If one message is to tell something about the destination, it is that message, and alone.
        """
        if destination.tickets_in_doubt:
            return self._take_elsewhere(destination)
        if destination.probing:
            return self._take_probe(destination)
        if self._is_unsure:
            self._start_again()
        if not self._claimed:
            self._claimed.extend(self._claim_due() or self._claim_freed())
        taken = [self._claimed.popleft() for _ in range(min(room, len(self._claimed)))]
        self._taken += taken
        return taken

    def free(self, tickets: Iterable[str]) -> None:
        """Let the next message of tickets go out, because the one before it is decided."""
        self._unblocked_tickets.update(tickets)

    def release(self) -> None:
        """Give back what was claimed and not begun."""
        if self._claimed:
            self._claims.release(self._coordinator.claim, self._claimed)
            self._taken += self._claimed
            self._claimed.clear()
            self._all_claimed = False

    def any_left(self) -> bool:
        """Return whether anything else of the route is due."""
        return self._claims.any_due(self._due_by, self._route)

    def committed(self) -> None:
        """Take note that the transaction is committed in which messages were claimed, taken or given back."""
        self._taken.clear()

    def forget(self) -> None:
        """Leave what the present transaction has taken, because nobody knows if that was committed."""
        self._taken.clear()

    def rolled_back(self) -> None:
        """Take back what left in a transaction that has failed. Nothing is sure to be claimed."""
        self._claimed.extendleft(reversed(self._taken))
        self._taken.clear()
        self._is_unsure = True
        self._all_claimed = False

    def _start_again(self) -> None:
        """Give back whatever is claimed, and claim from the beginning."""
        self.release()
        self._fair_share = FairShare(self._rules.claim_at_once, per_ticket_order=self._rules.per_ticket_order)
        self._is_unsure = False

    def _take_probe(self, destination: Destination) -> list[int]:
        """Claim one message to probe with."""
        self.release()
        since = destination.breaker.opened_at or self._since
        claim, per_ticket_order = self._claims.claim_probe, self._rules.per_ticket_order
        found = claim(self._coordinator.claim, self._due_by, since, self._route, per_ticket_order=per_ticket_order)
        if not found:
            self._all_claimed = True
            self._unblocked_tickets.clear()
        self._taken += found
        return found

    def _take_elsewhere(self, destination: Destination) -> list[int]:
        """Claim one message of a ticket that is not in doubt. The others are claimed again once nothing is."""
        self.release()
        self._all_claimed = False
        claim, per_ticket_order = self._claims.claim_elsewhere, self._rules.per_ticket_order
        found = claim(
            self._coordinator.claim,
            self._due_by,
            destination.tickets_in_doubt,
            self._route,
            per_ticket_order=per_ticket_order,
        )
        self._taken += found
        return found

    def _claim_due(self) -> list[int]:
        found: list[int] = []
        while not (found or self._all_claimed):
            at_once = self._rules.claim_at_once
            found = self._claims.claim(self._coordinator.claim, self._due_by, at_once, self._fair_share, self._route)
            self._all_claimed = not found and not self._fair_share.widen()
        return found

    def _claim_freed(self) -> list[int]:
        """Claim what comes after messages of the same ticket that are decided."""
        freed, self._unblocked_tickets = self._unblocked_tickets, set()
        claim = self._claims.claim_first_of
        return claim(self._coordinator.claim, self._due_by, freed, self._route) if freed else []
