"""Find where a cron line can be installed, and describe the pass that it starts: its command and its user."""

import os
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
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
from retrycli.system import crontab
from retrycli.system.host import File, Host, owner_of
from retrycli.system.trust import ROOT, find_weakness

# The log folder that cron/logrotate names, and the log file's name, which is the same in every folder.
LOGS, LOG = Path("/var/log/retrycli"), "retrycli.log"

# Folders that `uvx`, `pipx run` and others empty without asking, and those for temporary files.
CACHES = frozenset({".cache", "archive-v0"})
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  compared, never opened

MARGIN = timedelta(seconds=90)  # time for a pass to record results after its deadline and its last request


Target = crontab.UserCrontab | File  # a crontab, or another file that an installation changes


@dataclass(frozen=True, slots=True)
class FileChange:
    """The change to one crontab or file; ``after`` is empty if the file is removed."""

    target: Target
    before: str
    after: str

    @property
    def diff(self) -> str:
        """Return the change as a unified diff."""
        titles = (self.target.title, self.target.title)
        before, after = (text.removesuffix("\n").split("\n") for text in (self.before, self.after))
        return "\n".join(unified_diff(before if self.before else [], after if self.after else [], *titles, lineterm=""))


class SchedulePlace(Enum):
    """A crontab in which to install a cron line: the user's own, or the system's."""

    OWN_CRONTAB = "own crontab"
    SYSTEM_CRONTAB = "system crontab"

    @classmethod
    def of(cls, host: Host, *, user: bool) -> "SchedulePlace":
        """Return the place that an option selects. Only root can choose between the system's crontab and root's own."""
        return cls.OWN_CRONTAB if user or host.uid != 0 else cls.SYSTEM_CRONTAB

    @property
    def is_system(self) -> bool:
        """Return whether the lines of the crontab name the user who runs the passes."""
        return self is SchedulePlace.SYSTEM_CRONTAB

    def target(self, host: Host) -> Target:
        """Return the crontab."""
        return File(host.root / crontab.SYSTEM_FILE) if self.is_system else crontab.UserCrontab(host)


def reachable(host: Host) -> list[SchedulePlace]:
    """Return the places that the current user may change."""
    return [place for place in SchedulePlace if host.uid == 0 or not place.is_system]


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
            the passes; the interpreter will not last; or cron would not find these settings.
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
    refuse_passing(wanted.interpreter)
    _refuse_untrusted(wanted, loaded, {ROOT, number}, relied_on() if program is None else program)
    return wanted


def refuse_passing(interpreter: str) -> None:
    """Reject an interpreter that may be deleted at any time: in a tool's cache, or in a folder for temporary files."""
    path = Path(interpreter)
    if not CACHES.isdisjoint(path.parts) or any(path.is_relative_to(folder) for folder in TEMPORARY):
        raise ConfigurationError(
            f"{interpreter} is in a cache or a temporary folder, which may be emptied, and then passes would fail; "
            "install retrycli with `uv tool install retrycli` or in a virtual environment, and run this command there"
        )


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


def added_log(loaded: Loaded, wanted: Job) -> list[FileChange]:
    """Return the change to the settings that adds a log.

    The log is in `LOGS` if the user who runs the passes owns that folder, otherwise beside the database. There is no
    change if the pass already has a log, if the settings can't be changed, or if no folder is suitable.
    """
    file = Path(wanted.config).resolve()
    if loaded.settings.logging.file is not None or not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
        return []
    target = File(file, keeps_mode=True)
    before = target.read()
    database = loaded.settings.database.file
    if owner_of(LOGS) == wanted.user:
        log = LOGS / LOG
    elif database is not None:
        log = database.with_name(LOG)
    else:
        return []
    after = template.with_value(before, "logging", "file", str(log))
    return [] if after is None else [FileChange(target, before, after)]


def job(loaded: Loaded, host: Host, *, user: str | None = None) -> Job:
    """Describe the pass that cron starts with these settings.

    Args:
        loaded: the settings and their sources.
        host: the machine.
        user: the user who runs the passes; by default the owner of the database, otherwise of the settings file.

    Raises:
        ConfigurationError: cron would not find these settings.
    """
    settings = loaded.settings
    config = config_path(loaded)
    elsewhere = [f"{key} ({source})" for key, source in loaded.sources.items() if not source.startswith("file ")]
    if elsewhere:
        raise ConfigurationError(
            f"cron does not pass on your environment, which sets {', '.join(elsewhere)}; "
            f"set these keys in {config}, and secrets with their …_file keys"
        )
    database = settings.database.file
    return Job(
        interval=settings.schedule.interval,
        interpreter=this_python(),
        config=config,
        user=user or (database and owner_of(database)) or owner_of(Path(config)) or host.login,
    )


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
