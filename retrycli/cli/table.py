"""``table accept``."""

from __future__ import annotations

import typer

from retrycli.cli.confirm import confirm, require_confirmation
from retrycli.cli.options import ConfigFile, Json, Yes, load_settings


def register(app: typer.Typer) -> None:
    """Add this command."""
    table = typer.Typer(
        help="Maintain the reference to the application's table.", no_args_is_help=True, rich_markup_mode=None
    )
    table.command("accept")(table_accept)
    app.add_typer(table, name="table")


def table_accept(ctx: typer.Context, yes: Yes = False, as_json: Json = False, config: ConfigFile = None) -> None:
    """Accept the table that database.table names as the queue's table.

    Use it after the application has renamed its table. The queue belongs to one table; every other is refused.
    """
    from retrycli.operations import maintenance
    from retrycli.views import formatting, terminal

    with maintenance.belonging(load_settings(ctx, config)) as (before, accept):
        messages = formatting.count(before.messages, "message")
        if not as_json:
            terminal.say(f"The queue belongs to {before.remembered or 'no table yet'}, and has {messages}.")
        if before.remembered != before.configured:
            if not as_json:
                terminal.say(
                    f"{before.found} of them have a failed row in {before.configured}; the rest would be dropped."
                )
            require_confirmation("a message without a row there leaves the queue", yes=yes, as_json=as_json)
            if not yes:
                confirm(f"Let the queue belong to {before.configured}?")
            accept()
    if as_json:
        terminal.show_json(
            {
                "before": before.remembered,
                "table": before.configured,
                "messages": before.messages,
                "found": before.found,
            }
        )
        return
    terminal.say(f"It belongs to {before.configured}.")
    terminal.say("Next: retrycli run-once --dry-run")
