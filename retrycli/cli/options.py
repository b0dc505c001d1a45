"""Define the options that many commands share, load the settings, and ask for confirmation.

`run-once` imports no shared options from other modules, so that passes start fast.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrycli.domain import suggested
from retrycli.domain.message import LONGEST_NAME
from retrycli.domain.sanitize import encodable, printable

if TYPE_CHECKING:
    from retrycli.config.loader import Loaded
    from retrycli.config.settings import Settings

NOT_OK = 3  # exit code: an attempt did not deliver, a check failed, or a look-up gave no clear answer
REFUSED = 4  # exit code: no such message, or its state or data does not allow the action
MAX_NUMBER = 2**31  # maximum value of numeric options, the same as for ``run.limit``


def utf8(value: str) -> str:
    """Check that a command-line value is valid UTF-8, because the databases can't store other text.

    Raises:
        ValueError: the text is not valid UTF-8.
    """
    if not encodable(value):
        raise ValueError("the value is not valid UTF-8")
    return value


def operator_name(value: str) -> str:
    """Check an operator's name for the history.

    Raises:
        ValueError: the name is blank or too long, has unprintable characters, or is not valid UTF-8.
    """
    if not (0 < len(utf8(value).strip()) <= len(value) <= LONGEST_NAME and value.isprintable()):
        raise ValueError(f"the name must have 1 to {LONGEST_NAME} printable characters, not only spaces")
    return value


ConfigFile = Annotated[
    Path | None,
    # typer must not check readability. It would exit with 2, but the exit code for an unreadable file is always 78.
    typer.Option("--config", help="The configuration file.", show_default=False, readable=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Header = Annotated[bool, typer.Option("--header", help="Print the column names even if the output is not a terminal.")]
By = Annotated[
    str | None,
    typer.Option(help="The operator's name, recorded in the history.", show_default="login name", parser=operator_name),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def load(ctx: typer.Context, config: Path | None) -> Loaded:
    """Read the settings with their sources, and configure logging.

    Raises:
        ConfigurationError: see `retrycli.config.loader.load`.
    """
    from retrycli.config import loader as configuration
    from retrycli.views import log_lines

    given = ctx.find_root().params
    loaded = configuration.load(config_file(ctx, config))
    chosen = loaded.settings.logging
    level = given["log_level"] or chosen.level or ("INFO" if sys.stderr.isatty() else "WARNING")
    log_lines.configure(level, given["log_format"] or chosen.format, chosen.file)
    return loaded


def config_file(ctx: typer.Context, config: Path | None) -> Path | None:
    """Return the configuration file given by an option, if any. Suggested commands then name this file."""
    file: Path | None = config or ctx.find_root().params["config"]
    suggested.with_config(None if file is None else str(file))
    return file


def load_settings(ctx: typer.Context, config: Path | None) -> Settings:
    """Read the settings and configure logging.

    Raises:
        ConfigurationError: see `load`.
    """
    return load(ctx, config).settings


def can_ask(*, as_json: bool) -> bool:
    """Return whether the user can be asked: stdin and stdout are a terminal, and ``--json`` is not set."""
    return sys.stdout.isatty() and sys.stdin.isatty() and not as_json


def require_confirmation(why: str, *, yes: bool, as_json: bool = False) -> None:
    """Require ``--yes`` if the user can't be asked. The error names the reason for the confirmation.

    Raises:
        typer.BadParameter: the user can't be asked, and ``--yes`` was not given.
    """
    if not (yes or can_ask(as_json=as_json)):
        here = "with --json" if as_json else "without a terminal"
        raise typer.BadParameter(f"{why}; {here}, pass --yes to confirm", param_hint="--yes")


def confirm(question: str, why: str, *, yes: bool, as_json: bool = False) -> None:
    """Ask a question, unless ``--yes`` was given. End the command unless the answer is yes. The reason for the question
    is for the error message.

    Raises:
        typer.BadParameter: the user can't be asked, and ``--yes`` was not given.
        typer.Exit: the answer is not yes; the exit code is 0.
    """
    require_confirmation(why, yes=yes, as_json=as_json)
    if not yes and not agrees(question):
        typer.echo("Nothing was changed.")
        raise typer.Exit(0)


def agrees(question: str) -> bool:
    """Ask a question, and return whether the answer is yes."""
    typer.echo(f"{printable(question)} [y/N] ", nl=False)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
