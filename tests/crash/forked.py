"""Run real passes, each in a process forked from one that has imported everything: ``python -m tests.crash.forked``.

Forking is fast, so tests can afford many passes. It also ensures that an early kill hits the pass and not the start of
Python. This process reads its orders as lines of JSON, and prints the results in the same format. It is separate from
the tests, because a process with threads cannot fork safely.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from retrycli import load_settings
from retrycli.operations import wiring
from retrycli.operations.run_pass import run_once
from tests.crash.scene import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


IMPORTED_LATE = ("alembic.command", "retrycli.gateway.http.gateway", "sqlalchemy.dialects.postgresql.psycopg")
"""Modules that a pass imports on demand. They are imported before the fork."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A pass to run."""

    config: str
    ahead_seconds: float
    """Seconds by which the pass's clock is ahead, so that no test waits until claims expire or messages are due."""


@dataclass(frozen=True, slots=True)
class Ended:
    pid: int
    exit_code: int

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


def main() -> None:
    """Fork a process for each line of the input. Print its pid, and how it ended."""
    for module in IMPORTED_LATE:
        import_module(module)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _make_pass_and_end(Wanted(**json.loads(line)))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(json.dumps(asdict(Ended(pid, os.waitstatus_to_exitcode(status)))), flush=True)


def _make_pass_and_end(wanted: Wanted) -> None:
    code = 1
    try:
        ahead = timedelta(seconds=wanted.ahead_seconds)
        runtime = replace(wiring.DEFAULT_RUNTIME, now=lambda: wiring.utc_now() + ahead)
        run_once(load_settings(Path(wanted.config)), runtime=runtime)
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        raise
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
