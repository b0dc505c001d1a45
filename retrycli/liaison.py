"""What a pass has in common with those of other hosts: one breaker, one pause, claims that lapse soon after it died."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from retrycli.attempt import Attempt
from retrycli.breaker import Breaker, BreakerState
from retrycli.destination import Destination
from retrycli.events import BreakerClosed, BreakerOpened, Event
from retrycli.message import Claim
from retrycli.ports import LOOK_EVERY, Identity, PassRules, World


class Liaison:
    """What this pass and those of other hosts tell each other, through the database.

    Args:
        world: where the database is, and the clock.
        rules: how long a claim lasts, and when the breaker opens.
        me: whose claims to keep.
        since: the start of the pass.
        tell: is given what became of the breaker, once that is written down.
    """

    def __init__(
        self, world: World, rules: PassRules, me: Identity, *, since: datetime, tell: Callable[[Event], None]
    ) -> None:
        self.claim = Claim(me.pass_id, since + rules.lease)
        self.paused: str | None = None
        """Why deliveries are held back, in words, where somebody has paused them meanwhile."""
        self._ledger = world.ledger
        self._claims = world.claims
        self._now = world.now
        self._rules = rules
        self._since = since
        self._tell = tell
        self._looked_at = since
        self._known = Breaker(rules.destination)
        """The breaker as it is remembered, as far as this pass knows."""

    def meet(self) -> Destination:
        """The destination as this pass finds it, with the one probe taken where it is down and a probe is due."""
        self._known = self._ledger.breaker(self._rules.destination)
        destination = Destination(self._known, self._rules, since=self._since)
        if self._known.state is BreakerState.OPEN and destination.trouble is None:
            until = self._now() + self._rules.lease
            taken = self._ledger.take_probe(self._known, until)
            self._known = self._ledger.breaker(self._rules.destination)
            if not taken:
                destination.learn_of(self._known, self._now())
        return destination

    def look_around(self, destination: Destination) -> None:
        """Every now and then: show that this pass is alive, keep its claims, and see what others have found out."""
        now = self._now()
        if now - self._looked_at < LOOK_EVERY:
            return
        self._looked_at = now
        self._ledger.heartbeat(self.claim.claimant, now)
        if self.claim.expires_at - now <= self._rules.lease * 2 / 3:
            self.claim = Claim(self.claim.claimant, now + self._rules.lease)
            self._claims.renew(self.claim)
        self.paused = self._ledger.paused(now)
        self._compare(destination, self._ledger.breaker(self._rules.destination))

    def judge(self, destination: Destination, attempts: Sequence[Attempt], *, last: bool = False) -> list[Attempt]:
        """Have the destination learn from attempts, with what others have learnt of it taken in before.

        Args:
            destination: where they went.
            attempts: those that have an outcome, in the order in which they ended.
            last: that no more will come, which might tell what those in doubt are about.
        """
        if destination.may_change(attempts):
            self._compare(destination, self._ledger.breaker_to_judge(self._rules.destination))
        before = destination.breaker
        judged = destination.judge(attempts)
        if last:
            judged += destination.judge_rest()
        if (after := destination.breaker) != before:
            self._ledger.save_breaker(after)
            self._known = after
            if after.state is BreakerState.OPEN and after.probe_at is not None:
                self._tell(BreakerOpened(after.destination, after.failures, after.probe_at))
            elif before.state is BreakerState.OPEN:
                self._tell(BreakerClosed(after.destination))
        return judged

    def _compare(self, destination: Destination, found: Breaker) -> None:
        if found != self._known:
            self._known = found
            destination.learn_of(found, self._now())
