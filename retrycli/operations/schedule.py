"""What calls the passes: proposing a cron line or a timer, putting it in place, finding it again, taking it away."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from difflib import unified_diff
from enum import Enum
from pathlib import Path
from socket import gethostname

import retrycli
from retrycli.config import template
from retrycli.config.loader import Loaded
from retrycli.config.settings import Settings
from retrycli.domain import cron_line, schedule_grid, suggested
from retrycli.domain.cron_line import Job
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.pass_record import PassRecord, is_late
from retrycli.domain.pass_summary import SCHEDULERS, StartedBy
from retrycli.system import crontab, filesystem, systemd
from retrycli.system.crontab import UserCrontab
from retrycli.system.host import Caller, File, Host, Target, named_zone, system_zone
from retrycli.system.trust import ROOT, find_weakness, group_readers

LOGS, LOG = Path("/var/log/retrycli"), "retrycli.log"
"""The folder of cron/logrotate, and the log's name there or elsewhere."""
CRON_IS_DOWN = (
    "cron is not running on this machine",
    "start it: `sudo systemctl enable --now cron`",
)
"""What is wrong, and the remedy. `retrycli.domain.suggested` has the machine's own command in its place."""
MARGIN = timedelta(seconds=90)
"""Past its deadline and its last request a pass has so long to write things down."""
BEGINS_WITHIN = timedelta(minutes=1)
"""So long after its tick a pass has begun and recorded that."""


UNCALLED = ("no cron line or timer found here calls the passes", "see `retrycli cron install`")
"""Said of passes that only people start, and the remedy. Another user's crontab may be hidden from who looks."""


class SchedulePlace(Enum):
    """Where a schedule can be put."""

    OWN_CRONTAB = "own crontab"
    SYSTEM_CRONTAB = "system crontab"
    OWN_TIMER = "own timer"
    SYSTEM_TIMER = "system timer"

    @classmethod
    def of(cls, host: Host, *, user: bool, systemd: bool) -> SchedulePlace:
        """The place that two options mean; only root has a choice between the system's and its own."""
        own = user or host.uid != 0
        if systemd:
            return cls.OWN_TIMER if own else cls.SYSTEM_TIMER
        return cls.OWN_CRONTAB if own else cls.SYSTEM_CRONTAB

    @property
    def is_system(self) -> bool:
        """Whether it is root's, and names a user."""
        return self in {SchedulePlace.SYSTEM_CRONTAB, SchedulePlace.SYSTEM_TIMER}

    @property
    def is_timer(self) -> bool:
        """Whether it is systemd's."""
        return self in {SchedulePlace.OWN_TIMER, SchedulePlace.SYSTEM_TIMER}


@dataclass(frozen=True, slots=True)
class FileChange:
    """What one text is to become; nothing, if it is to go."""

    target: Target
    before: str
    after: str

    @property
    def diff(self) -> str:
        """The change, for a person to read."""
        if self.before == self.after:
            return f"{self.target.title} is to be switched on"
        titles = (self.target.title, self.target.title)
        before, after = (text.removesuffix("\n").split("\n") for text in (self.before, self.after))
        return "\n".join(unified_diff(before if self.before else [], after if self.after else [], *titles, lineterm=""))


@dataclass(frozen=True, slots=True)
class Checked:
    """Something that calls a pass, and how it is not what `install` would write."""

    caller: Caller
    objection: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What calls the passes, and what is wrong with that as a whole."""

    callers: list[Checked]
    objection: str | None
    unread: str | None = None
    """What can't be read, where a pass may be called."""


def this_python() -> str:
    """The Python that retrycli is installed in, by the same name whichever of its names it was started by."""
    usual = Path(sys.executable).with_name("python3")
    return str(usual) if usual.exists() and usual.samefile(sys.executable) else sys.executable


def relied_on() -> tuple[Path, ...]:
    """Return what a pass runs: the interpreter, this package, and the folders of the environment's packages."""
    packages = (Path(sysconfig.get_path(each)) for each in ("purelib", "platlib"))
    found = (Path(this_python()), Path(retrycli.__file__), *packages)
    return tuple(dict.fromkeys(each for each in found if each.exists()))


def propose(
    place: SchedulePlace,
    loaded: Loaded,
    host: Host,
    *,
    run_as: str | None = None,
    program: Iterable[Path] | None = None,
) -> Job:
    """Return the pass that `install` has made, if nobody but root and the user who makes it can change what it does.

    Args:
        place: where it is put.
        loaded: the settings, and where they came from.
        host: the machine.
        run_as: who is to make the passes; by default, in the system's schedule, who owns the database, or else the
            settings' file, and who is at work in one of their own. It is never root unless root is named.
        program: what a pass runs; by default `relied_on`.

    Raises:
        ConfigurationError: that is root and nobody said so, or there is no such user, or another user could have the
            passes do things, or a scheduler would not find these settings.
    """
    wanted = job(loaded, host, user=run_as if place.is_system else host.login)
    number = host.number(wanted.user)
    if number is None:
        raise ConfigurationError(f"there is no user {wanted.user} here to make the passes; name one with --run-as")
    if number == ROOT and run_as is None:
        raise ConfigurationError(
            "the passes would be made by root; name the user who may write the database with --run-as USER "
            "(or root, if you mean it)"
        )
    _refuse_other_masters(wanted, loaded, {ROOT, number}, relied_on() if program is None else program)
    return wanted


def _refuse_other_masters(wanted: Job, loaded: Loaded, users: Collection[int], program: Iterable[Path]) -> None:
    """Refuse a pass that users other than these could have do things.

    Raises:
        ConfigurationError: they may change what it relies on; or the settings' owner is neither root nor the owner of
            the database that they name, and so may never have written it.
    """
    gateways = loaded.settings.gateway.all.values()
    named = [path for each in gateways for path in (each.preset_file, each.ca_file) if path is not None]
    for path in (Path(wanted.config), *named, *program):
        if (weakness := find_weakness(path, users)) is not None:
            relying = "" if weakness.place == path else f", and so {path}"
            raise ConfigurationError(
                f"{weakness}{relying}, which passes made by {wanted.user} would rely on; {weakness.remedy}"
            )
    config, database = Path(wanted.config), loaded.settings.database.file
    if database is None or not database.exists():
        return
    owner, its_owner = config.stat().st_uid, database.stat().st_uid
    if owner not in {ROOT, its_owner}:
        raise ConfigurationError(
            f"{config} belongs to {filesystem.owner(config)}, and the database that it names, {database}, to "
            f"{filesystem.owner(database)}; chown root {config}, if that is the database"
        )


def with_log(loaded: Loaded, wanted: Job) -> tuple[Job, list[FileChange]]:
    """Return a pass that keeps a log, and the change to the settings by which it does.

    There is no change if it keeps one, or if who is at work may not write the settings, or no folder is known in which
    it could.
    """
    file = Path(wanted.config).resolve()
    if loaded.settings.logging.file is not None or not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
        return wanted, []
    log = log_file(loaded.settings.database.file, lambda folder: filesystem.owner(folder) == wanted.user)
    target = File(file, keeps_mode=True)
    before = target.read()
    after = None if log is None else template.with_value(before, "logging", "file", str(log))
    if log is None or after is None:
        return wanted, []
    folders = dict.fromkeys([*wanted.writes, *_in_full([log.parent])])
    return replace(wanted, writes=tuple(folders)), [FileChange(target, before, after)]


def log_file(database: Path | None, is_theirs: Callable[[Path], bool]) -> Path | None:
    """Return where passes keep their log: where cron/logrotate looks, else beside the database.

    Args:
        database: the SQLite file, if it is one. Passes write in its folder.
        is_theirs: whether passes can write in a folder.
    """
    if is_theirs(LOGS):
        return LOGS / LOG
    return None if database is None else database.with_name(LOG)


def job(loaded: Loaded, host: Host, *, user: str | None = None) -> Job:
    """A pass as a scheduler is to begin it.

    Args:
        loaded: the settings, and where they came from.
        host: the machine.
        user: who is to make the passes; by default who owns the database, or else the settings' file.

    Raises:
        ConfigurationError: a scheduler would not find these settings.
    """
    settings = loaded.settings
    config = config_path(loaded)
    elsewhere = [f"{key} ({source})" for key, source in loaded.sources.items() if not source.startswith("file ")]
    if elsewhere:
        raise ConfigurationError(
            f"a scheduler does not pass on your environment, where this comes from: {', '.join(elsewhere)}; "
            f"set it in {config}, secrets by their …_file keys"
        )
    request = settings.gateway.longest
    return Job(
        interval=timedelta(minutes=settings.schedule.retry_interval_minutes),
        interpreter=this_python(),
        config=config,
        user=user or _owner(settings.database.file, config) or host.login,
        longest=timedelta(minutes=settings.run.deadline_minutes) + request + MARGIN,
        reads=_read_by(loaded),
        writes=_written_by(settings),
    )


def _read_by(loaded: Loaded) -> tuple[str, ...]:
    """What a pass reads beside its settings, as far as the settings name it."""
    gateways = loaded.settings.gateway.all.values()
    named = [path for each in gateways for path in (each.preset_file, each.ca_file, each.attachments_dir) if path]
    secrets = [source.removeprefix("file ") for source in loaded.sources.values() if source.startswith("file ")]
    return _in_full([*named, *secrets, Path(sys.executable).resolve()])


def _written_by(settings: Settings) -> tuple[str, ...]:
    """Return the folders in which a pass writes.

    SQLite makes its journal beside the database, and the lock is there as well. With a server the lock is in the state
    folder, which the unit has from systemd (StateDirectory=).
    """
    files = [settings.database.file, settings.run.lock_file, settings.metrics.path, settings.report.path]
    files.append(settings.logging.file)
    return _in_full([each.absolute().parent for each in files if each is not None])


def _in_full(paths: Iterable[Path | str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(os.path.normpath(Path(each).absolute()) for each in paths))


def config_path(loaded: Loaded) -> str:
    """The settings' file, in full.

    Raises:
        ConfigurationError: there is none.
    """
    if loaded.file is None:
        raise ConfigurationError(
            "there is no configuration file, and a scheduler passes on no environment; `retrycli init` makes one"
        )
    return os.path.normpath(loaded.file.absolute())


def reachable(host: Host) -> list[SchedulePlace]:
    """The places that who is at work may change."""
    return [place for place in SchedulePlace if host.uid == 0 or not place.is_system]


def texts(place: SchedulePlace, wanted: Job, host: Host) -> list[tuple[Target, str]]:
    """What is put where: the part of a crontab that is retrycli's own, or whole systemd.

    Raises:
        ConfigurationError: cron does not know such an interval, or a path can't stand there, or there is no such user.
    """
    system = place.is_system
    if system and host.number(wanted.user) is None:
        raise ConfigurationError(f"there is no user {wanted.user} here to make the passes; name one with --run-as")
    if place.is_timer:
        parts = [systemd.service(wanted, system=system), systemd.timer(wanted)]
    else:
        parts = [cron_line.block(wanted, system=system)]
    return list(zip(_targets(place, host), parts, strict=True))


def install(place: SchedulePlace, wanted: Job, host: Host) -> list[FileChange]:
    """What there is to change so that a pass is called; nothing, where it is called as wanted already.

    A line in the crontab of a user who has nothing to do with it keeps nobody from it.

    Raises:
        ConfigurationError: something else calls it, or may do so where nothing can be read, or the place is not there.
    """
    parts = texts(place, wanted, host)
    titles = {target.title for target, _ in parts}
    masters, missed = {"root", host.login, wanted.user}, dict[str, str]()
    callers = [each for each in callers_for(wanted.config, host, missed) if each.owner in masters]
    ours = {UserCrontab(host, each).title for each in masters}
    # The place itself is read below. Who may not use cron can still have a timer.
    skipped = titles | ({UserCrontab(host).title} if place is SchedulePlace.OWN_TIMER else set())
    _refuse_the_unread(
        {each: why for each, why in missed.items() if each not in skipped and (each in ours or each.startswith("/"))},
        wanted.config,
        host,
    )
    others = [each for each in callers if not (each.installed and each.title in titles)]
    _refuse_a_second(others, wanted.config, host)
    if place.is_timer and not systemd.has_systemd(host):
        raise ConfigurationError("systemd is not at work on this machine; leave out --systemd for a line of cron's")
    if not place.is_timer and not crontab.has_cron(host):
        raise ConfigurationError(
            "cron is not installed on this machine; `retrycli cron install --systemd` does without"
        )
    changes = [_put(place, target, text, wanted.config) for target, text in parts]
    off = place.is_timer and all(each.running is False for each in callers)
    return [each for each in changes if off or each.before != each.after]


def remove(places: Sequence[SchedulePlace], config: str, host: Host) -> dict[SchedulePlace, list[FileChange]]:
    """What there is to change so that nothing of what `install` wrote for these settings is left, by its place.

    Raises:
        ConfigurationError: somebody has taken away half of it.
    """
    found = {place: _removal(place, config, host) for place in places}
    return {place: changes for place, changes in found.items() if changes}


def apply(place: SchedulePlace, changes: Sequence[FileChange], host: Host) -> None:
    """Make changes that somebody has agreed to.

    Raises:
        ConfigurationError: a text has changed since it was read, or can't be written.
    """
    for change in changes:
        if change.target.read() != change.before:
            raise ConfigurationError(f"{change.target.title} has changed meanwhile; nothing was done, try again")
    own, goes = place is SchedulePlace.OWN_TIMER, all(not change.after for change in changes)
    if goes and systemd.has_systemd(host) and any(each.target.title.endswith(systemd.TIMER) for each in changes):
        systemd.systemctl(host, "disable", "--now", systemd.TIMER, own=own)
    for change in changes:
        change.target.write(change.after)
    if place.is_timer and systemd.has_systemd(host):
        systemd.systemctl(host, "daemon-reload", own=own)
        if not goes:
            systemd.systemctl(host, "enable", "--now", systemd.TIMER, own=own)


def check(loaded: Loaded, host: Host, *, only: SchedulePlace | None = None) -> Verdict:
    """What calls a pass with these settings, and whether it is one thing, and what `install` would write.

    Args:
        loaded: the settings, and where they came from.
        host: the machine.
        only: look nowhere else.

    Raises:
        ConfigurationError: a scheduler would not find these settings.
    """
    wanted = job(loaded, host)
    titles = None if only is None else {each.title for each in _targets(only, host)}
    found = [each for each in callers_of(loaded, host) if titles is None or each.title in titles]
    checked = [Checked(each, _objection(each, wanted)) for each in found]
    missed = unread(host, titles)
    if missed is not None and not checked:
        remedy = to_read(loaded, host, "cron check")
        return Verdict([], f"nothing that can be read calls the passes; {missed}; {remedy}", missed)
    if not checked:
        return Verdict([], f"nothing calls the passes; have them called: {to_install(loaded, host)}")
    return Verdict(checked, _verdict(checked), missed)


def unread(host: Host, titles: Collection[str] | None = None) -> str | None:
    """Return which crontabs and timers can't be read, and why; None if all can.

    Args:
        host: the machine.
        titles: look only for these.
    """
    missed: dict[str, str] = {}
    crontab.callers(host, missed)
    found = [
        f"{place} ({why})"
        for place, why in missed.items()
        if titles is None or any(each == place or each.startswith(f"{place}/") for each in titles)
    ]
    return f"can't read {', '.join(found)}" if found else None


def to_read(loaded: Loaded, host: Host, command: str) -> str:
    """Return what to do about what can't be read."""
    if host.uid == 0:
        return f"make it readable, then `retrycli {command}`"
    return f"look as root: {as_user('root', command, loaded)}"


def to_install(loaded: Loaded, host: Host) -> str:
    """Return the command that has the passes called, in backticks.

    It is root's, as the manual has it. Another user may have no sudo, and gets the command for a schedule of their own
    too, unless they are a service user whom somebody became through sudo.
    """
    if host.uid == 0:
        return "`retrycli cron install`"
    by_root = as_user("root", "cron install", loaded)
    return by_root if suggested.is_by_sudo() else f"{by_root}, or in your own crontab `retrycli cron install --user`"


def as_user(user: str, command: str, loaded: Loaded) -> str:
    """Return a command that another user is to run with these settings, in backticks."""
    return suggested.as_user(user, command, None if loaded.file is None else config_path(loaded))


def _verdict(found: list[Checked]) -> str | None:
    match found:
        case [one] if (still := stopped(one.caller)) is not None:
            return f"{one.caller.place}: {still[0]}; {still[1]}"
        case [one] if one.objection:
            first = "" if one.caller.installed else "edit it, or take it away by hand, and "
            return f"{one.caller.place}: {one.objection}; {first}`retrycli cron install` mends it"
        case [_]:
            return None
        case _:
            places = ", ".join(each.caller.place for each in found)
            return f"two schedulers get in each other's way; keep one of: {places}"


def ticks_of(
    callers: Sequence[Caller],
    passes: Sequence[PassRecord],
    interval: timedelta,
    now: datetime,
    zone: tzinfo | None = None,
) -> schedule_grid.Ticks:
    """Return when the next passes begin.

    A pass made by hand tells nothing of that.

    Args:
        callers: what calls the passes on this machine. If there are several, the one that calls next is meant. One
            whose daemon does not run calls nothing.
        passes: the newest passes, newest first. They tell it if the caller can't be read, or is on another host.
        interval: how often passes should be made. They are expected so by the clock if nothing else tells.
        now: the time.
        zone: the time zone that cron and timers go by; by default the system's.
    """
    zone = zone or system_zone()
    latest = passes[: schedule_grid.PASSES_LOOKED_AT]
    starts = [each.started_at for each in latest if each.started_by in SCHEDULERS]
    at_work = [each for each in callers if each.running is not False]
    found = [each for caller in at_work if (each := _ticks(caller, starts, now, zone)) is not None]
    if found:
        return min(found, key=lambda each: each.next(now))
    return schedule_grid.grid(starts, interval) or schedule_grid.by_clock(interval, now, zone)


def _ticks(caller: Caller, starts: Sequence[datetime], now: datetime, zone: tzinfo) -> schedule_grid.Ticks | None:
    if caller.kind == "cron":
        return schedule_grid.by_cron(caller.when, now, named_zone(caller.zone) or zone)
    for each in caller.when.split(", "):
        line, span = systemd.as_cron(each), systemd.span(each)
        if line is not None:
            return schedule_grid.by_cron(line, now, zone)
        if span is not None and starts:
            return schedule_grid.Grid(starts[0], span)
    return None


def nothing_calls(
    callers: Sequence[Caller] | None,
    passes: Sequence[PassRecord],
    interval: timedelta,
    now: datetime,
    *,
    none_hidden: bool = False,
) -> tuple[str, str] | None:
    """Return that nothing calls the next pass, and the remedy; None if something does, or may on another host.

    Args:
        callers: what calls the passes on this machine; None if nobody has looked.
        passes: the newest passes, newest first.
        interval: how often passes should be made.
        now: the time.
        none_hidden: whether no crontab of this machine calls any pass, and none is hidden from who looks.
    """
    if callers:
        found = [stopped(each) for each in callers]
        return found[0] if all(found) else None
    if callers is None:
        return None
    recent = [each for each in passes if not is_late(each.started_at, now, interval)]
    others = [each for each in [*passes[:1], *recent] if each.started_by is not StartedBy.PERSON]
    if others and not (none_hidden and all(_was_by_cron_here(each) for each in others)):
        return None
    return UNCALLED


def _was_by_cron_here(made: PassRecord) -> bool:
    return made.started_by is StartedBy.CRON and made.host == gethostname()


def none_hidden(host: Host) -> bool:
    """Return whether no crontab of a machine calls any pass: only root sees them all."""
    missed: dict[str, str] = {}
    return host.uid == 0 and not crontab.callers(host, missed) and not missed


def why_none_came(callers: Sequence[Caller] | None, now: datetime) -> str:
    """Say why passes that should have come may not have, and where that shows. A log alone tells what cron refuses."""
    at_work = next((each for each in callers or () if each.running), None)
    if at_work is None:
        return "cron may be stopped, or refuse the user (PAM, cron.deny); see `journalctl -u cron`"
    if (tick := first_tick(at_work, now)) is not None:
        return f"cron, or its line, is newer than the last tick; the first one is at {tick:%Y-%m-%dT%H:%M:%SZ}"
    if at_work.kind == "timer":
        return f"its timer runs; see `journalctl -u {Path(at_work.title).with_suffix('.service').name}`"
    whose = at_work.user or at_work.owner
    logs = f"see `journalctl -u cron`, and {whose}'s mail"
    return f"cron runs, but may refuse {whose} (PAM, cron.deny), or the line fails; {logs}"


def first_tick(caller: Caller, now: datetime, zone: tzinfo | None = None) -> datetime | None:
    """Return the first tick of a cron line since cron began to heed it; None if its pass should be there.

    Args:
        caller: what calls the passes.
        now: the time.
        zone: the time zone that cron goes by; by default the system's.
    """
    if caller.kind != "cron" or caller.since is None:
        return None
    zone = named_zone(caller.zone) or zone or system_zone()
    if (line := schedule_grid.by_cron(caller.when, caller.since, zone)) is None:
        return None
    tick = line.next(caller.since).astimezone(UTC)
    return tick if now < tick + BEGINS_WITHIN else None


def callers_of(loaded: Loaded, host: Host) -> list[Caller]:
    """What calls a pass with these settings on this machine; nothing if they come from no file.

    What another user's crontab has to say counts only if that user may have to do with them: owns the settings or the
    database, or has the group that may read the settings.
    """
    if loaded.file is None:
        return []
    config = config_path(loaded)
    database = loaded.settings.database.file
    masters = {"root", host.login, filesystem.owner(Path(config)), group_readers(Path(config), ())}
    masters.add(None if database is None else filesystem.owner(database))
    return [each for each in callers_for(config, host) if each.owner in masters]


def callers_for(config: str | None, host: Host, missed: dict[str, str] | None = None) -> list[Caller]:
    """What calls a pass with these settings; a call that names no settings may mean these.

    Args:
        config: the settings' file; None for any.
        host: the machine.
        missed: takes what can't be read, as `retrycli.system.crontab.callers` does.
    """
    found = [each for each in crontab.callers(host, missed) if config is None or each.config in {None, config}]
    return [
        replace(each, running=crontab.is_running(host, each), since=crontab.heeded_since(host, each)) for each in found
    ]


def stopped(caller: Caller) -> tuple[str, str] | None:
    """Return that what heeds a caller is not at work, and the remedy; None if it is, or if that can't be seen."""
    if caller.running is not False:
        return None
    if caller.kind == "cron":
        return CRON_IS_DOWN
    timer = Path(caller.title).name
    own = " --user" if caller.user is None else ""
    return f"{timer} is stopped", f"start it: `systemctl{own} start {timer}`"


def _refuse_a_second(others: list[Caller], config: str, host: Host) -> None:
    if others:
        places = "; ".join(f"{each.place} ({each.when})" for each in others)
        remedy = "`retrycli cron remove`" if others[0].installed else "take it away by hand"
        if others[0].installed and others[0].owner != host.login:
            remedy = suggested.as_user(others[0].owner, "cron remove", config)
        raise ConfigurationError(
            f"a pass is called already by {places}. Two schedulers get in each other's way: keep that one "
            f"(`retrycli cron check`), or first {remedy}"
        )


def _refuse_the_unread(missed: Mapping[str, str], config: str, host: Host) -> None:
    if missed:
        places = ", ".join(f"{place} ({why})" for place, why in missed.items())
        remedy = "Make it readable, then `retrycli cron install`"
        if host.uid != 0:
            remedy = f"Run it as root: {suggested.as_user('root', 'cron install', config)}"
        raise ConfigurationError(
            f"can't read {places}, where a pass may be called already; nothing was changed. {remedy}"
        )


def _put(place: SchedulePlace, target: Target, text: str, config: str) -> FileChange:
    before = target.read()
    if not place.is_timer:
        after = cron_line.with_block(before, config, text)
    elif before and not systemd.is_marked(before, config):
        raise ConfigurationError(f"{target.title} is there already, and not for {config}; take it away by hand")
    else:
        after = text
    return FileChange(target, before, after)


def _removal(place: SchedulePlace, config: str, host: Host) -> list[FileChange]:
    found = [(each, each.read()) for each in _targets(place, host)]
    if place.is_timer:
        return [FileChange(target, text, "") for target, text in found if systemd.is_marked(text, config)]
    changed = [(target, text, cron_line.without_block(text, config)) for target, text in found]
    return [FileChange(*each) for each in changed if each[1] != each[2]]


def _targets(place: SchedulePlace, host: Host) -> list[Target]:
    match place:
        case SchedulePlace.OWN_CRONTAB:
            return [UserCrontab(host)]
        case SchedulePlace.SYSTEM_CRONTAB:
            return [File(host.root / crontab.SYSTEM_FILE)]
        case SchedulePlace.OWN_TIMER:
            folder = host.unit_folder
        case SchedulePlace.SYSTEM_TIMER:
            folder = host.root / systemd.SYSTEM_UNITS
    return [File(folder / systemd.SERVICE), File(folder / systemd.TIMER)]


def _objection(caller: Caller, wanted: Job) -> str | None:
    """What `install` would have written otherwise."""
    if caller.kind == "cron":
        when, command = cron_line.schedule(wanted.interval), cron_line.command(wanted)
    else:
        when, command = systemd.when(wanted.interval), systemd.command(wanted)
    if caller.when != when:
        return f"it calls at {caller.when}; schedule.retry_interval_minutes makes that {when}"
    if caller.command != command:
        return f"the command would be: {command}"
    if caller.kind == "timer" and caller.installed:
        system = caller.user is not None
        service = Path(caller.title).with_suffix(".service")
        if File(service).read() != systemd.service(replace(wanted, user=caller.user or wanted.user), system=system):
            return f"{service} is not as it would be written now"
    return None


def _owner(database: Path | None, config: str) -> str | None:
    """Who owns the SQLite file, or else the settings' file."""
    return (database and filesystem.owner(database)) or filesystem.owner(Path(config))
