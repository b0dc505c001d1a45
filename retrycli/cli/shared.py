"""What all commands have in common: the options before the command, and the settings they lead to."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrycli.domain.message import EscalationReason, MessageType, State
from retrycli.domain.operator_action import LONGEST_NAME

if TYPE_CHECKING:
    from retrycli.config.loader import Loaded
    from retrycli.config.settings import Settings
    from retrycli.domain.filter import Filter


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


LARGEST_ID = 2**63 - 1
"""No database holds a larger whole number."""
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
    for each in values or ():
        utf8(each)
    return values


def has_lookup(values: list[str] | None) -> list[str] | None:
    """Check the texts of a filter, if any.

    Raises:
        typer.BadParameter: one is blank, and would let everything through, or is not valid UTF-8.
    """
    if any(not each.strip() for each in values or ()):
        raise typer.BadParameter("it is empty; say what to look for, or leave it out")
    return all_utf8(values)


def name(value: str | None) -> str | None:
    """A person's name, if any, that fits into the history.

    Raises:
        typer.BadParameter: it is empty or too long, has control characters, or is no UTF-8.
    """
    utf8(value)
    if value is not None and not (0 < len(value.strip()) <= len(value) <= LONGEST_NAME and value.isprintable()):
        raise typer.BadParameter(f"a name has 1 to {LONGEST_NAME} printable characters")
    return value


ERROR_ROOM = 60
"""So much of an error stands beside an id that a shell offers."""
SHELL_SAFE = str.maketrans(dict(zip("\\$`\"'[]:<>", "∕＄ˋ”’()∶‹›", strict=True)))
"""For zsh a completion's text is a piece of a program, and typer takes it for markup: no character that means
something to either is left, for the text is whatever a ticketing API has answered."""


def failed_messages(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Failed messages for a shell to offer: ids that begin as typed, with ticket and error beside them.

    Nothing is offered where something is wrong: nobody asked for an error by pressing a key.
    """
    from retrycli.config import loader as configuration
    from retrycli.domain.sanitize import printable
    from retrycli.operations import listing

    try:
        given = ctx.params.get("config") or ctx.find_root().params.get("config")
        settings = configuration.load(Path(given) if given else None).settings
        found = listing.failed_beginning(settings, incomplete) if incomplete.isdecimal() or not incomplete else []
    except Exception:  # noqa: BLE001  whatever it is
        return []
    texts = {number: printable(f"ticket {ticket}, {error or 'no error'}") for number, ticket, error in found}
    return [(str(number), text[:ERROR_ROOM].translate(SHELL_SAFE)) for number, text in texts.items()]


MessageId = Annotated[
    int, typer.Argument(metavar="ID", max=LARGEST_ID, help="The message.", autocompletion=failed_messages)
]
ConfigFile = Annotated[
    Path | None,
    # One that can't be read ends with the same code whether it was named or found.
    typer.Option("--config", help="The configuration file.", show_default=False, readable=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Header = Annotated[bool, typer.Option("--header", help="Off a terminal, print the names of the columns first.")]
MessageIds = Annotated[
    list[int] | None,
    typer.Argument(
        metavar="ID…", max=LARGEST_ID, help="The messages.", show_default=False, autocompletion=failed_messages
    ),
]
By = Annotated[str | None, typer.Option(help="Who asks, for the history.", show_default="login name", callback=name)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

# The filters. A message has to meet each of them; one that is repeated is met by any of its values.

OfState = Annotated[list[State] | None, typer.Option("--state", help="In this state.", show_default=False)]
OfType = Annotated[list[MessageType] | None, typer.Option("--type", help="Of this type.", show_default=False)]
OfTicket = Annotated[
    list[str] | None, typer.Option("--ticket", help="Of this ticket.", show_default=False, callback=has_lookup)
]
WithError = Annotated[
    list[str] | None,
    typer.Option("--error", help="With this in the last error.", show_default=False, callback=has_lookup),
]
ForReason = Annotated[
    list[EscalationReason] | None, typer.Option("--reason", help="Escalated for this reason.", show_default=False)
]
OlderThan = Annotated[
    str | None,
    typer.Option("--older-than", help="That first failed so long ago: 30m, 2h, 7d.", show_default=False),
]
OfCause = Annotated[
    list[str] | None,
    typer.Option(
        "--fingerprint",
        help="Escalated by this cause, as `escalations` shows it.",
        show_default=False,
        callback=has_lookup,
    ),
]


def filter_of(
    *,
    state: list[State] | None = None,
    message_type: list[MessageType] | None = None,
    ticket: list[str] | None = None,
    error: list[str] | None = None,
    reason: list[EscalationReason] | None = None,
    older_than: str | None = None,
    fingerprint: list[str] | None = None,
) -> Filter:
    """The filter that the options above come to.

    Raises:
        typer.BadParameter: ``older_than`` is no length of time.
    """
    from retrycli.domain.filter import Filter

    before = None if older_than is None else datetime.now(UTC) - length_of_time(older_than, "--older-than")
    return Filter(
        state=state or None,
        message_type=message_type or None,
        ticket=ticket or None,
        error=error or None,
        failed_before=before,
        reason=reason or None,
        fingerprint=fingerprint or None,
    )


def load(ctx: typer.Context, config: Path | None) -> Loaded:
    """Read the settings and begin to log by them.

    Raises:
        ConfigurationError: they are wrong.
    """
    from retrycli.config import loader as configuration
    from retrycli.views import log_lines

    given: Globals = ctx.obj
    loaded = configuration.load(given_file(ctx, config))
    chosen = loaded.settings.logging
    level = given.log_level or chosen.level or ("INFO" if sys.stderr.isatty() else "WARNING")
    log_lines.configure(level, (given.log_format or LogFormat(chosen.format)).value, chosen.file)
    return loaded


def given_file(ctx: typer.Context, config: Path | None) -> Path | None:
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


def length_of_time(text: str, option: str) -> timedelta:
    """A length of time as an option's value.

    Raises:
        typer.BadParameter: it is none.
    """
    from retrycli.domain.duration import duration

    try:
        return duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def moment(text: str, option: str) -> datetime:
    """A time to come as an option's value: a length of time from now, a time of day, or a date and time.

    What has no offset is local time.

    Raises:
        typer.BadParameter: it is none, or past.
    """
    from retrycli.domain.duration import LONGEST, duration

    now = _local(datetime.now(UTC))
    with suppress(ValueError):
        return now + duration(text)
    try:
        if ":" in text and len(text) <= len("08:00:00"):
            given = datetime.combine(now, time.fromisoformat(text))
            given += timedelta(days=_local(given) <= now)
        else:
            given = datetime.fromisoformat(text)
    except ValueError:
        words = "a length of time from now (2h), a time of day (08:00) or a date and time (2026-01-02 08:00)"
        raise typer.BadParameter(f"{text!r} is no time; write {words}", param_hint=option) from None
    away = given.replace(tzinfo=None) - now.replace(tzinfo=None)
    # Roughly first: at the calendar's ends there is no working out a local time.
    if abs(away) <= 2 * LONGEST and now <= (found := _local(given)) <= now + LONGEST:
        return found
    raise typer.BadParameter(f"{text!r} is {'past' if away < LONGEST / 2 else 'too far off'}", param_hint=option)


def _local(time: datetime) -> datetime:
    """A time in the machine's zone; where that is none that Python takes, as ``TZ=UTC-24``, in UTC or its own."""
    try:
        return time.astimezone()
    except ValueError:
        return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def a_person_is_there(*, as_json: bool) -> bool:
    """Return if somebody can be asked: not if the output is piped, or is to hold JSON alone."""
    from retrycli.views import terminal

    return terminal.on_terminal() and sys.stdin.isatty() and not as_json


def require_a_person(what: str, *, yes: bool, as_json: bool) -> None:
    """Refuse to go on where nobody can be asked, or stdout is to hold JSON alone.

    Raises:
        typer.BadParameter: it is so, and ``--yes`` was not given.
    """
    if not (yes or a_person_is_there(as_json=as_json)):
        raise typer.BadParameter(f"{what}, and nobody is there to be asked; add --yes", param_hint="--yes")


def ask(question: str) -> None:
    """Ask a person whether to go on, and end the command unless the answer is yes.

    Raises:
        typer.Exit: it is not; that is no failure.
    """
    typer.echo(f"{question} [y/N] ", nl=False)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        typer.echo("Nothing was changed.")
        raise typer.Exit(0)
