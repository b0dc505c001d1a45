"""The ``list-failed`` command: failed messages with their states, next attempts and errors."""

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Annotated, Literal

import typer

from retrycli import operations
from retrycli.cli.arguments import After, as_options, takes_filters
from retrycli.cli.options import MAX_NUMBER, ConfigFile, Header, Json, load_settings
from retrycli.config.settings import Settings
from retrycli.domain.listing import COLUMNS, Filter, ListedMessage, View, columns_of
from retrycli.domain.suggested import command, line
from retrycli.views import formatting, terminal

ON_SCREEN = 50  # maximum number of rows on a terminal without ``--limit``


@takes_filters
def list_failed(
    ctx: typer.Context,
    filters: Filter,
    sort: Annotated[
        Literal["next", "id", "tries", "age"], typer.Option(help="Sort by next attempt, id, number of retries or age.")
    ] = "next",
    limit: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_NUMBER, help="Show at most N messages.", show_default="50 on a terminal"),
    ] = None,
    after: After = None,
    header: Header = False,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """List failed messages with state, next attempt and error."""
    settings = load_settings(ctx, config)
    shown = limit or (ON_SCREEN if terminal.on_terminal() and not as_json else None)
    with operations.listing.list_messages(settings, filters, sort=sort, after=after, limit=shown) as found:
        if as_json:
            terminal.show_json(operations.bodies.messages(found.messages, found.next))
            return
        if not terminal.on_terminal():
            show_messages(settings, found.messages, named=header)
            return
        messages = list(found.messages)
        total = found.number if found.next is None and after is None else found.total()
    show_messages(settings, messages)
    terminal.say(formatting.count(total, "message") + (f", {len(messages)} shown" if len(messages) < total else ""))
    commands = [command(verb, messages[0].id) for verb in ("show", "retry")] if messages else ["retrycli status"]
    terminal.say(f"Next: {' or '.join(commands)}")
    if found.next is not None:
        options = [*as_options(filters), "--sort", sort, *([] if limit is None else ["--limit", str(limit)])]
        terminal.say(f"Next page: {line('list-failed', *options, '--after', found.next)}")


def show_messages(settings: Settings, messages: Iterable[ListedMessage], *, named: bool = False) -> None:
    """Show a table of messages.

    If the output is piped, it has all columns, with times of creation and expiry. On a terminal, it has the age of each
    message, and a column that says which messages have expired or expire soon, if there are any.
    """
    cells: dict[str, Callable[[ListedMessage], formatting.Cell]] = {
        "ticket_id": lambda message: str(message.ticket_id),
        "state": _raw_state,
        "retry_count": lambda message: message.tries,
    }
    shown = columns_of(View.TABLE)
    headings = {name: COLUMNS[name].heading for name in shown}
    if terminal.on_terminal():
        now = operations.wiring.utc_now()
        cells["state"] = operations.words.listed_state
        cells["created_at"] = lambda message: formatting.age(message.created_at, now)
        cells["expires_at"] = lambda message: operations.expiry.in_words(message, now) or ""
        cells["subject"] = operations.words.listed_text
        messages = list(messages)
        shown = [name for name in shown if name not in {"created_at", "recipient"}]
        shown.insert(shown.index("attempt_from"), "created_at")
        if not any(map(cells["expires_at"], messages)):
            shown.remove("expires_at")
    else:
        headings["created_at"] = "Created"
    show = [cells.get(name, attrgetter(name)) for name in shown]
    terminal.show_table(
        [headings[name] for name in shown],
        ([cell(message) for cell in show] for message in messages),
        texts=len(shown) - shown.index("last_error"),
        named=named,
    )


def _raw_state(message: ListedMessage) -> str:
    return "held" if message.held else message.state
