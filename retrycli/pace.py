"""How many attempts a pass may begin just now: its limit, its rate, its deadline, and whether it is to end."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta

from retrycli.events import StopReason
from retrycli.ports import PassRules


def capacity(rules: PassRules) -> int | None:
    """How many attempts one pass can begin at most; None where neither limit nor rate says so."""
    by_rate = None
    if rules.rate_per_second is not None:
        by_rate = math.ceil(rules.deadline.total_seconds() * rules.rate_per_second)
    return min((each for each in (rules.limit, by_rate) if each is not None), default=None)


class Pace:
    """What a pass may still do of its own accord.

    Args:
        rules: limit, rate and deadline.
        started_at: the start of the pass.
        now: the clock.
        stop_requested: whether a signal has come.
    """

    def __init__(
        self, rules: PassRules, started_at: datetime, now: Callable[[], datetime], stop_requested: Callable[[], bool]
    ) -> None:
        self.reason: StopReason | None = None
        """Why nothing more may begin; the first reason is kept."""
        self._now = now
        self._stop_requested = stop_requested
        self._deadline = started_at + rules.deadline
        self._left = rules.limit
        self._interval = timedelta(seconds=1 / rules.rate_per_second) if rules.rate_per_second else None
        self._next_begin = started_at

    def may_begin(self) -> bool:
        """Whether anything more may begin in this pass."""
        if self.reason is None:
            if self._stop_requested():
                self.reason = StopReason.SIGNAL
            elif self._now() >= self._deadline:
                self.reason = StopReason.DEADLINE
            elif self._left == 0:
                self.reason = StopReason.LIMIT
        return self.reason is None

    def room(self, wanted: int) -> int:
        """How many of so many may begin now."""
        if not self.may_begin():
            return 0
        if self._left is not None:
            wanted = min(wanted, self._left)
        if self._interval is not None:
            wanted = min(wanted, 1) if self._now() >= self._next_begin else 0
        return max(wanted, 0)

    def begun(self, count: int) -> None:
        """Take note that so many have begun."""
        if self._left is not None:
            self._left -= count
        if self._interval is not None and count:
            self._next_begin = self._now() + self._interval

    def pause(self) -> float:
        """How many seconds to wait until the next may begin; 0 where there is no rate."""
        return 0.0 if self._interval is None else max((self._next_begin - self._now()).total_seconds(), 0.0)
