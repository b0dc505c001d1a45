"""End all processes of a test run when it ends, also if it is killed: ``python tests/watchdog.py RUN PID``.

The processes of a run are marked by a resource limit that Linux accepts, but no longer enforces. Every child process
inherits it: a daemon, a process of another user, and one with an empty environment. The watchdog is a process of its
own, which waits for the end of the process that started it.
"""

from __future__ import annotations

import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

RLIMIT_LOCKS = 10
MEMORY = Path("/dev/shm")
GRACE = 10
"""Seconds in which a process may end by itself."""
ATTEMPTS = 20
started: dict[int, int] = {}
"""The pids of this process's watchdogs, by run."""


def start() -> int:
    """Mark this process and its children as a new run, and start a watchdog for them; return the run's number.

    The hard limit keeps the number of an outer run, whose watchdog ends this run too.
    """
    _, outer = resource.getrlimit(RLIMIT_LOCKS)
    most = 2**40 if outer == resource.RLIM_INFINITY else outer
    run = random.randrange(most // 2, most)
    resource.setrlimit(RLIMIT_LOCKS, (run, run if outer == resource.RLIM_INFINITY else outer))
    command = [sys.executable, "-I", "-S", __file__, str(run), str(os.getpid())]
    streams = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    started[run] = os.posix_spawn(sys.executable, command, os.environ, file_actions=streams, setsid=True)
    return run


def make_folder(name: str, where: Path | None = None) -> Path:
    """Create a temporary folder that the watchdog deletes if the run does not; start a run if there is none."""
    if resource.getrlimit(RLIMIT_LOCKS)[0] == resource.RLIM_INFINITY:
        start()
    run, outer = resource.getrlimit(RLIMIT_LOCKS)
    return Path(tempfile.mkdtemp(prefix=f"retrycli-{name}-{outer}-{run}-", dir=where))


def processes(run: int) -> dict[int, str]:
    """Return the pids and names of a run's processes, except for this process and its watchdogs."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended
            if f" {run} " in (folder / "limits").read_text():
                name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(") ")
                if rest[0] not in "XZ":
                    found[int(folder.name)] = name
    return {pid: name for pid, name in found.items() if pid not in {os.getpid(), *started.values()}}


def wait(pids: Collection[int], seconds: float) -> None:
    """Wait until these processes have ended, or the time is over."""
    deadline = time.monotonic() + seconds
    for pid in pids:
        with suppress(ProcessLookupError):
            watched = os.pidfd_open(pid)
            ended = select.poll()
            ended.register(watched, select.POLLIN)
            ended.poll(max(0, deadline - time.monotonic()) * 1000)
            os.close(watched)


def left(run: int) -> dict[int, str]:
    """Return the processes of a run that do not end by themselves."""
    wait(processes(run), GRACE)
    return processes(run)


def end(run: int) -> None:
    """Kill the processes of a run, and delete its folders. PostgreSQL gets the time to free its shared memory."""
    databases = [pid for pid, name in processes(run).items() if name == "postgres"]
    _send(signal.SIGKILL, processes(run).keys() - databases)
    _send(signal.SIGQUIT, databases)
    wait(databases, GRACE)
    for _ in range(ATTEMPTS):  # a process may have started another one in the meantime
        if not (pids := processes(run)):
            break
        _send(signal.SIGKILL, pids)
        wait(pids, 1)
    for where in {MEMORY, Path(tempfile.gettempdir())}:
        for folder in where.glob(f"retrycli-*-{run}-*"):
            shutil.rmtree(folder, ignore_errors=True)


def _send(number: signal.Signals, pids: Collection[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def main(run: int, parent: int) -> None:
    """Wait for the end of the process that started this one, and end what it has left."""
    with suppress(ProcessLookupError):
        watched = os.pidfd_open(parent)
        if os.getppid() == parent:
            select.select([watched], [], [])
    end(run)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
