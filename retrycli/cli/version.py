"""``version``."""

from __future__ import annotations

import typer

from retrycli.cli.options import Json


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("version")(version)


def version(as_json: Json = False) -> None:
    """Show retrycli's version."""
    import retrycli
    from retrycli.views import terminal

    if as_json:
        terminal.show_json({"version": retrycli.__version__})
        return
    typer.echo(f"retrycli {retrycli.__version__}")
