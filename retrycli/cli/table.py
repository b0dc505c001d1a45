"""The ``table`` commands, which describe the application's table and link the queue to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from retrycli import operations
from retrycli.cli.findings import show_findings
from retrycli.cli.options import NOT_OK, By, ConfigFile, Json, Yes, confirm, load_settings, utf8
from retrycli.domain import suggested
from retrycli.domain.errors import ConfigurationError
from retrycli.views import formatting, terminal

if TYPE_CHECKING:
    from retrycli.config.settings import Settings

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

    Use it after [database.columns], [database.status] or database.where has changed, and after the application has
    renamed its table. The queue belongs to one table, and commands refuse any other.
    """
    settings = load_settings(ctx, config)
    queue = _assign_queue(settings, yes=yes, as_json=as_json)
    found = operations.acceptance.selected(settings)
    foreseen = None
    if found.unaccepted is not None:
        foreseen = operations.acceptance.next_pass(settings)
        if not as_json:
            _show_next_pass(found, foreseen)
        confirm(
            "Accept this? Passes then send these messages.",
            "a wrong setting sends messages that were never meant to be sent",
            yes=yes,
            as_json=as_json,
        )
        operations.acceptance.accept(settings, by=by)
        found = operations.acceptance.selected(settings)
    accepted = found.accepted
    terminal.answer(
        {
            **queue,
            "selection": found.parts,
            "accepted_by": accepted and accepted.by,
            "accepted_at": accepted and accepted.at,
            "would_send": foreseen and foreseen.number,
            "oldest": foreseen and foreseen.oldest,
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
    return {
        "before": before.remembered,
        "table": before.configured,
        "messages": before.messages,
        "found": before.found,
    }


def _show_next_pass(found: operations.acceptance.Selected, foreseen: operations.acceptance.NextPass) -> None:
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
    if foreseen.escalated:
        terminal.say(f"It would escalate {formatting.count(foreseen.escalated, 'message')} without sending them.")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
