"""The ``db`` commands, which maintain retrycli's own tables."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from retrycli import operations
from retrycli.cli.findings import show_findings
from retrycli.cli.options import NOT_OK, ConfigFile, Json, Yes, confirm, load_settings, utf8
from retrycli.domain.duration import duration
from retrycli.domain.sanitize import printable
from retrycli.views import formatting, terminal

FEW = 5  # number of messages that a check names on a terminal
FAILED_INDEX = {
    "absent": "The application's table has no index retrycli_failed on failed rows.",
    "there": "The application's table has the index retrycli_failed on failed rows.",
    "invalid": "The index retrycli_failed on failed rows is incomplete or still being built.",
}


db = typer.Typer(help="Maintain retrycli's own tables and index.", no_args_is_help=True, rich_markup_mode=None)


@db.command("upgrade")
def db_upgrade(ctx: typer.Context, config: ConfigFile = None) -> None:
    """Upgrade retrycli's own tables to the version of this program."""
    before, after = operations.maintenance.upgrade(load_settings(ctx, config))
    terminal.say(
        f"retrycli's tables are at version {after}"
        + (f"; they were at version {before}." if before not in {None, after} else "."),
        "Next: retrycli status",
    )


@db.command("prune")
def db_prune(
    ctx: typer.Context,
    before: Annotated[
        datetime,
        typer.Option(
            "--older-than",
            help="Delete records older than this, such as 90d.",
            show_default=False,
            metavar="<duration>",
            parser=lambda text: datetime.now(UTC) - duration(text),
        ),
    ],
    yes: Yes = False,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Delete old attempts, actions and passes. Messages and the queue are kept."""
    settings = load_settings(ctx, config)
    old = operations.maintenance.count_history(settings, before=before)
    attempts, actions = formatting.count(old["attempts"], "attempt"), formatting.count(old["acts"], "action")
    found = f"{attempts}, {actions} and {formatting.count(old['passes'], 'pass')}"
    if not as_json:
        terminal.say(f"{found} ended before {formatting.local_time(before)} and are no longer needed.")
    confirm("Delete them permanently?", "deleted records can't be restored", yes=yes, as_json=as_json)
    operations.maintenance.prune(settings, before=before)
    terminal.answer(old, f"Deleted {found}.", "Next: retrycli status", as_json=as_json)


@db.command("erase")
def db_erase(
    ctx: typer.Context,
    ticket: Annotated[str, typer.Option(help="The ticket.", show_default=False, parser=utf8)],
    yes: Yes = False,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Erase the texts of a ticket's edits from the history.

    The history still shows who edited which columns. The application's table is not changed.
    """
    settings = load_settings(ctx, config)
    found = operations.maintenance.count_texts(settings, ticket)
    if not as_json:
        terminal.say(
            f"The history of ticket {printable(ticket)} contains the texts of {formatting.count(found, 'edit')}."
        )
    if found:
        confirm("Erase them permanently?", "erased texts can't be restored", yes=yes, as_json=as_json)
    erased = operations.maintenance.erase_texts(settings, ticket)
    terminal.answer(
        {"ticket": ticket, "edits": erased},
        f"Erased the texts of {formatting.count(erased, 'edit')}.",
        "Next: retrycli status",
        as_json=as_json,
    )


@db.command("move-check")
def db_move_check(ctx: typer.Context, as_json: Json = False, config: ConfigFile = None) -> None:
    """Check whether the application's data can move to another database. Exit with 3 if something would get lost."""
    few = None if as_json or not terminal.on_terminal() else FEW
    found = operations.maintenance.check_move(load_settings(ctx, config), shown=few)
    bad, again = operations.doctor.context.failed(found), "retrycli db move-check"
    show_findings(found, again=again, following="retrycli manual postgresql", bad=bad, as_json=as_json)
    raise typer.Exit(NOT_OK if bad else 0)


@db.command("index")
def db_index(
    ctx: typer.Context,
    drop: Annotated[bool, typer.Option("--drop", help="Drop the index.")] = False,
    yes: Yes = False,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Index the failed rows of the application's table. This speeds up passes on large tables."""
    with operations.maintenance.failed_index(load_settings(ctx, config)) as index:
        before, statements = index.state(), index.statements(drop=drop)
        if not as_json:
            terminal.say(FAILED_INDEX[before])
            for statement in statements:
                terminal.show_text(f"{statement};")
        if statements:
            meanwhile = " This blocks other writers until it is done." if index.holds_writers_up else ""
            confirm(
                f"{'Drop' if drop else 'Create'} the index?{meanwhile}",
                "this changes the application's table",
                yes=yes,
                as_json=as_json,
            )
        index.execute(statements)
        now = index.state()
    terminal.answer(
        {"index": index.name, "before": before, "now": now, "statements": statements},
        *([f"{'Dropped' if drop else 'Created'} the index."] if statements else []),
        "Next: retrycli status",
        as_json=as_json,
    )
