"""Find where a schedule can be installed, and describe the pass that it starts: its command, its user, what it reads
and writes.
"""

import os
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from difflib import unified_diff
from enum import Enum
from pathlib import Path

import retrycli
from retrycli.config import template
from retrycli.config.loader import Loaded
from retrycli.config.settings import Settings
from retrycli.domain.cron_line import Job
from retrycli.domain.errors import ConfigurationError
from retrycli.system import crontab, systemd
from retrycli.system.host import File, Host, owner_of
from retrycli.system.trust import ROOT, find_weakness

# The log folder that cron/logrotate names, and the log file's name, which is the same in every folder.
LOGS, LOG = Path("/var/log/retrycli"), "retrycli.log"

MARGIN = timedelta(seconds=90)  # time for a pass to record results after its deadline and its last request


Target = crontab.UserCrontab | File  # a crontab, a systemd unit or another file that an installation changes


@dataclass(frozen=True, slots=True)
class FileChange:
    """The change to one crontab or file; ``after`` is empty if the file is removed."""

    target: Target
    before: str
    after: str

    @property
    def diff(self) -> str:
        """Return the change as a unified diff. If the text is unchanged, say that its unit will be enabled."""
        if self.before == self.after:
            return f"{self.target.title} will be enabled"
        titles = (self.target.title, self.target.title)
        before, after = (text.removesuffix("\n").split("\n") for text in (self.before, self.after))
        return "\n".join(unified_diff(before if self.before else [], after if self.after else [], *titles, lineterm=""))


class SchedulePlace(Enum):
    """A place to install a schedule: cron or systemd, for one user or for the system."""

    OWN_CRONTAB = "own crontab"
    SYSTEM_CRONTAB = "system crontab"
    OWN_TIMER = "own timer"
    SYSTEM_TIMER = "system timer"

    @classmethod
    def of(cls, host: Host, *, user: bool, systemd: bool) -> "SchedulePlace":
        """Return the place that two options select. Only root can choose between the system's schedule and root's
        own.
        """
        own = user or host.uid != 0
        if systemd:
            return cls.OWN_TIMER if own else cls.SYSTEM_TIMER
        return cls.OWN_CRONTAB if own else cls.SYSTEM_CRONTAB

    @property
    def is_system(self) -> bool:
        """Return whether the schedule is the system's, which names the user who runs the passes."""
        return self in {SchedulePlace.SYSTEM_CRONTAB, SchedulePlace.SYSTEM_TIMER}

    @property
    def is_timer(self) -> bool:
        """Return whether the schedule is a systemd timer."""
        return self in {SchedulePlace.OWN_TIMER, SchedulePlace.SYSTEM_TIMER}


def reachable(host: Host) -> list[SchedulePlace]:
    """Return the places that the current user may change."""
    return [place for place in SchedulePlace if host.uid == 0 or not place.is_system]


def targets(place: SchedulePlace, host: Host) -> list[Target]:
    """Return the crontab or the systemd units of a place."""
    match place:
        case SchedulePlace.OWN_CRONTAB:
            return [crontab.UserCrontab(host)]
        case SchedulePlace.SYSTEM_CRONTAB:
            return [File(host.root / crontab.SYSTEM_FILE)]
        case SchedulePlace.OWN_TIMER:
            folder = host.unit_folder
        case SchedulePlace.SYSTEM_TIMER:
            folder = host.root / systemd.SYSTEM_UNITS
    return [File(folder / systemd.SERVICE), File(folder / systemd.TIMER)]


def this_python() -> str:
    """Return the path of the Python in which retrycli is installed. It does not depend on which of the interpreter's
    names (such as python3.12) started this process.
    """
    usual = Path(sys.executable).with_name("python3")
    return str(usual) if usual.exists() and usual.samefile(sys.executable) else sys.executable


def relied_on() -> tuple[Path, ...]:
    """Return the files that a pass runs: the interpreter, this package, and the folders of the environment's
    packages.
    """
    found = (this_python(), retrycli.__file__, *map(sysconfig.get_path, ("purelib", "platlib")))
    return tuple(dict.fromkeys(path for path in map(Path, found) if path.exists()))


def propose(
    place: SchedulePlace,
    loaded: Loaded,
    host: Host,
    *,
    run_as: str | None = None,
    program: Iterable[Path] | None = None,
) -> Job:
    """Return the pass that `install` schedules. Check that only root and the user who runs it can change what it does.

    Args:
        place: where the schedule is installed.
        loaded: the settings and their sources.
        host: the machine.
        run_as: the user who runs the passes. In the system's schedule the default is the owner of the database,
            otherwise of the settings file. In a user's own schedule it is the current user. Root must be named
            explicitly.
        program: the files that a pass runs; by default `relied_on`.

    Raises:
        ConfigurationError: the user does not exist, or is root although ``run_as`` is None; another user could control
            the passes; or a scheduler would not find these settings.
    """
    wanted = job(loaded, host, user=run_as if place.is_system else host.login)
    number = host.number(wanted.user)
    if number is None:
        raise ConfigurationError(f"the user {wanted.user} does not exist; name another with --run-as")
    if number == ROOT and run_as is None:
        raise ConfigurationError(
            "passes would run as root; name a user who can write to the database: --run-as USER "
            "(or --run-as root, if that is intended)"
        )
    _refuse_untrusted(wanted, loaded, {ROOT, number}, relied_on() if program is None else program)
    return wanted


def _refuse_untrusted(wanted: Job, loaded: Loaded, users: Collection[int], program: Iterable[Path]) -> None:
    """Reject a pass that other users could control.

    Raises:
        ConfigurationError: other users may change what the pass relies on. Or the owner of the settings is neither root
            nor the owner of the database, so someone else may have written the settings.
    """
    named = [
        path for gateway in loaded.settings.gateway.all.values() for path in (gateway.preset_file, gateway.ca_file)
    ]
    for path in filter(None, (Path(wanted.config), *named, *code_of(loaded.settings), *program)):
        if (weakness := find_weakness(path, users)) is not None:
            relying = "" if weakness.place == path else f", which exposes {path}"
            raise ConfigurationError(
                f"{weakness}{relying}, and passes run by {wanted.user} would rely on it; {weakness.remedy}"
            )
    config, database = Path(wanted.config), loaded.settings.database.file
    if database is None or not database.exists():
        return
    owner, its_owner = config.stat().st_uid, database.stat().st_uid
    if owner not in {ROOT, its_owner}:
        raise ConfigurationError(
            f"{config} belongs to {owner_of(config)}, but the database that it names, {database}, belongs to "
            f"{owner_of(database)}; if this is the right database, run `chown root {config}`, "
            f"and let {wanted.user} read the file"
        )


def code_of(settings: Settings) -> Iterator[Path]:
    """Yield the files of the functions that passes call, and the folders in which Python looks for their modules."""
    if calls := settings.calls:
        from retrycli.system.python_call import files_of

        for call in calls:
            yield from files_of(call.name, call.folder)
            if call.folder is not None:
                yield call.folder


def with_log(loaded: Loaded, wanted: Job) -> tuple[Job, list[FileChange]]:
    """Return the pass with a log, and the change to the settings that adds the log.

    The log is in `LOGS` if the user who runs the passes owns that folder, otherwise beside the database. There is no
    change if the pass already has a log, if the settings can't be changed, or if no folder is suitable.
    """
    file = Path(wanted.config).resolve()
    if loaded.settings.logging.file is not None or not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
        return wanted, []
    target = File(file, keeps_mode=True)
    before = target.read()
    database = loaded.settings.database.file
    if owner_of(LOGS) == wanted.user:
        log = LOGS / LOG
    elif database is not None:
        log = database.with_name(LOG)
    else:
        return wanted, []
    after = template.with_value(before, "logging", "file", str(log))
    if after is None:
        return wanted, []
    return replace(wanted, writes=_absolute([*wanted.writes, log.parent])), [FileChange(target, before, after)]


def job(loaded: Loaded, host: Host, *, user: str | None = None) -> Job:
    """Describe the pass that a scheduler starts with these settings.

    Args:
        loaded: the settings and their sources.
        host: the machine.
        user: the user who runs the passes; by default the owner of the database, otherwise of the settings file.

    Raises:
        ConfigurationError: a scheduler would not find these settings.
    """
    settings = loaded.settings
    config = config_path(loaded)
    elsewhere = [f"{key} ({source})" for key, source in loaded.sources.items() if not source.startswith("file ")]
    if elsewhere:
        raise ConfigurationError(
            f"a scheduler does not pass on your environment, which sets {', '.join(elsewhere)}; "
            f"set these keys in {config}, and secrets with their …_file keys"
        )
    database = settings.database.file
    return Job(
        interval=settings.schedule.interval,
        interpreter=this_python(),
        config=config,
        user=user or (database and owner_of(database)) or owner_of(Path(config)) or host.login,
        longest=timedelta(minutes=settings.run.deadline_minutes) + settings.gateway.longest + MARGIN,
        reads=_read_by(loaded),
        writes=_written_by(settings),
    )


def _read_by(loaded: Loaded) -> tuple[str, ...]:
    named = [
        path
        for gateway in loaded.settings.gateway.all.values()
        for path in (gateway.preset_file, gateway.ca_file, gateway.attachments_dir)
        if path is not None
    ]
    secrets = [source.removeprefix("file ") for source in loaded.sources.values() if source.startswith("file ")]
    return _absolute([*named, *secrets, *code_of(loaded.settings), Path(sys.executable).resolve()])


def _written_by(settings: Settings) -> tuple[str, ...]:
    """Return the folders that a pass writes to.

    SQLite's journal and, by default, the lock are in the database's folder. With a server database, the default lock
    needs no entry here, because systemd creates a state folder for the unit (StateDirectory=).
    """
    files = (
        settings.database.file,
        settings.run.lock_file,
        settings.metrics.path,
        settings.report.path,
        settings.logging.file,
    )
    return _absolute([file.absolute().parent for file in files if file is not None])


def _absolute(paths: Iterable[Path | str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(os.path.normpath(Path(path).absolute()) for path in paths))


def config_path(loaded: Loaded) -> str:
    """Return the absolute path of the settings file.

    Raises:
        ConfigurationError: there is no settings file.
    """
    if loaded.file is None:
        raise ConfigurationError(
            "no configuration file, which scheduled passes need because a scheduler does not pass on the environment; "
            "run `retrycli init` to create one"
        )
    return os.path.normpath(loaded.file.absolute())
