"""Draw the report's charts as SVG. They contain only shapes, and stretch with the page. Their texts are in the HTML.

Colours are classes, which the page's style sheet defines for light and for dark.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from html import escape

from retrycli.domain.delivery_stats import OUTCOMES, Outage

HEIGHT = 100
BAND = 6  # room above the columns for the marks of outages, which no column can cover
AIR = 0.14  # share of a bar's room that stays empty
ROUND = (10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100)  # first two digits of a round number
LEAST_SHARE = 0.4  # minimum width of a bar that is not 0, in hundredths of the whole

Box = tuple[float, float, float, float]  # left, top, width, height


def outcomes(
    bars: Mapping[datetime, Mapping[str, int]],
    outages: Sequence[Outage],
    length: timedelta,
    *,
    until: datetime,
    told: Sequence[str],
) -> str:
    """Draw attempts over time: a column for each period, stacked by outcome, in front of shaded outages.

    Args:
        bars: the attempts by outcome, by the start of the period.
        outages: the outages to shade.
        length: the length of a period.
        until: the end of the chart, which the last period may exceed.
        told: the tooltip of each column.
    """
    begin = next(iter(bars))
    top = scale(bars)
    boxes: dict[str, list[Box]] = {outcome: [] for outcome in OUTCOMES}
    for number, counts in enumerate(bars.values()):
        floor = float(HEIGHT)
        for outcome, attempts in counts.items():
            height = attempts / top * HEIGHT
            floor -= height
            boxes[outcome].append((number + AIR / 2, floor, 1 - AIR, height))
    spans = [
        ((outage.began_at - begin) / length, max(((outage.ended_at or until) - outage.began_at) / length, AIR))
        for outage in outages
    ]
    shades = [(left, BAND / 2 - BAND, width, HEIGHT + BAND / 2) for left, width in spans]
    marks = [(left, -BAND, width, BAND / 2) for left, width in spans]
    total = sum(sum(counts.values()) for counts in bars.values())
    columns = (
        f'<path class="over" d="M{number} 0h1v{HEIGHT}h-1z"><title>{escape(words)}</title></path>'
        for number, words in enumerate(told)
    )
    return _svg(
        (0, -BAND, len(bars), HEIGHT + BAND),
        [
            _shape("down", shades),
            _shape("down-edge", marks),
            *(_shape(f"o-{outcome.replace(' ', '-')}", parts) for outcome, parts in boxes.items()),
            *columns,
        ],
        title="Attempts by outcome over time",
        desc=f"{len(bars)} bars with {total:,} attempts; the ticketing API was down {len(outages)} times.",
    )


def scale(bars: Mapping[datetime, Mapping[str, int]]) -> int:
    """Return the value that the full height of the columns stands for: a round number, at least that of the highest
    column.
    """
    highest = max((sum(counts.values()) for counts in bars.values()), default=0)
    if highest <= ROUND[0]:
        return max(highest, 1)
    power = int(10 ** (len(str(highest)) - 2))
    return next(bound * power for bound in ROUND if bound * power >= highest)


def share(part: int, whole: int) -> str:
    """Draw a horizontal bar, filled in proportion to a part of a whole. Its text is beside it."""
    width = max(part / whole * 100, LEAST_SHARE) if part else 0
    return _svg((0, 0, 100, 1), [_shape("room", [(0, 0, 100, 1)]), _shape("share", [(0, 0, width, 1)])])


MARKS: Mapping[str, Sequence[tuple[float, float]]] = {
    "completed": ((0, 10),),
    "paused": ((6.5, 10),),
    "skipped": ((8, 10),),
    "stopped": ((4, 10),),
    "interrupted": ((0, 3), (7, 10)),
    "failed": ((0, 4), (6, 10)),
    "running": ((0, 2),),
}
"""The shape that stands for a pass, by its result, as start and end within the day's height. Shapes can be told apart
without colour.
"""


def day(marks: Mapping[int, str], *, cells: int, expected: tuple[float, float], title: str, desc: str) -> str:
    """Draw one day's passes in a row, with a line underneath for the time in which passes were expected.

    Args:
        marks: the mark of each cell, from `MARKS`.
        cells: the number of cells in a day.
        expected: the first and the last cell in which passes were expected.
        title: the day, as the title.
        desc: the same information in words.
    """
    boxes: dict[str, list[Box]] = {mark: [] for mark in MARKS}
    for cell, mark in sorted(marks.items()):
        boxes[mark] += [(cell + AIR / 2, top, 1 - AIR, bottom - top) for top, bottom in MARKS[mark]]
    begin, end = expected
    shapes = [
        _shape("expected", [(begin, 10.6, end - begin, 0.6)]),
        *(_shape(f"p-{mark}", parts) for mark, parts in boxes.items()),
    ]
    return _svg((0, 0, cells, 11.2), shapes, title=title, desc=desc)


def sample(mark: str) -> str:
    """Draw a single pass, for the legend."""
    return _svg((0, 0, 1, 11.2), [_shape(f"p-{mark}", [(0, top, 1, bottom - top) for top, bottom in MARKS[mark]])])


def _shape(name: str, boxes: Iterable[Box]) -> str:
    """Draw boxes of one kind as one path, which needs a tenth of the size of one element per box."""
    drawn = "".join(
        f"M{_short(x)} {_short(y)}h{_short(w)}v{_short(h)}h-{_short(w)}z" for x, y, w, h in boxes if w > 0 and h > 0
    )
    return f'<path class="{name}" d="{drawn}"/>' if drawn else ""


def _svg(view: Box, shapes: Iterable[str], *, title: str = "", desc: str = "") -> str:
    """Return a picture. A picture without a title is hidden from screen readers, because the text beside it says the
    same.
    """
    head = f"<title>{escape(title)}</title><desc>{escape(desc)}</desc>"
    told = f'role="img">{head}' if title else 'aria-hidden="true">'
    return f'<svg viewBox="{" ".join(map(_short, view))}" preserveAspectRatio="none" {told}{"".join(shapes)}</svg>'


def _short(number: float) -> str:
    """Format a number to two decimals in as few characters as possible."""
    return f"{number:.2f}".rstrip("0").rstrip(".")
