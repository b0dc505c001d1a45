"""Options that many commands share, and the settings that they choose. A pass loads nothing else of `cli`."""

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
    """Log levels."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class LogFormat(StrEnum):
    """Log formats."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Globals:
    """The options before the command."""

    config: Path | None
    log_level: LogLevel | None
    log_format: LogFormat | None


MAX_NUMBER = 2**31
"""Maximum of numeric options, as for ``run.limit``."""


def utf8(value: str | None) -> str | None:
    """Check an option's text, if any: no database stores invalid UTF-8.

    Raises:
        typer.BadParameter: the text is not valid UTF-8.
    """
    from retrycli.domain.sanitize import encodable

    if value is not None and not encodable(value):
        raise typer.BadParameter("that is not valid UTF-8")
    return value


def all_utf8(values: list[str] | None) -> list[str] | None:
    """Check the texts of a repeatable option, if any.

    Raises:
        typer.BadParameter: a text is not valid UTF-8.
    """
    for value in values or ():
        utf8(value)
    return values


def operator_name(value: str | None) -> str | None:
    """Check an operator's name, if any, for the history.

    Raises:
        typer.BadParameter: the name is empty or too long, has control characters, or is not valid UTF-8.
    """
    utf8(value)
    if value is not None and not (0 < len(value.strip()) <= len(value) <= LONGEST_NAME and value.isprintable()):
        raise typer.BadParameter(f"a name has 1 to {LONGEST_NAME} printable characters")
    return value


ConfigFile = Annotated[
    Path | None,
    # Not checked by typer: an unreadable file exits with 78 whether it was named or found.
    typer.Option("--config", help="The configuration file.", show_default=False, readable=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Header = Annotated[bool, typer.Option("--header", help="If the output is piped, print the column names first.")]
By = Annotated[
    str | None, typer.Option(help="The operator, for the history.", show_default="login name", callback=operator_name)
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def load(ctx: typer.Context, config: Path | None) -> Loaded:
    """Read the settings with their sources, and configure logging.

    Raises:
        ConfigurationError: a setting is invalid.
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
    """Return the configuration file given by an option, if any. Suggested commands will name it."""
    from retrycli.domain import suggested

    given: Globals = ctx.obj
    file = config or given.config
    suggested.with_config(None if file is None else str(file))
    return file


def load_settings(ctx: typer.Context, config: Path | None) -> Settings:
    """Read the settings and configure logging.

    Raises:
        ConfigurationError: a setting is invalid.
    """
    return load(ctx, config).settings
