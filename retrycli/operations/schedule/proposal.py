"""Find where a cron line can be installed, and describe the pass that it starts: its command and its user."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from difflib import unified_diff
from enum import Enum
from pathlib import Path

from retrycli.config import template
from retrycli.config.loader import Loaded
from retrycli.domain.cron_line import Job
from retrycli.domain.errors import ConfigurationError
from retrycli.operations.reliance import refuse_passing, refuse_untrusted, relied_on, this_python
from retrycli.system import crontab
from retrycli.system.host import File, Host, owner_of
from retrycli.system.trust import ROOT

# The log folder that cron/logrotate names, and the log file's name, which is the same in every folder.
LOGS, LOG = Path("/var/log/retrycli"), "retrycli.log"

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


def propose(
    place: SchedulePlace,
    loaded: Loaded,
    host: Host,
    *,
    run_as: str | None = None,
    program: Iterable[Path] | None = None,
) -> Job:
    """Return the pass that `install` schedules. Check that only root and the user who runs it can change what it does.
    Root must be named explicitly as that user.

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
    refuse_untrusted(wanted, loaded, {ROOT, number}, relied_on() if program is None else program)
    return wanted


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
    """Describe the pass that cron starts with these settings. By default, the owner of the database runs it, otherwise
    the owner of the settings file.

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
