"""SIGTERM, SIGINT and SIGHUP in the middle of a pass."""

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
    from collections.abc import Iterator

    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = [on_both, pytest.mark.real]


@pytest.fixture(autouse=True)
def _not_under_nohup() -> Iterator[None]:
    """What is ignored here is ignored by the processes that are started."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


ENDS = pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)],
    ids=["SIGTERM", "SIGINT", "SIGHUP"],
)


@ENDS
def test_a_signal_lets_what_is_in_flight_finish_and_begins_nothing_more(
    cli: Cli, application: Application, number: signal.Signals, code: int
) -> None:
    """What was sent is recorded, what was claimed is given back, and nothing is left in sending."""
    first, *others = application.add_due(4)
    with held_back() as (sandbox, gate):
        process = cli.having(application.variables(sandbox.url)).start("run-once", "--json")
        assert gate.reached.wait(60)
        process.send_signal(number)
        gate.opened.set()
        done = end(process)
    assert done.returncode == code
    summary = json.loads(done.stdout)
    assert (summary["result"], summary["reason"], summary["sent"]) == ("interrupted", "signal", 1)
    assert [each.ticket_id for each in sandbox.received] == [str(application.row(first)["ticket_id"])]
    assert application.row(first)["status"] == "sent"
    assert [application.state(each) for each in others] == ["waiting"] * 3
    assert [each["outcome"] for each in application.rows("retrycli_attempts").values()] == ["delivered"]
    assert application.last_pass()["result"] == "interrupted"


def test_a_second_signal_leaves_at_once_and_what_was_in_flight_keeps_its_claim(
    cli: Cli, application: Application
) -> None:
    """The claim lapses in its time; until then no other pass touches the message."""
    message = application.add(101)
    with held_back() as (sandbox, gate):
        at_work = cli.having(application.variables(sandbox.url))
        process = at_work.start("run-once")
        assert gate.reached.wait(60)

        def has_left() -> bool:
            process.send_signal(signal.SIGTERM)  # two that come too close together are one
            return process.poll() is not None

        wait_until(has_left)
        assert end(process).returncode == 143
        assert application.state(message) == "sending"
        assert at_work.json("run-once")["sent"] == 0
    [attempt] = application.rows("retrycli_attempts").values()
    assert attempt["finished_at"] is None


def test_a_signal_ends_the_wait_for_another_pass(cli: Cli, application: Application) -> None:
    """However long the wait was to be."""
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
    results = {each["pid"]: each["result"] for each in application.rows("retrycli_passes").values()}
    assert results == {first.pid: "completed", second.pid: "skipped"}
    assert application.row(101)["status"] == "sent"


def test_ctrl_c_lets_a_message_that_is_tried_by_hand_have_its_answer_and_begins_no_more(
    cli: Cli, application: Application
) -> None:
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
    assert [each["outcome"] for each in application.rows("retrycli_attempts").values()] == ["delivered"]


def test_a_second_ctrl_c_leaves_a_message_that_is_tried_by_hand_at_once(cli: Cli, application: Application) -> None:
    """Its attempt keeps its claim, and the next pass after that takes it for unknown."""
    message = application.add(101)
    with held_back() as (sandbox, gate):
        process = cli.having(application.variables(sandbox.url)).start("retry", str(message))
        assert gate.reached.wait(60)

        def has_left() -> bool:
            process.send_signal(signal.SIGINT)  # two that come too close together are one
            return process.poll() is not None

        wait_until(has_left)
        done = end(process)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert application.state(message) == "sending"


AT_AN_IMPORT = """\
    import os, signal, sys


    def interrupt(event, args):
        if event == "import" and args[0] == os.environ["INTERRUPTED"]:
            os.kill(os.getpid(), signal.SIGINT)


    sys.addaudithook(interrupt)
"""


@pytest.mark.parametrize("module", ["typer", "retrycli.system.process", "sqlalchemy"])
def test_ctrl_c_while_the_command_starts_is_no_fault(cli: Cli, application: Application, module: str) -> None:
    """A person who has mistyped is quicker than the imports."""
    (cli.cwd / "sitecustomize.py").write_text(dedent(AT_AN_IMPORT))
    env = application.variables("http://127.0.0.1:9") | {"PYTHONPATH": str(cli.cwd), "INTERRUPTED": module}
    done = cli("status", env=env)
    assert (done.returncode, done.stdout) == (130, "")
    assert "Traceback" not in done.stderr
