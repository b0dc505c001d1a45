"""A command that runs inside the tests' process behaves like one that the system starts: see `tests.in_process`."""

from __future__ import annotations

import logging
import os
import re
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from retrycli.domain import suggested
from tests.cli.api import REJECTS, TAKES, Meanwhile
from tests.cli.story import Api

if TYPE_CHECKING:
    from tests.cli.application import Application
    from tests.cli.command import Cli

COMMANDS = {
    "--help": 0,
    "list-failed --sort colour": 2,
    "show 99": 4,
    "status --json": 0,
    "--debug --config nowhere.toml list-failed": 78,
}
MOVING = re.compile(
    r"just now|\d+ minutes? ago|\d{4}-\d\d-\d\d|"
    r"\d+(?:\.\d+)? (?:ms|s|min|minutes?|seconds?)\b|\d+\.\d+(?:e\+\d+)?|\d\d:\d\d(?::\d\d)?(?:\.\d+)?"
    r'|/\S*\.py:\d+|"\w+_seconds": \d+|/\S*/(?=retrycli/\S+\.py")'
)
"""Text that may differ between two runs: times, durations and the folder of the code."""


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


def test_output_and_exit_code_are_those_of_a_process(at_desk: Cli) -> None:
    called, started = (
        {
            line: (MOVING.sub("…", done.stdout), MOVING.sub("…", done.stderr), done.returncode)
            for line, done in way.show_all(piped=COMMANDS).piped.items()
        }
        for way in (at_desk, at_desk.real())
    )
    assert called == started
    assert {line: code for line, (*_, code) in started.items()} == COMMANDS
    screens = [
        way.on_terminal("reject", "7", "--reason", "no", columns=90, answers=["n"]) for way in (at_desk, at_desk.real())
    ]
    assert len({(MOVING.sub("…", screen.raw), screen.returncode) for screen in screens}) == 1


def test_a_call_leaves_the_process_as_it_was(at_desk: Cli) -> None:
    before = _state()
    assert at_desk("run-once", "--json").returncode == 0
    assert at_desk("no-such-command").returncode == 2
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
        cli.having(application.variables(api.url))("retry", str(application.add(101)))
