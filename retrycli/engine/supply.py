"""The messages of one route that a pass has claimed and not sent yet, and the messages that it claims next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from retrycli.domain.fair_share import FairShare
from retrycli.domain.transition import Claim, Route
from retrycli.engine.destination import Destination
from retrycli.engine.rules import PassIdentity, PassRules

if TYPE_CHECKING:
    from retrycli.engine.ports import Claims


class Supply:
    """Supply the messages to send next. Its attributes are replaced, never changed in place.

    Args:
        claims: the queue.
        rules: the batch size, the lease, and whether tickets keep their order.
        me: the pass that claims.
        route: the messages to send.
        since: the start of the pass.
    """

    def __init__(self, claims: Claims, rules: PassRules, me: PassIdentity, route: Route, *, since: datetime) -> None:
        self.claim = Claim(me.pass_id, since + rules.lease)
        self.fair_share = FairShare(rules.claim_at_once, per_ticket_order=rules.per_ticket_order)
        self._claims = claims
        self._rules = rules
        self._route = route
        self._since = since
        self._due_by = rules.due_by(since)
        self._claimed: Sequence[int] = ()
        self._all_claimed = False
        # Tickets whose next message may be sent, if tickets keep their order.
        self._unblocked_tickets: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        """Return whether there may be more messages to send."""
        return bool(self._claimed or self._unblocked_tickets or not self._all_claimed)

    def renew(self, now: datetime) -> None:
        """Renew the claims before they expire."""
        if self.claim.expires_at - now <= self._rules.lease * 2 / 3:
            self.claim = Claim(self.claim.owner, now + self._rules.lease)
            self._claims.renew(self.claim)

    def take(self, room: int, destination: Destination) -> Sequence[int]:
        """Return at most `room` claimed messages, oldest due first, and claim more as needed.

        If a message must show something about the destination first, return only that message.
        """
        if destination.doubt.tickets or destination.probing:
            self.release()
            return self._claim_one(destination)
        if not self._claimed:
            self._claimed = self._claim_due() or self._claim_unblocked()
        taken, self._claimed = self._claimed[:room], self._claimed[room:]
        return taken

    def unblock(self, tickets: Iterable[str]) -> None:
        """Unblock the next message of tickets, because the message before it is decided."""
        self._unblocked_tickets |= frozenset(tickets)

    def release(self) -> None:
        """Release claimed messages without an attempt."""
        if self._claimed:
            self._claims.release(self.claim, self._claimed)
            self._claimed = ()
            self._all_claimed = False

    def any_left(self) -> bool:
        """Return whether any other message of the route is due."""
        return self._claims.any_due(self._due_by, self._route)

    def _claim_one(self, destination: Destination) -> Sequence[int]:
        """Claim a message of a ticket that is not in doubt, or a probe. Other messages are claimed later."""
        order = self._rules.per_ticket_order
        if tickets := destination.doubt.tickets:
            self._all_claimed = False
            elsewhere = self._claims.claim_elsewhere
            return elsewhere(self.claim, self._due_by, tickets, self._route, per_ticket_order=order)
        since = destination.breaker.opened_at or self._since
        found = self._claims.claim_probe(self.claim, self._due_by, since, self._route, per_ticket_order=order)
        if not found:
            self._all_claimed = True
            self._unblocked_tickets = frozenset()
        return found

    def _claim_due(self) -> Sequence[int]:
        found: Sequence[int] = ()
        while not (found or self._all_claimed):
            at_once = self._rules.claim_at_once
            found = self._claims.claim(self.claim, self._due_by, at_once, self.fair_share, self._route)
            self._all_claimed = not found and not self.fair_share.widen()
        return found

    def _claim_unblocked(self) -> Sequence[int]:
        """Claim the messages that follow decided messages of the same ticket."""
        unblocked, self._unblocked_tickets = self._unblocked_tickets, frozenset()
        return self._claims.claim_first_of(self.claim, self._due_by, unblocked, self._route) if unblocked else ()
