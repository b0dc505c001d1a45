"""Several hosts with one table: each has its own lock, and they share only the database."""

from __future__ import annotations

import json
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from retrycli.config.settings import RunSettings
from retrycli.operations import run_pass, wiring
from retrycli.operations.sandbox import Sandbox
from tests.cli.api import BUSY, REJECTS, TAKES, Scripted, held_back
from tests.cli.command import Cli, Finished, end, side_by_side, wait_until
from tests.conftest import on_both

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from retrycli.domain.passes import PassSummary
    from retrycli.operations.sandbox import Answer
    from tests.cli.application import Application

on_postgresql = pytest.mark.databases("postgresql")
"""PostgreSQL only, because hosts share a SQLite file only by mistake."""

PROCESS_DIED, ALL_DUE = timedelta(minutes=14), timedelta(hours=2)
"""Delays after which all claims have expired, and after which all rescheduled messages are due."""


LOCK = "RETRYCLI_RUN__LOCK_FILE"


@pytest.fixture
def two_hosts(cli: Cli, tmp_path: Path) -> list[Cli]:
    """Provide the command on two hosts, each with its own lock."""
    return [cli.having({LOCK: str(tmp_path / f"{name}.lock")}) for name in ("one", "two")]


def at_once(hosts: list[Cli], env: dict[str, str]) -> list[Finished]:
    """Run a pass on each host at the same time, with the host's own lock."""
    env = {name: value for name, value in env.items() if name != LOCK}
    calls = {number: partial(host.having(env), "run-once") for number, host in enumerate(hosts)}
    return list(side_by_side(calls).values())


def run_elsewhere(application: Application, api: Sandbox, lock: Path, later: timedelta) -> PassSummary:
    """Run a pass on another host, whose clock is ahead by `later`."""
    settings = application.settings(api.url).model_copy(update={"run": RunSettings(lock_file=lock)})
    now = datetime.now(UTC) + later
    return run_pass.run_once(settings, runtime=replace(wiring.DEFAULT_RUNTIME, now=lambda: now))


def statuses(application: Application) -> Counter[object]:
    return Counter(row["status"] for row in application.rows().values())


# -- the work and what is known are shared ---------------------------------------------------------------------------


@on_postgresql
def test_hosts_share_the_work_and_send_each_message_once(
    two_hosts: list[Cli], application: Application, sandbox: Sandbox
) -> None:
    ids = application.add_due(120)
    done = at_once(two_hosts, application.variables(sandbox.url))
    assert [(result.returncode, result.stderr) for result in done] == [(0, "")] * 2
    assert statuses(application) == {"sent": len(ids)}
    assert len(sandbox.received) == len({request.key for request in sandbox.received}) == len(ids)


@on_postgresql
def test_two_hosts_probe_a_failing_api_once(two_hosts: list[Cli], application: Application) -> None:
    application.add_due(300)
    with Scripted(BUSY) as api:
        env = {**application.variables(api.url), "RETRYCLI_RUN__CONCURRENCY": "1"}
        assert two_hosts[0]("run-once", env=env).returncode == 69
        for number in range(1, 4):
            application.execute("UPDATE retrycli_breakers SET probe_at = now() - interval '1 second'")
            assert [result.returncode for result in at_once(two_hosts, env)] == [69, 69]
            assert len(api.paths) == 5 + number
    assert application.asked("SELECT sum(retry_count) FROM pending_messages") == [(5,)]


@on_postgresql
def test_the_rate_limit_holds_across_two_hosts(two_hosts: list[Cli], application: Application) -> None:
    """No request is answered before both hosts have sent some. Each may have reserved one turn by then."""
    application.add_due(60)
    with held_back() as (api, gate), ThreadPoolExecutor(1) as pool:
        env = {**application.variables(api.url), "RETRYCLI_RUN__RATE_PER_SECOND": "20"}
        passes = pool.submit(at_once, two_hosts, env)
        senders = "SELECT count(DISTINCT pass_id) FROM retrycli_attempts"
        wait_until(lambda: application.asked(senders) == [(2,)])
        [(opened,)] = application.asked("SELECT clock_timestamp()")
        gate.opened.set()
        assert [result.returncode for result in passes.result()] == [0, 0]
    assert statuses(application) == {"sent": 60}
    since = "SELECT count(*), max(started_at) FROM retrycli_attempts WHERE started_at > ?"
    [(number, last)] = application.asked(since, opened)
    assert number > 20
    assert last - opened >= timedelta(seconds=(number - 4) / 20)


# -- a pass whose claims have lapsed ---------------------------------------------------------------------------------

DECIDES: dict[str, tuple[Answer, set[object], set[object]]] = {
    "delivers": (TAKES, {"sent"}, set()),
    "puts off": (BUSY, {"failed"}, {"waiting"}),
    "escalates": (REJECTS, {"failed"}, {"escalated"}),
}
"""The API's answers to the other host, and the resulting statuses and states."""


@on_both
@pytest.mark.parametrize("does", DECIDES)
def test_a_suspended_pass_changes_no_decision_of_another_host_but_records_its_delivery(
    tmp_path: Path, cli: Cli, application: Application, does: str
) -> None:
    """A suspended pass resumes after its claims have expired and another host has attempted its messages.

    It had one request in flight, and must not send the other messages that it had claimed. The request was successful,
    so its message must not be sent again, and the unknown outcome is no longer true.
    """
    answer, in_table, in_queue = DECIDES[does]
    application.add_due(4)
    with held_back() as (api, gate):
        stopped = cli.having(application.variables(api.url)).start("run-once", "--json")
        assert gate.reached.wait(60)
        stopped.send_signal(signal.SIGSTOP)
        with Scripted(answer) as there:
            for later in (PROCESS_DIED, ALL_DUE):
                run_elsewhere(application, there, tmp_path / "other.lock", later)
        assert set(statuses(application)) == in_table
        assert {queued["state"] for queued in application.rows("retrycli_queue").values()} == in_queue
        [ended] = application.asked("SELECT message_id FROM retrycli_attempts WHERE outcome = 'unknown'")[0]
        decided = [others(application.rows(table), ended) for table in DECIDED]
        stopped.send_signal(signal.SIGCONT)
        gate.opened.set()
        done = end(stopped)
        assert len(api.received) == 1
    assert done.returncode == 0, done.stderr
    sent = int(does != "delivers")
    assert {name: json.loads(done.stdout)[name] for name in COUNTS} == {**dict.fromkeys(COUNTS, 0), "sent": sent}
    assert [others(application.rows(table), ended) for table in DECIDED] == decided
    assert application.row(ended)["status"] == "sent"
    assert ended not in application.rows("retrycli_queue")
    outcomes = "SELECT outcome FROM retrycli_attempts WHERE message_id = ? ORDER BY number"
    assert application.asked(outcomes, ended)[0] == ("delivered",)


def others(rows: Mapping[Any, Mapping[str, Any]], message_id: int) -> list[Mapping[str, Any]]:
    """Return the rows that do not concern a message."""
    return [row for row in rows.values() if message_id not in {row.get("message_id"), row.get("id")}]


DECIDED = ("pending_messages", "retrycli_queue", "retrycli_attempts", "retrycli_acts")
COUNTS = ("sent", "rescheduled", "escalated", "unknown")
