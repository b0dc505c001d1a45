"""``doctor``, ``notify test``."""

from __future__ import annotations

import uuid
from dataclasses import asdict, replace
from typing import Annotated

import typer

from retrycli.cli.options import NOT_OK, ConfigFile, Json, config_file, load_settings
from retrycli.domain import suggested
from retrycli.views import terminal

notify = typer.Typer(help="Test notifications.", no_args_is_help=True, rich_markup_mode=None)
MARKS = {"ok": "ok", "warning": "WARN", "failure": "FAIL"}


def doctor(
    ctx: typer.Context,
    as_cron: Annotated[bool, typer.Option("--as-cron", help="Check in cron's environment.")] = False,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Check the installation and report problems. Send and write nothing. Exit with 3 if a check fails."""
    from retrycli.operations import doctor as checks
    from retrycli.operations.doctor.context import failed

    file = config_file(ctx, config)
    found = checks.examine_as_cron(file) if as_cron else checks.examine(file)
    findings = [
        replace(
            finding,
            found=suggested.quoted(finding.found),
            remedy=None if finding.remedy is None else suggested.quoted(finding.remedy),
        )
        for finding in found
    ]
    bad = failed(findings)
    if as_json:
        terminal.show_json({"ok": not bad, "findings": [asdict(finding) for finding in findings]})
    elif terminal.on_terminal():
        terminal.show_findings(
            [(MARKS[finding.level], finding.name, finding.found, finding.remedy) for finding in findings]
        )
        again = "retrycli doctor" + (" --as-cron" if as_cron else "")
        terminal.say("Next: " + (f"fix what failed, then `{again}`" if bad else "retrycli status"))
    else:
        terminal.show_table((), [(finding.level, finding.name, finding.found, finding.remedy) for finding in findings])
    raise typer.Exit(NOT_OK if bad else 0)


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
