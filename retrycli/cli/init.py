"""``init``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retrycli.cli.options import ConfigFile, load_settings, utf8


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("init")(init)


def init(
    ctx: typer.Context,
    database_url: Annotated[
        str, typer.Option(help="The database with the application's table.", callback=utf8)
    ] = "sqlite:///ticketing_agent.db",
    base_url: Annotated[
        str | None, typer.Option(help="The URL of the ticketing API.", show_default=False, callback=utf8)
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Write a commented retrycli.toml and create the tables."""
    from retrycli.domain.errors import RetrycliError
    from retrycli.operations import setup
    from retrycli.views import terminal

    file = config or ctx.obj.config or Path("retrycli.toml")
    setup.write_config(file, database_url=database_url, base_url=base_url)
    try:
        settings = load_settings(ctx, file)
        place = setup.make_tables(settings)
    except RetrycliError:
        file.unlink()  # or it would be in the way of the command that is put right
        raise
    terminal.say(f"Wrote {file}.")
    terminal.say(f"Made retrycli's tables in {place}.")
    step = "retrycli run-once --dry-run"
    if not settings.gateway.base_url:
        step = f"set gateway.base_url in {file}, then `{step}`"
    terminal.say(f"Next: {step}")
