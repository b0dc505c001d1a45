"""The starter of this process, as far as the system tells."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from retrycli.domain.passes import StartedBy

CRONS = frozenset({"cron", "crond", "fcron", "anacron"})
LOGINS = frozenset({"login", "sshd", "sshd-session", "sudo", "su", "doas", "runuser"})
WRAPPERS = frozenset({"sh", "bash", "dash", "flock", "timeout", "nice", "ionice", "env", "chronic"})
"""Programs that only start another program."""
MANAGER = "systemd"
INVOCATION = "INVOCATION_ID"
"""systemd sets it for a unit's processes (systemd.exec(5)), and their children inherit it."""
STDIN = 0
HIGHEST = 64
"""The maximum number of parents to examine."""


def started_by(environment: Mapping[str, str], parents: Sequence[str], *, at_terminal: bool) -> StartedBy:
    """Return who started a process that was not told.

    Args:
        environment: the process's environment.
        parents: the names of its parent, its parent's parent and so on.
        at_terminal: it has a controlling terminal. A scheduler's job does not.
    """
    if at_terminal:
        return StartedBy.PERSON
    starter = next((name for name in parents if name not in WRAPPERS), None)
    if INVOCATION in environment and starter == MANAGER:
        return StartedBy.TIMER
    above = [name for name in parents if name in CRONS | LOGINS]
    if above:
        return StartedBy.CRON if above[0] in CRONS else StartedBy.PERSON
    return StartedBy.UNKNOWN


def parents(proc: Path = Path("/proc")) -> list[str]:
    """Return the names of this process's parent, its parent's parent and so on; none if the system does not tell."""
    found: list[str] = []
    with suppress(OSError, ValueError, IndexError):
        parent = _status(proc / "self")[1]
        while parent != "0" and len(found) < HIGHEST:
            name, parent, _ = _status(proc / parent)
            found.append(name)
    return found


def has_terminal(proc: Path = Path("/proc")) -> bool:
    """Tell if this process has a controlling terminal, even if its input is redirected, or a terminal as input."""
    if os.isatty(STDIN):
        return True
    with suppress(OSError, ValueError, IndexError):
        return _status(proc / "self")[2] != "0"
    return False


def _status(process: Path) -> tuple[str, str, str]:
    """Return a process's name, its parent and its terminal: see proc_pid_stat(5).

    Raises:
        OSError, ValueError, IndexError: the process does not exist, or can't be read.
    """
    head, _, rest = (process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")
    fields = rest.split()
    return head.partition("(")[2], fields[1], fields[4]
