"""What all commands have in common: the options before the command, and the settings they lead to."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from datetime import timedelta

    from retrycli.config import Loaded
    from retrycli.settings import Settings


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
    debug: bool


LARGEST_ID = 2**63 - 1
"""No database holds a larger whole number."""

ERROR_ROOM = 60
"""So much of an error stands beside an id that a shell offers."""
SHELL_SAFE = str.maketrans(dict(zip("\\$`\"'[]:<>", "∕＄ˋ”’()∶‹›", strict=True)))
"""For zsh a completion's text is a piece of a program, and typer takes it for markup: no character that means
something to either is left, for the text is whatever a ticketing API has answered."""


def failed_messages(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Failed messages for a shell to offer: ids that begin as typed, with ticket and error beside them.

    Nothing is offered where something is wrong: nobody asked for an error by pressing a key.
    """
    from retrycli import config as configuration
    from retrycli import desk
    from retrycli.escape import printable

    try:
        given = ctx.params.get("config") or ctx.find_root().params.get("config")
        settings = configuration.load(Path(given) if given else None).settings
        found = desk.failed_beginning(settings, incomplete) if incomplete.isdecimal() or not incomplete else []
    except Exception:  # noqa: BLE001  whatever it is
        return []
    texts = {number: printable(f"ticket {ticket}, {error or 'no error'}") for number, ticket, error in found}
    return [(str(number), text[:ERROR_ROOM].translate(SHELL_SAFE)) for number, text in texts.items()]


MessageId = Annotated[
    int, typer.Argument(metavar="ID", max=LARGEST_ID, help="The message.", autocompletion=failed_messages)
]
MessageIds = Annotated[
    list[int], typer.Argument(metavar="ID…", max=LARGEST_ID, help="The messages.", autocompletion=failed_messages)
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="The configuration file.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def load(ctx: typer.Context, config: Path | None) -> Loaded:
    """Read the settings and begin to log by them.

    Raises:
        ConfigurationError: they are wrong.
    """
    from retrycli import config as configuration
    from retrycli import logs

    given: Globals = ctx.obj
    loaded = configuration.load(config or given.config)
    chosen = loaded.settings.logging
    level = given.log_level or chosen.level or ("INFO" if sys.stderr.isatty() else "WARNING")
    logs.configure(level, (given.log_format or LogFormat(chosen.format)).value)
    return loaded


def load_settings(ctx: typer.Context, config: Path | None) -> Settings:
    """Read the settings and begin to log by them.

    Raises:
        ConfigurationError: they are wrong.
    """
    return load(ctx, config).settings


def length_of_time(text: str, option: str) -> timedelta:
    """A length of time as an option's value.

    Raises:
        typer.BadParameter: it is none.
    """
    from retrycli.duration import duration

    try:
        return duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def agreed(question: str, *, yes: bool) -> bool:
    """Whether a person, or ``--yes`` in place of one, wants it so.

    Raises:
        typer.BadParameter: nobody is there to be asked.
    """
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise typer.BadParameter("nobody is there to be asked; give it, if it is to be done", param_hint="--yes")
    return typer.confirm(question)
