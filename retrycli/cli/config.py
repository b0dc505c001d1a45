"""``init``, ``config show``, ``config check``, ``version``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retrycli.cli.options import ConfigFile, Json, load, load_settings, utf8
from retrycli.domain.errors import RetrycliError
from retrycli.views import terminal

config = typer.Typer(help="Show and check the settings.", no_args_is_help=True, rich_markup_mode=None)


def init(
    ctx: typer.Context,
    database_url: Annotated[
        str, typer.Option(help="The database with the application's table.", parser=utf8)
    ] = "sqlite:///ticketing_agent.db",
    base_url: Annotated[
        str | None, typer.Option(help="The URL of the ticketing API.", show_default=False, parser=utf8)
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Write a commented retrycli.toml and create the tables."""
    from retrycli.operations import setup

    file = config or ctx.find_root().params["config"] or Path("retrycli.toml")
    setup.write_config(file, database_url=database_url, base_url=base_url)
    try:
        settings = load_settings(ctx, file)
        place = setup.make_tables(settings)
    except RetrycliError:
        file.unlink()  # or it would be in the way of the command that is put right
        raise
    terminal.say(f"Wrote {file}.", f"Made retrycli's tables in {place}.")
    step = "retrycli run-once --dry-run"
    if not settings.gateway.base_url:
        step = f"set gateway.base_url in {file}, then `{step}`"
    terminal.say(f"Next: {step}")


@config.command("show")
def config_show(ctx: typer.Context, as_json: Json = False, config: ConfigFile = None) -> None:
    """Show every setting and its source. Secrets are masked."""
    from retrycli.config import template

    values = template.shown(load(ctx, config))
    if as_json:
        terminal.show_json(
            {"settings": [{"key": key, "value": value, "source": source} for key, value, source in values]}
        )
        return
    terminal.show_table(("Setting", "Value", "From"), values)
    terminal.say("Next: retrycli config check")


@config.command("check")
def config_check(ctx: typer.Context, as_json: Json = False, config: ConfigFile = None) -> None:
    """Check the settings, the preset, the database and its tables. Nothing is sent."""
    from retrycli.operations import setup

    facts = setup.check(load_settings(ctx, config))
    if as_json:
        terminal.show_json({"ok": True} | {name.lower(): value for name, value in facts.items()})
        return
    terminal.show_facts(facts)
    terminal.say("Next: retrycli run-once --dry-run")


def version(as_json: Json = False) -> None:
    """Show retrycli's version."""
    import retrycli

    if as_json:
        terminal.show_json({"version": retrycli.__version__})
        return
    typer.echo(f"retrycli {retrycli.__version__}")
