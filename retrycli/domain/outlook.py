"""Calculate the ticks at which passes should begin, predict when the next one does, and notice that one has not begun.

Two things show what starts passes: retrycli's own block in a crontab, and the recorded starts. Passes by hand show
nothing about a scheduler, so they change nothing here.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice, pairwise
from operator import itemgetter
from statistics import median
from typing import NamedTuple

from retrycli.domain.cron_line import INTERVALS, Block
from retrycli.domain.passes import LATE_AFTER_INTERVALS, LATE_GRACE, PassRecord, StartedBy
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


BEGIN, END = "# retrycli: begin, for ", "# retrycli: end"


GAPS = 10  # maximum number of gaps between starts from which the usual gap is derived
FEW_GAPS = 3  # with fewer gaps than this, passes are expected at the configured interval
ONE_START = timedelta(seconds=30)  # starts so close together count once: two schedulers began at one tick
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Silence:
    """Why no next run is known: no pass began at the last tick, or nothing is known to start passes."""

    sentence: str  # with {} for each of the times
    times: tuple[datetime, ...] = ()
    remedy: str = "run `retrycli doctor`"

    def words(self, in_words: Callable[[datetime], str]) -> str:
        """Describe the silence in one sentence, in which a function formats the times."""
        return self.sentence.format(*map(in_words, self.times))


NO_SCHEDULER = Silence("nothing is known to start passes", remedy="run `retrycli cron install`")


class Outlook(NamedTuple):
    """The next run. Either ``ticks`` and ``next_run`` are known, or ``silence`` says why not."""

    ticks: Ticks | None = None
    next_run: datetime | None = None
    silence: Silence | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """The starts by one scheduler: by cron of one host, for example, or by the applications of all hosts."""

    starter: StartedBy
    host: str  # host of the newest start
    newest: datetime | None  # the newest start; None if an application's scheduler has just started
    gap: timedelta
    is_usual: bool  # the gap is that of the starts; otherwise it is the configured interval
    ended: datetime | None = None  # end of the last of its passes

    def is_recent(self, now: datetime) -> bool:
        """Return whether the newest start is recent enough to expect another one."""
        return self.newest is not None and now < self.newest + LATE_AFTER_INTERVALS * self.gap + LATE_GRACE


@dataclass(frozen=True, slots=True)
class Sight:
    """What can be seen of schedulers at a time, apart from recorded passes."""

    now: datetime
    interval: timedelta
    zone: tzinfo  # cron's time zone
    host: str
    booted: datetime | None = None  # when this host started
    block: Block | None = None  # retrycli's own block in a crontab of this host
    application: datetime | None = None  # since when an application of this host makes passes; None if none does
    at_work: bool = False  # a pass runs that no operator started, and its heartbeat is recent


def series_of(passes: Sequence[PassRecord], interval: timedelta) -> list[Series]:
    """Return the schedulers of the last passes, newest first. With few starts, the configured interval counts."""
    found: dict[tuple[StartedBy, str], list[PassRecord]] = {}
    for record in counted(passes):
        host = "" if record.started_by is StartedBy.APPLICATION else record.host
        found.setdefault((record.started_by, host), []).append(record)
    return [_series(records, interval) for records in found.values()]


def counted(passes: Iterable[PassRecord]) -> list[PassRecord]:
    """Return the passes that no operator started, whatever their result."""
    return [record for record in passes if record.started_by is not StartedBy.PERSON]


def _series(records: list[PassRecord], interval: timedelta) -> Series:
    newest = records[0]
    starts = [newest.started_at]
    for record in records:
        if starts[-1] - record.started_at >= min(ONE_START, interval / 2):
            starts.append(record.started_at)
    gaps = [(later - earlier) / ONE_START for later, earlier in pairwise(starts[: GAPS + 1])]
    is_usual = len(gaps) >= FEW_GAPS
    # Rounded to half a minute, so that the delays of starts do not add up.
    gap = max(round(median(gaps)), 1) * ONE_START if is_usual else interval
    ended = max((record.finished_at for record in records if record.finished_at), default=None)
    return Series(newest.started_by, newest.host, newest.started_at, gap, is_usual, ended)


def look(sight: Sight, passes: Sequence[PassRecord]) -> Outlook:
    """Return when the next pass begins, given the last passes, newest first."""
    block, found = sight.block, series_of(passes, sight.interval)
    last = found[0].newest if found else None
    times = () if last is None else (last,)
    since = "yet" if last is None else "since {}"
    if passes and passes[0].started_by is StartedBy.PERSON:
        since += ", except by hand"
    if sight.application is not None and all(each.starter is not StartedBy.APPLICATION for each in found):
        found.append(Series(StartedBy.APPLICATION, sight.host, None, sight.interval, is_usual=False))
    coming = [outlook for each in found if (outlook := _expected(each, sight)) is not None]
    if block is not None and (step := INTERVALS.get(block.when)) is not None:
        # A pass of any host that began after a tick explains it. If retrycli can't see when the block was changed, it
        # counts as new, and only the recorded starts can show that a pass is missing.
        ended = (each.ended for each in found)
        after = max(filter(None, (block.written or sight.now, sight.booted, sight.application, last, *ended)))
        ticks = by_clock(step, min(after, sight.now), sight.zone)
        due = ticks.next(after + slack(step))
        if due + LATE_GRACE <= sight.now and not sight.at_work:
            missed = f"no pass has begun {since}; cron should have started one at {{}}"
            return Outlook(silence=Silence(missed, (*times, due)))
        if block.written is not None or coming or not found:
            return _next(ticks, step, sight.now, last)
    if coming:
        return min(coming, key=itemgetter(1))
    if not found:
        return Outlook(silence=NO_SCHEDULER)
    minutes = found[0].gap / MINUTE
    every = f"{minutes:g} minute{'' if minutes == 1 else 's'}"
    usual = f"passes came every {every}" if found[0].is_usual else f"a pass should begin every {every}"
    return Outlook(silence=Silence(f"{usual}; none {since}", times))


def _expected(series: Series, sight: Sight) -> Outlook | None:
    """Return the next run by one scheduler; None if its starts are not recent, or if one is missing."""
    since = sight.application if series.starter is StartedBy.APPLICATION else None
    if not (sight.at_work or since is not None or series.is_recent(sight.now)):
        return None
    early = slack(series.gap)
    # A start is not missing before a whole gap has passed, though a tick by the clock may come earlier.
    expected = series.newest and series.newest + series.gap - 2 * early
    booted = sight.booted if series.host == sight.host else None
    after = max(filter(None, (expected, since, booted, series.ended))) + early
    if series.is_usual and series.newest is not None:
        origin = series.newest + series.gap + MINUTE / 2
        ticks: Ticks = Grid(origin.replace(second=0, microsecond=0), series.gap)
    else:
        ticks = by_clock(series.gap, min(after, sight.now), sight.zone)
    if ticks.next(after) + LATE_GRACE <= sight.now and not sight.at_work:
        return None
    return _next(ticks, series.gap, sight.now, series.newest)


def _next(ticks: Ticks, step: timedelta, now: datetime, last: datetime | None) -> Outlook:
    """Return the next run. A tick whose pass has begun a little early is over."""
    return Outlook(ticks, ticks.next(now if last is None else max(now, last + slack(step))))
