"""Show the findings of checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from retrycli.domain import suggested
from retrycli.views import terminal

if TYPE_CHECKING:
    from retrycli.operations.doctor.context import Finding

MARKS = {"ok": "ok", "warning": "WARN", "failure": "FAIL"}


def show_findings(findings: Sequence[Finding], *, again: str, following: str, bad: bool, as_json: bool) -> None:
    """Print findings for a program, or show them to an operator with the next command: ``following`` or, if a check has
    failed, ``again``, which runs the checks again.
    """
    found = [
        replace(
            finding,
            found=suggested.quoted(finding.found if as_json else terminal.told(finding.found)),
            remedy=None if finding.remedy is None else suggested.quoted(finding.remedy),
        )
        for finding in findings
    ]
    if as_json:
        terminal.show_json({"ok": not bad, "findings": [asdict(finding) for finding in found]})
    elif terminal.on_terminal():
        terminal.show_findings([(MARKS[each.level], each.name, each.found, each.remedy) for each in found])
        terminal.say("Next: " + (f"fix what failed, then `{again}`" if bad else following))
    else:
        terminal.show_table((), [(each.level, each.name, each.found, each.remedy) for each in found])
