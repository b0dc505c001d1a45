"""Lay out passes by day, one row per day: the results, and where a pass is missing."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise

from retrycli.domain.delivery_stats import DAY, PassMark
from retrycli.views.report.prose import Clock

MINUTE = timedelta(minutes=1)
CELLS = tuple(minutes * MINUTE for minutes in (15, 20, 30, 60, 120, 240, 360, 720, 1440))
"""The possible periods for one mark. A day is a whole number of them, which fits on a phone."""
MISSED_AFTER = 1.6  # a pass this many intervals late was missed; less is a scheduler's jitter
RUNNING = "running"
BY_WEIGHT = ("completed", RUNNING, "paused", "skipped", "stopped", "interrupted", "failed")
"""If one mark stands for two passes, it shows the one that comes later in this list."""


@dataclass(frozen=True, slots=True)
class Row:
    """One day of the timeline."""

    day: date
    marks: Mapping[int, str]  # result that each cell shows
    expected: tuple[int, int]  # the first and the last cell in which passes were expected
    results: Mapping[str, int]  # number of passes by result, including passes that share a cell
    missed: int


@dataclass(frozen=True, slots=True)
class Strip:
    """The days of the timeline, oldest first."""

    rows: Sequence[Row]
    cells: int  # number of cells in a day
    results: Mapping[str, int]
    missed: int


def strip(passes: Sequence[PassMark], since: datetime, until: datetime, *, interval: timedelta, clock: Clock) -> Strip:
    """Lay out passes by day.

    Args:
        passes: the passes, oldest first. Passes outside the period, for example because of another host's clock, are
            left out.
        since: the time from which passes were expected.
        until: the present time.
        interval: how often a pass should begin.
        clock: converts times, and so defines the days.
    """
    passes = [mark for mark in passes if since <= mark.started_at <= until]
    cell = next((length for length in CELLS if length >= interval), CELLS[-1])
    first, last = clock(since), clock(until)
    days = [first.date() + number * DAY for number in range((last.date() - first.date()).days + 1)]
    marks: dict[date, dict[int, str]] = {day: {} for day in days}
    results: dict[date, Counter[str]] = {day: Counter() for day in days}
    ends = [*(mark.started_at for mark in passes[1:]), until]
    for mark, end in zip(passes, ends, strict=False):  # without a pass there is an extra end
        result = mark.result or RUNNING
        results[clock(mark.started_at).date()][result] += 1
        for day, number in _covered(mark.started_at, end, cell, interval, clock):
            marks[day][number] = max(marks[day].get(number, result), result, key=BY_WEIGHT.index)
    missed = Counter(clock(begin).date() for begin in _missed(passes, since, until, interval))
    rows = [
        Row(
            day=day,
            marks=marks[day],
            expected=(
                _cell(first, cell) if day == first.date() else 0,
                _cell(last, cell) + 1 if day == last.date() else DAY // cell,
            ),
            results=_in_order(results[day]),
            missed=missed[day],
        )
        for day in days
    ]
    return Strip(rows, DAY // cell, _in_order(sum(results.values(), Counter())), missed.total())


def _covered(
    begun: datetime, following: datetime, cell: timedelta, interval: timedelta, clock: Clock
) -> Iterator[tuple[date, int]]:
    """Yield the cells that a pass covers: those up to the next pass, if that was on time, so that jitter leaves no
    gap.
    """
    yield _day_and_cell(begun, cell, clock)
    if following - begun < MISSED_AFTER * interval:
        at = begun + cell
        while at < following and _day_and_cell(at, cell, clock) != _day_and_cell(following, cell, clock):
            yield _day_and_cell(at, cell, clock)
            at += cell


def _day_and_cell(time: datetime, cell: timedelta, clock: Clock) -> tuple[date, int]:
    return clock(time).date(), _cell(clock(time), cell)


def _cell(local: datetime, cell: timedelta) -> int:
    return timedelta(hours=local.hour, minutes=local.minute, seconds=local.second) // cell


def _missed(passes: Sequence[PassMark], since: datetime, until: datetime, interval: timedelta) -> Iterator[datetime]:
    """Yield the times at which a pass should have begun but none did."""
    for before, after in pairwise([since, *(mark.started_at for mark in passes), until]):
        if after - before >= MISSED_AFTER * interval:
            yield from (before + number * interval for number in range(1, round((after - before) / interval)))


def _in_order(results: Mapping[str, int]) -> dict[str, int]:
    return {result: results[result] for result in BY_WEIGHT if results.get(result)}
