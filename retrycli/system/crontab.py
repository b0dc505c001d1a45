"""Read and write crontabs, and look whether cron's daemon runs."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from retrycli.domain.cron_line import Block, block_in
from retrycli.domain.errors import ConfigurationError
from retrycli.system.host import NOT_THERE, File, Finished, Host, checked, decoded, encoded, processes

DAEMONS = frozenset({"cron", "crond", "fcron", "dcron"})
# Units of cron daemons; the last unit is that of systemd-cron, which has no daemon.
DAEMON_UNITS = ("cron.service", "crond.service", "cronie.service", "fcron.service", "dcron.service", "cron.target")
NOT_ACTIVE = (3, 4)  # exit statuses of ``systemctl is-active`` for units that are inactive or missing
# Messages of ``crontab -l`` if there is no crontab; the second message is busybox's.
NO_CRONTAB = (b"no crontab for", b"No such file or directory")
SYSTEM_FILE = "etc/cron.d/retrycli"
CRON_LOGS = ("var/log/syslog", "var/log/cron", "var/log/messages")
SPOOLS = ("var/spool/cron/crontabs", "var/spool/cron")


@dataclass(frozen=True, slots=True)
class UserCrontab:
    """The current user's crontab, which is read and written through the command ``crontab``."""

    host: Host

    @property
    def title(self) -> str:
        """Return the name to show to operators."""
        return f"the crontab of {self.host.login}"

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
        return self.host.run(["crontab", option], given)

    def _checked(self, done: Finished) -> Finished:
        return checked(done, "crontab", f"; check that cron is installed and {self.host.login} may use it")


def blocks(host: Host, config: str, unread: list[str]) -> Iterator[Block]:
    """Yield retrycli's own blocks for a settings file, from the crontabs to which the current user can install one. The
    reason why a crontab can't be read is added to ``unread``.
    """
    for target in (File(host.root / SYSTEM_FILE), UserCrontab(host)):
        system = isinstance(target, File)
        try:
            text = target.read()
        except ConfigurationError as error:
            unread.append(str(error).partition(";")[0])
            continue
        block = block_in(text, config, system=system, title=target.title, owner=host.login)
        if block is not None:
            paths = [host.root / SYSTEM_FILE] if system else [host.root / spool / host.login for spool in SPOOLS]
            yield replace(block, written=max(_modified_at(paths), default=None))


def _modified_at(paths: list[Path]) -> Iterator[datetime]:
    """Yield the modification times of those files that exist and can be examined. Often only root can examine users'
    crontabs.
    """
    for path in paths:
        with suppress(OSError):
            yield datetime.fromtimestamp(path.stat().st_mtime, UTC)


def has_cron(host: Host) -> bool:
    """Return whether cron is installed. Try the command ``crontab``, because /etc/cron.d may exist without cron."""
    return host.run(["crontab", "-l"], b"").returncode != NOT_THERE


def cron_is_running(host: Host) -> bool | None:
    """Return whether cron's daemon is active; None if unknown."""
    names = [name for _, name in processes(host.root / "proc")]
    if not DAEMONS.isdisjoint(names):
        return True
    if has_systemd(host):
        code = host.run(["systemctl", "is-active", "--quiet", *DAEMON_UNITS], b"").returncode
        if code == 0 or code in NOT_ACTIVE:
            return code == 0
    return False if names else None


def has_systemd(host: Host) -> bool:
    """Return whether systemd is running on this machine, and not only installed."""
    return (host.root / "run/systemd/system").is_dir()


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
