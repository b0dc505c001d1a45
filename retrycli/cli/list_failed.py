"""The ``list-failed`` command: failed messages with their states, next attempts and errors."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Literal

import typer

from retrycli import operations
from retrycli.cli.arguments import After, as_options, takes_filters
from retrycli.cli.options import MAX_NUMBER, ConfigFile, Header, Json, load_settings
from retrycli.config.settings import Settings
from retrycli.domain.listing import Filter, ListedMessage
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
            terminal.show_json(operations.bodies.messages(settings, found.messages, found.next))
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
    """Show a table of messages, with a column for their expiry if a policy sets an expiry time.

    If the output is piped, the column contains the expiry times. On a terminal, the column says which messages have
    expired or expire soon. Without such messages, there is no column.
    """
    policies, now = settings.policies, operations.wiring.utc_now()
    expire = any(policy.expires_after for policy in settings.policies.values())
    if terminal.on_terminal():
        messages = list(messages)
        expire = any(_expiry(message, settings, now) for message in messages)
    state = operations.words.listed_state if terminal.on_terminal() else _raw_state
    columns = ("ID", "Ticket", "Type", "State", "Tries", "Next attempt", "Last error")
    terminal.show_table(
        (*columns, "Expires") if expire else columns,
        (
            (
                message.id,
                str(message.ticket_id),
                message.message_type,
                state(message),
                message.tries(policies),
                message.attempt_from,
                message.last_error,
                *((_expiry(message, settings, now),) if expire else ()),
            )
            for message in messages
        ),
        texts=2 if expire else 1,
        named=named,
    )


def _raw_state(message: ListedMessage) -> str:
    return "held" if message.held else message.state


def _expiry(message: ListedMessage, settings: Settings, now: datetime) -> formatting.Cell:
    if not terminal.on_terminal():
        return message.expires_at(settings.policies)
    return operations.expiry.in_words(message, settings.policies, now) or ""
