"""The ``simulate`` command: compare schedules on the recorded outages and outcomes."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Annotated

import typer

from retrycli import operations
from retrycli.cli.options import ConfigFile, Json, load_settings
from retrycli.cli.stats import period
from retrycli.domain import simulation
from retrycli.domain.message import MessageType
from retrycli.domain.retry_policy import BackoffKind
from retrycli.domain.simulation import ObservedRate, SimulatedSchedule, Simulation
from retrycli.views import terminal

OnlyType = Annotated[
    MessageType | None, typer.Option("--type", help="Change and count only this message type.", show_default=False)
]
Period = Annotated[
    timedelta | None,
    typer.Option(
        "--since",
        help="The period to replay, such as 12h or 7d.",
        show_default="30d",
        metavar="<duration>",
        parser=period,
    ),
]


def simulate(
    ctx: typer.Context,
    max_retries: Annotated[
        int | None, typer.Option(help="The number of retries before escalation.", show_default=False)
    ] = None,
    backoff: Annotated[BackoffKind | None, typer.Option(help="The kind of schedule.", show_default=False)] = None,
    base_minutes: Annotated[
        float | None, typer.Option(help="The first wait, or for fixed every wait.", show_default=False)
    ] = None,
    factor: Annotated[
        float | None, typer.Option(help="For exponential: the factor between waits.", show_default=False)
    ] = None,
    cap_minutes: Annotated[
        float | None, typer.Option(help="For exponential: the longest wait.", show_default=False)
    ] = None,
    waits: Annotated[
        str | None,
        typer.Option(help="For list: the waits in minutes, such as 15,30,60.", metavar="<list>", show_default=False),
    ] = None,
    message_type: OnlyType = None,
    since: Period = None,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Compare schedules on the recorded outages and outcomes.

    Without schedule options, replay only today's schedule. Nothing is sent or changed.
    """
    given = {
        "max_retries": max_retries,
        "backoff": backoff,
        "base_minutes": base_minutes,
        "factor": factor,
        "cap_minutes": cap_minutes,
        "waits_minutes": waits,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    settings = load_settings(ctx, config)
    found = operations.simulate.simulate(
        settings, changes, message_type=message_type, span=since or operations.simulate.MONTH
    )
    if as_json:
        terminal.show_json(operations.simulate.fields(found))
    elif terminal.on_terminal():
        _show(found)
    else:
        terminal.show_table((), list(_piped_rows(found)))


def _show(found: Simulation) -> None:
    proposed = found.proposed
    terminal.show_facts(
        {
            "Since": found.since,
            "Messages": f"{found.today.figures['messages'].value or 0:,}",
            "Outages": f"{len(found.outages):,}",
            "Today": found.today.description,
            **({} if proposed is None else {"Proposed": proposed.description}),
        }
    )
    terminal.say("")
    columns = ("Today",) if proposed is None else ("Today", "Proposed", "Difference")
    terminal.show_table(("", *columns), simulation.rows(found))
    terminal.say(
        "",
        "In an outage the replays deliver nothing. Otherwise an attempt that was never",
        "made gets a random outcome, at the rate observed for the number of the try:",
        "",
    )
    rates = [(rate.tries, f"{rate.attempts:,}{' (all tries)' * rate.pooled}", _shares(rate)) for rate in found.rates]
    terminal.show_table(("Try", "Attempts", "Outcomes"), rates, texts=1)
    terminal.say("", *_notes(found), *_next_steps(found))


def _shares(rate: ObservedRate) -> str:
    return ", ".join(f"{kind} {number / rate.attempts:.0%}" for kind, number in rate.outcomes.items())


def _notes(found: Simulation) -> Iterator[str]:
    if found.replays > 1:
        yield f"Each figure is the median of {found.replays} replays, with their range if they differ."
    else:
        yield "The history is long, so each schedule was replayed once. No ranges are known."
    if any(outage.answered_at is None for outage in found.outages):
        yield "An outage has not ended. The replays let it end before now."


def _next_steps(found: Simulation) -> Iterator[str]:
    if found.proposed is None:
        yield "Next: retrycli simulate --backoff fixed --base-minutes 30"
        return
    yield f"To use the proposed schedule, set in [{found.section}]:"
    yield from (f"  {line}" for line in found.lines)
    yield "Next: retrycli config check"


def _piped_rows(found: Simulation) -> Iterator[terminal.Row]:
    """Yield the rows for a pipe. The first column is the kind of row."""
    schedules: Mapping[str, SimulatedSchedule | None] = {"today": found.today, "proposed": found.proposed}
    for name, schedule in schedules.items():
        for figure, estimate in ({} if schedule is None else schedule.figures).items():
            yield name, figure, *estimate
    for rate in found.rates:
        for kind, number in rate.outcomes.items():
            yield "rate", rate.tries, kind, number, rate.attempts
    for outage in found.outages:
        yield "outage", outage.destination, outage.began_at, outage.failed_at, outage.answered_at, outage.attempts
