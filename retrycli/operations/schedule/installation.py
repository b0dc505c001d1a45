"""Install and remove the cron line that starts passes, and describe the pass: its command and its user."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

from retrycli.config import template
from retrycli.config.loader import Loaded
from retrycli.domain import cron_line
from retrycli.domain.cron_line import Job
from retrycli.domain.errors import ConfigurationError
from retrycli.operations.reliance import refuse_passing, refuse_untrusted, this_python
from retrycli.system import crontab
from retrycli.system.host import NOT_THERE, File, Host, owner_of
from retrycli.system.trust import ROOT, find_weakness

# The log folder that cron/logrotate names, and the log file's name, which is the same in every folder.
LOGS, LOG = Path("/var/log/retrycli"), "retrycli.log"


@dataclass(frozen=True, slots=True)
class FileChange:
    """The change to one crontab or file; ``after`` is empty if the file is removed."""

    target: crontab.UserCrontab | File
    before: str
    after: str

    @property
    def diff(self) -> str:
        """Return the change as a unified diff."""
        title = self.target.title
        before, after = (text.removesuffix("\n").split("\n") if text else [] for text in (self.before, self.after))
        return "\n".join(unified_diff(before, after, title, title, lineterm=""))


def install(wanted: Job, host: Host) -> list[FileChange]:
    """Return the changes that schedule a pass; an empty list if the wanted cron line is already installed.

    Raises:
        ConfigurationError: another crontab has a block for the same settings; cron is not installed, or can't express
            the interval; or a path can't be written in a crontab.
    """
    target = crontab.target(host, system=wanted.system)
    for block in crontab.blocks(host, Path(wanted.config)):
        if block.title != target.title:
            raise ConfigurationError(
                f"{block.title} already starts passes with these settings at {block.when or 'its own times'}; keep it "
                "(check it with `retrycli cron check`), or first run `retrycli cron remove`"
            )
    # Try the command `crontab`, because /etc/cron.d may exist without cron.
    if host.run(["crontab", "-l"], b"").returncode == NOT_THERE:
        raise ConfigurationError(
            "cron is not installed on this machine; install it, or use a systemd timer: see `retrycli manual cron`"
        )
    return [*_changes(target, wanted.config, cron_line.block(wanted))]


def remove(config: str, host: Host, *, user: bool = False) -> list[FileChange]:
    """Return the changes that remove what `cron install` wrote for a settings file, from the crontabs that the current
    user may change, or only from the user's own.

    Raises:
        ConfigurationError: a crontab can't be read, or the end of retrycli's block in it is missing.
    """
    places = [False] if user or host.uid != 0 else [False, True]
    return [change for each in places for change in _changes(crontab.target(host, system=each), config, "")]


def _changes(target: crontab.UserCrontab | File, config: str, block: str) -> Iterator[FileChange]:
    before = target.read()
    after = cron_line.with_block(before, config, block)
    if before != after:
        yield FileChange(target, before, after)


def apply(changes: Sequence[FileChange]) -> None:
    """Write the confirmed changes.

    Raises:
        ConfigurationError: a crontab has changed since it was read, or can't be written.
    """
    for change in changes:
        if change.target.read() != change.before:
            raise ConfigurationError(
                f"{change.target.title} was modified in the meantime, so it was not overwritten. Run this command again"
            )
    for change in changes:
        change.target.write(change.after)


def added_log(loaded: Loaded, wanted: Job) -> list[FileChange]:
    """Return the change to the settings that adds a log.

    The log is in `LOGS` if the user who runs the passes owns that folder, otherwise beside the database. There is no
    change if the pass already has a log, if the settings can't be changed, or if no folder is suitable.
    """
    file, database = Path(wanted.config).resolve(), loaded.settings.database.file
    log = LOGS / LOG if owner_of(LOGS) == wanted.user else database and database.with_name(LOG)
    may_change = os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)
    if log is None or loaded.settings.logging.file is not None or not may_change:
        return []
    target = File(file, keeps_mode=True)
    before = target.read()
    after = template.with_value(before, "logging", "file", str(log))
    return [] if after is None else [FileChange(target, before, after)]


def propose(loaded: Loaded, host: Host, *, system: bool, run_as: str | None = None) -> Job:
    """Return the pass that `install` schedules. Check that only root and the user who runs it can change what it does.
    Root must be named explicitly as that user.

    Raises:
        ConfigurationError: the user does not exist, or is root although ``run_as`` is None; another user could control
            the passes; the interpreter will not last; or cron would not find these settings.
    """
    wanted = job(loaded, host, user=run_as if system else host.login, system=system)
    number = host.number(wanted.user)
    if number is None:
        raise ConfigurationError(f"the user {wanted.user} does not exist; name another with --run-as")
    if number == ROOT and run_as is None:
        raise ConfigurationError(
            "passes would run as root; name a user who can write to the database: --run-as USER "
            "(or --run-as root, if that is intended)"
        )
    refuse_passing(wanted.interpreter)
    refuse_untrusted(wanted, loaded.settings, {ROOT, number})
    return wanted


def job(loaded: Loaded, host: Host, *, user: str | None = None, system: bool = True) -> Job:
    """Describe the pass that cron starts. By default, the owner of the database runs it, else that of the settings.

    Raises:
        ConfigurationError: cron would not find these settings.
    """
    settings, config = loaded.settings, config_path(loaded)
    elsewhere = [f"{key} ({source})" for key, source in loaded.sources.items() if not source.startswith("file ")]
    if elsewhere:
        raise ConfigurationError(
            f"cron does not pass on your environment, which sets {', '.join(elsewhere)}; "
            f"set these keys in {config}, and secrets with their …_file keys"
        )
    database = settings.database.file
    user = user or (database and _sole_owner(database)) or owner_of(Path(config)) or host.login
    return Job(settings.schedule.interval, this_python(), config, user, system)


def _sole_owner(database: Path) -> str | None:
    """Return the owner of a database; None if another user may choose it, for example by a link to it."""
    try:
        weakness = find_weakness(database, {ROOT, database.stat().st_uid})
    except OSError:
        return None
    return owner_of(database) if weakness is None or weakness.owner is None else None


def config_path(loaded: Loaded) -> str:
    """Return the absolute path of the settings file.

    Raises:
        ConfigurationError: there is no settings file.
    """
    if loaded.settings.file is None:
        raise ConfigurationError(
            "no configuration file, which scheduled passes need because a scheduler does not pass on the environment; "
            "run `retrycli init` to create one"
        )
    return str(loaded.settings.file)
