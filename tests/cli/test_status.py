"""``status``: scheduler health, queue counts, and problems."""

from __future__ import annotations

import os
import re
import socket
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import retrycli
from retrycli.operations.sandbox import Behaviour
from retrycli.system.host import system_zone
from tests.cli.api import BAD_GATEWAY, FORBIDS, TAKES, Scripted, held_back
from tests.cli.command import COLUMNS, end, side_by_side
from tests.cli.schedulers import Crontab
from tests.conftest import on_both, on_sqlite

if TYPE_CHECKING:
    from pathlib import Path

    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = on_both


def made_a_pass(application: Application, sandbox: Sandbox, *, minutes_ago: int = 0) -> None:
    """Run a pass, and backdate it by this number of minutes."""
    retrycli.run_once(application.settings(sandbox.url))
    began = datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=minutes_ago)
    application.execute("UPDATE retrycli_passes SET started_at = ?", str(began))


def test_before_the_first_pass_status_says_so_and_suggests_a_remedy(at_work: Cli, application: Application) -> None:
    """A failed message that is not in the queue yet counts as due, unless it has just failed and waits first."""
    application.fill()
    found = at_work.json("status", "--check", code=3)
    assert (found["state"], found["running"], found["last_pass"], found["next_run"]) == ("never_run", False, None, None)
    assert (found["messages"]["waiting"], found["messages"]["due"]) == (4, 3)
    assert "Next: `retrycli run-once`, and then `retrycli cron install`\n" in at_work.on_terminal("status").text


def test_after_a_first_pass_all_is_ok_and_the_next_run_is_the_next_quarter_hour(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    application.fill()
    application.add(9, body=None)
    made_a_pass(application, sandbox)
    found = at_work.json("status", "--check")
    assert (found["state"], found["running"]) == ("ok", True)
    assert [found["messages"][name] for name in ("waiting", "due", "sending", "escalated")] == [1, 0, 0, 1]
    last: dict[str, Any] = found["last_pass"]
    assert (last["sent"], last["pid"], last["host"]) == (3, os.getpid(), socket.gethostname())
    assert last["started_by"] == "library"
    began, runs = (datetime.fromisoformat(time) for time in (last["started_at"], found["next_run"]))
    assert timedelta() < runs - began <= timedelta(minutes=16)
    assert (runs.minute % 15, runs.second) == (0, 0)


def test_passes_are_late_when_the_last_one_began_47_minutes_ago(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    made_a_pass(application, sandbox, minutes_ago=47)
    found = at_work.json("status", "--check", code=3)
    assert (found["state"], found["running"], found["next_run"]) == ("late", False, None)
    screen = at_work.on_terminal("status")
    assert screen.returncode == 0
    assert "the last one began 47 minutes ago: completed" in screen.words
    assert "State late: a pass should begin every 15 minutes; none since " in screen.words
    assert screen.text.endswith("Next: retrycli doctor\n")


def test_an_open_breaker_is_shown_as_down_with_its_end_while_messages_wait_for_it(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    """When nothing waits, no pass sends a probe, so nothing would ever show that the API works again."""
    ids = application.add_due(6)
    sandbox.behaviour = Behaviour(down=True)
    made_a_pass(application, sandbox)
    found = at_work.json("status", "--check", code=3)
    assert (found["state"], found["running"]) == ("down", True)
    [breaker] = found["breaker"]
    assert (breaker["destination"], breaker["state"], breaker["failures"]) == (sandbox.url, "open", 5)
    piped = at_work("status").stdout
    assert "State\tdown\nPasses\tthe last one began just now: stopped (breaker open)" in piped
    assert f"Breaker open\t{sandbox.url}, next probe at {breaker['probe_at']}, 5 failures in a row\n" in piped
    at = datetime.fromisoformat(breaker["probe_at"]).astimezone().isoformat(" ", "minutes")
    assert f"next probe at {at}, 5 failures in a row" in at_work.on_terminal("status").words
    moved = at_work.having({"TICKETING_API_BASE_URL": "http://127.0.0.1:9/moved"})
    assert (moved.json("status", "--check")["state"], moved.json("status")["breaker"]) == ("ok", [])
    assert at_work("mark-sent", "--yes", *map(str, ids)).returncode == 0
    found = at_work.json("status", "--check")
    assert (found["state"], found["breaker"]) == ("ok", [])
    assert "has been failing" not in at_work("doctor").stdout


def test_in_an_outage_the_next_probe_is_shown_as_the_next_attempt(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    """JSON keeps the time at which a message is due, by which programs tell which messages are due."""
    application.add_due(6)
    sandbox.behaviour = Behaviour(down=True)
    made_a_pass(application, sandbox)
    [breaker] = at_work.json("status")["breaker"]
    listed = {str(entry["id"]): entry["next_attempt_at"] for entry in at_work.json("list-failed")["messages"]}
    [waits] = [key for key, due in listed.items() if due < breaker["opened_at"]]
    shown = {line.split("\t")[0]: line.split("\t")[5] for line in at_work("list-failed").stdout.splitlines()}
    assert shown == {key: max(due, breaker["probe_at"]) for key, due in listed.items()}
    assert f"queue.next_attempt_at\t{breaker['probe_at']}\n" in at_work("show", waits).stdout
    assert at_work.json("show", waits)["queue"]["next_attempt_at"] == listed[waits]
    asked = at_work.on_terminal(
        "retry", "--state", "waiting", "--ticket", str(application.row(int(waits))["ticket_id"])
    )
    assert datetime.fromisoformat(breaker["probe_at"]).astimezone().isoformat(" ", "minutes") in asked.words


def test_each_of_several_hosts_is_listed_with_its_lateness(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    """With one host the line about passes already shows everything."""
    made_a_pass(application, sandbox)
    [here] = at_work.json("status")["hosts"]
    assert (list(here), here["late"]) == (["host", "started_at", "late"], False)
    assert "\nHost " not in at_work("status").stdout
    hours = {"mill": 2, "barn": 7 * 24 - 1, "a retired host": 7 * 24 + 1}
    for host, began in hours.items():
        at = str(datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=began))
        application.execute(
            "INSERT INTO retrycli_passes (id, host, pid, started_at, heartbeat_at, sent, rescheduled, escalated,"
            f" unknown, released) VALUES ('{host}', '{host}', 1, ?, ?, 0, 0, 0, 0, 0)",
            at,
            at,
        )
    found = at_work.json("status")
    assert found["state"] == "ok"
    late = {host["host"]: host["late"] for host in found["hosts"]}
    assert late == {here["host"]: False, "mill": True, "barn": True}
    assert (
        "Host mill\tits last pass began 2 hours ago; check its cron line, timer or application\n"
        in at_work("status").stdout
    )


def test_a_rest_that_the_api_requested_ends_on_time(at_work: Cli, application: Application, sandbox: Sandbox) -> None:
    """If nothing is due, no request ends the requested wait, so `status` must compare the wait's end with the clock."""
    made_a_pass(application, sandbox)
    application.execute(
        "INSERT INTO retrycli_breakers VALUES (?, 'resting', 0, '2026-01-01', '2026-01-01 00:00:00.000000', NULL)",
        sandbox.url,
    )
    assert at_work.json("status", "--check")["state"] == "ok"


def test_a_running_pass_is_shown_with_its_lock_and_its_messages(cli: Cli, application: Application) -> None:
    """A skipped pass is normal while another one runs, so `status` shows that one."""
    application.add_due(2)
    with held_back() as (sandbox, gate):
        at_work = cli.having(application.variables(sandbox.url))
        process = at_work.start("run-once")
        assert gate.reached.wait(60)
        application.add(900, hours_ago=3)
        explained = at_work.on_terminal("explain", "900").words
        assert at_work("run-once").returncode == 75
        found = at_work.json("status")
        told, passes = at_work("status").stdout, at_work("passes").stdout
        gate.opened.set()
        assert end(process).returncode == 0
    assert found["lock"]["pid"] == process.pid
    assert found["messages"]["sending"] == 2
    assert found["last_pass"]["result"] is None
    assert "\nPasses\tthe last one began just now: running\n" in told, "what it has sent is counted at its end"
    assert "\nSending\t2\nClaimed by\tthe running pass\n" in told
    assert f"\nLock\tpid {process.pid} on " in told
    assert "\trunning" + 6 * "\t" in passes
    assert "Next attempt in the pass that is running now, or at 20" in explained
    afterwards = at_work("status").stdout
    assert "\nPasses\tthe last one began just now: completed, 2 sent" in afterwards
    assert "Cause" not in told + afterwards


@pytest.mark.parametrize(
    ("result", "reason", "began", "state"),
    [
        ("failed", "fault", timedelta(minutes=1), "down"),
        ("completed", None, timedelta(minutes=1), "ok"),
        ("completed", None, timedelta(hours=5), "late"),
    ],
)
def test_a_skipped_pass_does_not_hide_what_the_pass_before_says(
    at_work: Cli,
    application: Application,
    sandbox: Sandbox,
    result: str,
    reason: str | None,
    began: timedelta,
    state: str,
) -> None:
    made_a_pass(application, sandbox)
    application.execute("DELETE FROM retrycli_passes")
    now = datetime.now(UTC).replace(tzinfo=None)
    for of, why, at in ((result, reason, now - began), ("skipped", "lock_held", now)):
        application.execute(
            "INSERT INTO retrycli_passes (id, host, pid, started_at, heartbeat_at, finished_at, sent, rescheduled,"
            " escalated, unknown, released, result, reason, detail)"
            " VALUES (?, 'here', 1, ?, ?, ?, 0, 0, 0, 0, 0, ?, ?, ?)",
            *(of, str(at), str(at), str(at), of, why, f"why it {of}"),
        )
    found = at_work.json("status")
    assert (found["last_pass"]["result"], found["state"]) == (result, state)
    assert f"\nCause\twhy it {result}\n" in at_work("status").stdout


def test_a_pass_without_a_recorded_end_is_neither_running_nor_ok(cli: Cli, application: Application) -> None:
    """A pass that was killed, or ended on a full disk, leaves claimed messages until another pass recovers them."""
    application.add_due(2)
    with held_back() as (sandbox, gate):
        at_work = cli.having(application.variables(sandbox.url))
        process = at_work.start("run-once")
        assert gate.reached.wait(60)
        process.kill()
        end(process)
        gate.opened.set()
        found = at_work.json("status", "--check", code=3)
        told, passes, screen = at_work("status").stdout, at_work("passes").stdout, at_work.on_terminal("passes")
        assert (found["state"], found["last_pass"]["result"], found["messages"]["sending"]) == ("down", None, 2)
        assert "\nPasses\tthe last one began just now: ended without a recorded result\n" in told
        assert "\tended without a recorded result" + 6 * "\t" in passes
        assert "ended without a recorded result" in screen.words
        long_ago = str(datetime.now(UTC).replace(tzinfo=None) - timedelta(days=1))
        application.execute("UPDATE retrycli_queue SET claim_expires_at = ?", long_ago)
        application.execute("UPDATE retrycli_passes SET heartbeat_at = ?", long_ago)
        assert at_work("run-once").returncode == 0
        assert at_work.json("status", "--check")["state"] == "ok"


def test_status_changes_nothing(at_work: Cli, application: Application) -> None:
    application.fill()
    before = application.dump()
    shown = at_work.show_all(piped=["status", "list-failed", "escalations", "show 5", "passes", "config check"])
    assert {text.returncode for text in shown.piped.values()} == {0}
    assert application.dump() == before


def test_status_and_passes_show_the_failure_of_the_last_pass_in_one_line(at_work: Cli) -> None:
    """The pass reported the failure only on stderr, and cron's mail may have reached nobody."""
    nowhere = {"RETRYCLI_RUN__LOCK_FILE": "/proc/none/retrycli.lock"}
    done = at_work.having(nowhere)("run-once")
    assert done.returncode == 78
    [why] = (line.removeprefix("retrycli: ") for line in done.stderr.splitlines())
    assert "/proc/none/retrycli.lock" in why
    [found] = at_work.json("passes")["passes"]
    assert (found["result"], found["reason"], found["detail"]) == ("failed", "fault", why)
    assert f"\nCause\t{why}\n" in at_work("status").stdout
    assert at_work("passes").stdout.endswith(f"\tfault: {why}\tunknown\n")
    screens = at_work.on_terminal("status"), at_work.on_terminal("passes")
    assert f"{why} " in screens[0].words, "no word is broken in two"
    for screen in screens:
        assert "/proc/none/retrycli.lock" in screen.text
        assert max(map(len, screen.text.splitlines())) <= COLUMNS


def test_too_many_escalated_messages_are_unhealthy(at_work: Cli, application: Application, sandbox: Sandbox) -> None:
    """A monitor may check only the exit code."""
    for message_id in (9, 10):
        application.add(message_id, body=None)
    made_a_pass(application, sandbox)
    few = at_work("status", "--check", "--max-escalated", "2")
    assert (few.returncode, few.stderr) == (0, "")
    assert at_work("status", "--check").returncode == 0
    for limit in ("1", "0"):
        assert at_work.json("status", "--check", "--max-escalated", limit, code=3)["state"] == "ok"


UNCALLED, REMEDY = "nothing is known to start passes", "run `retrycli cron install`"


@on_sqlite
def test_without_a_scheduler_there_is_no_next_run(at_work: Cli, application: Application, tmp_path: Path) -> None:
    """A recent pass that no person started is enough to predict the next run."""
    crontab = Crontab(tmp_path)
    desk = at_work.having(crontab.variables)
    application.add(1)
    assert desk("run-once", "--started-by", "person").returncode == 0
    application.add(2)
    found = desk.json("status")
    assert (found["state"], found["running"], found["next_run"], found["reason"]) == ("ok", True, None, UNCALLED)
    assert f"\nState\t{UNCALLED}\n" in "\n" + desk("status").stdout
    assert f"\nNext run\tnone; {REMEDY}\n" in desk("status").stdout
    checked = desk("status", "--check")
    assert (checked.returncode, checked.stderr) == (3, f"retrycli: {UNCALLED}; {REMEDY}\n")
    [cron] = [gate for gate in desk.json("explain", "2")["gates"] if gate["name"] == "cron"]
    assert (cron["open"], cron["figure"]) == (False, f"{UNCALLED}; {REMEDY}")
    assert desk("run-once", "--started-by", "unknown").returncode == 0
    assert desk("status", "--check").returncode == 0
    assert desk.json("status")["next_run"] is not None


def test_a_refusal_lasts_until_a_message_is_delivered(cli: Cli, application: Application) -> None:
    """A pass without due messages makes no request, so it can't end a refusal."""
    application.add(1)
    with Scripted(FORBIDS, FORBIDS, TAKES) as api:
        desk = cli.having(application.variables(api.url))
        assert desk("run-once").returncode == 77
        assert "\nAPI " not in desk("status").stdout, "the pass itself says so"
        screen = desk.on_terminal("status")
        assert "stopped (credentials refused)" in screen.words
        assert screen.text.endswith("Next: retrycli doctor\n")
        application.execute("UPDATE pending_messages SET status = 'rejected'")
        assert desk("run-once").returncode == 0
        [refusal] = desk.json("status", "--check")["refusals"]
        assert (refusal["destination"], refusal["was_idle"]) == (api.url, True)
        told = rf"\nAPI {api.url}\trefused requests at \S+Z: .*401.*; no request since then, because nothing was due\n"
        assert re.search(told, desk("status").stdout)
        just_now = datetime.now(UTC).isoformat(sep=" ")
        application.add(2, hours_ago=0, created_at=just_now, updated_at=just_now)
        assert desk("run-once").returncode == 0
        assert desk.json("status", "--check", code=3)["state"] == "down"
        gates = {gate["name"]: gate for gate in desk.json("explain", "2")["gates"]}
        assert gates["last_pass"]["open"]
        figure = r"the next pass .* the last pass that sent requests was refused: .*401.*; it .*"
        assert re.fullmatch(figure, gates["last_pass"]["figure"])
        assert gates["last_pass"]["time"] == refusal["at"]
        api._answers = [BAD_GATEWAY, TAKES]
        application.execute("UPDATE retrycli_queue SET next_attempt_at = '2020-01-01'")
        desk("run-once")
        assert [each["was_idle"] for each in desk.json("status")["refusals"]] == [False]
        assert desk("retry", "2", "--yes").returncode == 0
    found = desk.json("status", "--check")
    assert (found["state"], found["refusals"]) == ("ok", [])


@pytest.mark.slow
@on_sqlite
def test_an_unresponsive_crontab_times_out_and_is_reported(cli: Cli, application: Application, tmp_path: Path) -> None:
    """An unresponsive crontab program must not block a command: each call is limited to 3 s."""
    crontab = Crontab(tmp_path)
    crontab.program.write_text("#!/bin/sh\nexec sleep 600\n")
    file = cli.cwd / "retrycli.toml"
    file.write_text(f'[database]\nurl = "{application.url}"\n[gateway]\nbase_url = "http://127.0.0.1:9"\n')
    application.fill()
    command = cli.having(crontab.variables).real()
    said = "retrycli: `crontab` did not respond within 3 s, so a cron line that only it can show is not counted\n"
    looks = ("status", "status --json", "explain 5", "cron check")
    *reports, done = side_by_side({each: partial(command, *each.split(), "--config", file) for each in looks}).values()
    for report in reports:
        assert (report.returncode, report.stderr) == (0, said)
        assert report.stdout
    assert done.returncode == 3
    assert "`crontab` failed: no response within 3 s" in done.stderr


@on_sqlite
def test_the_next_run_ignores_the_operators_time_zone(
    cli: Cli, application: Application, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Cron uses the system's time zone."""
    made_a_pass(application, sandbox)
    crontab = Crontab(tmp_path)
    file = cli.cwd / "retrycli.toml"
    file.write_text(f'[database]\nurl = "{application.url}"\n[schedule]\nretry_interval_minutes = 1440\n')
    own = ("--user", "--run-as", "root") if os.geteuid() == 0 else ("--user",)
    installed = cli.having(crontab.variables)("cron", "install", *own, "--yes", "--config", file)
    assert installed.returncode == 0, installed.stderr
    abroad = (cli.having({**crontab.variables, "TZ": zone}) for zone in ("UTC", "XYZ-5:45", "ABC+9"))
    [told] = {text.json("status", "--config", file)["next_run"] for text in abroad}
    assert datetime.fromisoformat(told).astimezone(system_zone()).hour == 0
