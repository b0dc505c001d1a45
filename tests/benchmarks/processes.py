"""Processes: one that is timed from its start to its exit, and the server that they all send to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
OURS_TO_SET = ("PYTHON", "RETRYCLI_", "TICKETING_", "DJANGO_", "CREDENTIALS_")
"""What else the caller's environment may say about these, PYTHONDONTWRITEBYTECODE above all, would show."""
LONGEST_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Call:
    """What to run: arguments of Python, and environment variables."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run took, and what it printed."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    output: str


def run(call: Call, folder: Path) -> Sample:
    """Run a process in a folder of its own and wait for its end.

    Linux counts what this process has in memory while it starts a child as the child's, so this one must stay
    smaller than any that it measures: it imports nothing but the standard library.
    """
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            _command(call), cwd=folder, env=_environment(call, folder), stdout=output, stderr=output
        )
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
    """`server.py` in a process of its own, for as long as a `with` block lasts."""

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
        """Hold a run to exactly so many messages since the last look."""
        connection = HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", "/count")
        received = int(connection.getresponse().read())
        connection.close()
        if received != count:
            raise SystemExit(f"{of}: the server got {received:,} messages instead of {count:,}")


def _command(call: Call) -> list[str]:
    return [sys.executable, *call.arguments]


def _environment(call: Call, folder: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS_TO_SET)}
    return {**inherited, "HOME": str(folder), "PYTHONPATH": str(ROOT), **call.environment}
