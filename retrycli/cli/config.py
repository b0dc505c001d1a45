"""``config show``, ``config check``."""

from __future__ import annotations

import typer

from retrycli.cli.options import ConfigFile, Json, load, load_settings


def register(app: typer.Typer) -> None:
    """Add these commands."""
    configuration = typer.Typer(help="Show and check the settings.", no_args_is_help=True, rich_markup_mode=None)
    configuration.command("show")(config_show)
    configuration.command("check")(config_check)
    app.add_typer(configuration, name="config")


def config_show(ctx: typer.Context, as_json: Json = False, config: ConfigFile = None) -> None:
    """Show every setting and its source. Secrets are masked."""
    from retrycli.config import template
    from retrycli.views import terminal

    loaded = load(ctx, config)
    values = template.shown(loaded)
    if as_json:
        terminal.show_json(
            {"settings": [{"key": key, "value": value, "source": source} for key, value, source in values]}
        )
        return
    terminal.show_table(("Setting", "Value", "From"), values)
    terminal.say("Next: retrycli config check")


def config_check(ctx: typer.Context, as_json: Json = False, config: ConfigFile = None) -> None:
    """Check the settings, the preset, the database and its tables. Nothing is sent."""
    from retrycli.operations import setup
    from retrycli.views import terminal

    settings = load_settings(ctx, config)
    facts = setup.check(settings)
    if as_json:
        terminal.show_json({"ok": True} | {name.lower(): value for name, value in facts.items()})
        return
    terminal.show_facts(facts)
    terminal.say("Next: retrycli run-once --dry-run")
