"""Run real passes, each in a process forked from one that has imported everything: ``python -m tests.crash.forked``.

Forking is fast, so tests can afford many passes. It also ensures that an early kill hits the pass and not the start of
Python. This process reads its orders as lines of JSON, and prints the results in the same format. It is separate from
the tests, because a process with threads cannot fork safely.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from retrycli import load_settings
from retrycli.engine.ports import PassIdentity
from retrycli.engine.runner import run_pass
from retrycli.operations import wiring
from retrycli.operations.run_pass import _Lock, report_pass, run_once
from retrycli.system.pass_lock import PassLock
from tests.crash.points import Points
from tests.crash.scene import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IMPORTED_LATE = (
    "alembic.command",
    "retrycli.gateway.http.gateway",
    "sqlalchemy.dialects.postgresql.psycopg",
)
"""Modules that a pass imports on demand. They are imported before the fork."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A pass to run. It may be killed after some seconds or at a point."""

    config: str
    ahead_seconds: float
    """Seconds by which the pass's clock is ahead, so that no test waits until claims expire or messages are due."""
    after_seconds: float | None = None
    point: tuple[str, int] | None = None
    """The name of the point, and the number of the visit that kills the process."""
    listing: str | None = None
    """The file for the list of reached points. A pass without `listing` and `point` has no points."""


@dataclass(frozen=True, slots=True)
class Ended:
    pid: int
    exit_code: int
    seconds: float

    @property
    def killed(self) -> bool:
        return self.exit_code == -signal.SIGKILL


@contextmanager
def forking(folder: Path) -> Iterator[Callable[[Wanted], Ended]]:
    """Yield a function that runs a pass. The pass must succeed, or be killed as requested."""
    errors = folder / "errors"
    command = [sys.executable, "-m", "tests.crash.forked"]
    with (
        errors.open("w") as file,
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True
        ) as process,
    ):

        def run(wanted: Wanted) -> Ended:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(asdict(wanted)) + "\n")
            process.stdin.flush()
            ended = Ended(**json.loads(process.stdout.readline()))
            assert ended.exit_code in {0, -signal.SIGKILL}, errors.read_text()
            return ended

        yield run
        process.communicate()  # the end of its input ends the process


def main() -> None:
    """Fork a process for each line of the input."""
    for module in IMPORTED_LATE:
        import_module(module)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    for line in sys.stdin:
        wanted = Wanted(**json.loads(line))
        began = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            _make_pass_and_end(wanted)
        if wanted.after_seconds is not None and signal.sigtimedwait([signal.SIGCHLD], wanted.after_seconds) is None:
            os.kill(pid, signal.SIGKILL)  # the pid cannot belong to another process before `waitpid`
        _, status = os.waitpid(pid, 0)
        signal.sigtimedwait([signal.SIGCHLD], 0)
        ended = Ended(pid, os.waitstatus_to_exitcode(status), time.perf_counter() - began)
        print(json.dumps(asdict(ended)), flush=True)


def _make_pass_and_end(wanted: Wanted) -> None:
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        ahead = timedelta(seconds=wanted.ahead_seconds)
        runtime = replace(wiring.DEFAULT_RUNTIME, now=lambda: wiring.utc_now() + ahead)
        if wanted.point or wanted.listing:
            _make_pass_with_points(wanted, runtime)
        else:
            run_once(load_settings(Path(wanted.config)), runtime=runtime)
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        raise
    finally:
        os._exit(code)


def _make_pass_with_points(wanted: Wanted, runtime: wiring.Runtime) -> None:
    """Run a pass as `run_once` does, but with points in its dependencies."""
    settings = load_settings(Path(wanted.config))
    points = Points(None if wanted.point is None else (wanted.point[0], wanted.point[1]))
    points.listen()
    me = PassIdentity(str(uuid.uuid4()), socket.gethostname(), os.getpid())
    lock = _Lock(PassLock(wiring.lock_path(settings)), me, 0, runtime.now, runtime.stop_requested)
    with wiring.open_database(settings) as database:
        deps = points.watch(wiring.make_dependencies(settings, database, runtime))
        report_pass(settings, database, asyncio.run(run_pass(deps, lock, wiring.pass_rules(settings), me)), deps.now())
    if wanted.listing is not None:
        Path(wanted.listing).write_text(json.dumps(points.reached))


if __name__ == "__main__":
    main()
