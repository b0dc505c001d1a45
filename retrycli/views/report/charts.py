"""The report's pictures as SVG. They hold shapes alone and stretch with the page; the words stand around them in HTML.

Colours are classes, which the page's style sheet fills in for light and for dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from html import escape

from retrycli.domain.delivery_stats import OUTCOMES
from retrycli.domain.outage import Outage

HEIGHT = 100
BAND = 6
"""So much is left above the columns for the outages' own mark, which no column can hide."""
AIR = 0.14
"""How much of a bar's room stays empty beside it."""
ROUND = (10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100)
"""What the first two digits of a round number may be."""
LEAST_SHARE = 0.4
"""No bar that stands for anything is thinner, in hundredths of the whole."""

Box = tuple[float, float, float, float]
"""Left, top, width, height."""


def outcomes(
    bars: Mapping[datetime, Mapping[str, int]],
    outages: Sequence[Outage],
    length: timedelta,
    *,
    until: datetime,
    told: Sequence[str],
) -> str:
    """Attempts over time: a column for each stretch, piled up by outcome, before the shade of the outages.

    Args:
        bars: the attempts by outcome, by the beginning of the stretch.
        outages: what to shade.
        length: how long a stretch is.
        until: the end of it all, which the last stretch may go beyond.
        told: what appears over each column.
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
            *(_shape(f"o-{_word(outcome)}", parts) for outcome, parts in boxes.items()),
            *columns,
        ],
        title="Attempts by outcome over time",
        desc=f"{len(bars)} columns with {total:,} attempts; the ticketing API was down {len(outages)} times.",
    )


def scale(bars: Mapping[datetime, Mapping[str, int]]) -> int:
    """What the full height of the columns stands for: a round number, not below the highest column."""
    highest = max((sum(counts.values()) for counts in bars.values()), default=0)
    if highest <= ROUND[0]:
        return max(highest, 1)
    power = int(10 ** (len(str(highest)) - 2))
    return next(bound * power for bound in ROUND if bound * power >= highest)


def share(part: int, whole: int) -> str:
    """A level bar that is filled as far as a part is of a whole; its words stand beside it."""
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
"""What a pass looks like by its result, from where to where of a day's height: they differ without colour too."""


def day(marks: Mapping[int, str], *, cells: int, expected: tuple[float, float], title: str, desc: str) -> str:
    """One day's passes in a row, with a line beneath for the time in which passes were to come.

    Args:
        marks: one of `MARKS` by cell.
        cells: how many make up a day.
        expected: from which cell to which passes were to come.
        title: what day it is.
        desc: what there was, in words.
    """
    boxes: dict[str, list[Box]] = {mark: [] for mark in MARKS}
    for cell, mark in sorted(marks.items()):
        boxes[mark] += [(cell + AIR / 2, top, 1 - AIR, bottom - top) for top, bottom in MARKS[mark]]
    begin, end = expected
    line = _shape("expected", [(begin, 10.6, end - begin, 0.6)])
    shapes = [line, *(_shape(f"p-{mark}", parts) for mark, parts in boxes.items())]
    return _svg((0, 0, cells, 11.2), shapes, title=title, desc=desc)


def sample(mark: str) -> str:
    """One pass alone, for the legend."""
    return _svg((0, 0, 1, 11.2), [_shape(f"p-{mark}", [(0, top, 1, bottom - top) for top, bottom in MARKS[mark]])])


def _shape(name: str, boxes: Iterable[Box]) -> str:
    """Boxes of one kind as one path: a tenth of what an element for each would weigh."""
    drawn = "".join(f"M{_n(x)} {_n(y)}h{_n(w)}v{_n(h)}h-{_n(w)}z" for x, y, w, h in boxes if w > 0 and h > 0)
    return f'<path class="{name}" d="{drawn}"/>' if drawn else ""


def _svg(view: Box, shapes: Iterable[str], *, title: str = "", desc: str = "") -> str:
    """A picture; one without a title is an ornament of the words beside it."""
    head = f"<title>{escape(title)}</title><desc>{escape(desc)}</desc>"
    told = f'role="img">{head}' if title else 'aria-hidden="true">'
    return f'<svg viewBox="{" ".join(map(_n, view))}" preserveAspectRatio="none" {told}{"".join(shapes)}</svg>'


def _word(outcome: str) -> str:
    return outcome.replace(" ", "-")


def _n(number: float) -> str:
    """A number in as few characters as show it to a hundredth."""
    return f"{number:.2f}".rstrip("0").rstrip(".")
