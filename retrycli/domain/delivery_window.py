"""Delivery windows: the times of the week at which passes may deliver messages.

The wall clock of a time zone decides. An hour that occurs twice, because clocks are set back, is open twice. If a
window begins in an hour that is skipped, it opens at the first time that exists. A window that lies entirely in a
skipped hour does not open on that day.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import NamedTuple

from retrycli.domain.duration import in_zone

EXAMPLES = '"Mon-Fri 08:00-18:00", "Sat 09:00-12:00" or "daily 22:00-06:00"'
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")  # in the order of `date.weekday`
DAY, WEEK, SECOND = timedelta(days=1), timedelta(weeks=1), timedelta(seconds=1)
STEP = timedelta(hours=12)  # the offset of a zone is assumed to change at most once in this time

_DAY, _TIME = "|".join(DAYS), r"(?:[01]?[0-9]|2[0-3]):[0-5][0-9]"
PATTERN = re.compile(
    rf"(?:daily|(?P<first>{_DAY})(?: *- *(?P<last>{_DAY}))?) +(?P<start>{_TIME}) *- *(?P<end>{_TIME}|24:00)"
)


class DeliveryWindow(NamedTuple):
    """The days of the week on which a window opens, and when it opens and closes, counted from midnight.

    A window over midnight belongs to the day on which it opens. Its ``end`` is more than 24 hours.
    """

    days: frozenset[int]  # 0 is Monday
    start: timedelta
    end: timedelta

    @classmethod
    def parse(cls, text: str) -> "DeliveryWindow":
        """Parse a window, such as one of `EXAMPLES`.

        Raises:
            ValueError: the text is not a window, or the window is empty.
        """
        found = PATTERN.fullmatch(text.strip().lower())
        if found is None:
            raise ValueError(f"{text!r} is not a valid delivery window; write days and times, such as {EXAMPLES}")
        start, end = _since_midnight(found["start"]), _since_midnight(found["end"])
        if start == end:
            raise ValueError(f'{text!r} is an empty window; for whole days, write "daily 00:00-24:00"')
        first = DAYS.index(found["first"] or DAYS[0])
        last = DAYS.index(found["last"] or found["first"] or DAYS[-1])
        days = frozenset((first + number) % len(DAYS) for number in range((last - first) % len(DAYS) + 1))
        return cls(days, start, end if start < end else end + DAY)


def _since_midnight(text: str) -> timedelta:
    hours, minutes = text.split(":")
    return timedelta(hours=int(hours), minutes=int(minutes))


@dataclass(frozen=True, slots=True)
class DeliveryWindows:
    """Several windows in one time zone. They are open if any of them is."""

    text: str
    windows: tuple[DeliveryWindow, ...]
    zone: tzinfo | None = None  # None means this machine's zone

    @classmethod
    def parse(cls, texts: Iterable[str], zone: tzinfo | None = None) -> "DeliveryWindows":
        """Parse windows.

        Raises:
            ValueError: see `DeliveryWindow.parse`.
        """
        texts = tuple(texts)
        return cls(", ".join(texts), tuple(map(DeliveryWindow.parse, texts)), zone)

    def is_open(self, at: datetime) -> bool:
        """Return whether a pass may deliver at a given time."""
        wall = in_zone(at, self.zone).replace(tzinfo=None)
        return any(opens <= wall < closes for opens, closes in self._between(wall.date(), wall.date()))

    def next_opening(self, at: datetime) -> datetime:
        """Return the first time, from a given time on, at which a pass may deliver."""
        return next(opening for span in _spans(at, self.zone) for opening in self._openings(span))

    def _openings(self, span: "_Span") -> Iterator[datetime]:
        """Yield the first time in a span at which a window is open, if any."""
        since, until = span.since + span.offset, span.until + span.offset
        walls = [
            max(opens, since)
            for opens, closes in self._between(since.date(), until.date())
            if opens < until and closes > since
        ]
        if walls:
            yield (min(walls) - span.offset).replace(tzinfo=UTC)

    def _between(self, first: date, last: date) -> Iterator[tuple[datetime, datetime]]:
        """Yield the wall times at which windows open and close, for all that may be open between two days."""
        for number in range(-1, (last - first).days + 1):
            midnight = datetime.combine(first, time()) + number * DAY
            for window in self.windows:
                if midnight.weekday() in window.days:
                    yield midnight + window.start, midnight + window.end

    @property
    def shortest(self) -> timedelta:
        """Return the shortest time for which the windows stay open, by the wall clock; at most a week."""
        weeks = sorted(
            (week * WEEK + day * DAY + window.start, week * WEEK + day * DAY + window.end)
            for week in range(3)
            for window in self.windows
            for day in window.days
        )
        merged: list[tuple[timedelta, timedelta]] = []
        for opens, closes in weeks:
            if merged and opens <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], closes))
            else:
                merged.append((opens, closes))
        # Only the second week is certain to be complete: it may continue a window of the first week.
        return min((closes - opens for opens, closes in merged if WEEK <= opens < 2 * WEEK), default=WEEK)


class _Span(NamedTuple):
    """A span of time, in UTC without a zone, in which the offset of a zone is constant."""

    since: datetime
    until: datetime
    offset: timedelta


def _spans(at: datetime, zone: tzinfo | None) -> Iterator[_Span]:

    def offset(time: datetime) -> timedelta:
        aware = time.replace(tzinfo=UTC)
        return in_zone(aware, zone).replace(tzinfo=None) - time

    since = at.astimezone(UTC).replace(tzinfo=None)
    while True:
        here, until = offset(since), since + STEP
        if offset(until - timedelta.resolution) != here:
            # Offsets change at whole seconds.
            whole = since.replace(microsecond=0)
            seconds = range(1, STEP // SECOND + 1)
            number = bisect_left(seconds, x=True, key=lambda second: offset(whole + second * SECOND) != here)
            until = whole + seconds[number] * SECOND
        yield _Span(since, until, here)
        since = until
