"""What a pass has in common with those of other hosts: one breaker, one pause, claims that lapse soon after it died."""

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
    """What this pass and those of other hosts tell each other, through the database.

    Args:
        deps: where the database is, and the clock.
        rules: how long a claim lasts, and when the breaker opens.
        me: whose claims to keep.
        since: the start of the pass.
        tell: is given what became of the breaker, once that is written down.
    """

    def __init__(
        self, deps: Dependencies, rules: PassRules, me: PassIdentity, *, since: datetime, tell: Callable[[Event], None]
    ) -> None:
        self.claim = Claim(me.pass_id, since + rules.lease)
        self.paused: str | None = None
        """Why deliveries are held back, in words, where somebody has paused them meanwhile."""
        self._ledger = deps.ledger
        self._claims = deps.claims
        self._now = deps.now
        self._rules = rules
        self._since = since
        self._tell = tell
        self._looked_at = since
        self._known = Breaker(rules.destination)
        """The breaker as it is remembered, as far as this pass knows."""
        self._kept = self.claim
        """The claim as the database has it."""
        self._unsaved: Breaker | None = None
        """The breaker before what this pass has learnt and not saved yet; None if all is saved."""
        self._undone: tuple[Breaker, Breaker] | None = None
        """What both are again if the present transaction fails, in which the breaker was saved."""

    def claim_destination(self) -> Destination:
        """The destination as this pass finds it, with the one probe taken where it is down and a probe is due."""
        self._known = self._ledger.breaker(self._rules.destination)
        destination = Destination(self._known, self._rules, since=self._since)
        if self._known.state is BreakerState.OPEN and destination.stop_reason is None:
            until = self._now() + self._rules.lease
            taken = self._ledger.take_probe(self._known, until)
            self._known = self._ledger.breaker(self._rules.destination)
            if not taken:
                destination.sync(self._known, self._now())
        return destination

    def sync(self, destination: Destination) -> None:
        """Every now and then: show that this pass is alive, keep its claims, and see what others have found out."""
        now = self._now()
        if now - self._looked_at < SYNC_INTERVAL:
            return
        self._looked_at = now
        self._ledger.heartbeat(self.claim.owner, now)
        if self.claim.expires_at - now <= self._rules.lease * 2 / 3:
            self.claim = Claim(self.claim.owner, now + self._rules.lease)
            self._claims.renew(self.claim)
        self.paused = self._ledger.paused(now)
        self._compare(destination, self._ledger.breaker(self._rules.destination))

    def committed(self) -> None:
        """Take note that the transaction is committed in which claims were renewed and the breaker saved."""
        self._kept, self._undone = self.claim, None

    def rolled_back(self) -> None:
        """Take note that the transaction has failed: the claims end when they did, and the breaker is not saved."""
        self.claim = self._kept
        if self._undone is not None:
            self._known, self._unsaved = self._undone
            self._undone = None

    def observe(self, destination: Destination, attempts: Sequence[Attempt], *, last: bool = False) -> list[Attempt]:
        """Have the destination learn from attempts, with what others have learnt of it taken in before.

        `save` then has others know.

        Args:
            destination: where they went.
            attempts: those that have an outcome, in the order in which they ended.
            last: that no more will come, which might tell what those in doubt are about.
        """
        if self._unsaved is not None or destination.may_change(attempts):
            self._compare(destination, self._ledger.breaker_to_judge(self._rules.destination))
        before = destination.breaker
        observed = destination.observe(attempts)
        if last:
            observed += destination.observe_rest()
        if destination.breaker != before and self._unsaved is None:
            self._unsaved = before
        return observed

    def save(self, destination: Destination) -> None:
        """Save what was learnt of the breaker, if anything."""
        if self._unsaved is None:
            return
        before, after = self._unsaved, destination.breaker
        self._undone = self._undone or (self._known, before)
        self._ledger.save_breaker(after)
        self._known, self._unsaved = after, None
        if after.state is BreakerState.OPEN and after.probe_at is not None:
            self._tell(BreakerOpened(after.destination, after.failures, after.probe_at))
        elif before.state is BreakerState.OPEN:
            self._tell(BreakerClosed(after.destination))

    def _compare(self, destination: Destination, found: Breaker) -> None:
        if found != self._known:
            self._known = found
            destination.sync(found, self._now())
