"""Run processes that are timed from start to exit, and the server that receives their requests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[2]
OURS_TO_SET = ("PYTHON", "RETRYCLI_", "TICKETING_", "DJANGO_", "CREDENTIALS_")
"""Prefixes of variables that are not inherited. For example, PYTHONDONTWRITEBYTECODE would change the results."""
LONGEST_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Call:
    """A command to run: arguments of Python, and environment variables."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """The measurements and the output of one run."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    output: str


def run(call: Call) -> Sample:
    [sample] = run_together([call])
    return sample


def run_together(calls: Sequence[Call]) -> list[Sample]:
    """Start processes together, each in its own empty folder, and wait until all have ended.

    Linux counts the memory of this process as the child's while the child starts. So this process must stay smaller
    than any that it measures, and imports only the standard library.
    """
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(TemporaryDirectory())) for _ in calls]
        outputs = [stack.enter_context(TemporaryFile()) for _ in calls]
        began = time.perf_counter()
        started = [
            subprocess.Popen(_command(call), cwd=folder, env=_environment(call, folder), stdout=output, stderr=output)
            for call, folder, output in zip(calls, folders, outputs, strict=True)
        ]
        with ThreadPoolExecutor(len(calls)) as waiting:
            return list(waiting.map(partial(_ended, began), calls, started, outputs))


def _ended(began: float, call: Call, process: subprocess.Popen[bytes], output: IO[bytes]) -> Sample:
    watchdog = threading.Timer(LONGEST_SECONDS, os.kill, (process.pid, signal.SIGKILL))
    watchdog.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    watchdog.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    output.seek(0)
    text = output.read().decode(errors="replace")
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(call.arguments)} ended with {process.returncode}:\n{text[-2000:]}")
    return Sample(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, text)


class Server:
    """`server.py` in a separate process, for a `with` block."""

    def __init__(self, delay_ms: int) -> None:
        self.delay_ms = delay_ms

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.benchmarks.server", str(self.delay_ms)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:
            self.process.terminate()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def expect(self, count: int, of: str) -> None:
        """Require exactly this number of messages since the last check, without duplicates."""
        connection = HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", "/count")
        received, different = map(int, connection.getresponse().read().split())
        connection.close()
        if (received, different) != (count, count):
            raise SystemExit(f"{of}: the server got {received:,} messages, {different:,} different, not {count:,}")


def _command(call: Call) -> list[str]:
    return [sys.executable, *call.arguments]


def _environment(call: Call, folder: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS_TO_SET)}
    return {**inherited, "HOME": str(folder), "PYTHONPATH": str(ROOT), **call.environment}
