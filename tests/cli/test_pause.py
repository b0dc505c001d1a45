"""``pause``, ``resume`` and ``passes``."""

from __future__ import annotations

import os
import pwd
import re
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING

import pytest

import retrycli
from retrycli.operations import pause
from retrycli.operations.sandbox import Behaviour, Sandbox
from tests.cli.command import COLUMNS, Cli
from tests.conftest import on_both

if TYPE_CHECKING:
    from tests.cli.application import Application
    from tests.cli.command import Shown
    from tests.cli.conftest import Prepared

pytestmark = on_both

USER = pwd.getpwuid(os.getuid()).pw_name
PASS_KEYS = [
    "pass_id",
    "host",
    "pid",
    "started_at",
    "finished_at",
    "result",
    "reason",
    "detail",
    "sent",
    "rescheduled",
    "escalated",
    "unknown",
    "released",
    "started_by",
]


def test_a_pause_holds_deliveries_back_until_it_is_ended(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    """A pass is written down as paused, ends with 0 and says nothing."""
    application.fill()
    assert at_work("pause", "--reason", "the API moves").returncode == 0
    done = at_work("run-once")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sandbox.received == ()
    assert application.last_pass()["result"] == "paused"
    assert application.last_pass()["detail"] == f"paused by {USER}: the API moves"
    assert at_work("resume").returncode == 0
    assert at_work.json("run-once")["sent"] == 3


def test_a_pause_for_a_time_ends_by_itself(at_work: Cli, application: Application, sandbox: Sandbox) -> None:
    application.add(101)
    screen = at_work.on_terminal("pause", "--for", "2h")
    assert re.search(
        r"Paused until [-0-9]{10} [0-9:+-]+\. Passes still run and are recorded, but send nothing\.\n", screen.text
    )
    [pause] = application.rows("retrycli_pause").values()
    began, until = (datetime.fromisoformat(str(pause[name])) for name in ("since", "until"))
    assert until - began == timedelta(hours=2)
    over = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=1)
    application.execute("UPDATE retrycli_pause SET until = ?", f"{over:%Y-%m-%d %H:%M:%S.%f}")
    assert retrycli.run_once(application.settings(sandbox.url)).sent == 1


def test_a_second_pause_takes_the_place_of_the_first(at_work: Cli, application: Application) -> None:
    for arguments in (["--for", "1m", "--reason", "short"], ["--reason", "long"]):
        assert at_work("pause", *arguments).returncode == 0
    [pause] = application.rows("retrycli_pause").values()
    assert (pause["until"], pause["reason"]) == (None, "long")


def test_resume_says_when_nothing_was_paused(at_work: Cli) -> None:
    screen = at_work.on_terminal("resume")
    assert (screen.returncode, screen.text) == (0, "Nothing was paused.\nNext: retrycli status\n")


@pytest.fixture(scope="module")
def passes(tmp_path_factory: pytest.TempPathFactory, prepared: Prepared) -> Shown:
    """What is shown of three passes: one with all sorts of outcomes, one with nothing due, and one in a pause."""
    folder = tmp_path_factory.mktemp("passes")
    with prepared(folder) as application, Sandbox(Behaviour(), rng=Random(0)) as sandbox:
        application.fill()
        application.add(9, body=None)
        settings = application.settings(sandbox.url)
        retrycli.run_once(settings)
        retrycli.run_once(settings)
        pause.pause(settings, reason="a very long reason " * 5)
        retrycli.run_once(settings)
        commands = ["passes", "passes --json", "passes --json --limit 2"]
        return Cli(folder, application.variables("http://127.0.0.1:9")).show_all(piped=commands, on_terminal=["passes"])


def test_passes_have_the_keys_that_are_promised_and_the_newest_stands_first(passes: Shown) -> None:
    found = passes.json("passes --json")["passes"]
    assert all(list(each) == PASS_KEYS for each in found)
    assert [each["result"] for each in found] == ["paused", "completed", "completed"]
    assert [(each["sent"], each["escalated"]) for each in found] == [(0, 0), (0, 0), (3, 1)]
    assert passes.json("passes --json --limit 2")["passes"] == found[:2]


def test_passes_piped_have_all_their_counts(passes: Shown) -> None:
    first = passes.piped["passes"].stdout.splitlines()[-1].split("\t")
    assert first[2:] == ["completed", "3", "0", "1", "0", "0", "", "library"]


def test_passes_on_a_terminal_fit_in_80_columns_and_tell_what_came_of_them(passes: Shown) -> None:
    screen = passes.screens["passes"]
    assert max(map(len, screen.text.splitlines())) <= COLUMNS
    assert re.search(r"completed  3 sent, 1 escalated *\n", screen.text)
    assert re.search(r"completed  nothing was due *\n", screen.text)
    assert screen.text.endswith("Next: retrycli status\n")


# -- who paused, and until when --------------------------------------------------------------------------------------


def test_pauses_are_kept_in_the_history_with_who_until_when_and_why(at_work: Cli, application: Application) -> None:
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
    screen = at_work.on_terminal("passes")
    assert re.search(r"bob +resumed +the pause by anna until", screen.text)
    assert [re.split("  +", line)[2] for line in screen.text.splitlines() if line.startswith("20")] == [
        "resumed",
        "paused",
        "paused",
    ]
    assert max(map(len, screen.text.splitlines())) <= COLUMNS
    assert at_work.json("status")["paused"] is None


def test_a_second_pause_says_which_end_it_replaces(at_work: Cli) -> None:
    """Else whoever began the first one believes that deliveries go on at its end."""
    first = at_work("pause", "--for", "2h", "--reason", "the API moves", env={"SUDO_USER": "anna"})
    assert first.stderr == ""
    second = at_work("pause", "--reason", "it is moved", env={"SUDO_USER": "bob"})
    assert re.fullmatch(
        r"retrycli: this replaces the pause by anna until [-0-9]{10}T[0-9:]{8}Z: the API moves\n", second.stderr
    )
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


def test_passes_show_who_started_each(at_work: Cli) -> None:
    """By what the installed line says, else by where the process comes from."""
    assert at_work("run-once", "--started-by", "cron").returncode == 0
    assert at_work.on_terminal("run-once").returncode == 0
    assert [each["started_by"] for each in at_work.json("passes")["passes"]] == ["person", "cron"]
