"""What the commands say about an application that makes the passes with `retrycli.Scheduler`."""

from __future__ import annotations

import json
import os
import socket
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

import retrycli
from retrycli.domain.duration import utc_text
from tests.cli.schedulers import Crontab, a_cron
from tests.cli.steered import BY_THEN, TICK, Steered, next_tick, scheduler_of
from tests.cli.test_cron import OWN
from tests.conftest import on_sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = on_sqlite

API = "http://127.0.0.1:9"
INSTALL = "cron install"


@pytest.fixture
def desk(cli: Cli, application: Application, tmp_path: Path) -> Iterator[Cli]:
    """Provide the command with settings in a file, and a running cron without a line."""
    config = cli.cwd / "retrycli.toml"
    config.write_text(f'[database]\nurl = "{application.url}"\n[gateway]\nbase_url = "{API}"\n')
    with a_cron(tmp_path):
        yield cli.having(Crontab(tmp_path).variables)


@contextmanager
def an_application(application: Application, passes: int = 0) -> Iterator[None]:
    """Run a scheduler that has made this number of passes, the newest at the last tick. Without any, it starts now."""
    last = next_tick() - TICK
    clock = Steered(last - passes * TICK if passes else datetime.now(UTC))
    with scheduler_of(application.settings(API), clock):
        for ago in reversed(range(passes)):
            clock.settle_at(last - ago * TICK + BY_THEN)
        yield


def findings(desk: Cli, *names: str) -> list[tuple[str, str, str | None]]:
    """Return the level, text and remedy of doctor's findings with these names."""
    found = json.loads(desk("doctor", "--json").stdout)["findings"]
    return [(each["level"], each["found"], each["remedy"]) for each in found if each["name"] in names]


def made_earlier(application: Application, by: timedelta) -> None:
    """Date all passes back."""
    for pass_id, started_at in application.asked("SELECT id, started_at FROM retrycli_passes"):
        earlier = str(datetime.fromisoformat(str(started_at)) - by)
        change = "UPDATE retrycli_passes SET started_at = ?, finished_at = ? WHERE id = ?"
        application.execute(change, earlier, earlier, pass_id)


@pytest.mark.parametrize("passes", [0, 1])
def test_an_application_that_makes_the_passes_is_seen_and_no_cron_line_is_suggested(
    desk: Cli, application: Application, passes: int
) -> None:
    application.add(101, hours_ago=0)
    with an_application(application, passes):
        due, status = next_tick(), desk.json("status")
        assert status["state"] == ("ok" if passes else "never_run")
        assert status["next_run"] in {utc_text(due), utc_text(next_tick())}
        where = socket.gethostname() if passes else f"{socket.gethostname()} (pid {os.getpid()})"
        words = f"passes come from an application on {where}, not from a block of retrycli's"
        assert findings(desk, "scheduler") == [("ok", words, None)]
        [cron] = [gate for gate in desk.json("explain", "101")["gates"] if gate["name"] == "cron"]
        assert (cron["open"], cron["figure"]) == (True, "every 15 min; next at")
        assert desk.json("cron", "check")["elsewhere"] == [words]
        assert retrycli.status(application.settings(API)).next_run in {due, next_tick()}
        said = "".join(
            desk(*command).stdout for command in (["status"], ["doctor"], ["cron", "check"], ["explain", "101"])
        )
        assert INSTALL not in said
        asked = desk("cron", "install", *OWN)
        assert asked.returncode == 2
        assert f"the application with pid {os.getpid()} makes passes on this host; then two" in asked.stderr


def test_an_application_that_has_stopped_making_passes_is_noticed(desk: Cli, application: Application) -> None:
    """A pass by an operator does not hide it, and a cron line is not the remedy."""
    application.add(101, hours_ago=0)
    with an_application(application, 4):
        pass
    application.execute("UPDATE retrycli_passes SET host = 'barn'")
    made_earlier(application, 3 * TICK)
    [(began,)] = application.asked("SELECT max(started_at) FROM retrycli_passes")
    since = f"passes came every 15 minutes; none since {utc_text(datetime.fromisoformat(str(began)))}"
    for state, hand in (("late", ""), ("ok", ", except by hand")):
        status = desk("status", "--check")
        first = f"{'late: ' if state == 'late' else ''}{since}{hand}"
        assert status.stdout.startswith(f"State\t{first}\n")
        assert (status.returncode, status.stderr) == (3, f"retrycli: {since}{hand}; run `retrycli doctor`\n")
        assert (desk.json("status")["state"], desk.json("status")["reason"]) == (state, f"{since}{hand}")
        assert [level for level, *_ in findings(desk, "passes")] == ["failure"]
        explained = desk.json("explain", "101")
        [cron] = [gate for gate in explained["gates"] if gate["name"] == "cron"]
        assert explained["next_attempt_at"] is None
        assert (cron["open"], cron["figure"]) == (False, f"{since}{hand}; run `retrycli doctor`")
        assert desk("run-once", "--started-by", "person").returncode == 0


def test_a_host_whose_application_leaves_the_passes_to_another_host_is_not_late(
    desk: Cli, application: Application
) -> None:
    with an_application(application, 8):
        pass
    application.execute(
        "UPDATE retrycli_passes SET host = 'mill' WHERE id IN "
        "(SELECT id FROM retrycli_passes ORDER BY started_at LIMIT 2)"
    )
    assert {host["host"]: host["late"] for host in desk.json("status")["hosts"]} == {
        "mill": False,
        socket.gethostname(): False,
    }
    made_earlier(application, 4 * TICK)
    assert all(host["late"] for host in desk.json("status")["hosts"])
    application.execute("UPDATE retrycli_passes SET started_by = 'cron' WHERE host = 'mill'")
    made_earlier(application, -4 * TICK)
    assert [host["late"] for host in desk.json("status")["hosts"] if host["host"] == "mill"] == [True]
