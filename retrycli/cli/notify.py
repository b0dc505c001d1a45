"""``notify``."""

from __future__ import annotations

import uuid

import typer

from retrycli.cli.options import NOT_OK, ConfigFile, Json, load_settings
from retrycli.views import terminal

notify = typer.Typer(help="Test notifications.", no_args_is_help=True, rich_markup_mode=None)


@notify.command("test")
def send_test(ctx: typer.Context, as_json: Json = False, config: ConfigFile = None) -> None:
    """Send a test notification to every target. Exit with 3 if a target refuses it."""
    from retrycli.operations import notifications

    tried = notifications.send_test(load_settings(ctx, config), str(uuid.uuid4()))
    failed = {
        "notify.ping_url" if result.target == notifications.PING else "notify.urls"
        for result in tried
        if result.failure
    }
    if as_json:
        found = [
            {
                "target": result.target,
                "scheme": result.scheme,
                "accepted": result.failure is None,
                "error": result.failure,
            }
            for result in tried
        ]
        terminal.show_json({"targets": found})
    else:
        rows = [(result.target, result.scheme, result.failure or "accepted") for result in tried]
        terminal.show_table(("Target", "Scheme", "Result"), rows, texts=1)
        broken = " and ".join(sorted(failed, reverse=True))
        terminal.say("Next: " + (f"fix {broken}, then `retrycli notify test`" if failed else "retrycli status"))
    raise typer.Exit(NOT_OK if failed else 0)
