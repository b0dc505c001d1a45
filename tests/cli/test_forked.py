"""A command forked by the tests' server behaves like one that the system starts: see `tests.fork_server`."""

from __future__ import annotations

import logging
import os
import re
import resource
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from retrycli.domain import suggested
from tests.cli.api import REJECTS, TAKES, Meanwhile
from tests.cli.command import LONGEST, end, wait_until
from tests.cli.story import Api
from tests.served import Served, can_serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = pytest.mark.forked

COMMANDS = {
    "--help": 0,
    "list-failed --sort colour": 2,
    "show 99": 4,
    "status --json": 0,
    "explain 6": 0,
    "config check": 0,
    "metrics": 0,
    "--debug --config nowhere.toml list-failed": 78,
}
MOVING = re.compile(
    r"just now|\d+ minutes? ago|\d{4}-\d\d-\d\d|"
    r"\d+(?:\.\d+)? (?:ms|s|min|minutes?|seconds?)\b|\d+\.\d+(?:e\+\d+)?|\d\d:\d\d(?::\d\d)?(?:\.\d+)?"
    r'|/\S*\.py:\d+|"\w+_seconds": \d+|/\S*/(?=retrycli/\S+\.py")'
)
"""Text that may differ between two runs: times, durations and the folder of the code."""


def still(text: str) -> str:
    return MOVING.sub("…", text)


@pytest.fixture
def at_desk(cli: Cli, application: Application) -> Cli:
    """Provide the command in a folder without the database, and messages in all statuses."""
    application.fill()
    elsewhere = cli.cwd / "elsewhere"
    elsewhere.mkdir()
    with Api(REJECTS) as api:
        desk = cli.having({**application.variables(api.url), "TZ": "Asia/Kolkata"}, cwd=elsewhere)
        assert desk("run-once").returncode == 0
    return desk


def called(cli: Cli) -> Cli:
    """Return a copy that runs the command inside this process."""
    return replace(cli, is_forked=False)


def test_piped_output_and_exit_code_are_the_same(at_desk: Cli) -> None:
    ways = at_desk.real(), at_desk, called(at_desk)
    started, forked, called_here = (
        {
            line: (still(done.stdout), still(done.stderr), done.returncode)
            for line, done in way.show_all(piped=COMMANDS).piped.items()
        }
        for way in ways
    )
    assert forked == started
    assert called_here == started
    assert {line: code for line, (*_, code) in started.items()} == COMMANDS


def test_terminal_output_is_the_same(at_desk: Cli) -> None:
    for command in ("status", "list-failed", "--help", "no-such-command", "reject 7 --reason no"):
        started, *others = (
            way.on_terminal(*command.split(), columns=90, answers=["n"])
            for way in (at_desk.real(), at_desk, called(at_desk))
        )
        for screen in others:
            assert still(screen.raw) == still(started.raw)
            assert screen.returncode == started.returncode


def test_a_call_leaves_the_process_as_it_was(at_desk: Cli) -> None:
    before = _state()
    assert called(at_desk)("run-once", "--json").returncode == 0
    assert called(at_desk)("no-such-command").returncode == 2
    assert _state() == before


def _state() -> list[object]:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)]
    logger = logging.getLogger("retrycli")
    return [
        *(dict(os.environ), Path.cwd(), sys.argv, handlers, resource.getrlimit(resource.RLIMIT_NOFILE)),
        *(logger.handlers, logger.level, logging.getLogger().handlers, suggested.program()),
        *(sys.stdin, sys.stdout, sys.stderr, *(os.fstat(number) for number in range(3))),
    ]


def test_ctrl_c_during_a_call_reaches_pytest_too(cli: Cli, application: Application) -> None:
    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with Meanwhile(interrupt, TAKES) as api, pytest.raises(KeyboardInterrupt):
        called(cli).having(application.variables(api.url))("retry", str(application.add(101)))


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL, signal.SIGQUIT])
def test_ends_by_the_same_signals(cli: Cli, number: signal.Signals) -> None:
    assert _end_of_a_sandbox(cli, number) == _end_of_a_sandbox(cli.real(), number)


def _end_of_a_sandbox(cli: Cli, number: signal.Signals) -> tuple[int, str]:
    process = _sandbox(cli)
    process.send_signal(number)
    done = end(process)
    return done.returncode, done.stderr


def _sandbox(cli: Cli) -> subprocess.Popen[str]:
    """Start a sandbox, and wait until it listens."""
    process = cli.start("sandbox", "--port", "0")
    assert process.stdout is not None
    found = re.search(r"http://\S+\d", process.stdout.readline())
    assert found is not None
    urlopen(f"{found[0]}/received", timeout=LONGEST).close()
    return process


OF_A_PROCESS: dict[str, Callable[[Path], object]] = {
    "descriptors": lambda proc: sorted(int(path.name) for path in (proc / "fd").iterdir()),
    "kinds": lambda proc: [(proc / "fd" / str(each)).readlink().name.partition(":")[0] for each in range(3)],
    "folder": lambda proc: (proc / "cwd").readlink(),
    "limits": lambda proc: (proc / "limits").read_text(),
    "signals and umask": lambda proc: re.findall(
        r"^(?:Umask|SigIgn|SigBlk|SigCgt|Groups|Uid|CapEff|NoNewPrivs):.*", (proc / "status").read_text(), re.MULTILINE
    ),
    "session": lambda proc: os.getsid(int(proc.name)) == os.getsid(0),
    "group": lambda proc: os.getpgid(int(proc.name)) == os.getpgid(0),
    "priority": lambda proc: os.getpriority(os.PRIO_PROCESS, int(proc.name)),
}


def _made(pid: int) -> dict[str, object]:
    return {name: look(Path(f"/proc/{pid}")) for name, look in OF_A_PROCESS.items()}


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_its_process_inherits_no_descriptors(cli: Cli, umask: int) -> None:
    before = os.umask(umask)
    try:
        processes = [_sandbox(run) for run in (cli, cli, cli.real())]
    finally:
        os.umask(before)
    try:
        forked, started = processes[1:]
        wait_until(lambda: _made(forked.pid) == _made(started.pid))  # the sandbox closes a connection with a delay
    finally:
        for process in processes:
            process.kill()
            end(process)


def test_files_it_creates_have_the_callers_umask(at_desk: Cli) -> None:
    before = os.umask(0o027)
    try:
        for command in (at_desk, at_desk.real()):
            assert command("report", "--html", f"{command.is_real}.html").returncode == 0
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in at_desk.cwd.iterdir()}
    assert len(modes) == 1


def test_each_command_is_a_process_of_its_own(cli: Cli) -> None:
    processes = [_sandbox(cli) for _ in range(3)]
    assert all(isinstance(process, Served) for process in processes)
    assert len({process.pid for process in processes}) == 3
    processes[0].kill()
    processes[0].wait()
    assert [process.poll() for process in processes] == [-signal.SIGKILL, None, None]
    for process in processes[1:]:
        process.kill()
        process.wait()
        assert not Path(f"/proc/{process.pid}").exists()
    for process in processes:
        process.communicate()


def test_a_wait_with_a_timeout_ends_in_time(cli: Cli) -> None:
    process = _sandbox(cli)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=0.05)
    process.kill()
    wait_until(lambda: process.poll() is not None)
    end(process)


@pytest.mark.parametrize("name", ["PYTHONPATH", "LC_ALL", "LANG", "LD_PRELOAD", "NO_COLOR", "TYPER_USE_RICH", "FOO"])
def test_is_started_normally_if_the_environment_affects_python(name: str) -> None:
    assert not can_serve({"PATH": "/usr/bin", name: "1"})
