"""``look-up``, ``mark-sent``, for messages that may have arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from retrycli.cli.filters import FilterOptions, takes_filters
from retrycli.cli.message_ids import MessageIds
from retrycli.cli.options import By, ConfigFile, Json, Yes, load_settings, utf8
from retrycli.cli.selection import (
    NOT_DELIVERED,
    REFUSED,
    choose,
    confirmed_ids,
    exit_code,
    run_interruptible,
    show_result,
)
from retrycli.domain.outcome import Presence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrycli.operations.arrival import LookedUp


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("look-up")(look_up)
    app.command("mark-sent")(takes_filters(mark_sent))


def look_up(
    ctx: typer.Context,
    message_ids: MessageIds = None,
    by: By = None,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Ask if messages have arrived. Send nothing. A message that has arrived becomes sent."""
    from retrycli.operations import arrival
    from retrycli.views import terminal

    if not message_ids:
        raise typer.BadParameter("name messages by their ids", param_hint="ID…")
    settings = load_settings(ctx, config)
    asked, received = run_interruptible(lambda here: arrival.look_up_all(settings, message_ids, by=by, runtime=here))
    for answer in asked:
        if answer.error is not None:
            terminal.complain(f"retrycli: {answer.error}")
    if as_json:
        terminal.show_json({"results": [_lookup_fields(answer) for answer in asked]})
    else:
        _show(asked)
    raise typer.Exit(128 + received if received else _lookup_exit_code(asked))


def _lookup_fields(asked: LookedUp) -> dict[str, object]:
    found = asked.found
    return {
        "id": asked.message_id,
        "result": found.result if found else None,
        "error": found.error if found else str(asked.error),
    }


def _lookup_exit_code(asked: Sequence[LookedUp]) -> int:
    """Return the exit code. An unknown result takes precedence over a look-up that was impossible."""
    if any(answer.found is not None and answer.found.result is Presence.UNKNOWN for answer in asked):
        return NOT_DELIVERED
    return REFUSED if any(answer.error is not None for answer in asked) else 0


def _show(asked: Sequence[LookedUp]) -> None:
    from retrycli.views import terminal

    if not terminal.on_terminal():
        answers = [(answer.message_id, answer.found.result, answer.found.error) for answer in asked if answer.found]
        terminal.show_table((), answers)
    for answer in asked:
        if answer.found is None:
            continue
        if terminal.on_terminal():
            terminal.show_text(_describe(answer.message_id, answer.found.result, answer.found.error))
        if (step := _next_step(answer.message_id, answer.found.result)) is not None:
            terminal.say(f"Next: {step}")


def _describe(message_id: int, result: Presence, error: str | None) -> str:
    match result:
        case Presence.ARRIVED:
            return f"Message {message_id} has arrived" + (f", but {error}." if error else ", and is marked as sent.")
        case Presence.ABSENT:
            return f"Message {message_id} has not arrived. Nothing was changed."
        case Presence.UNKNOWN:
            return f"Not known whether message {message_id} has arrived: {error}. It stays as it is."


def _next_step(message_id: int, result: Presence) -> str | None:
    match result:
        case Presence.ARRIVED:
            return None
        case Presence.ABSENT:
            return f"retrycli retry {message_id}"
        case Presence.UNKNOWN:
            again = f"`retrycli look-up {message_id}`, or look into its ticket"
            return f"{again}; if it is there, `retrycli mark-sent {message_id}`"


def mark_sent(
    ctx: typer.Context,
    filters: FilterOptions,
    message_ids: MessageIds = None,
    note: Annotated[
        str | None, typer.Option(help="The evidence, for the history.", show_default=False, callback=utf8)
    ] = None,
    by: By = None,
    yes: Yes = False,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Mark messages as sent because they have arrived. This can't be undone."""
    from retrycli.operations import arrival
    from retrycli.views import terminal

    wanted = choose(message_ids, filters.parse())
    settings = load_settings(ctx, config)
    plan = " as sent, and send nothing"
    ids = confirmed_ids(settings, "Mark", wanted, yes=yes, as_json=as_json, plan=plan, for_good=True)
    done, received = run_interruptible(lambda here: arrival.mark_sent(settings, ids, note=note, by=by, runtime=here))
    show_result(done, "marked_sent", named=bool(message_ids), as_json=as_json)
    if not as_json:
        terminal.say("Next: retrycli escalations")
    raise typer.Exit(exit_code(done, received, named=bool(message_ids)))
