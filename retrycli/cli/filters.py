"""The options that filter messages, written once for all commands that take them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_type_hints

import typer

from retrycli.cli.options import all_utf8
from retrycli.cli.parsing import length_of_time
from retrycli.domain.message import EscalationReason, MessageType, State

if TYPE_CHECKING:
    from retrycli.domain.filter import Filter


def filter_texts(values: list[str] | None) -> list[str] | None:
    """Check the texts of a filter, if any.

    Raises:
        typer.BadParameter: a text is blank, and would match every message, or is not valid UTF-8.
    """
    if any(not text.strip() for text in values or ()):
        raise typer.BadParameter("it is empty; say what to look for, or leave it out")
    return all_utf8(values)


class FilterOptions(NamedTuple):
    """The filter options of a command, by the names of its parameters.

    A message must match every option. An option that is repeated matches if any of its values does.
    """

    state: Annotated[
        list[State] | None, typer.Option("--state", help="Only messages in this state.", show_default=False)
    ] = None
    message_type: Annotated[
        list[MessageType] | None, typer.Option("--type", help="Only messages of this type.", show_default=False)
    ] = None
    ticket: Annotated[
        list[str] | None,
        typer.Option("--ticket", help="Only messages of this ticket.", show_default=False, callback=filter_texts),
    ] = None
    error: Annotated[
        list[str] | None,
        typer.Option(
            "--error",
            help="Only messages whose last error contains this text.",
            show_default=False,
            callback=filter_texts,
        ),
    ] = None
    reason: Annotated[
        list[EscalationReason] | None,
        typer.Option("--reason", help="Only messages escalated for this reason.", show_default=False),
    ] = None
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than", help="Only messages that first failed this long ago: 30m, 2h, 7d.", show_default=False
        ),
    ] = None
    fingerprint: Annotated[
        list[str] | None,
        typer.Option(
            "--fingerprint",
            help="Only messages escalated by this cause, as `escalations` shows it.",
            show_default=False,
            callback=filter_texts,
        ),
    ] = None

    def parse(self) -> Filter:
        """Return the filter that the options describe.

        Raises:
            typer.BadParameter: ``--older-than`` is not a valid length of time.
        """
        from retrycli.domain.filter import Filter

        age = None if self.older_than is None else length_of_time(self.older_than, "--older-than")
        return Filter(
            state=self.state or None,
            message_type=self.message_type or None,
            ticket=self.ticket or None,
            error=self.error or None,
            failed_before=None if age is None else datetime.now(UTC) - age,
            reason=self.reason or None,
            fingerprint=self.fingerprint or None,
        )


def takes_filters(command: Callable[..., None], *, without: str | None = None) -> Callable[..., None]:
    """Replace a command's parameter ``filters`` by the filter options, for typer to find in its signature.

    Args:
        command: takes `FilterOptions` as ``filters``.
        without: the filter that the command does not offer.
    """
    hints = get_type_hints(FilterOptions, include_extras=True)
    names = [name for name in FilterOptions._fields if name != without]
    filters = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=hints[name])
        for name in names
    ]
    signature = inspect.signature(command, eval_str=True)
    parameters = [
        expanded
        for parameter in signature.parameters.values()
        for expanded in (filters if parameter.name == "filters" else [parameter])
    ]

    @wraps(command)
    def run(**options: Any) -> None:  # noqa: ANN401  as the command's signature says
        given = FilterOptions(**{name: options.pop(name) for name in names})
        command(filters=given, **options)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run
