"""Cron's grid, as the passes show it: when the next ones will begin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from retrycli.backoff import later

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATE_AFTER_INTERVALS = 2
LATE_GRACE = timedelta(minutes=5)
CLOCKS_DIFFER = timedelta(minutes=5)
"""A pass that began later than so long after now did so by a wrong clock, and tells nothing of the next one."""
PASSES_LOOKED_AT = 10
"""From so many passes cron's grid is read."""
FARTHEST = 2**24
"""How many ticks ahead are looked at: at one a minute, 31 years."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Ticks at equal distances; number 0 is one that was."""

    origin: datetime
    interval: timedelta

    def __getitem__(self, number: int) -> datetime:
        """When a tick is."""
        return later(self.origin, self.interval, times=number)

    def after(self, time: datetime) -> int:
        """The number of the first tick after a time."""
        return (time - self.origin) // self.interval + 1

    def first(self, number: int, holds: Callable[[datetime], bool]) -> int | None:
        """The first tick from a number on at which something holds; once it does, it has to stay so. None: at none."""
        before, reach = number - 1, 1
        while not holds(self[before + reach]):
            before, reach = before + reach, 2 * reach
            if reach > FARTHEST:
                return None
        shut, found = before, before + reach
        while found - shut > 1:
            middle = (shut + found) // 2
            shut, found = (shut, middle) if holds(self[middle]) else (middle, found)
        return found


def grid(starts: Sequence[datetime], interval: timedelta) -> Grid | None:
    """The grid that passes keep to.

    Args:
        starts: when the last passes began, newest first. A pass made by hand between two ticks does not move the grid.
        interval: how often cron calls.

    Returns:
        A grid through the newest of those passes that begin as most of them do; None where there was no pass.
    """
    if not starts:
        return None
    minute = timedelta(minutes=1)
    phases = [(each - EPOCH) % interval // minute for each in starts]
    usual, _ = Counter(phases).most_common(1)[0]  # of equally common ones the first that came, which is the newest
    return Grid(starts[phases.index(usual)], interval)


def is_late(newest: datetime, now: datetime, interval: timedelta) -> bool:
    """Whether the scheduler looks dead: the newest pass began two intervals and five minutes ago, or longer."""
    return now - newest >= LATE_AFTER_INTERVALS * interval + LATE_GRACE
