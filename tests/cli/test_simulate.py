"""The ``simulate`` command: a night with an outage is recorded by real passes, and other schedules are tried on it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING

import pytest

from retrycli.config.settings import Settings
from retrycli.operations import run_pass
from retrycli.operations.sandbox import Behaviour, Sandbox
from retrycli.operations.wiring import Runtime
from tests.cli.command import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from retrycli.operations.sandbox import Answer
    from tests.cli.application import Application
    from tests.cli.command import Cli
    from tests.cli.conftest import Prepared

TICK = timedelta(minutes=15)
NIGHT = timedelta(hours=15)
DOWN_AFTER, DOWN_FOR = timedelta(hours=3, minutes=50), timedelta(hours=6)
MESSAGES = 150
REJECTED = (20, 90, 140)
LOCKED = range(5, MESSAGES, 9)
"""Messages that the API refuses when they are first sent."""
FIGURES = [
    "messages",
    "delivered_within_1h",
    "delivered_within_4h",
    "delivered_within_24h",
    "escalated",
    "requests_in_outages",
    "requests",
    "median_wait_seconds",
    "p95_wait_seconds",
]
FIXED = {"backoff": "fixed", "base_minutes": 30}
CHANGED = ("--backoff", "fixed", "--base-minutes", "30")


@dataclass
class Clock:
    """A clock that advances a little at every reading."""

    time: datetime

    def now(self) -> datetime:
        self.time += timedelta(milliseconds=2)
        return self.time


class Api(Sandbox):
    """An API that is down for six hours, rejects some messages, and refuses others the first time."""

    def __init__(self, clock: Clock, goes_down: datetime) -> None:
        super().__init__(Behaviour(), rng=Random(0))
        self._time = clock
        self._goes_down = goes_down
        self.asked_while_down = 0
        self.seen: set[str] = set()

    def answer(self, method: str, path: str, key: str | None, body: bytes) -> Answer:
        if self._goes_down <= self._time.time < self._goes_down + DOWN_FOR:
            self.asked_while_down += 1
            return 503, {"messages": ["upstream is away"]}
        number = int(path.split("/")[2]) - 10_000
        if number in REJECTED:
            return 422, {"messages": ["recipient unknown"]}
        if number in LOCKED and path not in self.seen:
            self.seen.add(path)
            return 200, {"succeeded": False, "messages": ["the ticket is locked"]}
        return super().answer(method, path, key, body)


def live_through(application: Application, schedule: dict[str, object]) -> Api:
    """Run real passes over a night that has just ended."""
    tick = datetime.fromtimestamp(datetime.now(UTC).timestamp() // 900 * 900, UTC) - NIGHT
    clock, jitter, failed, evening = Clock(tick), Random(1), 0, tick
    with Api(clock, tick + DOWN_AFTER) as api:
        settings = Settings.model_validate(application.settings(api.url).model_dump() | {"schedule": schedule})
        while tick < evening + NIGHT:
            while failed < min(MESSAGES, MESSAGES * (tick - evening) / (NIGHT - 2 * timedelta(hours=1))):
                failed += 1
                at = str((tick - timedelta(minutes=7)).replace(tzinfo=None))
                application.execute(f"INSERT INTO ticket_states VALUES ({10_000 + failed}, 'open')")
                kind = "supplier" if failed % 3 == 0 else "customer"
                application.add(failed, ticket_id=10_000 + failed, message_type=kind, created_at=at, updated_at=at)
            clock.time = tick + timedelta(seconds=jitter.uniform(0, 3))
            run_pass.run_once(settings, runtime=Runtime(now=clock.now, rng=Random(2)))
            tick += TICK
        return api


@pytest.fixture(scope="module")
def recorded(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    with prepared(tmp_path_factory.mktemp("night")) as application:
        live_through(application, {})
        yield application


@pytest.fixture
def desk(cli: Cli, recorded: Application) -> Cli:
    """Provide the command with the recorded night, which no test changes."""
    return cli.having(recorded.variables("http://127.0.0.1:9"))


@pytest.mark.databases("sqlite", "postgresql", once=True)
def test_a_simulation_agrees_with_real_passes_over_the_same_night(
    desk: Cli, prepared: Prepared, tmp_path: Path
) -> None:
    with prepared(tmp_path) as another:
        api = live_through(another, FIXED)
        [(within_4h,)] = another.asked(
            "SELECT count(*) FROM retrycli_attempts WHERE outcome = 'delivered' AND waited_s <= 14400"
        )
    found = desk.json("simulate", *CHANGED)["proposed"]["figures"]
    assert found["messages"]["value"] == MESSAGES
    assert abs(found["delivered_within_4h"]["value"] - within_4h) <= 0.05 * MESSAGES
    assert abs(found["requests_in_outages"]["value"] - api.asked_while_down) <= 0.1 * api.asked_while_down
    assert found["escalated"]["value"] == len(REJECTED)


def test_json_has_the_documented_keys(desk: Cli) -> None:
    found = desk.json("simulate", *CHANGED)
    assert list(found) == [
        "since",
        "until",
        "type",
        "attempts",
        "replays",
        "outages",
        "rates",
        "today",
        "proposed",
        "section",
        "lines",
    ]
    assert list(found["outages"][0]) == ["destination", "began_at", "failed_at", "answered_at", "attempts"]
    assert [rate["tries"] for rate in found["rates"]] == ["first", "second", "later"]
    assert list(found["rates"][0]) == ["tries", "attempts", "pooled", "outcomes"]
    assert list(found["today"]) == list(found["proposed"]) == ["schedule", "figures"]
    assert list(found["today"]["figures"]) == list(found["proposed"]["figures"]) == FIGURES
    assert all(each["low"] <= each["value"] <= each["high"] for each in found["proposed"]["figures"].values())
    assert (found["section"], found["lines"]) == ("schedule", ['backoff = "fixed"', "base_minutes = 30"])
    assert found["replays"] > 1


def test_without_options_only_todays_schedule_is_replayed(desk: Cli, recorded: Application) -> None:
    found = desk.json("simulate")
    assert (found["proposed"], found["lines"]) == (None, [])
    [(attempts,)] = recorded.asked("SELECT count(*) FROM retrycli_attempts")
    assert found["today"]["figures"]["requests"]["value"] == pytest.approx(attempts, abs=2)
    [outage] = found["outages"]
    began, ended = (datetime.fromisoformat(outage[each]) for each in ("began_at", "answered_at"))
    assert abs((ended - began) - DOWN_FOR) <= timedelta(hours=1)


def test_two_calls_give_the_same_figures(desk: Cli) -> None:
    first, second = (desk.json("simulate", *CHANGED) for _ in range(2))
    assert first["proposed"] == second["proposed"]


def test_a_change_for_one_type_counts_only_its_messages(desk: Cli) -> None:
    found = desk.json("simulate", "--type", "supplier", "--max-retries", "1")
    assert found["proposed"]["figures"]["messages"]["value"] == MESSAGES // 3
    assert found["proposed"]["figures"]["escalated"]["value"] > found["today"]["figures"]["escalated"]["value"]
    assert (found["section"], found["lines"]) == ("schedule.types.supplier", ["max_retries = 1"])


def test_each_piped_line_names_its_subject(desk: Cli) -> None:
    lines = [line.split("\t") for line in desk("simulate", "--backoff", "linear").stdout.splitlines()]
    assert {line[0]: len(line) for line in lines} == {"today": 5, "proposed": 5, "rate": 5, "outage": 6}
    assert [line[1] for line in lines if line[0] == "proposed"] == FIGURES
    assert all(re.fullmatch(r"\S+Z", time) for line in lines if line[0] == "outage" for time in line[2:5])


def test_on_a_terminal_both_schedules_stand_side_by_side(desk: Cli) -> None:
    text = desk.on_terminal("simulate", *CHANGED).text
    assert max(map(len, text.splitlines())) <= COLUMNS
    assert re.search(r"^Today +exponential from 15 min by 2 to 4 h, 10 retries$", text, re.MULTILINE)
    assert re.search(r"^Proposed +fixed 30 min, 10 retries$", text, re.MULTILINE)
    assert re.search(r"^ +Today +Proposed +Difference *$", text, re.MULTILINE)
    assert re.search(r"^Messages +150 +150 +0 *$", text, re.MULTILINE)
    assert re.search(r"^Delivered within 1 h +\S+%.* −\d\.\d points *$", text, re.MULTILINE)
    assert re.search(r"^Median wait, h:min +\d+:\d\d +\d+:\d\d +\S+ *$", text, re.MULTILINE)
    assert re.search(r"^first +\d+ +delivered 8\d%, refused \d+%, permanent \d%", text, re.MULTILINE)
    assert re.search(r"^Each figure is the median of \d replays,", text, re.MULTILINE)
    assert text.endswith('in [schedule]:\n  backoff = "fixed"\n  base_minutes = 30\nNext: retrycli config check\n')


def test_on_a_terminal_todays_schedule_alone_has_one_column(desk: Cli) -> None:
    text = desk.on_terminal("simulate", "--since", "2d").text
    assert max(map(len, text.splitlines())) <= COLUMNS
    assert "Proposed" not in text
    assert text.endswith("\nNext: retrycli simulate --backoff fixed --base-minutes 30\n")


def test_the_proposed_lines_are_valid_settings(desk: Cli, tmp_path: Path) -> None:
    changes = ("--backoff", "list", "--waits", "20,60,360", "--max-retries", "4", "--type", "supplier")
    found = desk.json("simulate", *changes)
    (tmp_path / "retrycli.toml").write_text("\n".join([f"[{found['section']}]", *found["lines"]]))
    again = desk.json("simulate", "--config", tmp_path / "retrycli.toml", "--type", "supplier")
    assert again["today"] == found["proposed"]


@pytest.mark.forked
def test_a_function_is_replayed_like_any_schedule(desk: Cli, tmp_path: Path) -> None:
    """The function returns the waits of the default schedule, so the figures differ only by its lack of jitter."""
    (tmp_path / "waits.py").write_text(
        "from datetime import timedelta\n"
        "def next_wait(attempt, outcome):\n"
        "    return timedelta(minutes=min(15 * 2 ** attempt, 240))\n"
    )
    (tmp_path / "retrycli.toml").write_text('[schedule]\ncall = "waits:next_wait"\n')
    found = desk.json("simulate", "--backoff", "python", "--config", tmp_path / "retrycli.toml")
    assert found["proposed"]["schedule"] == "first 15 min, then by waits:next_wait, 10 retries"
    assert (found["lines"], found["section"]) == (['backoff = "python"'], "schedule")
    for name in ("delivered_within_24h", "escalated"):
        assert found["proposed"]["figures"][name]["value"] == found["today"]["figures"][name]["value"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--backoff", "python"], "schedule.backoff is python, but schedule.call is not set"),
        (["--max-retries", "0"], "schedule.max_retries: Input should be greater than or equal to 1"),
        (["--max-retries", "some"], "must be an integer"),
        (["--backoff", "list"], "schedule.backoff is list, but schedule.waits_minutes is empty; set at least one wait"),
        (["--waits", "15,soon"], "schedule.waits_minutes.1: Input should be a valid number"),
        (["--base-minutes", "nan"], "schedule.base_minutes: Input should be a finite number"),
        (["--base-minutes", "0.5"], "the shortest wait, after cap and jitter, is 0.5 min"),
        (["--cap-minutes", "-4"], "schedule.cap_minutes: Input should be greater than 0"),
        (["--factor", "1e9"], "schedule.factor: Input should be less than or equal to 100"),
        (["--factor", "0.5", "--type", "supplier"], "schedule.types.supplier.factor: Input should be greater than"),
        (["--backoff", "weekly"], "'weekly' is not one of"),
        (["--type", "fax"], "'fax' is not one of"),
        (["--since", "yesterday"], "is not a valid duration"),
    ],
)
def test_an_invalid_schedule_gets_the_error_of_the_settings(desk: Cli, arguments: list[str], said: str) -> None:
    done = desk("simulate", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in " ".join(done.stderr.split())


@pytest.mark.parametrize("arguments", [[], ["--since", "1s"], ["--type", "internal"]])
def test_too_little_history_is_one_line_and_no_figures(desk: Cli, at_work: Cli, arguments: list[str]) -> None:
    done = (desk if arguments else at_work)("simulate", *arguments, "--json")
    assert (done.returncode, done.stdout) == (4, "")
    assert re.fullmatch(
        r"retrycli: too little history since \S+Z: 0 messages( of type internal)? first failed since then, and \d+ "
        r"attempts outside outages; at least 20 of each are needed: "
        r"(choose a longer period with --since, or )?simulate later\n",
        done.stderr,
    )


def test_the_longest_schedule_and_period_are_simulated(desk: Cli) -> None:
    slow = ("--backoff", "fixed", "--base-minutes", "525600", "--max-retries", "1000", "--since", "36500d")
    found = desk.json("simulate", *slow)["proposed"]["figures"]
    assert found["delivered_within_24h"]["value"] == 0
    assert found["median_wait_seconds"] == {"value": None, "low": None, "high": None}
    assert desk.on_terminal("simulate", *slow).returncode == 0
