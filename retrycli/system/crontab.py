"""Read and write crontabs, examine cron's daemon, and find everything that runs a pass."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from retrycli.domain import cron_line
from retrycli.domain.cron_line import Caller
from retrycli.domain.errors import ConfigurationError
from retrycli.system.host import NOT_THERE, Finished, Host, checked, decoded, encoded, files_in, processes, read_text
from retrycli.system.systemd import has_systemd, is_active, timers

DAEMONS = frozenset({"cron", "crond", "fcron", "dcron"})
# Units of cron daemons; the last unit is that of systemd-cron, which has no daemon.
DAEMON_UNITS = ("cron.service", "crond.service", "cronie.service", "fcron.service", "dcron.service", "cron.target")
# Messages of ``crontab -l`` if there is no crontab; the second message is busybox's.
NO_CRONTAB = (b"no crontab for", b"No such file or directory")
SYSTEM_FILE = "etc/cron.d/retrycli"
START_TIME = 19  # index of a process's start time in its stat file, counted after the name (proc(5): field 22)
CRON_LOGS = ("var/log/syslog", "var/log/cron", "var/log/messages")
SPOOLS = ("var/spool/cron/crontabs", "var/spool/cron")


@dataclass(frozen=True, slots=True)
class UserCrontab:
    """A user's crontab, which is read and written through the command ``crontab``."""

    host: Host
    # The owner of the crontab; None means the current user. Only root may name another user.
    user: str | None = None

    @property
    def title(self) -> str:
        """Return the name to show to operators."""
        return f"the crontab of {self.user or self.host.login}"

    def read(self) -> str:
        """Return the crontab's text; empty if the user has no crontab, or if cron is not installed.

        Raises:
            ConfigurationError: ``crontab`` failed, for example because cron rejects this user.
        """
        done = self._run("-l")
        if done.returncode == NOT_THERE or (done.returncode and any(text in done.stderr for text in NO_CRONTAB)):
            return ""
        return decoded(self._checked(done).stdout)

    def write(self, text: str) -> None:
        """Replace the crontab's text. If the new text is empty, remove the crontab.

        Raises:
            ConfigurationError: cron is not installed, or rejects the text or this user.
        """
        self._checked(self._run("-", encoded(text)) if text else self._run("-r"))

    def _run(self, option: str, given: bytes = b"") -> Finished:
        return self.host.run(["crontab", *(["-u", self.user] if self.user else []), option], given)

    def _checked(self, done: Finished) -> Finished:
        login = self.host.login
        remedy = f"; check that cron is installed and {login} may use it, or use `retrycli cron install --systemd`"
        return checked(done, "crontab", remedy)


def callers(host: Host, unread: dict[str, str]) -> list[Caller]:
    """Find the crontab lines and timers on this machine that run a pass, and that the current user may read.

    Args:
        host: the machine.
        unread: receives the names of what can't be read, with the reasons. Only root may read other users' crontabs.
    """
    found = [*_in_crontabs(host, unread), *timers(host, unread)]
    has_zone = any(caller.zone is not None for caller in found)
    if has_zone and b"cronie" not in host.run(["crontab", "-V"], b"").stdout:  # Debian's cron ignores CRON_TZ
        return [replace(caller, zone=None) for caller in found]
    return found


def has_cron(host: Host) -> bool:
    """Return whether cron is installed. Try the command ``crontab``, because /etc/cron.d may exist without cron."""
    return host.run(["crontab", "-l"], b"").returncode != NOT_THERE


def is_running(host: Host, caller: Caller) -> bool | None:
    """Return whether the daemon or timer of a caller is active; None if this is unknown."""
    if caller.kind == "timer":
        own = Path(caller.title).is_relative_to(host.unit_folder)
        return is_active(host, Path(caller.title).name, own=own) if has_systemd(host) else False
    return cron_is_running(host)


def cron_is_running(host: Host) -> bool | None:
    """Return whether cron's daemon is active; None if unknown."""
    names = [name for _, name in processes(host.root / "proc")]
    if not DAEMONS.isdisjoint(names):
        return True
    if has_systemd(host) and (active := is_active(host, *DAEMON_UNITS, own=False)) is not None:
        return active
    return False if names else None


def heeded_since(host: Host, caller: Caller) -> datetime | None:
    """Estimate when cron began to use a line, from the start of cron's daemon and the modification time of the line's
    file. Return None if neither is known, or the caller is a timer.
    """
    if caller.kind != "cron":
        return None
    return max(filter(None, (_cron_started_at(host.root / "proc"), *_modified_at(host, caller))), default=None)


def _modified_at(host: Host, caller: Caller) -> Iterator[datetime]:
    """Yield the modification time of a line's file, if it is readable. Often only root can read user crontabs."""
    own = [host.root / spool / caller.owner for spool in SPOOLS]
    for path in own if caller.title == UserCrontab(host, caller.owner).title else [Path(caller.title)]:
        with suppress(OSError):
            yield datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _cron_started_at(proc: Path) -> datetime | None:
    """Return when cron's daemon started (proc(5)). If several processes have its name, the oldest is the daemon. The
    others are its forks that start jobs.
    """
    daemons = [path for path, name in processes(proc) if name in DAEMONS]
    try:
        boot = re.search(r"^btime (\d+)$", (proc / "stat").read_text(), re.MULTILINE)
        began = [int((daemon / "stat").read_text().rpartition(")")[2].split()[START_TIME]) for daemon in daemons]
    except (OSError, ValueError, IndexError):
        return None
    if boot is None or not began:
        return None
    return datetime.fromtimestamp(int(boot[1]) + min(began) / os.sysconf("SC_CLK_TCK"), UTC)


def daemon_commands(host: Host) -> dict[str, str]:
    """Return this machine's replacements for the cron commands that errors and help suggest.

    Without systemd the commands differ. On some systems cron has a different name, and `service` is often outside a
    user's search path. Root needs no sudo, which may not be installed.
    """
    is_crond = not (host.root / "usr/sbin/cron").exists() and (host.root / "usr/sbin/crond").exists()
    name, sudo = "crond" if is_crond else "cron", "" if host.uid == 0 else "sudo "
    status, start, log = f"systemctl status {name}", f"systemctl enable --now {name}", f"journalctl -u {name}"
    if not has_systemd(host):
        service = "service" if shutil.which("service") else "/usr/sbin/service"
        logs = [f"/{log}" for log in CRON_LOGS if (host.root / log).exists()]
        status, start = f"{service} {name} status", f"{service} {name} start"
        log = f"grep -i cron {logs[0] if logs else '/' + CRON_LOGS[0]}"
    return {
        "systemctl status cron": status,
        "sudo systemctl enable --now cron": sudo + start,
        "journalctl -u cron": log,
    }


def _in_crontabs(host: Host, unread: dict[str, str]) -> Iterator[Caller]:
    spools = SPOOLS if host.uid == 0 else ()
    users = {path.name for spool in spools for path in files_in(host.root / spool, r"[^.]+", unread)} - {host.login}
    for crontab in (UserCrontab(host), *(UserCrontab(host, name) for name in sorted(users))):
        title, user = crontab.title, crontab.user
        try:
            text = crontab.read()
        except ConfigurationError as error:
            unread[title] = str(error).partition(";")[0]
        else:
            yield from cron_line.calls(text, system=False, title=title, user=user, owner=user or host.login)
    # Debian's cron ignores files in /etc/cron.d whose names contain other characters.
    for path in [host.root / "etc/crontab", *files_in(host.root / "etc/cron.d", r"[\w-]+", unread)]:
        yield from cron_line.calls(read_text(path, unread), system=True, title=str(path))
