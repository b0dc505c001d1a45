"""The ``stats``, ``report`` and ``metrics`` commands: delivery statistics as text, as HTML, and for Prometheus."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from retrycli import operations
from retrycli.cli.options import ConfigFile, Json, load_settings
from retrycli.domain.delivery_stats import DeliveryStats, FailureCause, Group, GroupBy, bar_for, bars, wait_quantiles
from retrycli.domain.duration import duration, in_words
from retrycli.domain.outcome import OutcomeKind
from retrycli.views import formatting, terminal

ON_SCREEN = 20  # maximum number of rows in a table of groups (except hours) or of retries, on a terminal
MAX_GROUPS = 10_000  # maximum number of groups in JSON or piped output, and of hours on a terminal
CAUSES = 5  # maximum number of errors on a terminal without ``--by error``
NEWEST = 5  # maximum number of outages on a terminal, newest first
CURVE = 48  # width of a curve, in characters
STEPS = " ▁▂▃▄▅▆▇█"  # the characters of a curve, lowest first
BAR = 24  # length of the longest bar, in characters
ENDS = "▏▎▍▌▋▊▉█"  # the last character of a bar, narrowest first


def period(text: str) -> timedelta:
    """Parse the length of a period.

    Raises:
        ValueError: the text is not a duration, or the period is empty.
    """
    length = duration(text)
    if not length:
        raise ValueError("the period is too short; give a longer one, such as 12h or 7d")
    return length


WEEK = timedelta(days=7)
Since = Annotated[
    timedelta | None,
    typer.Option(
        "--since",
        help="The period to cover, such as 12h or 7d.",
        show_default="7d",
        metavar="<duration>",
        parser=period,
    ),
]


def stats(
    ctx: typer.Context,
    since: Since = None,
    by: Annotated[GroupBy, typer.Option(help="Group the attempts by this property.")] = GroupBy.OUTCOME,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Show outcomes of attempts, and outages of the ticketing API."""
    on_terminal = terminal.on_terminal() and not as_json
    shown = ON_SCREEN if on_terminal and by is not GroupBy.HOUR else MAX_GROUPS
    figures, groups = operations.listing.stats(load_settings(ctx, config), by, span=since or WEEK, limit=shown)
    if as_json:
        terminal.show_json(operations.bodies.statistics(figures, by, groups))
        return
    if on_terminal:
        _show(figures, by, groups)
    else:
        terminal.show_table((), list(_piped_rows(figures, by, groups)))
    terminal.say("Next: retrycli report --html report.html")


def report(
    ctx: typer.Context,
    html: Annotated[
        Path | None, typer.Option(help="The file to write, or - for stdout.", show_default="report.path")
    ] = None,
    since: Since = None,
    config: ConfigFile = None,
) -> None:
    """Write an HTML report."""
    settings = load_settings(ctx, config)
    file = html or settings.report.path
    if file is None:
        raise typer.BadParameter("no file given; name one, or - for stdout, or set report.path", param_hint="--html")
    page = operations.report.report(settings, span=since or WEEK)
    if file == Path("-"):
        print(page, end="")  # noqa: T201
        return
    operations.report.write(file, page)
    terminal.say(
        f"Wrote {file} ({len(page.encode()) / 1024:.0f} KiB).",
        f"Next: open the report in a browser, for example with xdg-open {file}",
    )


def metrics(ctx: typer.Context, as_json: Json = False, config: ConfigFile = None) -> None:
    """Print the metrics for Prometheus."""
    from retrycli.views.prometheus import samples, text

    settings = load_settings(ctx, config)
    measured = operations.metrics.measure(settings)
    if as_json:
        terminal.show_json({"metrics": samples(measured)})
        return
    typer.echo(text(measured), nl=False)
    path = settings.metrics.path
    terminal.say(
        f"Each pass writes these metrics to {path}."
        if path
        else "To have each pass write the metrics to a file, set metrics.path.",
        "Next: retrycli status",
    )


def _piped_rows(figures: DeliveryStats, by: GroupBy, groups: Sequence[Group]) -> Iterator[terminal.Row]:
    """Yield the rows for a pipe. The first column is the kind of row."""
    for group in groups:
        yield by.value, group.key, group.attempts, group.delivered
    for number, messages in figures.tries.items():
        yield "tries", number, messages
    for name, wait in zip(("median", "p95", "max"), wait_quantiles(figures.waits), strict=True):
        if wait is not None:
            yield "seconds", name, round(wait.total_seconds())
    for outage in figures.outages:
        yield "outage", outage.began_at, outage.ended_at, round(outage.length(figures.until).total_seconds())
    for trouble in figures.troubles:
        yield "error", trouble.outcome, trouble.status_code, trouble.attempts, trouble.last_at, trouble.cause


def _show(figures: DeliveryStats, by: GroupBy, groups: Sequence[Group]) -> None:
    columns = bars(figures, bar_for(figures.until - figures.since, most=CURVE)).values()
    attempts = [sum(counts.values()) for counts in columns]
    delivered = [counts.get(OutcomeKind.DELIVERED, 0) for counts in columns]
    terminal.show_facts(
        {
            "Since": figures.since,
            "Attempts": f"{figures.attempts:<9,} {_curve(attempts)}",
            "Delivered": f"{figures.delivered:<9,} {_curve(delivered)}",
            "Waited": _describe_waits(figures),
            "Outages": _describe_outages(figures),
        }
    )
    if figures.outages:
        terminal.say("")
        terminal.show_table(
            ("Down from", "To", "Length"),
            [
                (outage.began_at, outage.ended_at, in_words(outage.length(figures.until)))
                for outage in figures.outages[-NEWEST:][::-1]
            ],
        )
    if not figures.attempts:
        return
    if by is not GroupBy.ERROR:
        terminal.say("")
        _show_groups(by, groups)
        if by is not GroupBy.HOUR and len(groups) == ON_SCREEN:
            terminal.say(f"Showing at most {ON_SCREEN}; with --json, or in a pipe, there are all.")
    if figures.tries:
        terminal.say("")
        whole = sum(figures.tries.values())
        tries = [(f"retry {number}", messages, messages / whole) for number, messages in figures.tries.items()]
        _show_bars(("Delivered on", "Messages", "Share", ""), tries, ON_SCREEN)
    if figures.troubles:
        terminal.say("")
        _show_causes(figures.troubles, CAUSES if by is not GroupBy.ERROR else None)


def _describe_waits(figures: DeliveryStats) -> str:
    median, most, longest = ("" if wait is None else in_words(wait) for wait in wait_quantiles(figures.waits))
    if not median:
        return "no data yet"
    return f"half within {median}, 95% within {most}, all within {longest}"


def _describe_outages(figures: DeliveryStats) -> str:
    if not figures.outages:
        return "none"
    down = sum((outage.length(figures.until) for outage in figures.outages), timedelta())
    return f"{len(figures.outages):,}, {in_words(down)} in total"


def _show_groups(by: GroupBy, groups: Sequence[Group]) -> None:
    whole, is_share = sum(group.attempts for group in groups), by is GroupBy.OUTCOME
    _show_bars(
        (by.value.capitalize(), "Attempts", "Share" if is_share else "Delivered", ""),
        [
            (group.key, group.attempts, group.attempts / whole if is_share else group.delivered / group.attempts)
            for group in groups
        ],
    )


def _show_bars(
    headers: Sequence[str], rows: Sequence[tuple[formatting.Cell, int, float]], limit: int | None = None
) -> None:
    most = max(number for _, number, _ in rows)
    cells = [(name, f"{number:,}", f"{share * 100:.1f}%", _bar(number, most)) for name, number, share in rows[:limit]]
    terminal.show_table(headers, cells)


def _show_causes(troubles: Sequence[FailureCause], limit: int | None) -> None:
    rows = [(f"{cause.attempts:,}", cause.outcome, cause.last_at, cause.cause) for cause in troubles[:limit]]
    terminal.show_table(("Attempts", "Outcome", "Last seen", "Error"), rows, texts=1)
    if len(rows) < len(troubles):
        terminal.say(
            f"Showing {len(rows)} of {formatting.count(len(troubles), 'error')}; "
            "for all, run `retrycli stats --by error`"
        )


def _curve(numbers: Sequence[int]) -> str:
    most = max(numbers, default=0)
    return "".join(STEPS[-(-number * (len(STEPS) - 1) // most)] if number else " " for number in numbers)


def _bar(part: int, most: int) -> str:
    # Round up, so that every number except 0 has a bar.
    eighths = -(-part * BAR * len(ENDS) // most)
    return ENDS[-1] * (eighths // len(ENDS)) + ENDS[: eighths % len(ENDS)][-1:]
