"""``run-once``, ``passes``, ``pause``, ``resume``."""

from __future__ import annotations

import os
import signal
from dataclasses import asdict, replace
from itertools import islice
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from retrycli.cli.shared import MOST, ConfigFile, Json, length_of_time, load_settings, utf8
from retrycli.events import StartedBy

if TYPE_CHECKING:
    from retrycli.events import PassSummary
    from retrycli.settings import Settings
    from retrycli.store.ledger import PassRecord

ON_SCREEN = 50
"""So many of the messages that would be sent a terminal is shown."""
NOT_IN_JSON = ("detail",)
COUNTS = ("sent", "rescheduled", "escalated", "unknown", "released")


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("run-once")(run_once)
    app.command("passes")(passes)
    app.command("pause")(pause)
    app.command("resume")(resume)


class Signals:
    """SIGTERM, SIGINT and SIGHUP: the first asks the pass to end, a second one leaves at once.

    SIGHUP does not, for the kernel and the shell may both send it when a terminal is closed. Under nohup it is ignored,
    and stays so.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._on_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
        elif number != signal.SIGHUP:
            # Whatever is in flight stays claimed until its claim lapses; the next pass finds it.
            os._exit(128 + number)

    def stop_requested(self) -> bool:
        """Whether a signal has come."""
        return self.received is not None


def run_once(
    ctx: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sent; send and write nothing.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, max=MOST, help="Try so many messages at most.")] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Probe a ticketing API that is down now, not when the next probe is due.")
    ] = False,
    wait_lock: Annotated[
        float | None, typer.Option(min=0, help="Wait so many seconds for another pass to end.", show_default="2")
    ] = None,
    # `cron install` writes it. It is for no operator, so that help does not show it.
    starter: Annotated[StartedBy | None, typer.Option("--started-by", hidden=True)] = None,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Make one pass: deliver what is due. This is what cron calls."""
    from retrycli import app, console

    settings = load_settings(ctx, config)
    if dry_run:
        _preview(settings, limit, as_json=as_json)
        return
    signals = Signals()
    surroundings = replace(app.HERE, stop_requested=signals.stop_requested)
    with console.progress() as follow:
        summary = app.run_once(
            settings,
            limit=limit,
            probe=probe,
            wait_lock_seconds=wait_lock,
            listen=follow,
            surroundings=surroundings,
            started_by=starter or _starter(),
        )
    if as_json:
        console.show_json({name: value for name, value in asdict(summary).items() if name not in NOT_IN_JSON})
    else:
        _show(summary)
    raise typer.Exit(128 + signals.received if signals.received else summary.exit_status)


def _starter() -> StartedBy:
    from retrycli.starter import has_terminal, parents, started_by

    return started_by(os.environ, parents(), at_terminal=has_terminal())


def _show(summary: PassSummary) -> None:
    from retrycli import console

    why = _why(summary.reason, summary.detail)
    console.say(f"Pass {summary.result} after {summary.duration_seconds:.1f} s" + (f": {why}" if why else ""))
    console.say(
        f"  {summary.sent:,} sent, {summary.rescheduled:,} rescheduled, {summary.escalated:,} escalated, "
        f"{summary.released:,} released; {summary.unknown:,} of unknown outcome"
    )
    step = "retrycli escalations" if summary.escalated else "retrycli list-failed" if summary.rescheduled else None
    console.say(f"Next: {step or 'retrycli status'}")


def _why(reason: str | None, detail: str | None) -> str | None:
    """Why a pass ended as it did; the details of two reasons say all of it."""
    if reason is None or (detail and reason in {"lock_held", "paused"}):
        return detail
    return reason.replace("_", " ") + (f": {detail}" if detail else "")


def _preview(settings: Settings, limit: int | None, *, as_json: bool) -> None:
    from retrycli import console
    from retrycli.preview import preview

    with preview(settings, limit=limit) as (number, messages):
        if as_json:
            fields = ("id", "ticket_id", "message_type", "retry_count", "next_attempt_at")
            console.show_json({"would_send": ({name: getattr(each, name) for name in fields} for each in messages)})
            return
        rows = ((each.id, str(each.ticket_id), each.message_type, each.retry_count) for each in messages)
        headers = ("ID", "Ticket", "Type", "Tries")
        if not console.on_terminal():
            console.show_table(headers, rows)
            return
        console.show_table(headers, islice(rows, ON_SCREEN))
    if number > ON_SCREEN:
        console.say(f"… and {number - ON_SCREEN:,} more")
    console.say(f"A pass would send {console.count(number, 'message')}; nothing was sent or written.")
    console.say("Next: retrycli run-once")


def passes(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="Show so many, newest first.")] = 20,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Show the last passes, skipped ones too."""
    from retrycli import console, desk

    found = desk.last_passes(load_settings(ctx, config), limit=limit)
    if as_json:
        console.show_json(
            {"passes": [{k: v for k, v in asdict(each).items() if k not in NOT_IN_JSON} for each in found]}
        )
        return
    if console.on_terminal():
        console.show_table(
            ("Started", "By", "Result", "What came of it"),
            [(each.started_at, each.started_by, each.result or "running", _came_of(each)) for each in found],
        )
        console.say("Next: retrycli status")
        return
    console.show_table(
        (),
        [
            (
                each.started_at,
                each.finished_at,
                each.result or "running",
                *(getattr(each, name) for name in COUNTS),
                _why(each.reason, each.detail),
                each.started_by,
            )
            for each in found
        ],
    )


def _came_of(found: PassRecord) -> str | None:
    """The counts that are not zero, and why the pass ended as it did, as far as there is anything to tell."""
    counts = [f"{number:,} {name}" for name in COUNTS if (number := getattr(found, name))]
    why = _why(found.reason, found.detail)
    quiet = "nothing was due" if found.result == "completed" else None
    return "; ".join(filter(None, (", ".join(counts), why))) or quiet


def pause(
    ctx: typer.Context,
    length: Annotated[
        str | None, typer.Option("--for", help="End it by itself after that time: 30m, 2h, 1d.", show_default=False)
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="Why, for whoever looks next.", show_default=False, callback=utf8)
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Hold deliveries back until `resume`, or for a time."""
    from retrycli import console, desk

    span = None if length is None else length_of_time(length, "--for")
    if span is not None and not span:
        raise typer.BadParameter(
            "it would be over at once; leave --for out to pause until `resume`", param_hint="--for"
        )
    begun = desk.pause(load_settings(ctx, config), length=span, reason=reason)
    until = f"until {console.local_time(begun.until)}" if begun.until else "until `retrycli resume`"
    console.say(f"Paused {until}. Passes record themselves and send nothing.")
    console.say("Next: retrycli resume, when deliveries may go on")


def resume(ctx: typer.Context, config: ConfigFile = None) -> None:
    """End a pause."""
    from retrycli import console, desk

    ended = desk.resume(load_settings(ctx, config))
    console.say("Resumed; the next pass sends again." if ended else "Nothing was paused.")
    console.say("Next: retrycli status")
