"""Calculate the ticks of an interval: the times at which cron, or an application's scheduler, starts passes."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice

from retrycli.domain.retry_policy import LATEST, later

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# Maximum time by which the recorded start of a pass may be in the future. A later start was recorded while the clock
# was wrong, so the pass is ignored.
MAX_CLOCK_SKEW = timedelta(minutes=5)
BEFORE_TICK = timedelta(minutes=1)  # a pass that began less than this before a tick belongs to that tick
PASSES_LOOKED_AT = 10  # maximum number of passes among which a scheduler looks for the pass of a tick
MAX_TICKS = 2**24  # maximum number of ticks to look ahead: 31 years at one tick a minute
MAX_DAYS = 30 * 366  # number of days for which ticks at irregular intervals are computed


class Ticks:
    """The times at which passes start, called ticks, computed on demand. They are numbered from 0; numbers after the
    last tick give `LATEST`.
    """

    def __init__(self, ticks: Iterator[datetime]) -> None:
        self._coming = ticks
        self._known: list[datetime] = []

    def __getitem__(self, number: int) -> datetime:
        self._known += islice(self._coming, max(number + 1 - len(self._known), 0))
        return self._known[number] if number < len(self._known) else LATEST

    def after(self, time: datetime) -> int:
        """Return the number of the first tick after a given time."""
        while (not self._known or self._known[-1] <= time) and (tick := next(self._coming, None)) is not None:
            self._known.append(tick)
        return bisect_right(self._known, time)

    def next(self, time: datetime) -> datetime:
        """Return the first tick after a given time."""
        return self[self.after(time)]

    def first(self, number: int, holds: Callable[[datetime], bool]) -> int | None:
        """Return the number of the first tick, from a given number on, that meets a condition, which all later ticks
        must meet too; None if the search gives up after about `MAX_TICKS` ticks.
        """
        before, reach = number - 1, 1
        while not holds(self[before + reach]):
            before, reach = before + reach, 2 * reach
            if reach > MAX_TICKS:
                return None
        coming = range(before + 1, before + reach + 1)
        return coming[bisect_left(coming, x=True, key=lambda tick: holds(self[tick]))]


class Grid(Ticks):
    """Ticks at equal intervals, which need no list. The tick with number 0 is at ``origin``."""

    def __init__(self, origin: datetime, interval: timedelta) -> None:
        self._origin, self._interval = origin, interval

    def __getitem__(self, number: int) -> datetime:
        return later(self._origin, self._interval, times=number)

    def after(self, time: datetime) -> int:
        """Return the number of the first tick after a given time."""
        return (time - self._origin) // self._interval + 1


def by_clock(interval: timedelta, now: datetime, zone: tzinfo) -> Ticks:
    """Return ticks at an interval, aligned with the clock: 15 minutes gives ticks at :00, :15, :30 and :45. If `cron
    install` can write the interval, these are the ticks of its line. Ticks before now may be left out.
    """
    if HOUR % interval and (interval % HOUR or DAY % interval):
        return Grid(EPOCH, interval)
    hour = now.astimezone(zone).replace(minute=0, second=0, microsecond=0, fold=0)
    return Ticks(_at_hours(hour.replace(hour=0), interval)) if interval > HOUR else Grid(hour.astimezone(UTC), interval)


def _at_hours(midnight: datetime, step: timedelta) -> Iterator[datetime]:
    """Yield the times, from a local midnight on, at which cron runs ``0 */STEP * * *``: an hour that the clock skips
    has no run, one that it repeats has two. ``0 0 * * *`` runs once a day, because cron treats lines without ``*`` so.
    """
    for number in range(MAX_DAYS * (DAY // step)):
        local = midnight + number * step  # by the wall clock
        times = [local.replace(fold=fold).astimezone(UTC) for fold in (0, 1)]
        if step == DAY:
            yield times[0]
        else:
            yield from sorted({time for time in times if time.astimezone(midnight.tzinfo).hour == local.hour})


def slack(step: timedelta) -> timedelta:
    """Return how long before its tick a pass may begin."""
    return min(BEFORE_TICK, step / 2)


def is_made(tick: datetime, starts: Sequence[datetime], interval: timedelta) -> bool:
    """Return whether the pass of a tick has begun, given the starts of passes that a scheduler started."""
    return any(start >= tick - slack(interval) for start in starts)
