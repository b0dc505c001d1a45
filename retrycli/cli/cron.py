"""The ``cron`` commands: print, install, check and remove the schedule that starts passes."""

from dataclasses import asdict
from itertools import chain
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from retrycli.cli.options import NOT_OK, ConfigFile, Json, Yes, confirm, load, require_confirmation
from retrycli.config.loader import Loaded
from retrycli.domain.cron_line import Job
from retrycli.operations.schedule import callers, installation, proposal
from retrycli.operations.schedule.applications import applications
from retrycli.operations.schedule.proposal import FileChange, SchedulePlace
from retrycli.system.crontab import cron_is_running
from retrycli.system.host import Asker, Host
from retrycli.views import terminal

cron = typer.Typer(help="Schedule passes with cron or a systemd timer.", no_args_is_help=True, rich_markup_mode=None)

User = Annotated[bool, typer.Option("--user", help="Use your own crontab or timer, even as root.")]
Systemd = Annotated[bool, typer.Option("--systemd", help="Use a systemd timer, not a cron line.")]
RunAs = Annotated[
    str | None,
    typer.Option(
        help="The user who runs the system's schedule. To run passes as root, name root here.",
        show_default="the owner of the SQLite file, otherwise of the settings",
    ),
]


@cron.command("print")
def cron_print(
    ctx: typer.Context,
    user: User = False,
    systemd: Systemd = False,
    run_as: RunAs = None,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Print the cron line or timer that `install` would write. Nothing is written."""
    host = Host()
    place = SchedulePlace.of(host, user=user, systemd=systemd)
    _, wanted, _ = _propose(ctx, config, place, host, run_as)
    parts = installation.texts(place, wanted, host)
    if as_json:
        terminal.show_json(
            {"place": place.value, "files": [{"name": target.title, "text": text} for target, text in parts]}
        )
    else:
        for target, text in parts:
            if len(parts) > 1:
                terminal.show_text(f"# {target.title}")
            terminal.show_text(text)
        terminal.say("Next: retrycli cron install" + _flags(place, host, run_as))


@cron.command("install")
def cron_install(
    ctx: typer.Context,
    user: User = False,
    systemd: Systemd = False,
    run_as: RunAs = None,
    yes: Yes = False,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Install the cron line or timer. Show the change and ask first."""
    host = Host()
    place = SchedulePlace.of(host, user=user, systemd=systemd)
    loaded, wanted, log = _propose(ctx, config, place, host, run_as)
    changes = [*log, *installation.install(place, wanted, host, applications(loaded.settings))]
    _confirm_and_apply({place: changes} if changes else {}, host, yes=yes, as_json=as_json)
    if as_json:
        terminal.show_json(
            {"changed": bool(changes), "place": place.value, "diff": [change.diff for change in changes]}
        )
    elif not changes:
        terminal.say("Already installed and up to date.")
    elif not log and loaded.settings.logging.file is None:
        terminal.say(f"No log file is configured: set logging.file in {wanted.config}.")
    elif place is SchedulePlace.OWN_TIMER:
        terminal.say("The timer stops while you are logged out, unless you run `loginctl enable-linger`.")
    if not place.is_timer and cron_is_running(host) is False:
        terminal.complain(f"retrycli: the cron line is installed, but {'; '.join(callers.CRON_IS_DOWN)}")
    if not as_json:
        terminal.say("Next: retrycli cron check")


@cron.command("check")
def cron_check(
    ctx: typer.Context, user: User = False, systemd: Systemd = False, as_json: Json = False, config: ConfigFile = None
) -> None:
    """Show what starts passes. Exit with 3 unless exactly one schedule does, and it matches what `install` would
    write.
    """
    host = Host(run=Asker())
    only = SchedulePlace.of(host, user=user, systemd=systemd) if user or systemd else None
    loaded = load(ctx, config)
    found = callers.check(loaded, host, only=only)
    if as_json:
        terminal.show_json(
            {
                "ok": found.objection is None,
                "objection": found.objection,
                "unread": found.unread,
                "schedulers": [
                    {name: value for name, value in asdict(caller).items() if name != "since"}
                    for caller in found.callers
                ],
            }
        )
    else:
        terminal.show_table(
            ("By", "Where", "When", "Correct"),
            [
                (caller.kind, caller.place, caller.when, (callers.stopped(caller) or (caller.objection or "yes",))[0])
                for caller in found.callers
            ],
            texts=1,
        )
        if found.objection is not None:
            terminal.complain(f"retrycli: {found.objection}")
        elif any(caller.running is None for caller in found.callers):
            terminal.complain(
                f"retrycli: can't tell whether cron is running; run {callers.as_user('root', 'cron check', loaded)}"
            )
        if found.callers and found.unread is not None:
            terminal.complain(
                f"retrycli: {found.unread}, which may also start passes; {callers.to_read(loaded, host, 'cron check')}"
            )
        if found.callers or found.unread is None:
            terminal.say(f"Next: {'retrycli status' if found.callers else callers.to_install(loaded, host)}")
    raise typer.Exit(NOT_OK if found.objection else 0)


@cron.command("remove")
def cron_remove(
    ctx: typer.Context,
    user: User = False,
    systemd: Systemd = False,
    yes: Yes = False,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Remove the cron line or timer that `install` wrote. Show the change and ask first."""
    host = Host()
    chosen = [SchedulePlace.of(host, user=user, systemd=systemd)] if user or systemd else proposal.reachable(host)
    found = installation.remove(chosen, proposal.config_path(load(ctx, config)), host)
    _confirm_and_apply(found, host, yes=yes, as_json=as_json)
    terminal.answer(
        {"changed": bool(found), "diff": [change.diff for change in chain.from_iterable(found.values())]},
        *(
            []
            if found
            else [
                "Nothing to remove for these settings.",
                "Only schedules that `retrycli cron install` wrote, and that you can change, are removed.",
            ]
        ),
        "Next: retrycli cron check",
        as_json=as_json,
    )


def _propose(
    ctx: typer.Context, config: Path | None, place: SchedulePlace, host: Host, run_as: str | None
) -> tuple[Loaded, Job, list[FileChange]]:
    """Return the settings, the pass to schedule with its log, and the changes that add the log to the settings.

    Raises:
        typer.BadParameter: ``--run-as`` names another user, but the schedule runs passes as the current user.
    """
    if run_as not in {None, host.login} and not place.is_system:
        raise typer.BadParameter(
            f"your own schedule runs passes as {host.login}; omit --run-as, or run this as root without --user",
            param_hint="--run-as",
        )
    loaded = load(ctx, config)
    return loaded, *proposal.with_log(loaded, proposal.propose(place, loaded, host, run_as=run_as))


def _confirm_and_apply(found: dict[SchedulePlace, list[FileChange]], host: Host, *, yes: bool, as_json: bool) -> None:
    if not found:
        return
    why = "this changes the schedule"
    require_confirmation(why, yes=yes, as_json=as_json)
    if not as_json:
        for change in chain.from_iterable(found.values()):
            terminal.show_text(change.diff)
    confirm("Apply this change?", why, yes=yes, as_json=as_json)
    for place, changes in found.items():
        installation.apply(place, changes, host)


def _flags(place: SchedulePlace, host: Host, run_as: str | None) -> str:
    user = " --user" if host.uid == 0 and not place.is_system else ""
    return user + (" --systemd" if place.is_timer else "") + (f" --run-as {quote(run_as)}" if run_as else "")
