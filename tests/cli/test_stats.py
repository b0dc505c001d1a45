"""The ``stats`` command: its figures for a generated week, piped, as JSON and on a terminal."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from retrycli.cli.stats import ON_SCREEN
from tests import history
from tests.cli.command import Cli

BY = ("outcome", "type", "ticket", "hour", "error")
LOCAL_TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d[+-]\d\d:\d\d"
ATTEMPTS = 800


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """Provide the command with a generated week that no test changes."""
    folder = tmp_path_factory.mktemp("stats")
    history.make(folder / "agent.db", attempts=ATTEMPTS, now=datetime.now(UTC))
    return Cli(folder, {"RETRYCLI_DATABASE__URL": f"sqlite:///{folder / 'agent.db'}"})


@pytest.mark.parametrize("by", BY)
def test_each_groups_counts_add_up_to_all_attempts(desk: Cli, by: str) -> None:
    found = desk.json("stats", "--by", by)
    assert 0.95 * ATTEMPTS < found["attempts"] <= ATTEMPTS
    counted = sum(group["attempts"] for group in found["groups"])
    assert counted == found["attempts"] - (found["delivered"] if by == "error" else 0)
    if by != "error":
        assert sum(group["delivered"] for group in found["groups"]) == found["delivered"]
    assert sum(entry["messages"] for entry in found["tries_until_delivered"]) == found["delivered"]


def test_only_a_terminal_shows_the_largest_groups_alone(desk: Cli) -> None:
    assert len(desk.json("stats", "--by", "ticket")["groups"]) > ON_SCREEN
    screen = desk.on_terminal("stats", "--by", "ticket").text
    assert len(re.findall(r"^\d{4} ", screen, re.MULTILINE)) == ON_SCREEN
    assert "Showing at most 20; with --json, or in a pipe, there are all." in screen
    assert "Showing at most" not in desk.on_terminal("stats").text


def test_the_figures_match_the_generated_week(desk: Cli, at_work: Cli) -> None:
    """The generated week has outages of 9 hours and of 75 minutes. Passes notice a start or an end only at a tick."""
    found = desk.json("stats", "--by", "outcome")
    lengths = sorted(outage["seconds"] / 3600 for outage in found["outages"])
    assert lengths == [pytest.approx(1.25, abs=0.26), pytest.approx(9, abs=0.26)]
    waited = found["seconds_until_delivered"]
    assert 15 * 60 <= waited["median"] <= 30 * 60 < waited["p95"] <= waited["max"]
    assert waited["max"] > 9 * 3600
    [locked] = [error for error in found["errors"] if error["outcome"] == "refused"]
    assert locked["cause"] == "refused: ticket … is locked"
    found = desk.json("stats", "--since", "12h")
    assert 0 < found["attempts"] < 100
    assert found["outages"] == []
    assert at_work("stats").stdout == "", "of another database"
    found = at_work.json("stats", "--since", "36500d")
    assert found["attempts"] == 0
    assert found["seconds_until_delivered"] == {"messages": 0, "median": None, "p95": None, "max": None}
    assert re.search(r"^Waited +no data yet$", at_work.on_terminal("stats").text, re.MULTILINE)


def test_on_a_terminal_it_shows_curves_and_bars(desk: Cli) -> None:
    screen = desk.on_terminal("stats").text
    assert re.search(r"^Attempts +\d+ +[ ▁▂▃▄▅▆▇█]{40,}$", screen, re.MULTILINE)
    assert re.search(r"^Outages +2, 10 h( \d+ min)? in total$", screen, re.MULTILINE)
    assert re.search(rf"^{LOCAL_TIME}  {LOCAL_TIME}  9 h", screen, re.MULTILINE)
    assert re.search(r"^delivered +\d+ +[78]\d\.\d% +█{24}$", screen, re.MULTILINE)
    assert re.search(r"^retry 2 +\d+ +\d\d\.\d% +█{5,9}[▏▎▍▌▋▊▉]? *$", screen, re.MULTILINE)
    assert "Showing 5 of 6 errors; for all, run `retrycli stats --by error`" in screen
    lines = [line.split("\t") for line in desk("stats").stdout.splitlines()]
    assert {each[0]: len(each) for each in lines} == {"outcome": 4, "tries": 3, "seconds": 3, "outage": 4, "error": 6}
    hours = [line.split("\t")[1] for line in desk("stats", "--by", "hour").stdout.splitlines() if line[:4] == "hour"]
    assert hours == sorted(hours)
    assert all(re.fullmatch(r"\S+T\d\d:00:00Z", entry) for entry in hours)
