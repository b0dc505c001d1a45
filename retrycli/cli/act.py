"""``retry``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from retrycli.cli.shared import ConfigFile, Json, MessageIds, load_settings

if TYPE_CHECKING:
    from retrycli.outcome import Outcome

NOT_DELIVERED = 3
REFUSED = 4


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("retry")(retry)


def retry(
    ctx: typer.Context,
    message_ids: MessageIds,
    by: Annotated[str | None, typer.Option(help="Who asks, for the history.", show_default="login name")] = None,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Try messages now, whatever their wait, also escalated ones. It takes none of their tries."""
    from retrycli import app, console
    from retrycli.errors import InvalidMessage, NoSuchMessage, NotActionable

    settings = load_settings(ctx, config)
    results: list[tuple[int, Outcome | None, str | None]] = []
    for each in message_ids:
        try:
            outcome = app.retry(settings, each, by=by)
            results.append((each, outcome, outcome.error))
        except (NoSuchMessage, NotActionable, InvalidMessage) as error:
            results.append((each, None, str(error)))
    if as_json:
        console.show_json(
            {
                "results": [
                    {
                        "id": message_id,
                        "outcome": outcome.kind if outcome else None,
                        "status_code": outcome.status_code if outcome else None,
                        "error": error,
                    }
                    for message_id, outcome, error in results
                ]
            }
        )
    for message_id, result, problem in results:
        if result is None:
            console.complain(f"retrycli: {problem}")
        elif not as_json:
            _show(message_id, result)
    raise typer.Exit(_exit_code([outcome for _, outcome, _ in results]))


def _show(message_id: int, outcome: Outcome) -> None:
    from retrycli import console

    if not console.on_terminal():
        console.show_table((), [(message_id, outcome.kind, outcome.status_code, outcome.error)])
    elif outcome.kind == "delivered":
        console.say(f"Message {message_id} sent.")
    else:
        console.show_text(f"Message {message_id} not sent: {outcome.kind}, {outcome.error}. It is where it was.")
        console.say(f"Next: retrycli show {message_id}")


def _exit_code(outcomes: list[Outcome | None]) -> int:
    """What was tried and not delivered weighs more than what could not be tried."""
    if any(outcome is not None and outcome.kind != "delivered" for outcome in outcomes):
        return NOT_DELIVERED
    return REFUSED if None in outcomes else 0
