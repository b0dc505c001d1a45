"""``doctor``."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated

import typer

from retrycli.cli.options import NOT_OK, ConfigFile, Json, config_file
from retrycli.domain import suggested
from retrycli.views import terminal

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
