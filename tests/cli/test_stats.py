"""The ``stats`` command: its figures for a generated week, piped, as JSON and on a terminal."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from retrycli.cli.stats import ON_SCREEN
from tests import history
from tests.cli.command import Cli

if TYPE_CHECKING:
    from tests.cli.command import Shown

BY = ("outcome", "type", "ticket", "hour", "error")
UTC_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
LOCAL_TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d[+-]\d\d:\d\d"
ATTEMPTS = 800
PIPED = ("stats", *(f"stats --by {group_by} --json" for group_by in BY), "stats --since 12h --json", "stats --by hour")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """Provide the command with a generated week that no test changes."""
    folder = tmp_path_factory.mktemp("stats")
    history.make(folder / "agent.db", attempts=ATTEMPTS, now=datetime.now(UTC))
    return Cli(folder, {"RETRYCLI_DATABASE__URL": f"sqlite:///{folder / 'agent.db'}"})


@pytest.fixture(scope="module")
def shown(desk: Cli) -> Shown:
    return desk.show_all(piped=PIPED, on_terminal=["stats", "stats --by ticket"])


@pytest.mark.parametrize("by", BY)
def test_each_groups_counts_add_up_to_all_attempts(shown: Shown, by: str) -> None:
    found = shown.json(f"stats --by {by} --json")
    assert 0.95 * ATTEMPTS < found["attempts"] <= ATTEMPTS
    counted = sum(group["attempts"] for group in found["groups"])
    assert counted == found["attempts"] - (found["delivered"] if by == "error" else 0)
    if by != "error":
        assert sum(group["delivered"] for group in found["groups"]) == found["delivered"]
    assert sum(entry["messages"] for entry in found["tries_until_delivered"]) == found["delivered"]


def test_only_a_terminal_shows_the_largest_groups_alone(shown: Shown) -> None:
    assert len(shown.json("stats --by ticket --json")["groups"]) > ON_SCREEN
    screen = shown.screens["stats --by ticket"].text
    assert len(re.findall(r"^\d{4} ", screen, re.MULTILINE)) == ON_SCREEN
    assert "Showing at most 20; with --json, or in a pipe, there are all." in screen
    assert "Showing at most" not in shown.screens["stats"].text


def test_the_figures_match_the_generated_week(shown: Shown) -> None:
    """The generated week has outages of 9 hours and of 75 minutes. Passes notice a start or an end only at a tick."""
    found = shown.json("stats --by outcome --json")
    lengths = sorted(outage["seconds"] / 3600 for outage in found["outages"])
    assert lengths == [pytest.approx(1.25, abs=0.26), pytest.approx(9, abs=0.26)]
    waited = found["seconds_until_delivered"]
    assert 15 * 60 <= waited["median"] <= 30 * 60 < waited["p95"] <= waited["max"]
    assert waited["max"] > 9 * 3600
    [locked] = [error for error in found["errors"] if error["outcome"] == "refused"]
    assert locked["cause"] == "refused: ticket … is locked"


def test_covers_only_the_requested_days(shown: Shown) -> None:
    found = shown.json("stats --since 12h --json")
    assert 0 < found["attempts"] < 100
    assert found["outages"] == []


def test_each_piped_line_names_its_subject(shown: Shown) -> None:
    lines = [line.split("\t") for line in shown.piped["stats"].stdout.splitlines()]
    kinds = {each[0]: len(each) for each in lines}
    assert kinds == {"outcome": 4, "tries": 3, "seconds": 3, "outage": 4, "error": 6}
    assert [each[1] for each in lines if each[0] == "seconds"] == ["median", "p95", "max"]
    assert all(re.fullmatch(UTC_TIME, time) for each in lines if each[0] == "outage" for time in each[1:3])
    hours = [line.split("\t")[1] for line in shown.piped["stats --by hour"].stdout.splitlines() if line[:4] == "hour"]
    assert hours == sorted(hours)
    assert all(re.fullmatch(r"\S+T\d\d:00:00Z", entry) for entry in hours)


def test_on_a_terminal_it_shows_curves_and_bars(shown: Shown) -> None:
    screen = shown.screens["stats"].text
    assert re.search(r"^Attempts +\d+ +[ ▁▂▃▄▅▆▇█]{40,}$", screen, re.MULTILINE)
    assert re.search(r"^Waited +half within \d+ min, 95% within \d+ h( \d+ min)?, all within .*$", screen, re.MULTILINE)
    assert re.search(r"^Outages +2, 10 h( \d+ min)? in total$", screen, re.MULTILINE)
    assert re.search(rf"^{LOCAL_TIME}  {LOCAL_TIME}  9 h", screen, re.MULTILINE)
    assert re.search(r"^delivered +\d+ +[78]\d\.\d% +█{24}$", screen, re.MULTILINE)
    assert re.search(r"^retry 1 +\d+ +6\d\.\d% +█{24}$", screen, re.MULTILINE)
    assert re.search(r"^retry 2 +\d+ +\d\d\.\d% +█{5,9}[▏▎▍▌▋▊▉]? *$", screen, re.MULTILINE)
    assert "Showing 5 of 6 errors; for all, run `retrycli stats --by error`" in screen


def test_says_so_if_nothing_was_attempted(at_work: Cli) -> None:
    assert at_work("stats").stdout == ""
    screen = at_work.on_terminal("stats").text
    assert re.search(r"^Attempts +0 *$", screen, re.MULTILINE)
    assert re.search(r"^Waited +no data yet$", screen, re.MULTILINE)
    assert re.search(r"^Outages +none$", screen, re.MULTILINE)
    found = at_work.json("stats")
    assert found["seconds_until_delivered"] == {"messages": 0, "median": None, "p95": None, "max": None}


def test_the_longest_period_is_a_representable_one(at_work: Cli) -> None:
    assert at_work.json("stats", "--since", "36500d")["attempts"] == 0
