"""The ``db`` commands, which maintain retrycli's own tables."""

from __future__ import annotations

from dataclasses import asdict, astuple
from datetime import datetime
from typing import Annotated

import typer

from retrycli import operations
from retrycli.cli.arguments import ago
from retrycli.cli.options import NOT_OK, ConfigFile, Json, Yes, confirm, load_settings, utf8
from retrycli.domain.sanitize import printable
from retrycli.views import formatting, terminal

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
            parser=ago,
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


@db.command("copy")
def db_copy(
    ctx: typer.Context,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="URL",
            help="The URL of the database to copy from.",
            show_default="database.url",
            parser=utf8,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="URL",
            help="The URL of the database that the application's data has moved to.",
            show_default="database.url",
            parser=utf8,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Discard changes made in the target since the source was last used.")
    ] = False,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Copy retrycli's own tables to another database.

    Use it after the application's data has moved. You can repeat an interrupted copy. Other users of this machine can
    see passwords in options. To hide one, set database.url to the URL that contains it, and omit that option.
    """
    if source is None and target is None:
        raise typer.BadParameter(
            "give at least one of the two URLs; the other defaults to database.url", param_hint="--from, --to"
        )
    settings = load_settings(ctx, config)
    with terminal.tally("Comparing") as follow:
        done = operations.maintenance.copy(settings, source=source, target=target, overwrite=overwrite, listen=follow)
    _show_copy(done, as_json=as_json)
    if not done.verified:
        terminal.complain(
            "retrycli: the counts differ, probably because another process is writing. Stop it, then run this again"
        )
        raise typer.Exit(NOT_OK)
    if not as_json:
        _say_what_follows_copy(done, moved_to_option=target is not None)


def _show_copy(done: operations.maintenance.Move, *, as_json: bool) -> None:
    if as_json:
        terminal.show_json(
            {
                **{name: getattr(done, name) for name in ("source", "target", "paused", "verified")},
                "tables": [{**asdict(table), "verified": table.verified} for table in done.tables],
            }
        )
    else:
        terminal.show_table(
            ("Table", "Source rows", "Target rows", "Added", "Changed", "Removed", "Counts"),
            [(*astuple(table), "verified" if table.verified else "differ") for table in done.tables],
        )


def _say_what_follows_copy(done: operations.maintenance.Move, *, moved_to_option: bool) -> None:
    if done.paused:
        terminal.say("Deliveries are also paused in the target.")
    else:
        terminal.say("Run no more passes on the old database: they would send the same messages again.")
    steps = ["`retrycli doctor`", *(["`retrycli resume`"] if done.paused else [])]
    if moved_to_option:
        steps.insert(0, "set database.url to the value of --to")
    terminal.say(f"Next: {', then '.join(steps)}")


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
