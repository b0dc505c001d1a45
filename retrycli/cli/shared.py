"""What all commands have in common: the options before the command, and the settings they lead to."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrycli.message import EscalationReason, MessageType, State

if TYPE_CHECKING:
    from retrycli.config import Loaded
    from retrycli.settings import Settings
    from retrycli.store.views import Filter


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


def _text(value: str | None) -> str | None:
    """An option's text, if any.

    Raises:
        typer.BadParameter: it is no UTF-8, which no database would take.
    """
    from retrycli.escape import encodable

    if value is not None and not encodable(value):
        raise typer.BadParameter("that is no UTF-8")
    return value


ConfigFile = Annotated[Path | None, typer.Option("--config", help="The configuration file.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
MessageIds = Annotated[
    list[int] | None, typer.Argument(metavar="ID…", max=LARGEST_ID, help="The messages.", show_default=False)
]
By = Annotated[str | None, typer.Option(help="Who asks, for the history.", show_default="login name", callback=_text)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

# The filters, which all have to be met.

OfState = Annotated[State | None, typer.Option("--state", help="In this state.", show_default=False)]
OfType = Annotated[MessageType | None, typer.Option("--type", help="Of this type.", show_default=False)]
OfTicket = Annotated[str | None, typer.Option("--ticket", help="Of this ticket.", show_default=False, callback=_text)]
WithError = Annotated[
    str | None, typer.Option("--error", help="With this in the last error.", show_default=False, callback=_text)
]
ForReason = Annotated[
    EscalationReason | None, typer.Option("--reason", help="Escalated for this reason.", show_default=False)
]
OlderThan = Annotated[
    str | None,
    typer.Option("--older-than", help="That first failed so long ago: 30m, 2h, 7d.", show_default=False),
]
OfCause = Annotated[
    str | None,
    typer.Option(
        "--fingerprint", help="Escalated by this cause, as `escalations` shows it.", show_default=False, callback=_text
    ),
]


def filter_of(
    *,
    state: State | None = None,
    message_type: MessageType | None = None,
    ticket: str | None = None,
    error: str | None = None,
    reason: EscalationReason | None = None,
    older_than: str | None = None,
    fingerprint: str | None = None,
) -> Filter:
    """The filter that the options above come to.

    Raises:
        typer.BadParameter: ``older_than`` is no length of time.
    """
    from retrycli.store.views import Filter

    before = None if older_than is None else datetime.now(UTC) - length_of_time(older_than, "--older-than")
    return Filter(state, message_type, ticket, error, before, reason=reason, fingerprint=fingerprint)


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
