"""The options that choose messages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from retrycli.cli.options import all_utf8
from retrycli.cli.parsing import length_of_time
from retrycli.domain.message import EscalationReason, MessageType, State

if TYPE_CHECKING:
    from retrycli.domain.filter import Filter


def has_lookup(values: list[str] | None) -> list[str] | None:
    """Check the texts of a filter, if any.

    Raises:
        typer.BadParameter: one is blank, and would let everything through, or is not valid UTF-8.
    """
    if any(not each.strip() for each in values or ()):
        raise typer.BadParameter("it is empty; say what to look for, or leave it out")
    return all_utf8(values)


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
