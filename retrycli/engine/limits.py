"""The limits of a pass: number, rate, deadline, and stop requests."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta

from retrycli.domain.pass_summary import StopReason
from retrycli.engine.rules import PassRules


def capacity(rules: PassRules) -> int | None:
    """Return the maximum number of attempts of a pass; None if neither limit nor rate is set."""
    by_rate = None
    if rules.rate_per_second is not None:
        by_rate = math.ceil(rules.deadline.total_seconds() * rules.rate_per_second)
    return min((limit for limit in (rules.limit, by_rate) if limit is not None), default=None)


class PassLimits:
    """The attempts that a pass may still start.

    Args:
        rules: limit, rate and deadline.
        started_at: the start of the pass.
        now: the clock.
        stop_requested: returns True after a signal.
        take_turn: reserves the time of one request, given the interval between requests and the deadline.
    """

    def __init__(
        self,
        rules: PassRules,
        started_at: datetime,
        now: Callable[[], datetime],
        stop_requested: Callable[[], bool],
        take_turn: Callable[[timedelta, datetime], datetime],
    ) -> None:
        self.reason: StopReason | None = None
        """The first reason to start nothing more."""
        self._now = now
        self._stop_requested = stop_requested
        self._reserve_turn = take_turn
        self._deadline = started_at + rules.deadline
        self._left = rules.limit
        self._interval = timedelta(seconds=1 / rules.rate_per_second) if rules.rate_per_second else None
        self._turn: datetime | None = None
        """The reserved time of the next request; None if no time is reserved yet."""

    def may_begin(self) -> bool:
        """Tell if this pass may start anything more."""
        if self._stop_requested():
            self.stop(StopReason.SIGNAL)
        elif self._now() >= self._deadline:
            self.stop(StopReason.DEADLINE)
        elif self._left == 0:
            self.stop(StopReason.LIMIT)
        return self.reason is None

    def stop(self, reason: StopReason) -> None:
        """Start nothing more, for a reason."""
        self.reason = self.reason or reason

    def room(self, wanted: int) -> int:
        """Return how many of the wanted attempts may start now."""
        if not self.may_begin():
            return 0
        if self._left is not None:
            wanted = min(wanted, self._left)
        if self._interval is not None and wanted > 0:
            wanted = 1 if self._has_turn(self._interval) else 0
        return max(wanted, 0)

    def _has_turn(self, interval: timedelta) -> bool:
        """Tell if the reserved time of the next request has come; reserve one if there is none."""
        if self._turn is None:
            turn = self._reserve_turn(interval, self._deadline)
            if turn >= self._deadline:
                self.stop(StopReason.DEADLINE)
                return False
            self._turn = turn
        return self._now() >= self._turn

    def begun(self, count: int) -> None:
        """Record `count` started attempts."""
        if self._left is not None:
            self._left -= count
        if count:
            self._turn = None

    def not_begun(self, count: int) -> None:
        """Undo `count` started attempts and the reserved time, because neither was recorded."""
        if self._left is not None:
            self._left += count
        self._turn = None

    def pause(self) -> float:
        """Return the seconds until the next request may be sent; 0 if the rate does not delay it."""
        return 0.0 if self._turn is None else max((self._turn - self._now()).total_seconds(), 0.0)
