"""No process outlives the tests."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import watchdog
from tests.served import SCRIPT

ROOT = Path(__file__).parents[2]
RUN = f"""
import ctypes, os, signal, subprocess, time
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # should this test be killed
from tests import watchdog
run = watchdog.start()
from tests import postgresql, served
from tests.environment import BARE
postgresql.server()
held = served.Served(["{SCRIPT}", "sandbox"], env=BARE, cwd="/", stdout=subprocess.PIPE, text=True)
held.stdout.readline()
subprocess.Popen(["setsid", "--fork", "env", "-i", "sleep", "infinity"]).wait()
if os.fork() == 0:
    signal.pause()
print(run, watchdog.started[run], flush=True)
while True:
    pass
"""
"""Starts a server, a held command, a daemon with an empty environment, and a copy of itself; then loops for ever."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_tests(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", RUN], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        run, dog = map(int, process.stdout.readline().split())
        found = watchdog.processes(run)
        assert {"postgres", "sleep"} < {*found.values()}
        assert {process.pid, dog} < found.keys()
        assert [*watchdog.MEMORY.glob(f"retrycli-postgresql-*-{run}-*")]
        process.send_signal(number)
    watchdog.wait(found, 30)
    assert watchdog.processes(run) == {}
    assert [*watchdog.MEMORY.glob(f"retrycli-*-{run}-*")] == []
