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
from retrycli.domain.errors import RetrycliError
from retrycli.operations.schedule import installation, next_run, proposal
from retrycli.operations.schedule.proposal import FileChange, SchedulePlace
from retrycli.system.crontab import cron_is_running
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


@cron.command("print")
def cron_print(
    ctx: typer.Context, user: User = False, run_as: RunAs = None, as_json: Json = False, config: ConfigFile = None
) -> None:
    """Print the cron line that `install` would write. Nothing is written."""
    host = Host()
    place = SchedulePlace.of(host, user=user)
    _, wanted = _propose(ctx, config, place, host, run_as)
    text = cron_line.block(wanted, system=place.is_system)
    if as_json:
        terminal.show_json({"place": place.value, "files": [{"name": place.target(host).title, "text": text}]})
    else:
        terminal.show_text(text)
        terminal.say("Next: retrycli cron install" + _flags(place, host, run_as))


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
    place = SchedulePlace.of(host, user=user)
    loaded, wanted = _propose(ctx, config, place, host, run_as)
    log = proposal.added_log(loaded, wanted)
    changes = [*log, *installation.install(place, wanted, host)]
    _confirm_and_apply(changes, _began_here(loaded, host), yes=yes, as_json=as_json)
    if as_json:
        terminal.show_json(
            {"changed": bool(changes), "place": place.value, "diff": [change.diff for change in changes]}
        )
    elif not changes:
        terminal.say("Already installed and up to date.")
    elif not log and loaded.settings.logging.file is None:
        terminal.say(f"No log file is configured: set logging.file in {wanted.config}.")
    if cron_is_running(host) is False:
        terminal.complain(f"retrycli: the cron line is installed, but {'; '.join(next_run.CRON_IS_DOWN)}")
    if not as_json:
        terminal.say("Next: retrycli cron check")


@cron.command("check")
def cron_check(ctx: typer.Context, as_json: Json = False, config: ConfigFile = None) -> None:
    """Show what starts passes. Exit with 3 if nothing does, if cron is not running, or if the cron line is not the one
    that `install` would write.
    """
    host = Host(run=Asker())
    loaded = load(ctx, config)
    now = datetime.now(UTC)
    found = next_run.check(loaded, host, next_run.recorded(loaded.settings, now), now)
    if as_json:
        terminal.show_json(
            {
                "ok": found.problem is None,
                "objection": None if found.problem is None else "; ".join(found.problem),
                "unread": found.unread,
                "schedulers": [
                    {
                        "kind": "cron",
                        "title": block.title,
                        "when": block.when,
                        "user": block.user,
                        "mail_to": block.mail_to,
                        "running": found.running,
                    }
                    for block in found.blocks
                ],
                "elsewhere": found.elsewhere,
                "warnings": ["; ".join(warning) for warning in found.warnings],
            }
        )
    else:
        running = {True: "yes", False: "no", None: "unknown"}[found.running]
        terminal.show_table(
            ("Where", "When", "User", "Cron runs"),
            [(block.title, block.when, block.user, running) for block in found.blocks],
            texts=1,
        )
        for sentence in found.elsewhere:
            terminal.show_text(f"{sentence[:1].upper()}{sentence[1:]}.")
        told = [*([found.problem] if found.problem else []), *found.warnings]
        for problem in told:
            terminal.complain(f"retrycli: {'; '.join(problem)}")
        if found.blocks and found.running is None:
            remedy = next_run.as_user("root", "cron check", loaded)
            terminal.complain(f"retrycli: can't tell whether cron is running; run {remedy}")
        if found.unread is not None:
            terminal.complain(f"retrycli: {found.unread}")
        if found.problem is None:
            terminal.say("Next: retrycli status")
    raise typer.Exit(NOT_OK if found.problem else 0)


@cron.command("remove")
def cron_remove(
    ctx: typer.Context, user: User = False, yes: Yes = False, as_json: Json = False, config: ConfigFile = None
) -> None:
    """Remove the cron line that `install` wrote. Show the change and ask first."""
    host = Host()
    chosen = [SchedulePlace.OWN_CRONTAB] if user else proposal.reachable(host)
    changes = installation.remove(chosen, proposal.config_path(load(ctx, config)), host)
    _confirm_and_apply(changes, None, yes=yes, as_json=as_json)
    nothing = (
        "Nothing to remove for these settings.",
        "Only cron lines that `retrycli cron install` wrote, and that you can change, are removed.",
    )
    terminal.answer(
        {"changed": bool(changes), "diff": [change.diff for change in changes]},
        *(() if changes else nothing),
        "Next: retrycli cron check",
        as_json=as_json,
    )


def _propose(
    ctx: typer.Context, config: Path | None, place: SchedulePlace, host: Host, run_as: str | None
) -> tuple[Loaded, cron_line.Job]:
    """Return the settings and the pass to schedule.

    Raises:
        typer.BadParameter: ``--run-as`` names another user, but the cron line runs passes as the current user.
    """
    if run_as not in {None, host.login} and not place.is_system:
        raise typer.BadParameter(
            f"your own crontab runs passes as {host.login}; omit --run-as, or run this as root without --user",
            param_hint="--run-as",
        )
    loaded = load(ctx, config)
    return loaded, proposal.propose(place, loaded, host, run_as=run_as)


def _began_here(loaded: Loaded, host: Host) -> str | None:
    now = datetime.now(UTC)
    with suppress(RetrycliError):  # the database may not exist yet
        passes = next_run.recorded(loaded.settings, now)
        return next_run.began_here(loaded.settings, passes, now, has_block=bool(next_run.own_blocks(loaded, host)))
    return None


def _confirm_and_apply(changes: list[FileChange], note: str | None, *, yes: bool, as_json: bool) -> None:
    if not changes:
        return
    why = "this changes the schedule"
    if note is not None:
        terminal.complain(f"retrycli: {note}")
    require_confirmation(why, yes=yes, as_json=as_json)
    if not as_json:
        for change in changes:
            terminal.show_text(change.diff)
    confirm("Apply this change?", why, yes=yes, as_json=as_json)
    installation.apply(changes)


def _flags(place: SchedulePlace, host: Host, run_as: str | None) -> str:
    return (" --user" if host.uid == 0 and not place.is_system else "") + (
        f" --run-as {quote(run_as)}" if run_as else ""
    )
