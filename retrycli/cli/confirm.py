"""Ask the user for confirmation."""

from __future__ import annotations

import sys

import typer


def can_ask(*, as_json: bool) -> bool:
    """Return if the user can be asked: stdin and stdout are a terminal, and ``--json`` is not set."""
    from retrycli.views import terminal

    return terminal.on_terminal() and sys.stdin.isatty() and not as_json


def require_confirmation(what: str, *, yes: bool, as_json: bool) -> None:
    """Require ``--yes`` if the user can't be asked.

    Args:
        what: the reason for the question, for the error.
        yes: ``--yes`` was given.
        as_json: ``--json`` was given.

    Raises:
        typer.BadParameter: the user can't be asked, and ``--yes`` was not given.
    """
    if not (yes or can_ask(as_json=as_json)):
        raise typer.BadParameter(f"{what}, and this is not a terminal: pass --yes to confirm", param_hint="--yes")


def confirm(question: str) -> None:
    """Ask a question. End the command unless the answer is yes.

    Raises:
        typer.Exit: the answer is not yes; the exit code is 0.
    """
    typer.echo(f"{question} [y/N] ", nl=False)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        typer.echo("Nothing was changed.")
        raise typer.Exit(0)
