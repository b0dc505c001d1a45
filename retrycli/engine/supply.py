"""The messages of one route that a pass has claimed and not sent yet, and those it claims next."""

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
    """The messages to send next.

    Args:
        claims: the queue.
        coordinator: the owner and lease of the claims.
        rules: the batch size, and if tickets keep their order.
        route: the messages.
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
        """Tickets whose next message may be sent, if tickets keep their order."""
        self._taken: list[int] = []
        """Claimed messages that were sent or released in the current transaction."""
        self._is_unsure = False
        """A transaction has failed that may have claimed some of the messages."""

    def __bool__(self) -> bool:
        """Tell if there may be more messages to send."""
        return bool(self._claimed or self._unblocked_tickets or not self._all_claimed)

    def take(self, room: int, destination: Destination) -> list[int]:
        """Return at most `room` claimed messages, oldest due first, and claim more as needed.

        If one message must tell something about the destination, return only that message.
        """
        if destination.tickets_in_doubt:
            return self._take_elsewhere(destination)
        if destination.probing:
            return self._take_probe(destination)
        if self._is_unsure:
            self._restart()
        if not self._claimed:
            self._claimed.extend(self._claim_due() or self._claim_unblocked())
        taken = [self._claimed.popleft() for _ in range(min(room, len(self._claimed)))]
        self._taken += taken
        return taken

    def unblock(self, tickets: Iterable[str]) -> None:
        """Unblock the next message of tickets, because the one before it is decided."""
        self._unblocked_tickets.update(tickets)

    def release(self) -> None:
        """Release claimed messages without an attempt."""
        if self._claimed:
            self._claims.release(self._coordinator.claim, self._claimed)
            self._taken += self._claimed
            self._claimed.clear()
            self._all_claimed = False

    def any_left(self) -> bool:
        """Tell if anything else of the route is due."""
        return self._claims.any_due(self._due_by, self._route)

    def committed(self) -> None:
        """Note that the transaction is committed that claimed, took or released messages."""
        self._taken.clear()

    def forget(self) -> None:
        """Forget what the current transaction took, because it is unknown if that was committed."""
        self._taken.clear()

    def rolled_back(self) -> None:
        """Restore the messages that a failed transaction took. None of them is certainly claimed."""
        self._claimed.extendleft(reversed(self._taken))
        self._taken.clear()
        self._is_unsure = True
        self._all_claimed = False

    def _restart(self) -> None:
        """Release all claimed messages, and claim from the beginning."""
        self.release()
        self._fair_share = FairShare(self._rules.claim_at_once, per_ticket_order=self._rules.per_ticket_order)
        self._is_unsure = False

    def _take_probe(self, destination: Destination) -> list[int]:
        """Claim one message as a probe."""
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
        """Claim one message of a ticket that is not in doubt. The others are claimed again later."""
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

    def _claim_unblocked(self) -> list[int]:
        """Claim the messages that follow decided ones of the same ticket."""
        unblocked, self._unblocked_tickets = self._unblocked_tickets, set()
        claim = self._claims.claim_first_of
        return claim(self._coordinator.claim, self._due_by, unblocked, self._route) if unblocked else []
