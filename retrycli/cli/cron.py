"""The ``cron`` commands: print, install, check and remove the cron line that starts passes."""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from retrycli.cli.options import NOT_OK, ConfigFile, Json, Yes, confirm, load, require_confirmation
from retrycli.config.loader import Loaded
from retrycli.domain import cron_line
from retrycli.domain.errors import RetrycliError, Untrusted
from retrycli.domain.passes import PassRecord
from retrycli.operations import schedule
from retrycli.system import crontab
from retrycli.system.host import Asker, Host
from retrycli.views import terminal

cron = typer.Typer(help="Schedule passes with cron.", no_args_is_help=True, rich_markup_mode=None)

User = Annotated[bool, typer.Option("--user", help="Use your own crontab, even as root.")]
RunAs = Annotated[
    str | None,
    typer.Option(
        help="The user who runs the system's cron line. To run passes as root, name root here.",
        show_default="the owner of the SQLite file, otherwise of the settings",
    ),
]
PLACES = {True: "system crontab", False: "own crontab"}


@cron.command("print")
def cron_print(
    ctx: typer.Context, user: User = False, run_as: RunAs = None, as_json: Json = False, config: ConfigFile = None
) -> None:
    """Print the cron line that `install` would write. Nothing is written."""
    host = Host()
    _, wanted = _propose(ctx, config, host, run_as, user=user)
    text, system = cron_line.block(wanted), wanted.system
    if as_json:
        title = crontab.target(host, system=system).title
        terminal.show_json({"place": PLACES[system], "files": [{"name": title, "text": text}]})
    else:
        flags = (" --user" if host.uid == 0 and not system else "") + (f" --run-as {quote(run_as)}" if run_as else "")
        terminal.show_text(text)
        terminal.say("Next: retrycli cron install" + flags)


@cron.command("install")
def cron_install(
    ctx: typer.Context,
    user: User = False,
    run_as: RunAs = None,
    yes: Yes = False,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Install the cron line. Show the change and ask first."""
    host = Host()
    loaded, wanted = _propose(ctx, config, host, run_as, user=user)
    log = schedule.installation.added_log(loaded, wanted)
    changes = [*log, *schedule.installation.install(wanted, host)]
    now, note = datetime.now(UTC), None
    with suppress(RetrycliError):  # the database may not exist yet
        note = schedule.next_run.began_here(
            loaded.settings, host, schedule.next_run.recorded(loaded.settings, now), now
        )
    diff = _confirm_and_apply(changes, note, yes=yes, as_json=as_json)
    if as_json:
        terminal.show_json({"changed": bool(changes), "place": PLACES[wanted.system], "diff": diff})
    elif not changes:
        terminal.say("Already installed and up to date.")
    elif not log and loaded.settings.logging.file is None:
        terminal.say(f"No log file is configured: set logging.file in {wanted.config}.")
    if crontab.cron_is_running(host) is False:
        terminal.complain(f"retrycli: the cron line is installed, but {'; '.join(schedule.next_run.CRON_IS_DOWN)}")
    if not as_json:
        terminal.say("Next: retrycli cron check")


@cron.command("check")
def cron_check(ctx: typer.Context, as_json: Json = False, config: ConfigFile = None) -> None:
    """Show what starts passes. Exit with 3 if nothing does, if cron is not running, or if the cron line is not the one
    that `install` would write.
    """
    loaded, now = load(ctx, config), datetime.now(UTC)
    passes, unread = list[PassRecord](), list[str]()
    try:
        passes = schedule.next_run.recorded(loaded.settings, now)
    except Untrusted as error:
        unread.append(f"the recorded passes were not read: {error}")
    found = schedule.next_run.check(loaded, Host(run=Asker()), passes, now)
    objection = None if found.problem is None else "; ".join(found.problem)
    warnings = [*unread, *("; ".join(warning) for warning in found.warnings)]
    columns = ("title", "when", "user", "mail_to")
    own = [{name: getattr(block, name) for name in columns} for block in found.blocks]
    if as_json:
        terminal.show_json(
            {
                "ok": objection is None,
                "objection": objection,
                "unread": found.unread,
                "schedulers": [{"kind": "cron", **each, "running": found.running} for each in own],
                "elsewhere": found.elsewhere,
                "warnings": warnings,
            }
        )
    else:
        running = {True: "yes", False: "no", None: "unknown"}[found.running]
        rows = [(each["title"], each["when"], each["user"], running) for each in own]
        terminal.show_table(("Where", "When", "User", "Cron runs"), rows, texts=1)
        for sentence in found.elsewhere:
            terminal.show_text(f"{sentence[:1].upper()}{sentence[1:]}.")
        unknown = f"can't tell whether cron is running; run {schedule.next_run.as_user('root', 'cron check', loaded)}"
        for told in (objection, *warnings, unknown if own and found.running is None else None, found.unread):
            if told is not None:
                terminal.complain(f"retrycli: {told}")
        if objection is None:
            terminal.say("Next: retrycli status")
    raise typer.Exit(NOT_OK if objection else 0)


@cron.command("remove")
def cron_remove(
    ctx: typer.Context, user: User = False, yes: Yes = False, as_json: Json = False, config: ConfigFile = None
) -> None:
    """Remove the cron line that `install` wrote. Show the change and ask first."""
    changes = schedule.installation.remove(schedule.installation.config_path(load(ctx, config)), Host(), user=user)
    diff = _confirm_and_apply(changes, None, yes=yes, as_json=as_json)
    nothing = (
        "Nothing to remove for these settings.",
        "Only cron lines that `retrycli cron install` wrote, and that you can change, are removed.",
    )
    lines = (*(() if changes else nothing), "Next: retrycli cron check")
    terminal.answer({"changed": bool(changes), "diff": diff}, *lines, as_json=as_json)


def _propose(
    ctx: typer.Context, config: Path | None, host: Host, run_as: str | None, *, user: bool
) -> tuple[Loaded, cron_line.Job]:
    """Return the settings and the pass to schedule. Only root can choose between the system's crontab and root's own.

    Raises:
        typer.BadParameter: ``--run-as`` names another user, but the cron line runs passes as the current user.
    """
    system = host.uid == 0 and not user
    if run_as not in {None, host.login} and not system:
        raise typer.BadParameter(
            f"your own crontab runs passes as {host.login}; omit --run-as, or run this as root without --user",
            param_hint="--run-as",
        )
    loaded = load(ctx, config)
    return loaded, schedule.installation.propose(loaded, host, system=system, run_as=run_as)


def _confirm_and_apply(
    changes: list[schedule.installation.FileChange], note: str | None, *, yes: bool, as_json: bool
) -> list[str]:
    """Apply the changes, if any, after the operator has confirmed them. Return them as diffs."""
    diffs, why = [change.diff for change in changes], "this changes the schedule"
    if changes:
        if note is not None:
            terminal.complain(f"retrycli: {note}")
        require_confirmation(why, yes=yes, as_json=as_json)
        for diff in diffs if not as_json else ():
            terminal.show_text(diff)
        confirm("Apply this change?", why, yes=yes, as_json=as_json)
        schedule.installation.apply(changes)
    return diffs
