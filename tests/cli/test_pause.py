"""The ``pause``, ``resume`` and ``passes`` commands: stopped deliveries, and the history of passes."""

from __future__ import annotations

import os
import pwd
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

import retrycli
from retrycli.operations.sandbox import Sandbox
from tests.cli.command import Cli
from tests.conftest import on_both

if TYPE_CHECKING:
    from tests.cli.application import Application

pytestmark = on_both

USER = pwd.getpwuid(os.getuid()).pw_name


def test_a_pause_stops_deliveries_until_it_is_ended(at_work: Cli, application: Application, sandbox: Sandbox) -> None:
    """A pause is intended, so a paused pass exits with 0 and prints nothing that cron would mail."""
    application.fill()
    assert at_work("pause", "--reason", "the API moves").returncode == 0
    done = at_work("run-once")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sandbox.received == ()
    assert application.last_pass()["result"] == "paused"
    assert application.last_pass()["detail"] == f"paused by {USER}: the API moves"
    assert at_work("resume").returncode == 0
    assert at_work.json("run-once")["sent"] == 3


def test_a_pause_with_a_duration_ends_by_itself(at_work: Cli, application: Application, sandbox: Sandbox) -> None:
    application.add(101)
    assert at_work("pause", "--for", "2h").returncode == 0
    [pause] = application.rows("retrycli_pause").values()
    began, until = (datetime.fromisoformat(str(pause[name])) for name in ("since", "until"))
    assert until - began == timedelta(hours=2)
    over = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=1)
    application.execute("UPDATE retrycli_pause SET until = ?", f"{over:%Y-%m-%d %H:%M:%S.%f}")
    assert retrycli.run_once(application.settings(sandbox.url)).sent == 1


# -- who paused, and until when --------------------------------------------------------------------------------------


def test_the_history_has_each_pause_with_its_author_end_and_reason(at_work: Cli, application: Application) -> None:
    application.add(101)
    assert at_work("pause", "--for", "2h", "--reason", "the API moves", "--by", "anna").returncode == 0
    assert at_work.json("run-once")["result"] == "paused"
    assert at_work("resume", "--by", "bob").returncode == 0
    assert at_work("resume").returncode == 0
    resumed, paused = at_work.json("passes")["pauses"]
    assert (paused["by"], paused["act"]) == ("anna", "paused")
    assert re.fullmatch(r"until [-0-9]{10}T[0-9:]{8}Z: the API moves", paused["detail"])
    assert (resumed["by"], resumed["act"]) == ("bob", "resumed")
    assert resumed["detail"] == f"the pause by anna {paused['detail']}"
    lines = [re.split("  +", line) for line in at_work.on_terminal("passes").text.splitlines() if line[:2] == "20"]
    assert [line[2] for line in lines] == ["resumed", "paused", "paused"]
    assert at_work.json("status")["paused"] is None


def test_a_second_pause_reports_the_end_it_replaces(at_work: Cli, application: Application) -> None:
    """Otherwise the author of the first pause expects deliveries to resume at its end."""
    first = at_work("pause", "--for", "2h", "--reason", "the API moves", env={"SUDO_USER": "anna"})
    assert first.stderr == ""
    second = at_work("pause", "--reason", "it is moved", env={"SUDO_USER": "bob"})
    told = r"retrycli: this replaces the pause by anna until [-0-9]{10}T[0-9:]{8}Z: the API moves\n"
    assert re.fullmatch(told, second.stderr)
    [pause] = application.rows("retrycli_pause").values()
    assert (pause["until"], pause["reason"]) == (None, "it is moved")
    newest, _ = at_work.json("passes")["pauses"]
    assert newest["detail"].startswith("until resumed: it is moved (replaces the pause by anna until ")
    over = at_work("pause", "--for", "1s").stderr
    assert "replaces the pause by bob until resumed: it is moved" in over


@pytest.mark.parametrize("command", ["pause", "resume", "retry 11"])
def test_a_name_with_control_characters_is_refused(at_work: Cli, application: Application, command: str) -> None:
    application.add(11)
    before = application.dump()
    done = at_work(*command.split(), "--by", "an\x1b[31mna")
    assert (done.returncode, done.stdout) == (2, "")
    assert "the name must have 1 to 255 printable characters" in " ".join(done.stderr.split())
    assert application.dump() == before


def test_passes_shows_who_started_each_pass(at_work: Cli) -> None:
    """The installed cron line passes ``--started-by``; otherwise a terminal shows that a person started the pass."""
    assert at_work("run-once", "--started-by", "cron").returncode == 0
    assert at_work.on_terminal("run-once").returncode == 0
    assert [summary["started_by"] for summary in at_work.json("passes")["passes"]] == ["person", "cron"]
