"""Render the report as one page of HTML.

The page is self-contained: it needs no scripts, fonts or pictures from elsewhere. The template escapes all text of a
message or a response. No subject, recipient or body is on the page.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from functools import partial
from itertools import pairwise

from retrycli.domain import suggested
from retrycli.domain.delivery_stats import DAY, DeliveryStats, Outage, PassMark, bar_for, bars, wait_quantiles
from retrycli.domain.duration import in_words, in_zone
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.listing import EscalationGroup
from retrycli.domain.passes import StopReason, is_late
from retrycli.domain.sanitize import printable, shortened
from retrycli.system.process import install
from retrycli.views.formatting import count, local_time
from retrycli.views.report import charts

MOST_CAUSES = 12  # maximum number of causes shown for escalations, and for failed attempts
MAX_ERROR = 140  # maximum number of characters of an error on the page; its tooltip shows up to MAX_TOOLTIP
MAX_TOOLTIP = 600
MOST_TRIES = 10  # deliveries after more tries share one bar
MOST_DAYS = 14  # maximum number of days for which passes are shown
MOST_TICKS = 8  # maximum number of time labels under a chart
LAST_TICK = 94  # the rightmost position of a label, in hundredths of the width; beyond it a label would be cut off
LAST_TICK_ON_A_PHONE = 82

ORDINALS = {1: "first", 2: "second", 3: "third"}
LATELY = timedelta(hours=24)  # the headline still mentions an outage that ended within this time

DOWN: dict[str | None, str] = {
    StopReason.BREAKER_OPEN: "The ticketing API is down",
    StopReason.CREDENTIALS_REFUSED: "The ticketing API refuses the credentials",
    StopReason.SAME_ANSWER: "The ticketing API returns the same error for every request",
    StopReason.UNREAD_ANSWER: "The preset can't judge the responses of the ticketing API",
    StopReason.FAULT: "The last pass failed: run `retrycli doctor`",
    StopReason.THROTTLED: "The ticketing API asked retrycli to wait",
}
WAITS = (15, 30, 60, 120, 240, 480, 960, 1440, 2880)  # boundaries between the bars of waiting times, in minutes


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything that the report page shows."""

    figures: DeliveryStats
    state: str  # one of the values of `Status.state`
    messages: Mapping[str, int]  # numbers of ``waiting``, ``due``, ``sending`` and ``escalated`` messages
    first_pass: datetime | None  # start of the first known pass
    last_pass: datetime | None
    passes: Sequence[PassMark]  # passes of the period that the page shows, oldest first; see `passes_since`
    interval: timedelta  # how often a pass should begin
    causes: Sequence[EscalationGroup]  # the largest first


def passes_since(since: datetime, until: datetime) -> datetime:
    """Return the start of the period whose passes the page shows."""
    return max(since, until - MOST_DAYS * DAY)


def render(report: ReportData, *, zone: tzinfo | None = None) -> str:
    """Return the report as one page of HTML. Times are in the given zone; by default in the machine's.

    Raises:
        ConfigurationError: Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise ConfigurationError(f"a report needs Jinja2; run `{install('report')}`") from None

    offset = offset_of(report, zone)
    environment = Environment(
        loader=PackageLoader("retrycli.views.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=visible,
    )
    environment.filters |= {
        "number": "{:,}".format,
        "length": in_words,
        "moment": partial(local_time, zone=offset),
        "short": partial(_cut, longest=MAX_ERROR),
        "whole": whole,
    }
    environment.globals |= {"amount": count, "command": lambda *words: suggested.own(suggested.line(*words))}
    return environment.get_template("page.html").render(values(report, offset), with_causes=True)


def offset_of(report: ReportData, zone: tzinfo | None = None) -> timezone:
    """Return the one offset for all times: otherwise a day on which the clock changes would lack or repeat an hour."""
    return timezone(in_zone(report.figures.until, zone).utcoffset() or timedelta())


def visible(value: object) -> object:
    """Escape control characters in a value that no filter has made HTML of."""
    return value if hasattr(value, "__html__") else printable(str(value))


def whole(text: object) -> str:
    """Return a text for a tooltip."""
    return _cut(text, MAX_TOOLTIP)


def _cut(text: object, longest: int) -> str:
    return shortened(printable(str(text)), longest)


def values(report: ReportData, zone: tzinfo) -> dict[str, object]:
    """Return the values of ``page.html`` and ``figures.html``, except ``with_causes``: to list escalations' causes."""
    figures = report.figures
    begin = report.last_pass is not None and not is_late(report.last_pass, figures.until, report.interval)
    title, tone = _headline(
        "skipped" if report.state == "late" and begin else report.state,
        figures,
        report.messages,
        report.last_pass,
        zone,
        reason=report.passes[-1].reason if report.passes else None,
    )
    return {
        "title": title,
        "tone": tone,
        "made_at": figures.until,
        "zone": _zone(figures.until, zone),
        "since": figures.since,
        "span": _span(figures),
        "messages": report.messages,
        "last_pass": report.last_pass,
        "delivered": figures.delivered,
        "attempts": figures.attempts,
        "outages": [(_from_to(outage, zone), outage.length(figures.until)) for outage in figures.outages],
        "down": sum((outage.length(figures.until) for outage in figures.outages), timedelta()),
        "tries": _tries(figures),
        "waits": _waits(figures),
        "known_waits": sum(figures.waits.values()),
        "quantiles": wait_quantiles(figures.waits),
        "causes": report.causes[:MOST_CAUSES],
        "more_causes": max(len(report.causes) - MOST_CAUSES, 0),
        "troubles": figures.troubles[:MOST_CAUSES],
        "more_troubles": max(len(figures.troubles) - MOST_CAUSES, 0),
        **_over_time(figures, zone),
        **_passes(report, zone),
    }


def _over_time(figures: DeliveryStats, zone: tzinfo) -> dict[str, object]:
    length = bar_for(figures.until - figures.since)
    columns = bars(figures, length)
    begin = next(iter(columns))
    return {
        "chart": charts.outcomes(
            columns,
            figures.outages,
            length,
            until=figures.until,
            tooltips=[f"{local_time(at, zone)}: {_counts(counts)}" for at, counts in columns.items()],
        ),
        "top": charts.scale(columns),
        "column": length,
        "ticks": ticks(begin, begin + len(columns) * length, zone),
        "last_tick_on_a_phone": LAST_TICK_ON_A_PHONE,
        "outcomes": [(outcome, number, number / figures.attempts) for outcome, number in figures.outcomes.items()],
    }


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in counts.items()) or "none"


def ticks(begin: datetime, end: datetime, zone: tzinfo) -> list[tuple[str, float]]:
    """Return the times under a chart and their distances from its left edge, in per cent: midnights, or hours for a
    short period.
    """
    short = end - begin <= 2 * DAY
    step = timedelta(hours=6) if short else DAY
    step *= max(-(-(end - begin) // (step * MOST_TICKS)), 1)
    at = begin.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    form = "%H:%M" if short else "%a %d" if end - begin <= MOST_DAYS * DAY else "%d %b"
    found = []
    while at < end:
        left = round((at - begin) / (end - begin) * 100, 1)
        if 0 <= left <= LAST_TICK:
            found.append((f"{at:{form}}", left))
        at += step
    return found


def _tries(figures: DeliveryStats) -> list[tuple[str, int, str]]:
    """Return delivered messages by number of attempts: label, count, bar."""
    few = {
        number: figures.tries.get(number, 0) for number in range(1, min(max(figures.tries, default=0), MOST_TRIES) + 1)
    }
    rows = [(ORDINALS.get(number, f"{number}th"), messages) for number, messages in few.items()]
    more = sum(messages for number, messages in figures.tries.items() if number > MOST_TRIES)
    return _with_bars([*rows, *([("later", more)] if more else [])])


def _waits(figures: DeliveryStats) -> list[tuple[str, int, str]]:
    """Return delivered messages by waiting time: label, count, bar."""
    counts = [0] * (len(WAITS) + 1)
    for minutes, messages in figures.waits.items():
        counts[bisect_right(WAITS, minutes)] += messages
    bounds = [in_words(timedelta(minutes=minutes)) for minutes in WAITS]
    names = [f"under {bounds[0]}", *(f"{low} to {high}" for low, high in pairwise(bounds)), f"{bounds[-1]} and more"]
    used = [number for number, messages in enumerate(counts) if messages]
    span = range(used[0], used[-1] + 1) if used else range(0)
    return _with_bars([(names[number], counts[number]) for number in span])


def _with_bars(rows: Sequence[tuple[str, int]]) -> list[tuple[str, int, str]]:
    most = max((messages for _, messages in rows), default=0)
    return [(name, messages, charts.share(messages, most)) for name, messages in rows]


def _passes(report: ReportData, zone: tzinfo) -> dict[str, object]:
    until = report.figures.until
    since = max(passes_since(report.figures.since, until), report.first_pass or until)
    found = charts.strip(report.passes, since, until, interval=report.interval, zone=zone)
    return {
        "days": [_day(row, found.cells) for row in found.rows] if report.first_pass else [],
        "results": [(name, number, charts.sample(name)) for name, number in found.results.items()],
        "missed": found.missed,
        "interval": report.interval,
        "passes": sum(found.results.values()),
    }


def _day(row: charts.Row, cells: int) -> tuple[str, str, str]:
    """Return one day of the timeline: its name, its chart, and the same information in words."""
    words = _counts(row.results) + (f"; {row.missed:,} missing" if row.missed else "")
    return (
        f"{row.day:%a} {row.day.day}",
        charts.day(row.marks, cells=cells, expected=row.expected, title=f"{row.day:%A %d %B}", desc=words),
        words,
    )


def _headline(
    state: str,
    figures: DeliveryStats,
    messages: Mapping[str, int],
    last_pass: datetime | None,
    zone: tzinfo,
    *,
    reason: str | None = None,
) -> tuple[str, str]:
    """Describe the state in one sentence, and return its severity: ``good``, ``warning`` or ``bad``."""
    escalated = messages["escalated"]
    escalations = f"{count(escalated, 'message')} {'needs' if escalated == 1 else 'need'} an operator"
    problem = _problem(state, figures, messages["waiting"], last_pass, zone, reason)
    if problem is not None:
        sentence, tone = problem
        if not escalated:
            return f"{sentence}.", tone
        return f"{sentence}; {escalations}.", "warning" if tone == "good" else tone
    if escalated:
        return f"{escalations}; everything else is fine.", "warning"
    if figures.delivered:
        return (
            f"All well: {count(figures.delivered, 'message')} delivered on retry in the last {_span(figures)}, "
            "and no message needs an operator.",
            "good",
        )
    if waiting := messages["waiting"]:
        wait = f"{count(waiting, 'message')} {'waits for its' if waiting == 1 else 'wait for their'} next attempt"
        return f"{wait}; no message was delivered in the last {_span(figures)}.", "warning"
    return "All quiet: no message is waiting or needs an operator.", "good"


def _problem(
    state: str, figures: DeliveryStats, waiting: int, last_pass: datetime | None, zone: tzinfo, reason: str | None
) -> tuple[str, str] | None:
    latest = figures.outages[-1] if figures.outages else None
    if state == "never_run":
        return "No pass has run yet: run `retrycli run-once`", "warning"
    if state == "late" and last_pass is not None:
        return f"No pass has begun since {local_time(last_pass, zone)}: check the scheduler", "bad"
    if state == "skipped":
        return suggested.quoted("All passes are skipped: `retrycli status` names the process with the lock"), "bad"
    if latest is not None and latest.ended_at is None:
        wait = f", and {count(waiting, 'message')} {'is' if waiting == 1 else 'are'} waiting" if waiting else ""
        return f"The ticketing API has been down since {local_time(latest.began_at, zone)}{wait}", "bad"
    if state == "down":
        return suggested.quoted(DOWN.get(reason, "Nothing can be delivered now: run `retrycli doctor`")), "bad"
    if state == "paused":
        return "An operator has paused deliveries", "warning"
    if latest is not None and latest.ended_at is not None and figures.until - latest.ended_at <= LATELY:
        return f"The ticketing API was down {_from_to(latest, zone)} but is back", "good"
    return None


def _from_to(outage: Outage, zone: tzinfo) -> str:
    begun = local_time(outage.began_at, zone)
    if outage.ended_at is None:
        return f"since {begun}"
    ended = outage.ended_at.astimezone(zone)
    if ended.date() == outage.began_at.astimezone(zone).date():
        return f"from {begun} to {ended:%H:%M}"
    return f"from {begun} to {local_time(ended, zone)}"


def _span(figures: DeliveryStats) -> str:
    length = figures.until - figures.since
    days, rest = divmod(length, timedelta(days=1))
    return count(days, "day") if days and not rest else in_words(length)


def _zone(time: datetime, zone: tzinfo) -> str:
    offset = f"{time.astimezone(zone):%z}"
    return f"UTC{'' if offset == '+0000' else f'{offset[:3]}:{offset[3:5]}'}"
