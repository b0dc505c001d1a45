"""Predict when the next pass begins, and notice that one has not begun.

Two things show what starts passes: retrycli's own block in a crontab, and the recorded starts. Passes by hand show
nothing about a scheduler, so they change nothing here.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from itertools import pairwise
from operator import itemgetter
from statistics import median

from retrycli.domain.cron_line import Block, interval_of
from retrycli.domain.passes import LATE_AFTER_INTERVALS, LATE_GRACE, PassRecord, StartedBy
from retrycli.domain.schedule_grid import BEFORE_TICK, Grid, Ticks, by_clock

GAPS = 10  # maximum number of gaps between starts from which the usual gap is derived
FEW_GAPS = 3  # with fewer gaps than this, passes are expected at the configured interval
ONE_START = timedelta(seconds=30)  # starts so close together count once: two schedulers began at one tick
MINUTE = timedelta(minutes=1)
TO_INSTALL = "run `retrycli cron install`"


@dataclass(frozen=True, slots=True)
class Silence:
    """Why no next run is known: no pass began at the last tick, or nothing is known to start passes."""

    since: datetime | None = None  # the last start that counts
    by_hand: bool = False  # an operator has started a pass since then
    due: datetime | None = None  # the tick of retrycli's own cron line at which no pass began
    every: timedelta | None = None  # the interval at which passes should begin, if anything is known to start them
    is_usual: bool = False  # passes have begun at this interval so far

    def words(self, in_words: Callable[[datetime], str]) -> str:
        """Describe the silence in one sentence, in which a function formats the times."""
        if self.due is None and self.every is None:
            return "nothing is known to start passes"
        hand = ", except by hand" if self.by_hand else ""
        if self.due is not None:
            since = "begun yet" if self.since is None else f"begun since {in_words(self.since)}"
            return f"no pass has {since}{hand}; cron should have started one at {in_words(self.due)}"
        minutes = (self.every or MINUTE) / MINUTE
        every = f"{minutes:g} minute{'' if minutes == 1 else 's'}"
        usual = f"passes came every {every}" if self.is_usual else f"a pass should begin every {every}"
        return f"{usual}; none {'yet' if self.since is None else f'since {in_words(self.since)}'}{hand}"

    @property
    def remedy(self) -> str:
        """Return what to do next."""
        return TO_INSTALL if self.due is None and self.every is None else "run `retrycli doctor`"


@dataclass(frozen=True, slots=True)
class Outlook:
    """The next run. Either ``ticks`` and ``next_run`` are known, or ``silence`` says why not."""

    ticks: Ticks | None = None
    next_run: datetime | None = None
    silence: Silence | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """The starts by one scheduler: by cron of one host, for example, or by the applications of all hosts."""

    starter: StartedBy
    host: str  # host of the newest start
    starts: tuple[datetime, ...]  # newest first; empty if an application's scheduler has just started
    gap: timedelta
    is_usual: bool  # the gap is that of the starts; otherwise it is the configured interval
    ended: datetime | None = None  # end of the last of its passes

    def is_recent(self, now: datetime) -> bool:
        """Return whether the newest start is recent enough to expect another one."""
        return bool(self.starts) and now < self.starts[0] + LATE_AFTER_INTERVALS * self.gap + LATE_GRACE


@dataclass(frozen=True, slots=True)
class Sight:
    """What can be seen of schedulers at a time, apart from recorded passes."""

    now: datetime
    interval: timedelta
    zone: tzinfo | None  # cron's time zone
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
        same = found.setdefault((record.started_by, host), [])
        if len(same) <= GAPS and (not same or same[-1].started_at - record.started_at >= min(ONE_START, interval / 2)):
            same.append(record)
    return [_series(starter, records, interval) for (starter, _), records in found.items()]


def counted(passes: Iterable[PassRecord]) -> list[PassRecord]:
    """Return the passes that no operator started, whatever their result."""
    return [record for record in passes if record.started_by is not StartedBy.PERSON]


def _series(starter: StartedBy, records: list[PassRecord], interval: timedelta) -> Series:
    starts = tuple(record.started_at for record in records)
    gaps = [(later - earlier) / ONE_START for later, earlier in pairwise(starts)]
    is_usual = len(gaps) >= FEW_GAPS
    # Rounded to half a minute, so that the delays of starts do not add up.
    gap = max(round(median(gaps)), 1) * ONE_START if is_usual else interval
    return Series(starter, records[0].host, starts, gap, is_usual, _ended(records))


def _ended(records: Iterable[PassRecord]) -> datetime | None:
    return max((record.finished_at for record in records if record.finished_at), default=None)


def look(sight: Sight, passes: Sequence[PassRecord]) -> Outlook:
    """Return when the next pass begins, given the last passes, newest first."""
    now, block = sight.now, sight.block
    found = series_of(passes, sight.interval)
    last = found[0].starts[0] if found else None  # the newest start
    by_hand = bool(passes) and passes[0].started_by is StartedBy.PERSON
    if sight.application is not None and all(each.starter is not StartedBy.APPLICATION for each in found):
        found.append(Series(StartedBy.APPLICATION, sight.host, (), sight.interval, is_usual=False))
    alive = [each for each in found if _is_alive(each, sight)]
    step = None if block is None else interval_of(block.when)
    if block is not None and step is not None:
        # A pass of any host that began after a tick explains it. If retrycli can't see when the block was changed,
        # only the recorded starts can show that one is missing.
        if block.written is not None and not sight.at_work:
            since = _newest(block.written, sight.booted, sight.application, last, _ended(counted(passes)))
            due = by_clock(step, since, sight.zone).next(since + _slack(step))
            if due + LATE_GRACE <= now:
                return Outlook(silence=Silence(last, by_hand, due=due))
        if block.written is not None or alive or not found:
            ticks = by_clock(step, now, sight.zone)
            return Outlook(ticks, _next(ticks, step, now, last))
    if alive:
        predicted = [(ticks := _ticks(each, sight), _next(ticks, each.gap, now, *each.starts[:1])) for each in alive]
        return Outlook(*min(predicted, key=itemgetter(1)))
    if not found:
        return Outlook(silence=Silence(by_hand=by_hand))
    return Outlook(silence=Silence(last, by_hand, every=found[0].gap, is_usual=found[0].is_usual))


def _is_alive(series: Series, sight: Sight) -> bool:
    """Return whether a scheduler is expected to start another pass: its starts are recent, and none is missing."""
    since = sight.application if series.starter is StartedBy.APPLICATION else None
    if not (sight.at_work or since is not None or series.is_recent(sight.now)):
        return False
    slack = _slack(series.gap)
    # A start is not missing before a whole gap has passed, though a tick by the clock may come earlier.
    expected = [series.starts[0] + series.gap - 2 * slack] if series.starts else []
    booted = sight.booted if series.host == sight.host else None
    after = _newest(*expected, since, booted, series.ended) + slack
    return sight.at_work or sight.now < _ticks(series, sight, after).next(after) + LATE_GRACE


def _ticks(series: Series, sight: Sight, now: datetime | None = None) -> Ticks:
    if series.is_usual:
        return Grid(_rounded(series.starts[0] + series.gap), series.gap)
    return by_clock(series.gap, now or sight.now, sight.zone)


def _next(ticks: Ticks, step: timedelta, now: datetime, last: datetime | None = None) -> datetime:
    """Return the next tick. A tick whose pass has begun a little early is over."""
    return ticks.next(now if last is None else max(now, last + _slack(step)))


def _slack(step: timedelta) -> timedelta:
    return min(BEFORE_TICK, step / 2)


def _newest(*times: datetime | None) -> datetime:
    return max(time for time in times if time is not None)


def _rounded(time: datetime) -> datetime:
    return (time + MINUTE / 2).replace(second=0, microsecond=0)
