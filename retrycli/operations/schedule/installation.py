"""Add and remove the cron lines and systemd units that start passes."""

from collections.abc import Mapping, Sequence

from retrycli.domain import cron_line, suggested
from retrycli.domain.errors import ConfigurationError
from retrycli.operations.schedule.callers import callers_for
from retrycli.operations.schedule.proposal import FileChange, SchedulePlace, Target, targets
from retrycli.system import crontab, systemd
from retrycli.system.host import Host


def texts(place: SchedulePlace, wanted: cron_line.Job, host: Host) -> list[tuple[Target, str]]:
    """Return the text of each target: retrycli's own block of a crontab, or complete systemd units.

    Raises:
        ConfigurationError: cron can't express the interval, a path can't be written in a crontab or unit, or the user
            does not exist.
    """
    system = place.is_system
    if system and host.number(wanted.user) is None:
        raise ConfigurationError(f"the user {wanted.user} does not exist; name another with --run-as")
    if place.is_timer:
        parts = [systemd.service(wanted, system=system), systemd.timer(wanted)]
    else:
        parts = [cron_line.block(wanted, system=system)]
    return list(zip(targets(place, host), parts, strict=True))


def install(
    place: SchedulePlace, wanted: cron_line.Job, host: Host, applications: Sequence[cron_line.Caller] = ()
) -> list[FileChange]:
    """Return the changes that schedule a pass; an empty list if the wanted schedule is already installed and
    its timer, if any, is active.

    Lines in the crontabs of unrelated users are ignored.

    Args:
        place: where to install the schedule.
        wanted: the pass to schedule.
        host: the machine.
        applications: the application that makes the passes on this machine, if any.

    Raises:
        ConfigurationError: something else starts passes, or may do so in a schedule that can't be read; or the
            scheduler is missing.
    """
    parts = texts(place, wanted, host)
    titles = {target.title for target, _ in parts}
    users, missed = {"root", host.login, wanted.user}, dict[str, str]()
    callers = [caller for caller in callers_for(wanted.config, host, missed) if caller.owner in users]
    ours = {crontab.UserCrontab(host, user).title for user in users}
    # Ignore unreadable targets here, because `_addition` reports them. For a user's own timer, also ignore the
    # user's crontab, because cron may not let the user read it.
    skipped = titles | ({crontab.UserCrontab(host).title} if place is SchedulePlace.OWN_TIMER else set())
    _refuse_unreadable(
        {
            title: why
            for title, why in missed.items()
            if title not in skipped and (title in ours or title.startswith("/"))
        },
        wanted.config,
        host,
    )
    others = [caller for caller in callers if not (caller.installed and caller.title in titles)]
    _refuse_second_scheduler([*others, *applications], wanted.config, host)
    if place.is_timer and not systemd.has_systemd(host):
        raise ConfigurationError("systemd is not running on this machine; omit --systemd to use cron")
    if not place.is_timer and not crontab.has_cron(host):
        raise ConfigurationError("cron is not installed on this machine; use `retrycli cron install --systemd` instead")
    changes = [_addition(place, target, text, wanted.config) for target, text in parts]
    off = place.is_timer and all(caller.running is False for caller in callers)
    return [change for change in changes if off or change.before != change.after]


def remove(places: Sequence[SchedulePlace], config: str, host: Host) -> dict[SchedulePlace, list[FileChange]]:
    """Return the changes, by place, that remove everything that `cron install` wrote for a settings file.

    Raises:
        ConfigurationError: the end of retrycli's block in a crontab is missing.
    """
    return {place: changes for place in places if (changes := _removal(place, config, host))}


def apply(place: SchedulePlace, changes: Sequence[FileChange], host: Host) -> None:
    """Write the confirmed changes, and enable or disable a timer.

    Raises:
        ConfigurationError: a crontab or unit has changed since it was read, or can't be written; or systemctl fails.
    """
    for change in changes:
        if change.target.read() != change.before:
            raise ConfigurationError(
                f"{change.target.title} was modified in the meantime, so it was not overwritten. Run this command again"
            )
    own, removes = place is SchedulePlace.OWN_TIMER, all(not change.after for change in changes)
    if removes and systemd.has_systemd(host) and any(change.target.title.endswith(systemd.TIMER) for change in changes):
        systemd.systemctl(host, "disable", "--now", systemd.TIMER, own=own)
    for change in changes:
        change.target.write(change.after)
    if place.is_timer and systemd.has_systemd(host):
        systemd.systemctl(host, "daemon-reload", own=own)
        if not removes:
            systemd.systemctl(host, "enable", "--now", systemd.TIMER, own=own)


def _refuse_second_scheduler(others: list[cron_line.Caller], config: str, host: Host) -> None:
    if others:
        kinds = {"application": "an application, "}
        places = "; ".join(f"{kinds.get(caller.kind, '')}{caller.place} ({caller.when})" for caller in others)
        remedy = "run `retrycli cron remove`" if others[0].installed else "remove its entry"
        if others[0].kind == "application":
            remedy = "remove retrycli.Scheduler from the application and restart it"
        if others[0].installed and others[0].owner != host.login:
            remedy = f"run {suggested.as_user(others[0].owner, 'cron remove', config)}"
        raise ConfigurationError(
            f"passes are already started by {places}. Two schedules would conflict: keep the existing "
            f"one (check it with `retrycli cron check`), or first {remedy}"
        )


def _refuse_unreadable(missed: Mapping[str, str], config: str, host: Host) -> None:
    if missed:
        places = ", ".join(f"{place} ({why})" for place, why in missed.items())
        remedy = "Fix the cause, then run `retrycli cron install`"
        if host.uid != 0:
            remedy = f"Run this as root: {suggested.as_user('root', 'cron install', config)}"
        raise ConfigurationError(f"can't read {places}, which may already start passes; nothing was changed. {remedy}")


def _addition(place: SchedulePlace, target: Target, text: str, config: str) -> FileChange:
    before = target.read()
    if not place.is_timer:
        return FileChange(target, before, cron_line.with_block(before, config, text))
    if before and not systemd.is_marked(before, config):
        raise ConfigurationError(
            f"{target.title} already exists, but `retrycli cron install` did not write it for {config}; if nothing "
            "needs it, remove it and run this again"
        )
    return FileChange(target, before, text)


def _removal(place: SchedulePlace, config: str, host: Host) -> list[FileChange]:
    found = [(target, target.read()) for target in targets(place, host)]
    if place.is_timer:
        return [FileChange(target, text, "") for target, text in found if systemd.is_marked(text, config)]
    changes = [FileChange(target, text, cron_line.with_block(text, config, "")) for target, text in found]
    return [change for change in changes if change.before != change.after]
