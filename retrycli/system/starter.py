"""Who started this process, as far as the system tells."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from retrycli.domain.pass_summary import StartedBy

CRONS = frozenset({"cron", "crond", "fcron", "anacron"})
LOGINS = frozenset({"login", "sshd", "sshd-session", "sudo", "su", "doas", "runuser"})
WRAPPERS = frozenset({"sh", "bash", "dash", "flock", "timeout", "nice", "ionice", "env", "chronic"})
"""Programs that only start another one."""
MANAGER = "systemd"
INVOCATION = "INVOCATION_ID"
"""systemd gives it to all that a unit starts (systemd.exec(5)), and whoever descends from that inherits it."""
STDIN = 0
HIGHEST = 64
"""How far up the parents are looked at."""


def started_by(environment: Mapping[str, str], parents: Sequence[str], *, at_terminal: bool) -> StartedBy:
    """Tell who started a process that nobody has told.

    Args:
        environment: the process's own.
        parents: the names of its parent, its parent's parent and so on.
        at_terminal: whether it has a controlling terminal. A scheduler's job has none.
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
    """Return whether this process has a controlling terminal, also if its input is elsewhere, or one for its input."""
    if os.isatty(STDIN):
        return True
    with suppress(OSError, ValueError, IndexError):
        return _status(proc / "self")[2] != "0"
    return False


def _status(process: Path) -> tuple[str, str, str]:
    """Return a process's name, its parent and its terminal: see proc_pid_stat(5).

    Raises:
        OSError, ValueError, IndexError: there is none, or it can't be read.
    """
    head, _, rest = (process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")
    fields = rest.split()
    return head.partition("(")[2], fields[1], fields[4]
