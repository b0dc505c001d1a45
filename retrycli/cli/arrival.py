"""``look-up``, ``mark-sent``, for messages that may have arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from retrycli.cli.arguments import MessageIds, takes_filters
from retrycli.cli.options import NOT_OK, REFUSED, By, ConfigFile, Json, Yes, load_settings, utf8
from retrycli.cli.selection import act_on, choose, confirmed_ids, run_interruptible
from retrycli.domain.listing import Filter
from retrycli.domain.outcome import Presence
from retrycli.views import terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrycli.operations.retry import LookedUp


def look_up(
    ctx: typer.Context,
    message_ids: MessageIds = None,
    by: By = None,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Ask if messages have arrived. Send nothing. A message that has arrived becomes sent."""
    from retrycli.operations.retry import look_up_all

    if not message_ids:
        raise typer.BadParameter("name messages by their ids", param_hint="ID…")
    settings = load_settings(ctx, config)
    asked, received = run_interruptible(lambda here: look_up_all(settings, message_ids, by=by, runtime=here))
    for answer in asked:
        if answer.error is not None:
            terminal.complain(f"retrycli: {answer.error}")
    if as_json:
        terminal.show_json({"results": [_lookup_fields(answer) for answer in asked]})
    else:
        _show(asked)
    # An unknown result takes precedence over a look-up that was impossible.
    unknown = any(answer.found is not None and answer.found.result is Presence.UNKNOWN for answer in asked)
    refused = any(answer.error is not None for answer in asked)
    raise typer.Exit(128 + received if received else NOT_OK if unknown else REFUSED if refused else 0)


def _lookup_fields(asked: LookedUp) -> dict[str, object]:
    found = asked.found
    return {
        "id": asked.message_id,
        "result": found.result if found else None,
        "error": found.error if found else str(asked.error),
    }


def _show(asked: Sequence[LookedUp]) -> None:
    if not terminal.on_terminal():
        answers = [(answer.message_id, answer.found.result, answer.found.error) for answer in asked if answer.found]
        terminal.show_table((), answers)
        return
    for answer in asked:
        if answer.found is not None:
            described, step = _describe(answer.message_id, answer.found.result, answer.found.error)
            terminal.show_text(described)
            if step is not None:
                terminal.say(f"Next: {step}")


def _describe(message_id: int, result: Presence, error: str | None) -> tuple[str, str | None]:
    match result:
        case Presence.ARRIVED:
            but = f", but {error}." if error else ", and is marked as sent."
            return f"Message {message_id} has arrived{but}", None
        case Presence.ABSENT:
            step = f"retrycli retry {message_id}"
            return f"Message {message_id} has not arrived. Nothing was changed.", step
        case Presence.UNKNOWN:
            again = f"`retrycli look-up {message_id}`, or look into its ticket"
            step = f"{again}; if it is there, `retrycli mark-sent {message_id}`"
            return f"Not known whether message {message_id} has arrived: {error}. It stays as it is.", step


@takes_filters
def mark_sent(
    ctx: typer.Context,
    filters: Filter,
    message_ids: MessageIds = None,
    note: Annotated[
        str | None, typer.Option(help="The evidence, for the history.", show_default=False, parser=utf8)
    ] = None,
    by: By = None,
    yes: Yes = False,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Mark messages as sent because they have arrived. This can't be undone."""
    from retrycli.operations import message_actions

    wanted = choose(message_ids, filters)
    settings = load_settings(ctx, config)
    ids = confirmed_ids(
        settings, "Mark", wanted, yes=yes, as_json=as_json, plan=" as sent, and send nothing", for_good=True
    )
    act_on(
        "marked_sent",
        lambda here: message_actions.mark_sent(settings, ids, note=note, by=by, runtime=here),
        named=bool(message_ids),
        as_json=as_json,
        following=lambda _: "retrycli escalations",
    )
