"""Read and write crontabs, and look whether cron's daemon runs."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
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
        done = self.host.run(["crontab", "-l"], b"")
        if done.returncode == NOT_THERE or (done.returncode and any(text in done.stderr for text in NO_CRONTAB)):
            return ""
        return decoded(self._checked(done).stdout)

    def write(self, text: str) -> None:
        """Replace the crontab's text. If the new text is empty, remove the crontab.

        Raises:
            ConfigurationError: cron is not installed, or rejects the text or this user.
        """
        self._checked(self.host.run(["crontab", "-" if text else "-r"], encoded(text)))

    def _checked(self, done: Finished) -> Finished:
        return checked(done, "crontab", f"; check that cron is installed and {self.host.login} may use it")


def target(host: Host, *, system: bool) -> UserCrontab | File:
    """Return retrycli's crontab in /etc, or the current user's crontab."""
    return File(host.root / SYSTEM_FILE) if system else UserCrontab(host)


def blocks(host: Host, config: Path | None, unread: list[str] | None = None) -> Iterator[Block]:
    """Yield retrycli's own blocks for a settings file, from the crontabs to which the current user can install one.
    Settings that come from no file have none. The reason why a crontab can't be read is added to ``unread``.
    """
    for system in (True, False) if config is not None else ():
        place, written = target(host, system=system), _written_at(host, system=system)
        try:
            found = block_in(
                place.read(), str(config), system=system, title=place.title, owner=host.login, written=written
            )
        except ConfigurationError as error:
            if unread is not None:
                unread.append(str(error).partition(";")[0])
            continue
        if found is not None:
            yield found


def _written_at(host: Host, *, system: bool) -> datetime | None:
    for file in [SYSTEM_FILE] if system else [f"{spool}/{host.login}" for spool in SPOOLS]:
        with suppress(OSError):  # often only root can examine users' crontabs
            return datetime.fromtimestamp((host.root / file).stat().st_mtime, UTC)
    return None


def cron_is_running(host: Host) -> bool | None:
    """Return whether cron's daemon is active; None if unknown."""
    names = [name for _, name in processes(host.root / "proc")]
    if not DAEMONS.isdisjoint(names):
        return True
    if (host.root / "run/systemd/system").is_dir():  # systemd is running, and not only installed
        code = host.run(["systemctl", "is-active", "--quiet", *DAEMON_UNITS], b"").returncode
        if code == 0 or code in NOT_ACTIVE:
            return code == 0
    return False if names else None
