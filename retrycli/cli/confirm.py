"""Ask before something is done."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    pass


def can_ask(*, as_json: bool) -> bool:
    """Return if somebody can be asked: not if the output is piped, or is to hold JSON alone."""
    from retrycli.views import terminal

    return terminal.on_terminal() and sys.stdin.isatty() and not as_json


def require_confirmation(what: str, *, yes: bool, as_json: bool) -> None:
    """Refuse to go on where nobody can be asked, or stdout is to hold JSON alone.

    Raises:
        typer.BadParameter: it is so, and ``--yes`` was not given.
    """
    if not (yes or can_ask(as_json=as_json)):
        raise typer.BadParameter(f"{what}, and nobody is there to be asked; add --yes", param_hint="--yes")


def confirm(question: str) -> None:
    """Ask a person whether to go on, and end the command unless the answer is yes.

    Raises:
        typer.Exit: it is not; that is no failure.
    """
    typer.echo(f"{question} [y/N] ", nl=False)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        typer.echo("Nothing was changed.")
        raise typer.Exit(0)
