"""No process outlives the tests, and no test outlives its limit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import watchdog
from tests.cli.command import SCRIPT, wait_until

ROOT = Path(__file__).parents[2]
RUN = f"""
import ctypes, os, signal, subprocess, time
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # should this test be killed
from tests import watchdog
run = watchdog.start()
from tests import postgresql
from tests.environment import BARE
postgresql.server()
held = subprocess.Popen(["{SCRIPT[0]}", "sandbox"], env=BARE, cwd="/", stdout=subprocess.PIPE, text=True)
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
        wait_until(lambda: {"postgres", "sleep"} < {*watchdog.processes(run).values()}, process)
        found = watchdog.processes(run)
        assert {process.pid, dog} < found.keys()
        assert [*watchdog.MEMORY.glob(f"retrycli-postgresql-*-{run}-*")]
        process.send_signal(number)
    watchdog.wait(found, 30)
    assert watchdog.processes(run) == {}
    assert [*watchdog.MEMORY.glob(f"retrycli-*-{run}-*")] == []


HANGING = """
import subprocess
from contextlib import suppress
import pytest

def loop():
    while True:
        pass

def test_loops():
    loop()

def test_swallows_the_failure():
    with suppress(BaseException):
        loop()
    loop()

def test_waits_for_a_process():
    process = subprocess.Popen(["sleep", "infinity"])
    try:
        with process:
            loop()
    finally:
        process.kill()
        process.wait()

@pytest.fixture
def cleans_up():
    yield
    loop()

def test_fails_and_cleans_up(cleans_up):
    raise AssertionError

@pytest.mark.timeout(0)
def test_goes_on():
    pass
"""


def test_a_test_that_hangs_fails_at_its_limit(tmp_path: Path) -> None:
    (tmp_path / "test_hanging.py").write_text(HANGING)
    options = ("-p", "pytest_timeout", "-p", "tests.limits", "--timeout=0.5", "-rA", "--tb=no", "--rootdir", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, tmp_path / "test_hanging.py"],
        cwd=ROOT,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    found = set(re.findall(r"(?m)^(PASSED|FAILED|ERROR) \S+::test_(\w+)", done.stdout))
    hanging = {"loops", "swallows_the_failure", "waits_for_a_process", "fails_and_cleans_up"}
    assert {name for word, name in found if word != "PASSED"} == hanging, done.stdout
    assert ("ERROR", "fails_and_cleans_up") in found
    assert {name for word, name in found if word == "PASSED"} == {"goes_on"}
