"""Coordination of passes on several hosts: a shared breaker, a shared pause, and leases that expire after a crash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from retrycli.domain.attempt import Attempt
from retrycli.domain.circuit_breaker import Breaker, BreakerState
from retrycli.domain.claim import Claim
from retrycli.domain.events import BreakerClosed, BreakerOpened, Event
from retrycli.engine.destination import Destination
from retrycli.engine.rules import SYNC_INTERVAL, Dependencies, PassIdentity, PassRules


class PassCoordinator:
    """Exchange with passes of other hosts, through the database.

    Args:
        deps: the database and the clock.
        rules: the lease, and when the breaker opens.
        me: the pass whose claims are renewed.
        since: the start of the pass.
        tell: receives changes of the breaker, once they are saved.
    """

    def __init__(
        self, deps: Dependencies, rules: PassRules, me: PassIdentity, *, since: datetime, tell: Callable[[Event], None]
    ) -> None:
        self.claim = Claim(me.pass_id, since + rules.lease)
        self.paused: str | None = None
        """The reason for a pause that an operator has made meanwhile; None if deliveries are not paused."""
        self._ledger = deps.ledger
        self._claims = deps.claims
        self._now = deps.now
        self._rules = rules
        self._since = since
        self._tell = tell
        self._synced_at = since
        self._saved_breaker = Breaker(rules.destination)
        """The breaker in the database, as far as this pass knows."""
        self._saved_claim = self.claim
        """The claim in the database."""
        self._before_changes: Breaker | None = None
        """The breaker before changes of this pass that are not saved yet; None if all are saved."""
        self._before_transaction: tuple[Breaker, Breaker] | None = None
        """The values of both to restore if the current transaction, which saved the breaker, fails."""

    def claim_destination(self) -> Destination:
        """Load the destination. If it is down and a probe is due, take the one probe."""
        self._saved_breaker = self._ledger.breaker(self._rules.destination)
        destination = Destination(self._saved_breaker, self._rules, since=self._since)
        if self._saved_breaker.state is BreakerState.OPEN and destination.stop_reason is None:
            until = self._now() + self._rules.lease
            taken = self._ledger.take_probe(self._saved_breaker, until)
            self._saved_breaker = self._ledger.breaker(self._rules.destination)
            if not taken:
                destination.sync(self._saved_breaker, self._now())
        return destination

    def sync(self, destination: Destination) -> None:
        """At most every `SYNC_INTERVAL`: write the heartbeat, renew the claims, read the pause and the breaker."""
        now = self._now()
        if now - self._synced_at < SYNC_INTERVAL:
            return
        self._synced_at = now
        self._ledger.heartbeat(self.claim.owner, now)
        if self.claim.expires_at - now <= self._rules.lease * 2 / 3:
            self.claim = Claim(self.claim.owner, now + self._rules.lease)
            self._claims.renew(self.claim)
        self.paused = self._ledger.paused(now)
        self._adopt(destination, self._ledger.breaker(self._rules.destination))

    def committed(self) -> None:
        """Note that the transaction is committed that renewed claims and saved the breaker."""
        self._saved_claim, self._before_transaction = self.claim, None

    def rolled_back(self) -> None:
        """Note that the transaction has failed: the claims expire as before, and the breaker is not saved."""
        self.claim = self._saved_claim
        if self._before_transaction is not None:
            self._saved_breaker, self._before_changes = self._before_transaction
            self._before_transaction = None

    def observe(self, destination: Destination, attempts: Sequence[Attempt], *, last: bool = False) -> list[Attempt]:
        """Update the destination from attempts, after reading what other passes have learnt of it.

        `save` publishes the result.

        Args:
            destination: where they were sent.
            attempts: finished attempts, in the order in which they ended.
            last: no more attempts follow that might tell what those in doubt are about.
        """
        if self._before_changes is not None or destination.may_change(attempts):
            self._adopt(destination, self._ledger.breaker_to_judge(self._rules.destination))
        before = destination.breaker
        observed = destination.observe(attempts)
        if last:
            observed += destination.observe_rest()
        if destination.breaker != before and self._before_changes is None:
            self._before_changes = before
        return observed

    def save(self, destination: Destination) -> None:
        """Save changes of the breaker, if any."""
        if self._before_changes is None:
            return
        before, after = self._before_changes, destination.breaker
        self._before_transaction = self._before_transaction or (self._saved_breaker, before)
        self._ledger.save_breaker(after)
        self._saved_breaker, self._before_changes = after, None
        if after.state is BreakerState.OPEN and after.probe_at is not None:
            self._tell(BreakerOpened(after.destination, after.failures, after.probe_at))
        elif before.state is BreakerState.OPEN:
            self._tell(BreakerClosed(after.destination))

    def _adopt(self, destination: Destination, found: Breaker) -> None:
        if found != self._saved_breaker:
            self._saved_breaker = found
            destination.sync(found, self._now())
