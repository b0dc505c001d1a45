"""A private machine for real cron, and other helpers for tests of schedules."""

from __future__ import annotations

import os
import shlex
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = Path(__file__).parents[2] / "cron"
PROGRAM = "/opt/retrycli/bin/python3"


def tool(name: str, package: str) -> str:
    """Return the path of a real tool; skip the test if it is not installed."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return found


def an_empty_queue(database: Path) -> None:
    """Create the application's table without failed messages."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(
            "CREATE TABLE pending_messages (id INTEGER PRIMARY KEY, ticket_id TEXT, message_type TEXT, "
            "subject TEXT, body TEXT, status TEXT, retry_count INTEGER, last_error TEXT)"
        )


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


RECORDER = """\
#!/bin/sh
# Stands where retrycli would: writes down how it was called, says nothing when all is well, and goes on.
{ echo "ARGUMENTS=$*"; echo "UMASK=$(umask)"; echo "FOLDER=$(pwd)"; env; } > "/opt/calls/call.$$"
echo call $PPID >> /opt/journal
test ! -e /opt/noisy || echo something is wrong >&2
"""
SENDMAIL = """\
#!/bin/sh
# Stands where the mailer would: cron hands it what a job printed.
cat > "/opt/mails/mail.$$"
"""


class Machine:
    """A real cron in a mount namespace, with private copies of the folders whose paths are compiled into cron.

    Cron runs the files of ``cron/`` unchanged, without this machine's jobs, even if another cron daemon runs.
    By default, libfaketime makes the clock run 600 times as fast, so a quarter of an hour takes 1.5 s.
    """

    PRIVATE = ("etc", "opt", "run", "usr/sbin", "var/spool/cron/crontabs", "dev/shm")
    """Folders with private copies in the namespace. ``dev/shm`` is mounted last, because it may contain `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        cron = tool("cron", "cron")
        self._faketime = tool("faketime", "faketime")
        self._unshare = [tool("unshare", "util-linux"), "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        if os.geteuid() != 0:
            pytest.skip("cron starts jobs for other users, so it has to be run by root")
        if (tried := run(*self._unshare, "mount", "--bind", "/opt", "/opt")).returncode:
            pytest.skip(f"can't create a mount namespace (CAP_SYS_ADMIN): {tried.stderr.strip()}")
        for folder in self.PRIVATE[1:]:
            (root / folder).mkdir(parents=True)
        run("cp", "-a", "/etc", root / "etc").check_returncode()
        shutil.rmtree(root / "etc/cron.d")
        (root / "etc/cron.d").mkdir()
        for mine in ("crontab", "environment", "default/locale"):  # they would add this machine's jobs and variables
            (root / "etc" / mine).unlink(missing_ok=True)
        shutil.rmtree(root / "etc/retrycli", ignore_errors=True)
        passwd = root / "etc/passwd"
        known = [line for line in passwd.read_text().splitlines() if not line.startswith("ticketing:")]
        # The user ticketing has root's id, because Python may be in /root.
        passwd.write_text("\n".join([*known, "ticketing:*:0:0::/opt:/bin/sh", ""]))
        shutil.copy(cron, root / "usr/sbin/cron")
        self.program(root / "usr/sbin/sendmail", SENDMAIL)
        for folder in ("calls", "mails", "retrycli/bin"):
            (root / "opt" / folder).mkdir(parents=True)

    def program(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def install(self, crontab: str, program: str = RECORDER) -> None:
        self.program(self.root / PROGRAM[1:], program)
        own, mode = ("var/spool/cron/crontabs/ticketing", 0o600), ("etc/cron.d/retrycli", 0o644)
        path, bits = own if crontab == "crontab" else mode
        shutil.copyfile(FILES / crontab, self.root / path)
        (self.root / path).chmod(bits)

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the namespace."""
        return run(*self._unshare, "sh", "-c", f'{self._binds}exec "$@"', "sh", *command)

    def at(self, clock: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the namespace without cron, at a time of the day on which `run_until` runs cron."""
        for left in (self.root / "dev/shm").glob("*faketime*"):  # of a cron that was killed; pids recur in namespaces
            left.unlink()
        return self.inside(self._faketime, "-f", f"@2026-01-01 {clock}", *command)

    def beside_cron(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the namespace while cron runs there, with the real clock."""
        script = f"{self._binds}/usr/sbin/cron -f -L 0 &\n"
        script += 'until grep -qx cron "/proc/$!/comm"; do sleep 0.05; done\nexec "$@"\n'
        return run(*self._unshare, "sh", "-c", script, "sh", *command)

    @property
    def _binds(self) -> str:
        each = (f"mount --bind {shlex.quote(str(self.root / folder))} /{folder}\n" for folder in self.PRIVATE)
        return "set -e\n" + "".join(each)

    def run_until(self, done: Callable[[], bool], *, speed: int = 600) -> None:
        """Run cron from just before noon until a condition holds, at most 60 s."""
        script = f"{self._binds}exec {self._faketime} -f '@2026-01-01 11:59:00 x{speed}' /usr/sbin/cron -f -L 0\n"
        with subprocess.Popen([*self._unshare, "sh", "-c", script]) as process:
            try:
                for _ in range(600):
                    if done():
                        return
                    assert process.poll() is None, f"cron ended with {process.returncode}"
                    time.sleep(0.1)
                pytest.fail("60 s, and cron has not done what was waited for")
            finally:
                process.kill()  # unshare ignores SIGTERM; --kill-child ends its children

    def journal(self) -> list[str]:
        """Return what jobs have written, in the order in which cron started the jobs: that of its processes' ids."""
        path = self.root / "opt/journal"
        entries = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [word for word, _ in sorted(entries, key=lambda entry: int(entry[1]))]

    def calls(self) -> list[dict[str, str]]:
        files = (self.root / "opt/calls").iterdir()
        return [dict(line.split("=", 1) for line in file.read_text().splitlines()) for file in files]

    def mails(self) -> list[str]:
        return [file.read_text() for file in (self.root / "opt/mails").iterdir()]
