"""The ``table`` commands, which describe the application's table and link the queue to it."""

from __future__ import annotations

from typing import Annotated

import typer

from retrycli import operations
from retrycli.cli.options import NOT_OK, ConfigFile, Json, Yes, confirm, load_settings, utf8
from retrycli.domain import suggested
from retrycli.views import formatting, terminal

table = typer.Typer(help="Describe the application's table.", no_args_is_help=True, rich_markup_mode=None)


@table.command("discover")
def table_discover(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(metavar="TABLE", help="Propose settings for this table.", show_default=False, parser=utf8),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="The database's URL.", show_default="database.url", parser=utf8),
    ] = None,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Find the table of messages, and propose settings.

    The command writes nothing. It prints the settings as TOML; edit them and save them in the configuration file. Other
    users of this machine can see a password in --url.
    """
    from retrycli.views.mapping_toml import columns_in_words, mapping_toml, values_in_words

    found = operations.discover.discover(load_settings(ctx, config), url=url, table=name)
    first = next(iter(found.proposals), None)
    others = [each.name for each in found.proposals[1:]]
    text = None if first is None else mapping_toml(first, place=found.place, url=found.url, others=others)
    if as_json:
        terminal.show_json({**operations.bodies.discovered(found), "toml": text})
    elif text is not None:
        if terminal.on_terminal() and name is None:
            rows = [(each.name, each.kind, columns_in_words(each), values_in_words(each)) for each in found.proposals]
            terminal.show_table(("Table", "Kind", "Columns", "Statuses"), rows, texts=2)
            terminal.say("")
        terminal.show_text(text)
        following = suggested.own("Next: save the edited settings, then `retrycli table check`")
        terminal.show_text(following if terminal.on_terminal() else f"# {following}")
    if first is None:
        terminal.complain(
            f"retrycli: no table in {found.place} looks like outgoing messages "
            f"({formatting.count(found.examined, 'table')} examined); check the URL, or "
            "name the table: `retrycli table discover TABLE`"
        )
        raise typer.Exit(NOT_OK)


@table.command("accept")
def table_accept(ctx: typer.Context, yes: Yes = False, as_json: Json = False, config: ConfigFile = None) -> None:
    """Assign the queue to the table that database.table names.

    Use it after the application has renamed its table. The queue belongs to one table, and commands refuse any other.
    """
    with operations.maintenance.belonging(load_settings(ctx, config)) as (before, accept):
        if not as_json:
            terminal.say(
                f"The queue belongs to {before.remembered or 'no table yet'} and has "
                f"{formatting.count(before.messages, 'message')}."
            )
        if before.remembered != before.configured:
            if not as_json:
                terminal.say(
                    f"{before.configured} has a failed row for {before.found} of them; the rest would leave the queue."
                )
            confirm(
                f"Assign the queue to {before.configured}?",
                f"messages without a failed row in {before.configured} leave the queue",
                yes=yes,
                as_json=as_json,
            )
            accept()
    terminal.answer(
        {
            "before": before.remembered,
            "table": before.configured,
            "messages": before.messages,
            "found": before.found,
        },
        f"The queue belongs to {before.configured}.",
        "Next: retrycli run-once --dry-run",
        as_json=as_json,
    )
