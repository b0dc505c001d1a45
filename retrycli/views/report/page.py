"""Render the report as one page of HTML.

The page is self-contained: it needs no scripts, fonts or pictures from elsewhere. The template escapes all text of a
message or a response. No subject, recipient or body is on the page.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from functools import partial
from importlib import resources
from itertools import pairwise

from retrycli.domain.delivery_stats import DAY, DeliveryStats, PassMark, bar_for, bars, quantile
from retrycli.domain.duration import in_words, in_zone
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.listing import EscalationGroup
from retrycli.domain.sanitize import printable
from retrycli.system.python import install
from retrycli.views.formatting import count
from retrycli.views.report import charts, prose
from retrycli.views.report.prose import Clock
from retrycli.views.report.timeline import Row, strip

MOST_CAUSES = 12  # maximum number of causes shown, of escalations and of failed attempts
ERROR_ROOM = 140  # maximum length of an error on the page; its tooltip has more
TEXT_ROOM = 600  # maximum length of an error in its tooltip
MOST_TRIES = 10  # deliveries after more tries share one bar
MOST_DAYS = 14  # maximum number of days of passes shown
MOST_TICKS = 8  # maximum number of times under a chart
LAST_TICK = 94  # in hundredths of the width: further right there is no room for its text
LAST_TICK_ON_A_PHONE = 82

ORDINALS = {1: "first", 2: "second", 3: "third"}
WAITS = (15, 30, 60, 120, 240, 480, 960, 1440, 2880)  # bounds of the bars of waits, in minutes


@dataclass(frozen=True, slots=True)
class ReportData:
    """The data of the page."""

    figures: DeliveryStats
    state: str  # `Status.state`
    messages: Mapping[str, int]  # `Status.messages`
    first_pass: datetime | None  # start of the first known pass
    last_pass: datetime | None
    passes: Sequence[PassMark]  # passes that there is room for, oldest first; see `passes_since`
    interval: timedelta  # how often a pass should begin
    causes: Sequence[EscalationGroup]  # the largest first


def passes_since(since: datetime, until: datetime) -> datetime:
    """Return the start of the period for which the page has space for passes."""
    return max(since, until - MOST_DAYS * DAY)


def render(report: ReportData, *, zone: tzinfo | None = None) -> str:
    """Return the page.

    Args:
        report: the data.
        zone: the time zone of the times; by default the machine's.

    Raises:
        ConfigurationError: Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError:
        raise ConfigurationError(f"a report needs Jinja2: {install('report')}") from None

    # One offset for the whole page, which names it: a day of a clock change would have a gap of an hour.
    offset = timezone(in_zone(report.figures.until, zone).utcoffset() or timedelta())

    def clock(time: datetime) -> datetime:
        return time.astimezone(offset)

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "number": "{:,}".format,
        "length": in_words,
        "moment": partial(prose.moment, clock=clock),
        "short": partial(_cut, room=ERROR_ROOM),
        "whole": partial(_cut, room=TEXT_ROOM),
    }
    environment.globals["amount"] = count
    template = (resources.files("retrycli.views.report") / "page.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(_values(report, clock))


def _cut(text: object, room: int) -> str:
    line = printable(str(text))
    return line if len(line) <= room else line[: room - 1] + "…"


def _values(report: ReportData, clock: Clock) -> dict[str, object]:
    """Return the template's values. Charts are markup, in which all text from other systems is escaped."""
    figures = report.figures
    title, tone = prose.headline(
        report.state,
        figures,
        report.messages,
        report.last_pass,
        clock,
        reason=report.passes[-1].reason if report.passes else None,
    )
    return {
        "title": title,
        "tone": tone,
        "made_at": figures.until,
        "zone": prose.zone(figures.until, clock),
        "since": figures.since,
        "span": prose.span(figures),
        "messages": report.messages,
        "last_pass": report.last_pass,
        "delivered": figures.delivered,
        "attempts": figures.attempts,
        "outages": [(prose.from_to(outage, clock), outage.length(figures.until)) for outage in figures.outages],
        "down": sum((outage.length(figures.until) for outage in figures.outages), timedelta()),
        "tries": _tries(figures),
        "waits": _waits(figures),
        "known_waits": sum(figures.waits.values()),
        "quantiles": [quantile(figures.waits, share) for share in (0.5, 0.95, 1)],
        "causes": report.causes[:MOST_CAUSES],
        "more_causes": max(len(report.causes) - MOST_CAUSES, 0),
        "troubles": figures.troubles[:MOST_CAUSES],
        "more_troubles": max(len(figures.troubles) - MOST_CAUSES, 0),
        **_over_time(figures, clock),
        **_passes(report, clock),
    }


def _over_time(figures: DeliveryStats, clock: Clock) -> dict[str, object]:
    length = bar_for(figures.until - figures.since)
    columns = bars(figures, length)
    told = [f"{prose.moment(at, clock)}: {_counts(counts)}" for at, counts in columns.items()]
    drawn = charts.outcomes(columns, figures.outages, length, until=figures.until, told=told)
    begin = next(iter(columns))
    return {
        "chart": _markup(drawn),
        "top": charts.scale(columns),
        "column": length,
        "ticks": _ticks(begin, begin + len(columns) * length, clock),
        "last_tick_on_a_phone": LAST_TICK_ON_A_PHONE,
        "outcomes": [(outcome, number, number / figures.attempts) for outcome, number in figures.outcomes.items()],
    }


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in counts.items()) or "none"


def _ticks(begin: datetime, end: datetime, clock: Clock) -> list[tuple[str, float]]:
    """Return the times under a chart and their distances from its left edge, in per cent: midnights, or hours for a
    short period.
    """
    short = end - begin <= 2 * DAY
    step = timedelta(hours=6) if short else DAY
    step *= max(-(-(end - begin) // (step * MOST_TICKS)), 1)
    at = clock(begin).replace(hour=0, minute=0, second=0, microsecond=0)
    form = "%H:%M" if short else "%a %d" if end - begin <= MOST_DAYS * DAY else "%d %b"
    found = []
    while at < end:
        left = round((at - begin) / (end - begin) * 100, 1)
        if 0 <= left <= LAST_TICK:
            found.append((f"{at:{form}}", left))
        at += step
    return found


def _tries(figures: DeliveryStats) -> list[tuple[str, int, object]]:
    """Return delivered messages by number of attempts: label, count, bar."""
    few = {
        number: figures.tries.get(number, 0) for number in range(1, min(max(figures.tries, default=0), MOST_TRIES) + 1)
    }
    rows = [(ORDINALS.get(number, f"{number}th"), messages) for number, messages in few.items()]
    more = sum(messages for number, messages in figures.tries.items() if number > MOST_TRIES)
    return _with_bars([*rows, *([("later", more)] if more else [])])


def _waits(figures: DeliveryStats) -> list[tuple[str, int, object]]:
    """Return delivered messages by their wait: label, count, bar."""
    counts = [0] * (len(WAITS) + 1)
    for minutes, messages in figures.waits.items():
        counts[bisect_right(WAITS, minutes)] += messages
    bounds = [in_words(timedelta(minutes=minutes)) for minutes in WAITS]
    names = [f"under {bounds[0]}", *(f"{low} to {high}" for low, high in pairwise(bounds)), f"{bounds[-1]} and more"]
    used = [number for number, messages in enumerate(counts) if messages]
    span = range(used[0], used[-1] + 1) if used else range(0)
    return _with_bars([(names[number], counts[number]) for number in span])


def _with_bars(rows: Sequence[tuple[str, int]]) -> list[tuple[str, int, object]]:
    most = max((messages for _, messages in rows), default=0)
    return [(name, messages, _markup(charts.share(messages, most))) for name, messages in rows]


def _passes(report: ReportData, clock: Clock) -> dict[str, object]:
    until = report.figures.until
    since = max(passes_since(report.figures.since, until), report.first_pass or until)
    found = strip(report.passes, since, until, interval=report.interval, clock=clock)
    return {
        "days": [_day(row, found.cells) for row in found.rows] if report.first_pass else [],
        "results": [(name, number, _markup(charts.sample(name))) for name, number in found.results.items()],
        "missed": found.missed,
        "interval": report.interval,
        "passes": sum(found.results.values()),
    }


def _day(row: Row, cells: int) -> tuple[str, object, str]:
    """Return one day of the timeline: its name, its chart, and the same information in words."""
    said = _counts(row.results) + (f"; {row.missed:,} missing" if row.missed else "")
    drawn = charts.day(row.marks, cells=cells, expected=row.expected, title=f"{row.day:%A %d %B}", desc=said)
    return f"{row.day:%a} {row.day.day}", _markup(drawn), said


def _markup(drawn: str) -> object:
    from markupsafe import Markup

    return Markup(drawn)  # noqa: S704  our own shapes, whose few words are escaped
