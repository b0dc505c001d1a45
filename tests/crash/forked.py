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
import uuid
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVarTuple

from retrycli import load_settings
from retrycli.engine.ports import PassIdentity
from retrycli.engine.runner import run_pass
from retrycli.operations import wiring
from retrycli.operations.run_pass import _Lock, report_pass, run_once
from retrycli.system.pass_lock import PassLock
from tests.crash.points import Points, stands_for_others
from tests.crash.scene import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from tests.crash.scene import Scene

Rest = TypeVarTuple("Rest")

IMPORTED_LATE = (
    "alembic.command",
    "retrycli.gateway.http.gateway",
    "sqlalchemy.dialects.postgresql.psycopg",
)
"""Modules that a pass imports on demand. They are imported before the fork."""
TICK = timedelta(milliseconds=40)
"""The time between two calls of a clock. Even a pass of a few messages then writes heartbeats."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A pass to run, and the point at which it kills itself, if any. Without `point` and `met`, it has no points."""

    config: str
    ahead_seconds: float
    """Seconds by which the pass's clock is ahead, so that no test waits until claims expire or messages are due."""
    point: str | None = None
    """The point whose first visit is fatal."""
    met: Sequence[str] | None = None
    """The points that are no longer fatal. The first visit to any other point is."""
    thorough: bool = False
    """Make later visits fatal too, and points that others stand for."""

    def is_fatal(self, visit: str) -> bool:
        if self.met is None:
            return visit == self.point
        return visit not in self.met and (self.thorough or stands_for_others(visit))


@dataclass(frozen=True, slots=True)
class Ended:
    pid: int
    exit_code: int
    point: str
    """The point at which the pass killed itself, or an empty text."""

    @property
    def killed(self) -> bool:
        return self.exit_code == -signal.SIGKILL


class Run(Protocol):
    """Run a pass. The pass must succeed, or be killed."""

    def __call__(self, wanted: Wanted, *, started: Callable[[int], object] = ...) -> Ended:
        """Call `started` with the pid, and return when the process has ended."""


@contextmanager
def forking(folder: Path) -> Iterator[Run]:
    """Yield a function that runs a pass."""
    errors = folder / "errors"
    command = [sys.executable, "-m", "tests.crash.forked"]
    with (
        errors.open("w") as file,
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True
        ) as process,
    ):

        def run(wanted: Wanted, *, started: Callable[[int], object] = lambda _: None) -> Ended:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(asdict(wanted)) + "\n")
            process.stdin.flush()
            started(int(process.stdout.readline()))
            ended = Ended(**json.loads(process.stdout.readline()))
            assert ended.exit_code in {0, -signal.SIGKILL}, errors.read_text()
            return ended

        yield run
        process.communicate()  # the end of its input ends the process


def kill_at_each_point(
    run: Run, wanted: Wanted, met: set[str], start: Callable[[], AbstractContextManager[tuple[Scene, *Rest]]]
) -> Iterator[tuple[tuple[Scene, *Rest], Ended]]:
    """Kill passes from equal starts, each at the first point that is not in `met`, until a pass reaches no other one.

    Yield each start after its kill, and the killed process. Add its point to `met`.
    """
    while True:
        with start() as there:
            ended = run(replace(wanted, config=str(there[0].config), met=sorted(met)))
            if not ended.killed:
                return
            assert ended.point not in met
            met.add(ended.point)
            yield there, ended


def main() -> None:
    """Fork a process for each line of the input. Print its pid, and how it ended."""
    for module in IMPORTED_LATE:
        import_module(module)
    for line in sys.stdin:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            _make_pass_and_end(Wanted(**json.loads(line)), writing)
        os.close(writing)
        print(pid, flush=True)
        with os.fdopen(reading) as told:
            point = told.read()
        _, status = os.waitpid(pid, 0)
        print(json.dumps(asdict(Ended(pid, os.waitstatus_to_exitcode(status), point))), flush=True)


def _make_pass_and_end(wanted: Wanted, told: int) -> None:
    code = 1
    try:
        ahead = timedelta(seconds=wanted.ahead_seconds)
        runtime = replace(wiring.DEFAULT_RUNTIME, now=lambda: wiring.utc_now() + ahead)
        if wanted.point is None and wanted.met is None:
            run_once(load_settings(Path(wanted.config)), runtime=runtime)
        else:
            _make_pass_with_points(wanted, replace(runtime, now=_ticking(runtime.now())), told)
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        raise
    finally:
        os._exit(code)


def _ticking(at: datetime) -> Callable[[], datetime]:
    """Return a clock that moves at each call, so that the points of a pass do not depend on the machine's speed."""
    calls = count()
    return lambda: at + next(calls) * TICK


def _make_pass_with_points(wanted: Wanted, runtime: wiring.Runtime, told: int) -> None:
    """Run a pass as `run_once` does, but with points in its dependencies."""
    settings = load_settings(Path(wanted.config))
    points = Points(wanted.is_fatal, told)
    points.listen()
    me = PassIdentity(str(uuid.uuid4()), socket.gethostname(), os.getpid())
    lock = _Lock(PassLock(wiring.lock_path(settings)), me, 0, runtime.now, runtime.stop_requested)
    with wiring.open_database(settings) as database:
        deps = points.watch(wiring.make_dependencies(settings, database, runtime))
        report_pass(settings, database, asyncio.run(run_pass(deps, lock, wiring.pass_rules(settings), me)), deps.now())


if __name__ == "__main__":
    main()
