"""Find what starts passes on this machine, compare it with what `install` would write, and predict the next pass."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from socket import gethostname

from retrycli.config.loader import Loaded
from retrycli.domain import cron_line, schedule_grid, suggested
from retrycli.domain.cron_line import Caller, Job
from retrycli.domain.passes import SCHEDULERS, PassRecord, StartedBy, is_late
from retrycli.operations.schedule.applications import applications, beside_application, last_of_application, why_gone
from retrycli.operations.schedule.proposal import SchedulePlace, config_path, job, targets
from retrycli.system import crontab, systemd
from retrycli.system.host import File, Host, named_zone, owner_of, system_zone
from retrycli.system.trust import group_readers

BEGINS_WITHIN = timedelta(minutes=1)  # maximum time from a scheduled start until the pass is recorded

# The problem and the remedy if no scheduler starts passes. The text says "was found", because the current user may be
# unable to read other users' crontabs.
NOT_SCHEDULED = ("no cron line or timer that starts passes was found on this machine", "run `retrycli cron install`")

# The problem and the remedy if cron is stopped. `retrycli.domain.suggested` replaces the command with the one for this
# machine.
CRON_IS_DOWN = (
    "cron is not running on this machine",
    "start it: `sudo systemctl enable --now cron`",
)


def unread(host: Host, titles: Collection[str] | None = None) -> str | None:
    """Return which crontabs and timers can't be read, and why; None if all can be read.

    Args:
        host: the machine.
        titles: check only crontabs and timers with these titles.
    """
    missed: dict[str, str] = {}
    crontab.callers(host, missed)
    found = [
        f"{place} ({why})"
        for place, why in missed.items()
        if titles is None or any(title == place or title.startswith(f"{place}/") for title in titles)
    ]
    return f"can't read {', '.join(found)}" if found else None


def to_read(loaded: Loaded, host: Host, command: str) -> str:
    """Return the remedy for unreadable crontabs."""
    if host.uid == 0:
        return f"fix the cause, then run `retrycli {command}`"
    return f"run as root: {as_user('root', command, loaded)}"


def to_install(loaded: Loaded, host: Host) -> str:
    """Return the command that schedules the passes, in backticks.

    Suggest root's command, as the README does. Unless this command was itself run through sudo, also suggest the user's
    own crontab, because the user may lack permission to use sudo.
    """
    if host.uid == 0:
        return "`retrycli cron install`"
    by_root = as_user("root", "cron install", loaded)
    return by_root if suggested.is_by_sudo() else f"{by_root}, or, for your own crontab, `retrycli cron install --user`"


def as_user(user: str, command: str, loaded: Loaded) -> str:
    """Return a command that another user runs with these settings, in backticks."""
    return suggested.as_user(user, command, None if loaded.file is None else config_path(loaded))


def none_hidden(host: Host) -> bool:
    """Return whether it is certain that nothing on this machine starts a pass. Only root can read all crontabs."""
    missed: dict[str, str] = {}
    return host.uid == 0 and not crontab.callers(host, missed) and not missed


def callers_of(loaded: Loaded, host: Host) -> list[Caller]:
    """Return what starts passes with these settings on this machine. If the settings come from no file, no crontab or
    timer counts.

    Another user's crontab counts only if that user is root, owns the settings or the database, or has the same name as
    the group that may read the settings.
    """
    application = applications(loaded.settings)
    if loaded.file is None:
        return application
    config = config_path(loaded)
    database = loaded.settings.database.file
    users = {"root", host.login, owner_of(Path(config)), group_readers(Path(config), ())}
    users.add(None if database is None else owner_of(database))
    return [*(caller for caller in callers_for(config, host, {}) if caller.owner in users), *application]


def callers_for(config: str | None, host: Host, missed: dict[str, str]) -> list[Caller]:
    """Return what starts passes with these settings. An entry that names no settings file may use them too.

    Args:
        config: the settings file; None for any file.
        host: the machine.
        missed: receives the crontabs and timers that can't be read, with the reasons.
    """
    return [
        replace(caller, running=crontab.is_running(host, caller), since=crontab.heeded_since(host, caller))
        for caller in crontab.callers(host, missed)
        if config is None or caller.config in {None, config}
    ]


def stopped(caller: Caller) -> tuple[str, str] | None:
    """Return the problem and the remedy if the daemon or timer behind a caller is stopped; None if it runs, or if its
    state is unknown.
    """
    if caller.running is not False:
        return None
    if caller.kind == "cron":
        return CRON_IS_DOWN
    timer = Path(caller.title).name
    return f"{timer} is stopped", f"start it: `systemctl{' --user' if caller.user is None else ''} start {timer}`"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The cron lines and timers that start passes, and the problem with the schedule, if any."""

    callers: list[Caller]
    objection: str | None
    unread: str | None = None  # which crontabs and timers can't be read, and why; they may start passes


def check(loaded: Loaded, host: Host, *, only: SchedulePlace | None = None) -> Verdict:
    """Find what starts passes with these settings. Check that only one cron line or timer does, and that it equals
    what `install` writes.

    Args:
        loaded: the settings and their sources.
        host: the machine.
        only: examine only this place.

    Raises:
        ConfigurationError: a scheduler would not find these settings.
    """
    wanted = job(loaded, host)
    titles = None if only is None else {target.title for target in targets(only, host)}
    found = [caller for caller in callers_of(loaded, host) if titles is None or caller.title in titles]
    checked = [replace(caller, objection=_objection(caller, wanted)) for caller in found]
    missed = unread(host, titles)
    if missed is not None and not checked:
        return Verdict(
            [], f"no readable cron line or timer starts passes; {missed}; {to_read(loaded, host, 'cron check')}", missed
        )
    if not checked:
        return Verdict([], f"no cron line or timer that starts passes was found; run {to_install(loaded, host)}")
    return Verdict(checked, _verdict(checked), missed)


def _verdict(found: list[Caller]) -> str | None:
    if any(caller.kind == "application" for caller in found) and found[1:]:
        return "; ".join(beside_application(found))
    match found:
        case [one] if (still := stopped(one)) is not None:
            return f"{one.place}: {still[0]}; {still[1]}"
        case [one] if one.objection:
            first = "" if one.installed else "edit the entry, or remove it and "
            return f"{one.place}: {one.objection}; {first}run `retrycli cron install`"
        case [_]:
            return None
        case _:
            places = "; ".join(caller.place for caller in found)
            return f"more than one cron line or timer starts passes; keep only one of: {places}"


def _objection(caller: Caller, wanted: Job) -> str | None:
    if caller.kind == "application":
        return None
    if caller.kind == "cron":
        when, command = cron_line.schedule(wanted.interval), cron_line.command(wanted)
    else:
        when, command = systemd.when(wanted.interval), systemd.command(wanted)
    if caller.when != when:
        return f"it starts passes at {caller.when}, but schedule.retry_interval_minutes requires {when}"
    if caller.command != command:
        return f"its command should be: {command}"
    if caller.kind == "timer" and caller.installed:
        service = Path(caller.title).with_suffix(".service")
        expected = replace(wanted, user=caller.user or wanted.user)
        if File(service).read() != systemd.service(expected, system=caller.user is not None):
            return f"{service} differs from what `cron install` would write"
    return None


def ticks_of(
    callers: Sequence[Caller],
    passes: Sequence[PassRecord],
    interval: timedelta,
    now: datetime,
    zone: tzinfo | None = None,
) -> schedule_grid.Ticks:
    """Return the ticks at which the next passes begin.

    Passes started by hand are ignored.

    Args:
        callers: what starts the passes on this machine. Of several callers, the one that starts the next pass counts. A
            caller whose daemon is stopped starts nothing.
        passes: the newest passes, newest first. They determine the ticks if no caller's schedule does, for example
            because the caller is on another host. They also show when a timer that only has an interval last started.
        interval: how often a pass should begin. If nothing else determines the ticks, this interval and the
            clock do.
        now: the time.
        zone: the time zone of cron and timers; by default the system's.
    """
    zone = zone or system_zone()
    starts = [
        record.started_at for record in passes[: schedule_grid.PASSES_LOOKED_AT] if record.started_by in SCHEDULERS
    ]
    by_clock = schedule_grid.by_clock(interval, now, zone)
    at_work = [
        by_clock if caller.kind == "application" else _ticks(caller, starts, now, zone)
        for caller in callers
        if caller.running is not False
    ]
    if found := [ticks for ticks in at_work if ticks is not None]:
        return min(found, key=lambda ticks: ticks.next(now))
    return by_clock if last_of_application(passes) else schedule_grid.grid(starts, interval) or by_clock


def _ticks(caller: Caller, starts: Sequence[datetime], now: datetime, zone: tzinfo) -> schedule_grid.Ticks | None:
    if caller.kind == "cron":
        return schedule_grid.by_cron(caller.when, now, named_zone(caller.zone) or zone)
    for when in caller.when.split(", "):
        line, span = systemd.as_cron(when), systemd.span(when)
        if line is not None:
            return schedule_grid.by_cron(line, now, zone)
        if span is not None and starts:
            return schedule_grid.Grid(starts[0], span)
    return None


def why_not_scheduled(
    callers: Sequence[Caller] | None,
    passes: Sequence[PassRecord],
    interval: timedelta,
    now: datetime,
    *,
    none_hidden: bool = False,
) -> tuple[str, str] | None:
    """Return the reason why nothing starts the next pass, and the remedy; None if something does or may, for example
    on another host.

    Args:
        callers: what starts the passes on this machine; None if it was not examined.
        passes: the newest passes, newest first.
        interval: how often a pass should begin.
        now: the time.
        none_hidden: nothing on this machine starts any pass; see the function `none_hidden`.
    """
    if callers:
        found = [stopped(caller) for caller in callers]
        return found[0] if all(found) else None
    if (gone := why_gone(passes, interval, now)) is not None:
        return gone
    if callers is None:
        return None
    recent = [record for record in passes if not is_late(record.started_at, now, interval)]
    others = [record for record in [*passes[:1], *recent] if record.started_by is not StartedBy.PERSON]
    is_gone = none_hidden and all(
        record.started_by is StartedBy.CRON and record.host == gethostname() for record in others
    )
    return NOT_SCHEDULED if is_gone or not others else None


def why_late(callers: Sequence[Caller] | None, interval: timedelta, now: datetime) -> str:
    """Explain why due passes may not have run, and say where to look. Only a log shows what cron refuses to run.

    Args:
        callers: what starts the passes on this machine; None if it was not examined.
        interval: how often an application makes a pass.
        now: the time.
    """
    at_work = next((caller for caller in callers or () if caller.running), None)
    if at_work is None:
        return "cron may be stopped, or may refuse the user (PAM, cron.deny); see `journalctl -u cron`"
    tick = _first_tick(at_work, interval, now)
    if at_work.kind == "application" and tick is None:
        return f"the application ({at_work.title}) is running, but its passes fail or hang; see its log"
    if tick is not None:
        started = (
            f"the application ({at_work.title}) was started"
            if at_work.kind == "application"
            else "cron was started, or the crontab was modified,"
        )
        return f"{started} too late for the last scheduled pass; the next pass is due at {tick:%Y-%m-%dT%H:%M:%SZ}"
    if at_work.kind == "timer":
        return (
            "the timer is running, but its service may fail; see the journal of "
            f"{Path(at_work.title).with_suffix('.service').name}"
        )
    whose = at_work.user or at_work.owner
    return (
        f"cron is running, but may refuse {whose} (PAM, cron.deny), or the cron line may fail; "
        "see `journalctl -u cron` and the mail from cron"
    )


def _first_tick(caller: Caller, interval: timedelta, now: datetime) -> datetime | None:
    """Return the first tick after cron loaded a line or an application started; None if it is unknown, or if its pass
    should have begun.
    """
    if caller.kind == "timer" or caller.since is None:
        return None
    zone = named_zone(caller.zone) or system_zone()
    if caller.kind == "application":
        ticks: schedule_grid.Ticks | None = schedule_grid.by_clock(interval, caller.since, zone)
    else:
        ticks = schedule_grid.by_cron(caller.when, caller.since, zone)
    if ticks is None:
        return None
    tick = ticks.next(caller.since).astimezone(UTC)
    return tick if now < tick + BEGINS_WITHIN else None
