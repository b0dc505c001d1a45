"""SIGTERM, SIGINT and SIGHUP during a pass, a manual attempt or the start of a command."""

from __future__ import annotations

import json
import signal
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from tests.cli.api import held_back
from tests.cli.command import end, wait_until
from tests.conftest import on_both

if TYPE_CHECKING:
    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = [on_both, pytest.mark.real]


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)])
def test_a_signal_lets_requests_in_flight_finish_and_starts_no_more(
    cli: Cli, application: Application, number: str, code: int
) -> None:
    """The pass records sent messages and releases claimed ones, so no message stays claimed."""
    first, *others = application.add_due(4)
    with held_back() as (sandbox, gate):
        process = cli.having(application.variables(sandbox.url)).start("run-once", "--json")
        assert gate.reached.wait(60)
        process.send_signal(signal.Signals[number])
        gate.opened.set()
        done = end(process)
    assert done.returncode == code
    summary = json.loads(done.stdout)
    assert (summary["result"], summary["reason"], summary["sent"]) == ("interrupted", "signal", 1)
    assert application.row(first)["status"] == "sent"
    assert [application.state(message_id) for message_id in others] == ["waiting"] * 3
    assert [attempt["outcome"] for attempt in application.rows("retrycli_attempts").values()] == ["delivered"]
    assert application.last_pass()["result"] == "interrupted"


@pytest.mark.parametrize(("command", "number", "code"), [("run-once", "SIGTERM", 143), ("retry 101", "SIGINT", 130)])
def test_a_second_signal_exits_at_once_and_claims_stay_until_they_lapse(
    cli: Cli, application: Application, command: str, number: str, code: int
) -> None:
    """The message may have arrived, so no other pass sends it before the claim expires."""
    message = application.add(101)
    with held_back() as (sandbox, gate):
        at_work = cli.having(application.variables(sandbox.url))
        process = at_work.start(*command.split())
        assert gate.reached.wait(60)

        def has_left() -> bool:
            process.send_signal(signal.Signals[number])  # repeated, because the kernel merges signals
            return process.poll() is not None

        wait_until(has_left)
        done = end(process)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False)
        assert application.state(message) == "sending"
        assert at_work.json("run-once")["sent"] == 0
    [attempt] = application.rows("retrycli_attempts").values()
    assert attempt["finished_at"] is None


def test_a_signal_ends_the_wait_for_another_pass(cli: Cli, application: Application) -> None:
    application.add(101)
    with held_back() as (sandbox, gate):
        at_work = cli.having(application.variables(sandbox.url))
        first = at_work.start("run-once")
        assert gate.reached.wait(60)
        second = at_work.start("run-once", "--wait-lock", "3600")
        wait_until(lambda: len(application.rows("retrycli_passes")) == 2, second)
        second.send_signal(signal.SIGTERM)
        assert end(second).returncode == 143
        gate.opened.set()
        assert end(first).returncode == 0
    results = {row["pid"]: row["result"] for row in application.rows("retrycli_passes").values()}
    assert results == {first.pid: "completed", second.pid: "skipped"}
    assert application.row(101)["status"] == "sent"


def test_ctrl_c_lets_a_manual_attempt_finish_and_starts_no_more(cli: Cli, application: Application) -> None:
    first, second = application.add(101), application.add(102)
    with held_back() as (sandbox, gate):
        process = cli.having(application.variables(sandbox.url)).start("retry", str(first), str(second))
        assert gate.reached.wait(60)
        process.send_signal(signal.SIGINT)
        gate.opened.set()
        done = end(process)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert application.row(first)["status"] == "sent"
    assert application.row(second)["status"] == "failed"
    assert [attempt["outcome"] for attempt in application.rows("retrycli_attempts").values()] == ["delivered"]


AT_AN_IMPORT = """\
    import os, signal, sys


    def interrupt(event, args):
        if event == "import" and args[0] == os.environ["INTERRUPTED"]:
            os.kill(os.getpid(), signal.SIGINT)


    sys.addaudithook(interrupt)
"""


@pytest.mark.parametrize("module", ["typer", "retrycli.system.process", "sqlalchemy"])
def test_ctrl_c_during_startup_is_not_an_error(cli: Cli, application: Application, module: str) -> None:
    """An operator who notices a mistyped command may press Ctrl-C during the imports."""
    (cli.cwd / "sitecustomize.py").write_text(dedent(AT_AN_IMPORT))
    env = application.variables("http://127.0.0.1:9") | {"PYTHONPATH": str(cli.cwd), "INTERRUPTED": module}
    done = cli.real()("status", env=env)
    assert (done.returncode, done.stdout) == (130, "")
    assert "Traceback" not in done.stderr
