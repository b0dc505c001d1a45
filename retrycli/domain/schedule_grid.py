"""Calculate when the next passes start: from a cron line, from the passes that a scheduler has started, or from the
clock.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import islice
from typing import ClassVar

from retrycli.domain.cron_line import HOUR, schedule
from retrycli.domain.duration import in_zone
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.retry_policy import LATEST, later

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Maximum time by which the recorded start of a pass may be in the future. A later start was recorded while the clock
# was wrong, so the pass is ignored.
MAX_CLOCK_SKEW = timedelta(minutes=5)
BEFORE_TICK = timedelta(minutes=1)  # a pass that began less than this before a tick belongs to that tick
PASSES_LOOKED_AT = 10  # maximum number of passes from which a scheduler's grid is derived
MAX_TICKS = 2**24  # maximum number of ticks to look ahead: 31 years at one tick a minute
# Maximum number of ticks to look ahead if each tick is computed separately: half a year at one tick a minute, or 30
# years at one an hour.
MAX_LISTED_TICKS = 2**18
# A cron line without a tick for this many days never has a tick. The rarest date, 29 February on a given day of the
# week, occurs at least every 40 years.
MAX_DAYS_WITHOUT_TICK = 40 * 366
MINUTE = timedelta(minutes=1)
NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# The minimum and maximum of each field of a cron line, and the names of its values.
RANGES = ((0, 59, ()), (0, 23, ()), (1, 31, ()), (1, 12, MONTHS), (0, 7, WEEKDAYS))


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


# -- by a cron line ---------------------------------------------------------------------------------------------------


def by_cron(line: str, now: datetime, zone: tzinfo | None = None) -> Ticks | None:
    """Return the ticks of a cron line, by the rules of crontab(5).

    Args:
        line: the five fields, or a nickname such as ``@hourly``.
        now: the current time. The result may leave out earlier ticks.
        zone: cron's time zone; None means this machine's.

    Returns:
        The ticks; None if the line is invalid or never matches a time.
    """
    fields = NICKNAMES.get(line, line).lower().split()
    if len(fields) != len(RANGES):
        return None
    try:
        minutes, hours, days, months, weekdays = (_field_values(*field) for field in zip(fields, RANGES, strict=True))
    except ValueError:
        return None
    hour = in_zone(now, zone).replace(minute=0, second=0, microsecond=0, tzinfo=None)
    step = HOUR / len(minutes)
    if fields[1:] == ["*"] * 4 and all(minute - minutes[0] == number * step for number, minute in enumerate(minutes)):
        return Grid(_utc(hour + minutes[0] * MINUTE, zone), timedelta(minutes=step))
    # If the day of the month and the day of the week are both restricted, a day has to match only one of them.
    either = not fields[2].startswith("*") and not fields[4].startswith("*")

    def has_ticks(day: date) -> bool:
        matches = (day.day in days, day.isoweekday() in weekdays or day.isoweekday() % 7 in weekdays)
        return day.month in months and (any(matches) if either else all(matches))

    ticks = Listed(_ticks_on_days(has_ticks, hours, minutes, hour, zone))
    return ticks if ticks[0] < LATEST else None


def _ticks_on_days(
    has_ticks: Callable[[date], bool],
    hours: Sequence[int],
    minutes: Sequence[int],
    since: datetime,
    zone: tzinfo | None,
) -> Iterator[datetime]:
    day, without = since.date(), 0
    while without < MAX_DAYS_WITHOUT_TICK and day < date.max:
        without += 1
        if has_ticks(day):
            for hour in hours:
                for minute in minutes:
                    tick = datetime(day.year, day.month, day.day, hour, minute)  # noqa: DTZ001  local time, as in cron
                    if tick >= since:
                        without = 0
                        yield _utc(tick, zone)
        day += timedelta(days=1)


def _field_values(field: str, bounds: tuple[int, int, Collection[str]]) -> list[int]:
    least, most, names = bounds
    numbers = {name: str(least + number) for number, name in enumerate(names)}
    found: set[int] = set()
    for part in field.split(","):
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        first, last = (numbers.get(value, value) for value in (first, last))
        if first == "*":
            first, dash, last = str(least), "-", str(most)
        values = range(int(first), (int(last) if dash else int(first)) + 1, int(step) if slash else 1)
        if not values or values[0] < least or values[-1] > most or (slash and not dash):
            raise ValueError(part)
        found.update(values)
    return sorted(found)


def _utc(local: datetime, zone: tzinfo | None) -> datetime:
    try:
        return local.replace(tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        return local.replace(tzinfo=UTC)


# -- by the passes, and by the clock ----------------------------------------------------------------------------------


def by_clock(interval: timedelta, now: datetime, zone: tzinfo | None = None) -> Ticks:
    """Return ticks at an interval, aligned with the clock: 15 minutes gives ticks at :00, :15, :30 and :45."""
    try:
        found = by_cron(schedule(interval), now, zone)
    except ConfigurationError:
        found = None
    return found or Grid(EPOCH, interval)


def is_made(tick: datetime, starts: Sequence[datetime], interval: timedelta) -> bool:
    """Return whether the pass of a tick has begun.

    Args:
        tick: the tick.
        starts: start times of passes that a scheduler started.
        interval: the time between two ticks.
    """
    since = tick - min(BEFORE_TICK, interval / 2)
    return any(start >= since for start in starts)


def grid(starts: Sequence[datetime], interval: timedelta) -> Grid | None:
    """Return the grid of the times at which passes start.

    Args:
        starts: start times of the last passes that a scheduler started, newest first. A late pass does not move the
            grid.
        interval: the interval at which the scheduler starts passes.

    Returns:
        A grid with the phase (the offset within the interval) that most passes share; None if ``starts`` is empty.
    """
    if not starts:
        return None
    phases = [(start - EPOCH) % interval // MINUTE for start in starts]
    usual, _ = Counter(phases).most_common(1)[0]  # of equally common phases, the newest
    return Grid(starts[phases.index(usual)], interval)
