"""Lay out passes by day, and draw the report's charts as SVG.

The charts contain only shapes, and stretch with the page. The HTML has the labels, so that these are not distorted.
Each shape has a class, and the page's style sheet gives the class a colour for light and for dark mode.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from html import escape
from itertools import pairwise

from retrycli.domain.delivery_stats import DAY, OUTCOMES, Outage, PassMark

HEIGHT = 100
BAND = 6  # height of the space above the columns, which the shading of outages also fills
GAP = 0.14  # share of a bar's width that stays empty
ROUND = (10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100)  # round numbers, to be multiplied by a power of ten
LEAST_SHARE = 0.4  # minimum width of a bar, in per cent, so that every number above 0 is visible

Box = tuple[float, float, float, float]  # left, top, width, height


def outcomes(
    bars: Mapping[datetime, Mapping[str, int]],
    outages: Sequence[Outage],
    length: timedelta,
    *,
    until: datetime,
    tooltips: Sequence[str],
) -> str:
    """Draw attempts over time: a column with its tooltip for each period, stacked by outcome, in front of shaded
    outages. The shading of an outage that has not ended ends at ``until``.
    """
    begin = next(iter(bars))
    top = scale(bars)
    boxes: dict[str, list[Box]] = {outcome: [] for outcome in OUTCOMES}
    for number, counts in enumerate(bars.values()):
        floor = float(HEIGHT)
        for outcome, attempts in counts.items():
            height = attempts / top * HEIGHT
            floor -= height
            boxes[outcome].append((number + GAP / 2, floor, 1 - GAP, height))
    spans = [
        ((outage.began_at - begin) / length, max(((outage.ended_at or until) - outage.began_at) / length, GAP))
        for outage in outages
    ]
    total = sum(sum(counts.values()) for counts in bars.values())
    return _svg(
        (0, -BAND, len(bars), HEIGHT + BAND),
        [
            _shape("down", [(left, BAND / 2 - BAND, width, HEIGHT + BAND / 2) for left, width in spans]),
            _shape("down-edge", [(left, -BAND, width, BAND / 2) for left, width in spans]),
            *(_shape(f"o-{outcome.replace(' ', '-')}", parts) for outcome, parts in boxes.items()),
            *(
                f'<path class="over" d="M{number} 0h1v{HEIGHT}h-1z"><title>{escape(tooltip)}</title></path>'
                for number, tooltip in enumerate(tooltips)
            ),
        ],
        title="Attempts by outcome over time",
        desc=f"Bars: {len(bars)}; attempts: {total:,}; outages of the ticketing API: {len(outages)}.",
    )


def scale(bars: Mapping[datetime, Mapping[str, int]]) -> int:
    """Return what the full height of the columns stands for: a round number, at least the highest column."""
    highest = max((sum(counts.values()) for counts in bars.values()), default=0)
    if highest <= ROUND[0]:
        return max(highest, 1)
    power = int(10 ** (len(str(highest)) - 2))
    return next(bound * power for bound in ROUND if bound * power >= highest)


def share(part: int, whole: int) -> str:
    """Draw a horizontal bar, filled in proportion to a part of a whole. The page shows the number beside the bar."""
    width = max(part / whole * 100, LEAST_SHARE) if part else 0
    return _svg((0, 0, 100, 1), [_shape("room", [(0, 0, 100, 1)]), _shape("share", [(0, 0, width, 1)])])


# The shape of the mark for each result of a pass: the tops and bottoms of its boxes, within the day's height. No two
# shapes look alike without colour. If one mark represents two passes, it shows the result that is later in this list.
MARKS: Mapping[str, Sequence[tuple[float, float]]] = {
    "completed": ((0, 10),),
    "running": ((0, 2),),
    "paused": ((6.5, 10),),
    "skipped": ((8, 10),),
    "stopped": ((4, 10),),
    "interrupted": ((0, 3), (7, 10)),
    "failed": ((0, 4), (6, 10)),
}


def day(marks: Mapping[int, str], *, cells: int, expected: tuple[float, float], title: str, desc: str) -> str:
    """Draw one day's passes in a row, one mark of `MARKS` per cell, with a line underneath for the time in which passes
    were expected: from the first cell to the one after the last. Screen readers get the description.
    """
    boxes: dict[str, list[Box]] = {mark: [] for mark in MARKS}
    for cell, mark in sorted(marks.items()):
        boxes[mark] += [(cell + GAP / 2, top, 1 - GAP, bottom - top) for top, bottom in MARKS[mark]]
    begin, end = expected
    return _svg(
        (0, 0, cells, 11.2),
        [
            _shape("expected", [(begin, 10.6, end - begin, 0.6)]),
            *(_shape(f"p-{mark}", parts) for mark, parts in boxes.items()),
        ],
        title=title,
        desc=desc,
    )


def sample(mark: str) -> str:
    """Draw a single pass, for the legend."""
    return _svg((0, 0, 1, 11.2), [_shape(f"p-{mark}", [(0, top, 1, bottom - top) for top, bottom in MARKS[mark]])])


def _shape(name: str, boxes: Iterable[Box]) -> str:
    drawn = "".join(
        f"M{_short(x)} {_short(y)}h{_short(w)}v{_short(h)}h-{_short(w)}z" for x, y, w, h in boxes if w > 0 and h > 0
    )
    # One path for all boxes takes a tenth of the space of one element per box.
    return f'<path class="{name}" d="{drawn}"/>' if drawn else ""


def _svg(view: Box, shapes: Iterable[str], *, title: str = "", desc: str = "") -> str:
    # A picture without a title is hidden from screen readers, because the text beside it contains the same information.
    names = f'role="img"><title>{escape(title)}</title><desc>{escape(desc)}</desc>' if title else 'aria-hidden="true">'
    return f'<svg viewBox="{" ".join(map(_short, view))}" preserveAspectRatio="none" {names}{"".join(shapes)}</svg>'


def _short(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")


# The periods that one mark can represent. Every period divides a day evenly, and a day's marks fit on a phone.
CELLS = tuple(timedelta(minutes=minutes) for minutes in (15, 20, 30, 60, 120, 240, 360, 720, 1440))
MISSED_AFTER = 1.6  # if no pass begins for this many intervals, a pass was missed; a shorter delay is jitter


@dataclass(frozen=True, slots=True)
class Row:
    """One day of the timeline."""

    day: date
    marks: Mapping[int, str]  # result that each cell shows
    expected: tuple[int, int]  # the first cell in which passes were expected, and the cell after the last one
    results: Mapping[str, int]  # number of passes by result, including passes that share a cell
    missed: int


@dataclass(frozen=True, slots=True)
class Strip:
    """The timeline: one row per day, oldest first."""

    rows: Sequence[Row]
    cells: int  # number of cells in a day
    results: Mapping[str, int]
    missed: int


def strip(passes: Sequence[PassMark], since: datetime, until: datetime, *, interval: timedelta, zone: tzinfo) -> Strip:
    """Lay out passes, which are oldest first, by the days since passes were expected. Leave out passes outside the
    period, for example because of another host's clock.
    """
    passes = [mark for mark in passes if since <= mark.started_at <= until]
    cell = next((length for length in CELLS if length >= interval), CELLS[-1])
    first, last = since.astimezone(zone), until.astimezone(zone)
    days = [first.date() + number * DAY for number in range((last.date() - first.date()).days + 1)]
    marks: dict[date, dict[int, str]] = {day: {} for day in days}
    results: dict[date, Counter[str]] = {day: Counter() for day in days}
    ends = [*(mark.started_at for mark in passes[1:]), until]
    for mark, end in zip(passes, ends, strict=False):  # without passes, ends still contains `until`
        result = mark.result or "running"
        results[mark.started_at.astimezone(zone).date()][result] += 1
        for day, number in _covered(mark.started_at, end, cell, interval, zone):
            marks[day][number] = max(marks[day].get(number, result), result, key=[*MARKS].index)
    missed = Counter(begin.astimezone(zone).date() for begin in _missed(passes, since, until, interval))
    return Strip(
        rows=[
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
        ],
        cells=DAY // cell,
        results=_in_order(sum(results.values(), Counter())),
        missed=missed.total(),
    )


def _covered(
    begun: datetime, following: datetime, cell: timedelta, interval: timedelta, zone: tzinfo
) -> Iterator[tuple[date, int]]:
    yield _day_and_cell(begun, cell, zone)
    # If the next pass began in time, this pass covers the cells up to it, so that jitter leaves no gap.
    if following - begun < MISSED_AFTER * interval:
        at = begun + cell
        while at < following and _day_and_cell(at, cell, zone) != _day_and_cell(following, cell, zone):
            yield _day_and_cell(at, cell, zone)
            at += cell


def _day_and_cell(time: datetime, cell: timedelta, zone: tzinfo) -> tuple[date, int]:
    local = time.astimezone(zone)
    return local.date(), _cell(local, cell)


def _cell(local: datetime, cell: timedelta) -> int:
    return timedelta(hours=local.hour, minutes=local.minute, seconds=local.second) // cell


def _missed(passes: Sequence[PassMark], since: datetime, until: datetime, interval: timedelta) -> Iterator[datetime]:
    for before, after in pairwise([since, *(mark.started_at for mark in passes), until]):
        if after - before >= MISSED_AFTER * interval:
            yield from (before + number * interval for number in range(1, round((after - before) / interval)))


def _in_order(results: Mapping[str, int]) -> dict[str, int]:
    return {result: results[result] for result in MARKS if results.get(result)}
