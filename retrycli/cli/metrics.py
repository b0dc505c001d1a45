"""``metrics``."""

from __future__ import annotations

import typer

from retrycli.cli.options import ConfigFile, Json, load_settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("metrics")(metrics)


def metrics(ctx: typer.Context, as_json: Json = False, config: ConfigFile = None) -> None:
    """Print the metrics for Prometheus."""
    from retrycli.operations import metrics as operation
    from retrycli.views import terminal
    from retrycli.views.prometheus import samples, text

    settings = load_settings(ctx, config)
    measured = operation.measure(settings)
    if as_json:
        terminal.show_json({"metrics": samples(measured)})
        return
    typer.echo(text(measured), nl=False)
    path = settings.metrics.path
    terminal.say(f"Each pass writes this to {path}." if path else "Set metrics.path, and each pass writes this there.")
    terminal.say("Next: retrycli status")
