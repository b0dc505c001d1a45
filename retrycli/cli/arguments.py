"""Arguments and options that select messages, and parsers for times."""

import inspect
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import wraps
from typing import Annotated, Any

import typer

from retrycli.cli.options import utf8
from retrycli.domain.duration import time_near, utc_text
from retrycli.domain.listing import FILTER_FIELDS, Filter, FilterField

MessageId = Annotated[str, typer.Argument(metavar="ID", help="The id of the message.")]
MessageIds = Annotated[
    list[str] | None, typer.Argument(metavar="ID…", help="The ids of the messages.", show_default=False)
]

After = Annotated[
    str | None,
    typer.Option(metavar="CURSOR", help="Show the page after this cursor of an earlier page.", show_default=False),
]


def moment(text: str) -> datetime:
    """Parse a future time: a duration from now, a time of day, or a date and time. A time without an offset is local.

    Raises:
        ValueError: the text is not a time, or the time is in the past or too far in the future.
    """
    now = _local(datetime.now(UTC))
    found = time_near(text, now, _local)
    if found < now:
        raise ValueError(f"{text!r} is in the past; give a later time")
    return found


def past_moment(text: str) -> datetime:
    """Parse a time that is usually past: a duration ago, a time of day, or a date and time. A time without an offset is
    local.

    Raises:
        ValueError: the text is not a time, or the time is too far away.
    """
    return time_near(text, _local(datetime.now(UTC)), _local, past=True)


def _local(time: datetime) -> datetime:
    try:
        return time.astimezone()
    except ValueError:  # Python rejects the machine's zone, such as TZ=UTC-24
        return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def not_blank(text: str) -> str:
    """Check the value of an option that chooses messages. A blank --error would match every error.

    Raises:
        ValueError: the value is blank, or not valid UTF-8.
    """
    if not text.strip():
        raise ValueError("the value is empty; give a value, or omit the option")
    return utf8(text)


def _option(condition: FilterField) -> Any:  # noqa: ANN401  the type of a parameter
    name, about = f"--{condition.name.replace('_', '-')}", condition.help
    if condition.is_time:
        return Annotated[
            datetime | None, typer.Option(name, help=about, show_default=False, metavar="<time>", parser=past_moment)
        ]
    parser = not_blank if condition.kind is str else None
    return Annotated[list[condition.kind] | None, typer.Option(name, help=about, show_default=False, parser=parser)]  # type: ignore[name-defined]  # made here


# The filter options, by field of `Filter`. A message must match every filter that is given. If a filter has several
# values, one of them must match.
FILTERS: Mapping[str, Any] = {field: _option(condition) for field, condition in FILTER_FIELDS.items()}


def as_options(wanted: Filter) -> list[str]:
    """Return the options that give a filter, for a suggested command."""
    words: list[str] = []
    for field, condition in FILTER_FIELDS.items():
        value = getattr(wanted, field)
        values = [] if value is None else [value] if isinstance(value, str | datetime) else value
        for each in values:
            text = utc_text(each) if isinstance(each, datetime) else str(each)
            words += [f"--{condition.name.replace('_', '-')}", text]
    return words


def takes_filters(command: Callable[..., None], *, without: str | None = None) -> Callable[..., None]:
    """Replace a command's parameter ``filters``, a `Filter`, with the filter options, so that typer finds them in its
    signature. Leave out the filter that the command does not support.
    """
    filters = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=annotation)
        for name, annotation in FILTERS.items()
        if name != without
    ]
    signature = inspect.signature(command, eval_str=True)
    parameters = [
        expanded
        for parameter in signature.parameters.values()
        for expanded in (filters if parameter.name == "filters" else [parameter])
    ]

    @wraps(command)
    def run(**options: Any) -> None:  # noqa: ANN401  the command's signature defines the types
        given: dict[str, Any] = {option.name: options.pop(option.name) or None for option in filters}
        command(filters=Filter(**given), **options)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run
