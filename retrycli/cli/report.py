"""``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retrycli.cli.options import ConfigFile, load_settings
from retrycli.cli.stats import Since, parse_since

STDOUT = Path("-")


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("report")(report)


def report(
    ctx: typer.Context,
    html: Annotated[
        Path | None,
        typer.Option(help="The file to write; - is stdout.", show_default="report.path"),
    ] = None,
    since: Since = "7d",
    config: ConfigFile = None,
) -> None:
    """Write an HTML report."""
    from retrycli.operations import report
    from retrycli.operations import report as operation
    from retrycli.views import terminal

    settings = load_settings(ctx, config)
    file = html or settings.report.path
    if file is None:
        raise typer.BadParameter("name a file, or - for stdout; or set report.path", param_hint="--html")
    page = report.report(settings, span=parse_since(since))
    if file == STDOUT:
        print(page, end="")  # noqa: T201
        return
    operation.write(file, page)
    terminal.say(f"Wrote {file} ({len(page.encode()) / 1024:.0f} KiB).")
    terminal.say(f"Next: look at it with a browser, as in xdg-open {file}")
