"""Draw the passes and outages of the last day as one strip, for the console.

Missed passes and outages of the ticketing API are hatched differently, because different people fix them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from itertools import pairwise

from retrycli.domain.delivery_stats import Outage, PassMark
from retrycli.views.report.charts import MARKS, MISSED_AFTER

# The lines of each hatching, in the coordinates of its tile.
HATCHES = {"missed": ("45", "6"), "outage": ("-45", "4")}
TALL = 10  # height of a pass's mark, in the units of `MARKS`


@dataclass(frozen=True, slots=True)
class RecentPasses:
    """The passes and outages of a period that ends now."""

    since: datetime
    until: datetime
    first_pass: datetime | None  # start of the first known pass
    passes: Sequence[PassMark]  # oldest first
    outages: Sequence[Outage]
    interval: timedelta  # how often a pass should begin

    @property
    def gaps(self) -> list[tuple[datetime, datetime]]:
        """Return the periods in which passes are missing."""
        if self.first_pass is None:
            return []
        begin = max(self.since, self.first_pass)
        starts = [mark.started_at for mark in self.passes if begin <= mark.started_at <= self.until]
        pairs = pairwise([begin, *starts, self.until])
        return [
            (before if before == begin and begin not in starts else before + self.interval, after)
            for before, after in pairs
            if after - before >= MISSED_AFTER * self.interval
        ]

    @property
    def missed(self) -> int:
        """Count the missing passes."""
        return sum(max(round((end - begin) / self.interval), 1) for begin, end in self.gaps)

    @property
    def down(self) -> timedelta:
        """Return how long the ticketing API was down in the period."""
        lengths = (
            min(outage.ended_at or self.until, self.until) - max(outage.began_at, self.since) for outage in self.outages
        )
        return sum(lengths, timedelta())


def strip(found: RecentPasses, *, title: str) -> str:
    """Draw the strip as SVG, with a title for screen readers. Positions are in per cent, so that hatchings stay
    undistorted at any width.
    """
    shapes = [*_marks(found), *_hatched(found)]
    patterns = "".join(
        f'<pattern id="{name}" width="{size}" height="{size}" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate({angle})"><rect class="{name}-room" width="{size}" height="{size}"/>'
        f'<rect class="{name}-ink" width="2" height="{size}"/></pattern>'
        for name, (angle, size) in HATCHES.items()
    )
    return (
        f'<svg class="strip" role="img"><title>{escape(title)}</title><defs>{patterns}</defs>'
        f'<rect class="room" width="100%" height="100%"/>{"".join(shapes)}</svg>'
    )


def sample(hatch: str) -> str:
    """Draw one hatching for the legend. It only works beside a strip."""
    return f'<svg class="sample" aria-hidden="true"><rect fill="url(#{hatch})" width="100%" height="100%"/></svg>'


def _marks(found: RecentPasses) -> Iterator[str]:
    ends = [*(mark.started_at for mark in found.passes[1:]), found.until]
    for mark, following in zip(found.passes, ends, strict=False):
        result = mark.result or "running"
        in_time = following - mark.started_at < MISSED_AFTER * found.interval
        end = following if in_time else mark.started_at + found.interval
        for top, bottom in MARKS.get(result, MARKS["failed"]):
            yield _box(found, mark.started_at, end, top, bottom, f'class="p-{escape(result)}"', gap=0.15)


def _hatched(found: RecentPasses) -> Iterator[str]:
    for begin, end in found.gaps:
        yield _box(found, begin, end, 0, TALL, 'fill="url(#missed)"')
    for outage in found.outages:
        end = outage.ended_at or found.until
        begin = min(outage.began_at, end - found.interval)  # an outage that has just begun is visible too
        yield _box(found, begin, end, 0, TALL / 2, 'fill="url(#outage)"')


def _box(
    found: RecentPasses, begin: datetime, end: datetime, top: float, bottom: float, look: str, *, gap: float = 0
) -> str:
    """Draw a box; ``gap`` is the share of its width that stays empty."""
    whole = found.until - found.since
    left = max((begin - found.since) / whole, 0) * 100
    width = (min((end - found.since) / whole, 1) * 100 - left) * (1 - gap)
    if width <= 0:
        return ""
    return (
        f'<rect {look} x="{left:.2f}%" width="{width:.2f}%" y="{top * 100 / TALL:g}%" '
        f'height="{(bottom - top) * 100 / TALL:g}%"/>'
    )
