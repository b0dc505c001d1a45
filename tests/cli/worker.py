"""A process of an application with a scheduler, and the program that it runs: ``python -m tests.cli.worker TIME``.

The program takes its settings from the environment. It prints ``waits`` whenever its scheduler waits for a tick. Each
line of its input is a time, to which its clock moves, or ``stop``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import retrycli
from retrycli.operations import wiring
from tests.cli.steered import Steered
from tests.environment import BARE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from threading import Event

ROOT = Path(__file__).parents[2]


class Worker:
    """A running process with a scheduler."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.expect("waits")

    def tell(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def expect(self, line: str) -> None:
        assert self.process.stdout
        assert self.process.stdout.readline() == f"{line}\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def a_worker(variables: Mapping[str, str], at: datetime) -> Iterator[Worker]:
    """Start a process whose clock shows a given time. Kill it at the end."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__, at.isoformat()],
        cwd=ROOT,
        env={**BARE, **variables, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Worker(process)
        finally:
            process.kill()


def main(at: datetime) -> None:
    clock = Steered(at)

    def wait(stop: Event, seconds: float) -> None:
        print("waits", flush=True)
        clock.wait(stop, seconds)

    runtime = replace(wiring.DEFAULT_RUNTIME, now=clock.now)
    scheduler = retrycli.Scheduler(retrycli.load_settings(), runtime=runtime, wait=wait)
    scheduler.start()
    for line in sys.stdin:
        if line == "stop\n":
            print(scheduler.stop(), flush=True)
        else:
            clock.settle()
            clock.move(datetime.fromisoformat(line.strip()))


if __name__ == "__main__":
    main(datetime.fromisoformat(sys.argv[1]))
