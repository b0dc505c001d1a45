"""The ``table`` commands, which describe the application's table and link the queue to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from retrycli import operations
from retrycli.cli.findings import show_findings
from retrycli.cli.options import By, ConfigFile, Json, Yes, confirm, load_settings, utf8
from retrycli.config.settings import DatabaseSettings
from retrycli.config.template import toml_value
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.known_table import KnownTable
from retrycli.domain.sanitize import HIDDEN, printable
from retrycli.domain.table_mapping import ROLE_MEANINGS, STATUS_MEANINGS
from retrycli.views import formatting, terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrycli.config.settings import Settings
    from retrycli.operations.table import DescribedTable

WIDTH = 76  # maximum number of characters of a comment's line after its sign, unless one word is longer


def skeleton(table: KnownTable, *, place: str, url: str | None) -> str:
    """Return the sections of the configuration file that describe a table, with a comment for each role.

    ``place`` is the database without secrets, and ``url`` the value of ``database.url``, or None to leave it out.
    """
    return "\n".join(_lines(table, place, url))


def _lines(table: KnownTable, place: str, url: str | None) -> Iterator[str]:
    yield from _comment(f"The {table.kind} {table.name} in {place}. Write the values, and remove # before their lines.")
    yield "[database]"
    if url is not None:
        hint = "# set it with its secrets, or set RETRYCLI_DATABASE__URL:\n# " if HIDDEN in url else ""
        yield f"{hint}url = {toml(url)}"
    if _can_be_named(table.name):
        yield f"table = {toml(table.name)}"
    else:
        yield from _comment("The settings can't name this table. Create a view with a plain name that takes updates.")
    yield f"# where =  # {DatabaseSettings.model_fields['where'].description}"
    columns = ", ".join(f"{each.name} {each.type}".rstrip() for each in table.columns)
    yield from ("", *_comment(f"The table's columns: {columns}"))
    yield from _comment(
        "A role whose column has its name needs no line. The manual (your-own-table) lists other sources."
    )
    yield from ("[database.columns]", *_keys(ROLE_MEANINGS))
    yield from ("", "[database.status]", *_keys(STATUS_MEANINGS))


def _can_be_named(name: str) -> bool:
    try:
        DatabaseSettings.model_validate({"table": name})
    except ValidationError:
        return False
    return True


def _keys(meanings: Mapping[str, str]) -> Iterator[str]:
    width = max(map(len, meanings))
    return (f"# {name:<{width}} =  # {text}" for name, text in meanings.items())


def _comment(text: str) -> Iterator[str]:
    # Control characters become escapes, so that no name can end the comment.
    return (f"# {line}" for line in wrap(printable(text), WIDTH, break_long_words=False, break_on_hyphens=False))


def toml(value: object) -> str:
    """Format a value as TOML. Escape every unprintable character, so that the text is also safe on a terminal."""
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in toml_value(value))


LONG_NAME = 40  # the rest of a row is shown below a longer name

table = typer.Typer(help="Describe the application's table.", no_args_is_help=True, rich_markup_mode=None)


@table.command("describe")
def table_describe(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Describe this table or view.", show_default=False, parser=utf8)
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="The database's URL.", show_default="database.url", parser=utf8),
    ] = None,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """List tables that may hold messages, or describe one for the settings.

    Without NAME, list the tables and views that have a text column and another column with few values. With NAME, show
    its columns, the values of columns with few values, and a skeleton of the settings to fill in. The command guesses
    nothing and writes nothing. Other users of this machine can see a password in --url.
    """
    found = operations.table.describe(load_settings(ctx, config), url=url, name=name)
    text = None if name is None else skeleton(found.tables[0].known, place=found.place, url=found.url)
    if as_json:
        terminal.show_json(operations.bodies.described(found, text))
    elif text is None:
        rows = [
            (each.known.name, each.known.kind, each.rows, ", ".join(each.texts), ", ".join(each.few))
            for each in found.tables
        ]
        terminal.show_table(("Table", "Kind", "Rows", "Text columns", "Columns with few values"), rows, texts=2)
        terminal.say(f"{len(found.tables)} of {formatting.count(found.examined, 'table')} in {found.place}")
        terminal.say("Next: retrycli table describe NAME")
    else:
        _show_description(found.tables[0], text)


def _show_description(found: DescribedTable, text: str) -> None:
    """Show a table in four parts. Without a terminal, each line begins with the name of its part."""
    known, counted = found.known, found.problem or operations.words.counted_rows(found.sample)
    _show_part("table", ("Table", "Kind", "Rows", "Values counted in"), [(known.name, known.kind, found.rows, counted)])
    columns = [
        (each.name, each.type, each.is_nullable, ", ".join(known.keys(each.name)), known.target(each.name))
        for each in known.columns
    ]
    _show_part("column", ("Column", "Type", "Null", "Keys", "Refers to"), columns)
    values = [
        (
            each.column,
            "(not shown)" if each.hidden else "null" if each.value is None else toml(each.value),
            f"{each.rows} older" if each.older else each.rows,
            each.newest,
        )
        for each in found.values
    ]
    _show_part("value", ("Column", "Value", "Rows", f"Newest {found.time or ''}".rstrip()), values)
    if terminal.on_terminal():
        terminal.show_text(text)
    else:
        terminal.show_table((), [("settings", line) for line in text.split("\n")])
    terminal.say("Next: save these lines in retrycli.toml, fill them in, then `retrycli table check`")


def _show_part(name: str, headers: Sequence[str], rows: Sequence[terminal.Row]) -> None:
    if terminal.on_terminal():
        is_long = any(len(str(row[0])) > LONG_NAME for row in rows)
        terminal.show_table(headers, rows, texts=len(headers) - 1 if is_long else 0)
        terminal.say("")
    else:
        terminal.show_table((), [(name, *row) for row in rows])


@table.command("check")
def table_check(ctx: typer.Context, as_json: Json = False, config: ConfigFile = None) -> None:
    """Check how the settings describe the table. Exit with 78 if a check fails.

    Nothing is sent or written.
    """
    findings = operations.doctor.table.check(load_settings(ctx, config))
    bad = operations.doctor.context.failed(findings)
    following = "retrycli run-once --dry-run"
    show_findings(findings, again="retrycli table check", following=following, bad=bad, as_json=as_json)
    raise typer.Exit(ConfigurationError.exit_code if bad else 0)


@table.command("accept")
def table_accept(
    ctx: typer.Context, yes: Yes = False, by: By = None, as_json: Json = False, config: ConfigFile = None
) -> None:
    """Accept which messages the settings select.

    Use it after [database.columns], [database.status] or database.where has changed, or the application has renamed its
    table.
    """
    settings = load_settings(ctx, config)
    queue = _assign_queue(settings, yes=yes, as_json=as_json)
    found = operations.table.selected(settings)
    foreseen = None
    if found.unaccepted is not None:
        foreseen = operations.table.next_pass(settings)
        if not as_json:
            _show_next_pass(found, foreseen)
        confirm(
            "Accept this? Passes then send these messages.",
            "a wrong setting sends messages that were never meant to be sent",
            yes=yes,
            as_json=as_json,
        )
        operations.table.accept(settings, by=by)
        found = operations.table.selected(settings)
    accepted = found.accepted
    terminal.answer(
        {
            **queue,
            "selection": found.parts,
            "accepted_by": accepted and accepted.by,
            "accepted_at": accepted and accepted.at,
            "would_send": foreseen and foreseen.number,
            "oldest": foreseen and foreseen.oldest,
            "would_escalate": foreseen and foreseen.escalated,
        },
        f"The queue belongs to {queue['table']}.",
        *([f"{accepted.by} accepted this selection at {formatting.local_time(accepted.at)}."] if accepted else []),
        "Next: retrycli run-once --dry-run",
        as_json=as_json,
    )


def _assign_queue(settings: Settings, *, yes: bool, as_json: bool) -> dict[str, str | int | None]:
    with operations.maintenance.belonging(settings) as (before, assign):
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
            assign()
    return {"before": before.remembered, "table": before.configured, "messages": before.messages, "found": before.found}


def _show_next_pass(found: operations.table.Selected, foreseen: operations.table.NextPass) -> None:
    """Show what the settings select, and what the next pass would send."""
    now = operations.wiring.utc_now()
    if found.accepted is not None and found.unaccepted is not None:
        terminal.say(_sentence(found.unaccepted.partition("; ")[0]))
    terminal.say("The settings select:")
    terminal.show_facts(
        {
            name.capitalize(): value if isinstance(value, str) else json.dumps(value)
            for name, value in (found.parts or {}).items()
            if value != ""
        }
    )
    for finding in foreseen.findings:
        if finding.name in {"status", "where", "ticket"}:
            terminal.say(_sentence(finding.found))
    if foreseen.first:
        terminal.show_table(
            ("ID", "Ticket", "Recipient", "Created", "URL"),
            [
                (
                    message.id,
                    str(message.ticket_id),
                    message.recipient,
                    message.created_at and formatting.ago(message.created_at, now),
                    url,
                )
                for message, url in foreseen.first
            ],
            texts=1,
        )
    oldest = "" if foreseen.oldest is None else f"; the oldest dates from {formatting.local_time(foreseen.oldest)}"
    terminal.say(f"The next pass would send {formatting.count(foreseen.number, 'message')}{oldest}.")
    if foreseen.number:
        terminal.say(*operations.words.NOT_FORESEEN)
    if foreseen.escalated:
        reasons = operations.words.tally(foreseen.escalated)
        messages = formatting.count(foreseen.escalated.total(), "message")
        terminal.say(f"It would escalate {messages} without sending them: {reasons}.")
        if not terminal.on_terminal():
            terminal.show_facts({"Would escalate": reasons})


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
