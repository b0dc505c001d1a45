"""The ``metrics`` command, and the metrics file that passes write for Prometheus."""

from __future__ import annotations

import logging
import re
import stat
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

import retrycli
from retrycli.config.gateway import RoutedGatewaySettings
from retrycli.config.settings import DatabaseSettings, MetricsSettings, RunSettings
from retrycli.domain.passes import PassResult, PassSummary
from retrycli.operations import metrics
from retrycli.operations.run_pass import report_pass
from retrycli.operations.sandbox import Behaviour, Sandbox
from retrycli.operations.wiring import Runtime, open_database
from retrycli.views import log_lines
from tests.cli.api import FORBIDS, Scripted
from tests.cli.test_bad_input import exclusively_locked, without_roots_powers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrycli.config.settings import Settings
    from tests.cli.application import Application
    from tests.cli.command import Cli

NAME = "retrycli.prom"
WARNING = "The metrics are not being written: "


def read(text: str) -> dict[str, float]:
    """Return the samples of a text by name and label values, as in ``retrycli_messages/waiting/customer``."""
    return {
        "/".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Provide the folder that node_exporter reads."""
    made = tmp_path / "textfile"
    made.mkdir()
    return made


@pytest.fixture
def measuring(at_work: Cli, folder: Path) -> Cli:
    """Provide the command, configured to write its metrics to node_exporter's folder."""
    return at_work.having({"RETRYCLI_METRICS__PATH": str(folder / NAME)})


def settings_of(application: Application, api: str, folder: Path) -> Settings:
    """Return the settings of `measuring`, for calls from Python."""
    return application.settings(api).model_copy(update={"metrics": MetricsSettings(path=folder / NAME)})


def clock_at(time: datetime) -> Runtime:
    """Return a runtime whose clock always shows this time."""
    return Runtime(now=lambda: time)


def test_metrics_cover_passes_attempts_and_the_queue(at_work: Cli, application: Application, folder: Path) -> None:
    """The command changes nothing. Without the setting, no pass writes a file."""
    found = read(at_work("metrics").stdout)
    assert not any("start" in name or "success" in name for name in found)
    assert found["retrycli_passes_total/completed"] == found["retrycli_attempts_total/delivered"] == 0
    application.fill()
    assert at_work("run-once").returncode == 0
    application.add(9, message_type="fax", hours_ago=5)
    application.add(10, hours_ago=0.5)
    assert at_work("run-once", "--limit", "1").returncode == 0
    before = application.dump()
    done = at_work("metrics")
    assert (done.returncode, done.stderr, application.dump()) == (0, "", before)
    found = read(done.stdout)
    assert found["retrycli_passes_total/completed"] == 2
    assert found["retrycli_attempts_total/delivered"] == 4
    assert {name: value for name, value in found.items() if value and "messages" in name} == {
        "retrycli_messages/waiting/customer": 1,
        "retrycli_messages/escalated/other": 1,
    }
    started = found["retrycli_last_pass_start_timestamp_seconds"]
    assert 0 <= found["retrycli_last_success_timestamp_seconds"] - started < 60
    assert found["retrycli_retry_interval_seconds"] == 900
    assert 0 <= found["retrycli_oldest_escalated_age_seconds"] < 60
    assert list(folder.iterdir()) == []
    assert "To have each pass write the metrics to a file, set metrics.path." in at_work.on_terminal("metrics").words
    writing = at_work.having({"RETRYCLI_METRICS__PATH": str(folder / NAME)})
    assert f"Each pass writes these metrics to {folder / NAME}. Next" in writing.on_terminal("metrics").words


def test_refuses_a_path_that_the_collector_would_not_read(at_work: Cli) -> None:
    done = at_work("run-once", env={"RETRYCLI_METRICS__PATH": "/var/lib/metrics.txt"})
    told = "metrics.path (environment RETRYCLI_METRICS__PATH): the name must end in .prom"
    assert (done.returncode, told in done.stderr) == (78, True)


@pytest.fixture
def without_the_extra(tmp_path: Path) -> dict[str, str]:
    """Return variables that hide prometheus-client from Python."""
    hiding = tmp_path / "hiding"
    hiding.mkdir()
    (hiding / "prometheus_client.py").write_text("raise ModuleNotFoundError(name='prometheus_client')\n")
    return {"PYTHONPATH": str(hiding)}


def test_a_missing_prometheus_client_is_reported_with_a_remedy(
    measuring: Cli, application: Application, without_the_extra: dict[str, str]
) -> None:
    """Metrics matter less than deliveries, so the command fails but a pass does not."""
    ours = Path(sys.executable).parent
    remedy = rf"metrics need prometheus-client; run `{ours}/python\S* -m pip install 'retrycli\[metrics\]'`"
    done = measuring("metrics", env=without_the_extra)
    assert (done.returncode, done.stdout) == (78, "")
    assert re.fullmatch(f"retrycli: {remedy}\n", done.stderr)
    application.fill()
    done = measuring("run-once", env=without_the_extra)
    assert done.returncode == 0
    assert re.search(f" WARNING {WARNING}{remedy}\n$", done.stderr)
    assert application.row(5)["status"] == "sent"


def test_each_pass_writes_the_file_and_counters_increase(
    measuring: Cli, application: Application, folder: Path
) -> None:
    """Everyone may read the file, under any umask. A pass that can't replace it leaves it as it was."""
    private = measuring.under("/bin/sh", "-c", 'umask 077; exec "$@"', "sh")
    application.fill()
    seen = []
    for number in range(3):
        application.add(100 + number)
        done = private("run-once")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        seen.append(read((folder / NAME).read_text()))
    assert [sample["retrycli_passes_total/completed"] for sample in seen] == [1, 2, 3]
    assert [sample["retrycli_attempts_total/delivered"] for sample in seen] == [4, 5, 6]
    starts = [sample["retrycli_last_pass_start_timestamp_seconds"] for sample in seen]
    assert starts == sorted(set(starts))
    assert stat.S_IMODE((folder / NAME).stat().st_mode) == 0o644
    before = (folder / NAME).read_text()
    folder.chmod(0o500)
    done = without_roots_powers(measuring)("run-once")
    folder.chmod(0o700)
    assert done.returncode == 0
    assert re.search(rf"Permission denied; give user \d+ write permission on the folder {folder}, ", done.stderr)
    assert (folder / NAME).read_text() == before
    assert [path.name for path in folder.iterdir()] == [NAME]


def test_a_skipped_paused_or_stopped_pass_writes_the_file_too(
    measuring: Cli, application: Application, folder: Path
) -> None:
    """Such a pass updates the last start, which alerts on late passes use, but not the last success."""
    with application.held():
        assert measuring("run-once", "--wait-lock", "0").returncode == 75
    found = read((folder / NAME).read_text())
    assert found["retrycli_passes_total/skipped"] == 1
    assert measuring("pause").returncode == 0
    assert measuring("run-once").returncode == 0
    later = read((folder / NAME).read_text())
    assert (later["retrycli_passes_total/paused"], later["retrycli_paused"]) == (1, 1)
    assert later["retrycli_last_pass_start_timestamp_seconds"] > found["retrycli_last_pass_start_timestamp_seconds"]
    assert measuring("resume").returncode == 0
    application.add_due(6)
    with Sandbox(Behaviour(down=True), rng=Random(0)) as down:
        assert measuring("run-once", env={"TICKETING_API_BASE_URL": down.url}).returncode == 69
        found = read((folder / NAME).read_text())
        assert found[f"retrycli_breaker_open/{down.url.removeprefix('http://')}"] == 1
    assert (found["retrycli_passes_total/stopped"], found["retrycli_attempts_total/transient"]) == (1, 5)
    assert "retrycli_last_success_timestamp_seconds" not in found


@contextmanager
def logged() -> Iterator[list[str]]:
    """Capture the lines that retrycli logs."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log_lines.logger.addHandler(handler)
    yield lines
    log_lines.logger.removeHandler(handler)


def test_a_missing_directory_is_a_warning_with_a_remedy_and_the_pass_continues(
    measuring: Cli, application: Application, folder: Path
) -> None:
    """Cron mails each warning, so only the first pass and the recovery log one."""
    folder.rmdir()
    application.fill()
    done = measuring("run-once")
    assert done.returncode == 0
    assert re.fullmatch(
        rf"\S+ WARNING {WARNING}metrics\.path: can't write {folder / NAME}: No such file or directory; "
        rf"create the folder {folder}, or use the one that node_exporter's textfile collector reads\n",
        done.stderr,
    )
    assert application.row(5)["status"] == "sent"
    assert application.last_pass()["result"] == "completed"
    assert not folder.exists()
    done = measuring("run-once")
    assert (done.returncode, done.stderr) == (0, "")
    folder.mkdir()
    assert measuring("run-once").stderr.endswith(" WARNING The metrics are being written again\n")
    assert measuring("run-once").stderr == ""
    assert read((folder / NAME).read_text())["retrycli_passes_total/completed"] == 4


def test_a_database_that_disappears_at_the_end_does_not_fail_the_pass(
    application: Application, sandbox: Sandbox, folder: Path
) -> None:
    impatient = DatabaseSettings(url=f"{application.url}?timeout=0.1")
    settings = settings_of(application, sandbox.url, folder).model_copy(update={"database": impatient})
    with open_database(settings) as database, exclusively_locked(application), logged() as lines:
        report_pass(settings, database, PassSummary("ended", PassResult.COMPLETED), datetime.now(UTC))
    [_, line] = lines
    assert line.startswith(f"The metrics may be out of date: {application.path}: database is locked: ")


@pytest.fixture
def settings(application: Application, sandbox: Sandbox, folder: Path) -> Settings:
    return settings_of(application, sandbox.url, folder)


def test_a_message_is_due_when_the_next_pass_would_send_it(application: Application, settings: Settings) -> None:
    application.add(101, hours_ago=0)
    retrycli.run_once(settings)
    [row] = application.rows("retrycli_queue").values()
    at = datetime.fromisoformat(str(row["next_attempt_at"])).replace(tzinfo=UTC)
    for seconds, due in ((-61, 0), (-60, 1), (0, 1)):
        assert metrics.measure(settings, now=lambda: at + timedelta(seconds=seconds))["retrycli_due_messages"] == due  # noqa: B023  called at once


def test_a_running_pass_counts_for_the_last_start_and_not_for_the_duration(
    application: Application, settings: Settings
) -> None:
    retrycli.run_once(settings)
    before = metrics.measure(settings)
    began = datetime.now(UTC) + timedelta(minutes=15)
    application.execute(
        "INSERT INTO retrycli_passes (id, host, pid, started_at, heartbeat_at, sent, rescheduled, escalated, unknown, "
        "released) VALUES ('running', 'box', 1, ?, ?, 0, 0, 0, 0, 0)",
        *[f"{began:%Y-%m-%d %H:%M:%S.%f}"] * 2,
    )
    after = metrics.measure(settings)
    assert after["retrycli_last_pass_start_timestamp_seconds"] == began
    assert (
        after["retrycli_last_success_timestamp_seconds"]
        == before["retrycli_last_success_timestamp_seconds"]
        is not None
    )
    assert after["retrycli_last_pass_duration_seconds"] == before["retrycli_last_pass_duration_seconds"] is not None


@pytest.mark.parametrize("has_success", [False, True])
def test_the_first_start_and_the_last_success_survive_pruning(
    application: Application, folder: Path, *, has_success: bool
) -> None:
    """Credentials are refused for longer than the retention, from the beginning or after a success."""
    begun = datetime.now(UTC).replace(microsecond=0) - timedelta(days=3)
    with Scripted(FORBIDS) as api:
        settings = settings_of(application, api.url, folder).model_copy(update={"run": RunSettings(retention_days=1)})
        for hours in range(0, 60, 6):
            if hours == (6 if has_success else 0):
                application.add(101, hours_ago=80)
            retrycli.run_once(settings, runtime=clock_at(begun + timedelta(hours=hours)))
    assert {row["result"] for row in application.rows("retrycli_passes").values()} == {"stopped"}
    found = metrics.measure(settings)
    assert found["retrycli_first_pass_start_timestamp_seconds"] == begun
    assert found["retrycli_last_success_timestamp_seconds"] == (begun if has_success else None)


@pytest.mark.parametrize("down", ["suppliers", "customers"])
def test_two_gateways_at_one_host_have_separate_states(application: Application, settings: Settings, down: str) -> None:
    """The open breaker of a gateway that was removed must not count for its host, nor any breaker if nothing waits."""
    gateway = RoutedGatewaySettings(
        base_url="http://desk/suppliers", customer=RoutedGatewaySettings(base_url="http://desk/customers")
    )
    both = settings.model_copy(update={"gateway": gateway})

    def write_down(path: str) -> None:
        add = "INSERT INTO retrycli_breakers (destination, state, failures, opened_at) VALUES (?, 'open', 5, ?)"
        application.execute(add, f"http://desk/{path}", "2026-03-02 12:00:00.000000")

    metrics.measure(settings)  # creates retrycli's tables
    write_down("given-up")
    assert metrics.measure(both)["retrycli_breaker_open"] == {"desk": False}
    write_down(down)
    assert metrics.measure(both)["retrycli_breaker_open"] == {"desk": False}
    application.execute(
        "INSERT INTO retrycli_queue (message_id, state, delivery_key, first_failed_at, unknown_count, birth) "
        "VALUES (1, 'waiting', 'key', '2026-03-02 12:00:00.000000', 0, '')"
    )
    assert metrics.measure(both)["retrycli_breaker_open"] == {"desk": True}


def test_an_acknowledged_escalation_still_counts(application: Application, settings: Settings) -> None:
    application.add(101, body=None)
    retrycli.run_once(settings, runtime=clock_at(datetime.now(UTC) - timedelta(hours=2)))
    found = metrics.measure(settings)
    assert found["retrycli_oldest_unacknowledged_age_seconds"] == pytest.approx(7200, abs=60)
    application.execute("UPDATE retrycli_queue SET acknowledged_at = '2026-03-02 12:00:00', acknowledged_by = 'ada'")
    found = metrics.measure(settings)
    assert (
        found["retrycli_oldest_unacknowledged_age_seconds"],
        found["retrycli_messages"]["escalated", "customer"],
    ) == (0, 1)
    assert found["retrycli_oldest_escalated_age_seconds"] == pytest.approx(7200, abs=60)
    assert found["retrycli_oldest_waiting_age_seconds"] == 0
