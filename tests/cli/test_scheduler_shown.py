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
ME = f"pid {os.getpid()} on {socket.gethostname()}"
INSTALL = "cron install"


@pytest.fixture
def crontab(tmp_path: Path) -> Crontab:
    return Crontab(tmp_path)


@pytest.fixture
def desk(cli: Cli, application: Application, crontab: Crontab, tmp_path: Path) -> Iterator[Cli]:
    """Provide the command with settings in a file, and a running cron without a line."""
    config = cli.cwd / "retrycli.toml"
    config.write_text(f'[database]\nurl = "{application.url}"\n[gateway]\nbase_url = "{API}"\n')
    with a_cron(tmp_path):
        yield cli.having(crontab.variables)


@contextmanager
def an_application(application: Application, passes: int = 0) -> Iterator[None]:
    """Run a scheduler that was started before the last tick, and has made this number of passes, the newest at it."""
    last = next_tick() - TICK
    clock = Steered(last - (passes + 1) * TICK)
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
        earlier = datetime.fromisoformat(str(started_at)) - by
        application.execute("UPDATE retrycli_passes SET started_at = ? WHERE id = ?", str(earlier), pass_id)


@pytest.mark.parametrize("passes", [0, 1])
def test_an_application_that_makes_the_passes_is_seen_and_no_cron_line_is_suggested(
    desk: Cli, application: Application, passes: int
) -> None:
    application.add(101, hours_ago=0)
    with an_application(application, passes):
        due, status = next_tick(), desk.json("status")
        assert status["state"] == ("ok" if passes else "never_run")
        assert status["next_run"] in {utc_text(due), utc_text(next_tick())}
        assert [level for level, *_ in findings(desk, "scheduler")] == ["ok"]
        [cron] = [gate for gate in desk.json("explain", "101")["gates"] if gate["name"] == "cron"]
        assert (cron["open"], cron["figure"]) == (True, "every 15 min; next at")
        checked = desk.json("cron", "check")
        assert [(caller["kind"], caller["title"], caller["when"]) for caller in checked["schedulers"]] == [
            ("application", ME, "every 15 min")
        ]
        said = "".join(
            desk(*command).stdout for command in (["status"], ["doctor"], ["cron", "check"], ["explain", "101"])
        )
    assert f"an application makes the passes every 15 min: {ME}" in said
    assert INSTALL not in said


def test_the_passes_of_an_application_elsewhere_are_enough(desk: Cli, application: Application) -> None:
    """The application may run on another host, or its lock may be invisible to this user."""
    with an_application(application, 1):
        pass
    due, status = next_tick(), desk.json("status", "--check")
    assert status["last_pass"]["started_by"] == "application"
    assert status["next_run"] in {utc_text(due), utc_text(next_tick())}
    [(level, words, _)] = findings(desk, "scheduler")
    assert level == "ok"
    assert words.endswith(f"the last one ran on {socket.gethostname()} in an application (pid {os.getpid()})")
    said = desk("status").stdout + desk("doctor").stdout
    assert INSTALL not in said
    assert "can only be estimated" not in said


def test_cron_and_an_application_together_are_reported(desk: Cli, application: Application, crontab: Crontab) -> None:
    assert desk("cron", "install", *OWN, "--yes").returncode == 0
    with an_application(application):
        [(level, words, remedy)] = findings(desk, "scheduler")
        assert level == "warning"
        assert words.startswith("both an application and a cron line or timer start passes: the crontab of ")
        assert words.endswith(ME)
        assert remedy == (
            "keep only one: remove retrycli.Scheduler from the application, or the others with `retrycli cron remove`"
        )
        checked = desk("cron", "check")
        assert (checked.returncode, checked.stderr) == (3, f"retrycli: {words}; {remedy}\n")
        assert desk("cron", "check", "--user").returncode == 0, "the crontab itself is right"


def test_no_cron_line_is_installed_beside_an_application(desk: Cli, application: Application, crontab: Crontab) -> None:
    with an_application(application):
        done = desk("cron", "install", *OWN, "--yes")
    assert done.returncode == 78
    assert f"passes are already started by an application, {ME} (every 15 min). Two schedules would" in done.stderr
    assert "or first remove retrycli.Scheduler from the application and restart it\n" in done.stderr
    assert not crontab.file.exists()
    assert desk("cron", "install", *OWN, "--yes").returncode == 0


def test_an_application_that_has_stopped_making_passes_is_named(desk: Cli, application: Application) -> None:
    """A pass by an operator does not hide it. Cron is not to blame, and a cron line is not the remedy."""
    application.add(101, hours_ago=0)
    with an_application(application, 1):
        pass
    made_earlier(application, TICK)
    assert desk("status", "--check").returncode == 0
    made_earlier(application, 2 * TICK)
    [(began,)] = application.asked("SELECT started_at FROM retrycli_passes")
    last = utc_text(datetime.fromisoformat(str(began)))
    gone = f"the application that made the passes ({ME}, last pass at {last}) has stopped making them"
    remedy = "restart the application"
    for state in ("late", "ok"):
        status = desk("status", "--check")
        assert (status.returncode, status.stderr) == (3, f"retrycli: {gone}; {remedy}\n")
        assert f"\nNext run\tnone: {gone}; {remedy}\n" in status.stdout
        assert desk.json("status")["state"] == state
        assert findings(desk, "scheduler") == [("failure", gone, remedy)]
        [(level, _, again)] = findings(desk, "passes")
        assert (level, again) == ("failure", remedy)
        [cron] = [gate for gate in desk.json("explain", "101")["gates"] if gate["name"] == "cron"]
        assert (cron["open"], cron["figure"]) == (False, f"{gone}; {remedy}")
        said = desk("status").stdout + desk("doctor").stdout
        assert INSTALL not in said
        assert "cron may be stopped" not in said
        assert desk("run-once", "--started-by", "person").returncode == 0


def test_an_application_that_runs_but_makes_no_passes_is_named(desk: Cli, application: Application) -> None:
    with an_application(application, 1):
        made_earlier(application, 3 * TICK)
        hangs = f"the application ({ME}) is running, but its passes fail or hang; see its log"
        assert f"no pass has begun since then: {hangs}" in desk("status").stdout
        assert findings(desk, "passes")[0][2] == hangs
    due = next_tick()
    with scheduler_of(application.settings(API), Steered(datetime.now(UTC))):
        [(_, _, remedy)] = findings(desk, "passes")
        words = f"the application ({ME}) was started too late for the last scheduled pass; the next pass is due at "
        assert remedy in {words + utc_text(due), words + utc_text(next_tick())}


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


def test_the_application_itself_sees_its_scheduler(application: Application) -> None:
    settings = application.settings(API)
    assert retrycli.status(settings).next_run is None
    with an_application(application):
        due = next_tick()
        assert retrycli.status(settings).next_run in {due, next_tick()}
