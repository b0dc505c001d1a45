"""``pause``, ``resume``."""

from __future__ import annotations

from typing import Annotated

import typer

from retrycli.cli.options import By, ConfigFile, load_settings, utf8
from retrycli.cli.parsing import length_of_time


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("pause")(pause)
    app.command("resume")(resume)


def pause(
    ctx: typer.Context,
    length: Annotated[
        str | None, typer.Option("--for", help="Resume automatically after this time: 30m, 2h, 1d.", show_default=False)
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="The reason, shown by `status`.", show_default=False, callback=utf8)
    ] = None,
    by: By = None,
    config: ConfigFile = None,
) -> None:
    """Stop deliveries until `resume`, or for a time."""
    from retrycli.operations import pause
    from retrycli.views import formatting, terminal

    span = None if length is None else length_of_time(length, "--for")
    if span is not None and not span:
        raise typer.BadParameter(
            "it would be over at once; leave --for out to pause until `retrycli resume`", param_hint="--for"
        )
    begun, replaced = pause.pause(load_settings(ctx, config), length=span, reason=reason, by=by)
    if replaced is not None:
        terminal.complain(f"retrycli: this replaces {replaced.in_words}")
    until = f"until {formatting.local_time(begun.until)}" if begun.until else "until `retrycli resume`"
    terminal.say(f"Paused {until}. Passes record themselves and send nothing.")
    terminal.say("Next: `retrycli resume`, when deliveries may go on")


def resume(ctx: typer.Context, by: By = None, config: ConfigFile = None) -> None:
    """End a pause."""
    from retrycli.operations import pause
    from retrycli.views import terminal

    ended = pause.resume(load_settings(ctx, config), by=by)
    terminal.say("Resumed; passes deliver again." if ended else "Nothing was paused.")
    terminal.say("Next: retrycli status")
