"""What all commands have in common: the options before the command, and the settings they lead to."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrycli.domain.operator_action import LONGEST_NAME

if TYPE_CHECKING:
    from retrycli.config.loader import Loaded
    from retrycli.config.settings import Settings


class LogLevel(StrEnum):
    """The levels of the log."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class LogFormat(StrEnum):
    """The forms of the log."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Globals:
    """The options that come before the command."""

    config: Path | None
    log_level: LogLevel | None
    log_format: LogFormat | None


MAX_NUMBER = 2**31
"""So many of something are as good as all, as with ``run.limit``."""


def utf8(value: str | None) -> str | None:
    """An option's text, if any.

    Raises:
        typer.BadParameter: it is no UTF-8, which no database would take.
    """
    from retrycli.domain.sanitize import encodable

    if value is not None and not encodable(value):
        raise typer.BadParameter("that is no UTF-8")
    return value


def all_utf8(values: list[str] | None) -> list[str] | None:
    """The texts of an option that may be given several times, if any.

    Raises:
        typer.BadParameter: one is no UTF-8.
    """
    for value in values or ():
        utf8(value)
    return values


def operator_name(value: str | None) -> str | None:
    """A person's name, if any, that fits into the history.

    Raises:
        typer.BadParameter: it is empty or too long, has control characters, or is no UTF-8.
    """
    utf8(value)
    if value is not None and not (0 < len(value.strip()) <= len(value) <= LONGEST_NAME and value.isprintable()):
        raise typer.BadParameter(f"a name has 1 to {LONGEST_NAME} printable characters")
    return value


ConfigFile = Annotated[
    Path | None,
    # One that can't be read ends with the same code whether it was named or found.
    typer.Option("--config", help="The configuration file.", show_default=False, readable=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Header = Annotated[bool, typer.Option("--header", help="Off a terminal, print the names of the columns first.")]
By = Annotated[
    str | None, typer.Option(help="Who asks, for the history.", show_default="login name", callback=operator_name)
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def load(ctx: typer.Context, config: Path | None) -> Loaded:
    """Read the settings and begin to log by them.

    Raises:
        ConfigurationError: they are wrong.
    """
    from retrycli.config import loader as configuration
    from retrycli.views import log_lines

    given: Globals = ctx.obj
    loaded = configuration.load(config_file(ctx, config))
    chosen = loaded.settings.logging
    level = given.log_level or chosen.level or ("INFO" if sys.stderr.isatty() else "WARNING")
    log_lines.configure(level, (given.log_format or LogFormat(chosen.format)).value, chosen.file)
    return loaded


def config_file(ctx: typer.Context, config: Path | None) -> Path | None:
    """Return the configuration file that was given, if any, and have suggested commands name it."""
    from retrycli.domain import suggested

    given: Globals = ctx.obj
    file = config or given.config
    suggested.with_config(None if file is None else str(file))
    return file


def load_settings(ctx: typer.Context, config: Path | None) -> Settings:
    """Read the settings and begin to log by them.

    Raises:
        ConfigurationError: they are wrong.
    """
    return load(ctx, config).settings
