"""Calculate the ticks of an interval: the times at which cron, or an application's scheduler, starts passes."""

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import islice
from typing import ClassVar

from retrycli.domain.duration import in_zone
from retrycli.domain.retry_policy import LATEST, later

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# Maximum time by which the recorded start of a pass may be in the future. A later start was recorded while the clock
# was wrong, so the pass is ignored.
MAX_CLOCK_SKEW = timedelta(minutes=5)
BEFORE_TICK = timedelta(minutes=1)  # a pass that began less than this before a tick belongs to that tick
PASSES_LOOKED_AT = 10  # maximum number of passes among which a scheduler looks for the pass of a tick
MAX_TICKS = 2**24  # maximum number of ticks to look ahead: 31 years at one tick a minute
# Maximum number of ticks to look ahead if each tick is computed separately: 30 years at one an hour.
MAX_LISTED_TICKS = 2**18


class Ticks(ABC):
    """The times at which passes start, called ticks and numbered in order."""

    farthest: ClassVar[int] = MAX_TICKS

    @abstractmethod
    def __getitem__(self, number: int) -> datetime:
        """Return the time of a tick."""

    @abstractmethod
    def after(self, time: datetime) -> int:
        """Return the number of the first tick after a given time."""

    def next(self, time: datetime) -> datetime:
        """Return the first tick after a given time."""
        return self[self.after(time)]

    def first(self, number: int, holds: Callable[[datetime], bool]) -> int | None:
        """Return the number of the first tick, from a given number on, that meets a condition.

        Args:
            number: the number of the first tick to examine.
            holds: the condition. Once a tick meets it, all later ticks must meet it.

        Returns:
            The number; None if the search gives up after about `farthest` ticks.
        """
        before, reach = number - 1, 1
        while not holds(self[before + reach]):
            before, reach = before + reach, 2 * reach
            if reach > self.farthest:
                return None
        coming = range(before + 1, before + reach + 1)
        return coming[bisect_left(coming, x=True, key=lambda tick: holds(self[tick]))]


@dataclass(frozen=True, slots=True)
class Grid(Ticks):
    """Ticks at equal intervals; the tick with number 0 is at ``origin``."""

    origin: datetime
    interval: timedelta

    def __getitem__(self, number: int) -> datetime:
        return later(self.origin, self.interval, times=number)

    def after(self, time: datetime) -> int:
        """Return the number of the first tick after a given time."""
        return (time - self.origin) // self.interval + 1


class Listed(Ticks):
    """Ticks at irregular intervals, numbered from 0. Numbers after the last tick give `LATEST`.

    Args:
        ticks: the times, in order. They are computed on demand.
    """

    farthest = MAX_LISTED_TICKS

    def __init__(self, ticks: Iterator[datetime]) -> None:
        self._coming = ticks
        self._known: list[datetime] = []

    def __getitem__(self, number: int) -> datetime:
        self._known += islice(self._coming, max(number + 1 - len(self._known), 0))
        return self._known[number] if number < len(self._known) else LATEST

    def after(self, time: datetime) -> int:
        """Return the number of the first tick after a given time."""
        if not self._known or self._known[-1] <= time:
            for tick in self._coming:
                self._known.append(tick)
                if tick > time:
                    break
        return bisect_right(self._known, time)


def by_clock(interval: timedelta, now: datetime, zone: tzinfo | None = None) -> Ticks:
    """Return ticks at an interval, aligned with the clock: 15 minutes gives ticks at :00, :15, :30 and :45. If `cron
    install` can write the interval, these are the ticks of its line. Ticks before now may be left out.
    """
    if interval > HOUR and not interval % HOUR and not DAY % interval:
        return Listed(_at_hours(in_zone(now, zone).date(), interval // HOUR, zone))
    if HOUR % interval:
        return Grid(EPOCH, interval)
    return Grid(in_zone(now, zone).replace(minute=0, second=0, microsecond=0).astimezone(UTC), interval)


def _at_hours(day: date, step: int, zone: tzinfo | None) -> Iterator[datetime]:
    """Yield the times from a day on at which cron runs ``0 */STEP * * *``: an hour that the clock skips has no run, one
    that it repeats has two. ``0 0 * * *`` runs exactly once a day, because cron treats lines without ``*`` so.
    """
    while day < date.max:
        for hour in range(0, 24, step):
            local = datetime(day.year, day.month, day.day, hour, tzinfo=zone)
            first, second = (local.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
            if step == DAY // HOUR or in_zone(first, zone).hour == hour:
                yield first
                if second > first and step != DAY // HOUR:
                    yield second
        day += DAY


def is_made(tick: datetime, starts: Sequence[datetime], interval: timedelta) -> bool:
    """Return whether the pass of a tick has begun, given the starts of passes that a scheduler started."""
    since = tick - min(BEFORE_TICK, interval / 2)
    return any(start >= since for start in starts)
