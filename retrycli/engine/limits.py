"""Limits on a pass: number of attempts, deadline and request rate."""

import math
from datetime import datetime, timedelta

from retrycli.domain.passes import StopReason
from retrycli.engine.ports import Dependencies, PassRules


def capacity(rules: PassRules) -> int | None:
    """Return the maximum number of attempts of a pass; None if neither limit nor rate is set."""
    by_rate = None
    if rules.rate_per_second is not None:
        by_rate = math.ceil(rules.deadline.total_seconds() * rules.rate_per_second)
    return min((limit for limit in (rules.limit, by_rate) if limit is not None), default=None)


class PassLimits:
    """The limits on the attempts of one route in a pass, which began at ``since``.

    Attributes are replaced and never mutated, so that a shallow copy can restore them after a failed transaction.
    """

    def __init__(self, deps: Dependencies, rules: PassRules, *, since: datetime) -> None:
        self.stop_reason: StopReason | None = None  # the first reason to start no more attempts
        self.detail: str | None = None
        self.begun = 0  # number of recorded attempts
        self._deps = deps
        self._destination = rules.destination
        self._deadline = since + rules.deadline
        self._limit = rules.limit
        self._interval = timedelta(seconds=1 / rules.rate_per_second) if rules.rate_per_second else None
        self._turn: datetime | None = None  # reserved time of the next request; None if no time is reserved yet

    def may_begin(self) -> bool:
        """Return whether this pass may start another attempt; if not, store the reason."""
        if reason := self._ends():
            self.stop(reason)
        elif self.begun == self._limit:
            self.stop(StopReason.LIMIT)
        return self.stop_reason is None

    def _ends(self) -> StopReason | None:
        if self._deps.stop_requested():
            return StopReason.SIGNAL
        return StopReason.DEADLINE if self._deps.now() >= self._deadline else None

    def stop(self, reason: StopReason, detail: str | None = None) -> None:
        """Allow no more attempts, and store the reason unless an earlier one is stored."""
        if self.stop_reason is None:
            self.stop_reason, self.detail = reason, detail

    def room(self, wanted: int) -> int:
        """Return how many of the wanted attempts may start now."""
        if not self.may_begin():
            return 0
        if self._limit is not None:
            wanted = min(wanted, self._limit - self.begun)
        if self._interval is not None and wanted > 0:
            wanted = 1 if self._has_turn(self._interval) else 0
        return max(wanted, 0)

    def _has_turn(self, interval: timedelta) -> bool:
        """Return whether the next request may be sent now. Reserve a time for the request if none is reserved."""
        now = self._deps.now()
        if self._turn is None:
            turn = self._deps.ledger.take_turn(self._destination, now, interval, self._deadline)
            if turn >= self._deadline:
                self.stop(StopReason.DEADLINE)
                return False
            self._turn = turn
        return now >= self._turn

    def may_send(self) -> bool:
        """Return whether this pass may still send recorded attempts, although it may perhaps record no more."""
        return self._ends() is None and self.stop_reason in {None, StopReason.LIMIT, StopReason.DEADLINE}

    def count(self, begun: int) -> None:
        """Count recorded attempts towards the limit, and use up the reserved time. The number is negative if attempts
        were withdrawn before they were sent.
        """
        self.begun += begun
        if begun:
            self._turn = None
        if begun < 0 and self.stop_reason is StopReason.LIMIT:
            self.stop_reason = None

    def seconds_to_turn(self) -> float:
        """Return the number of seconds until the next request may be sent; 0 if the rate does not delay it."""
        return 0.0 if self._turn is None else max((self._turn - self._deps.now()).total_seconds(), 0.0)
