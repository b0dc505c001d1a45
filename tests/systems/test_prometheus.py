"""A real Prometheus reads the metrics of passes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

import retrycli
from retrycli.config.settings import MetricsSettings
from retrycli.operations.wiring import Runtime
from tests.systems.conftest import Prometheus
from tests.systems.servers import wait_until

if TYPE_CHECKING:
    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = pytest.mark.slow

PASSES = 'retrycli_passes_total{result="completed"}'
DELIVERED = 'retrycli_attempts_total{outcome="delivered"}'
START = "retrycli_last_pass_start_timestamp_seconds"


def test_counters_increase_across_passes(prometheus: Prometheus, at_work: Cli, application: Application) -> None:
    """The counters must not decrease when the counted attempts and passes are pruned."""
    measuring = at_work.having(
        {"RETRYCLI_METRICS__PATH": str(prometheus.folder / "retrycli.prom"), "RETRYCLI_RUN__RETENTION_DAYS": "1"}
    )
    for number in range(1, 4):
        application.add(100 + number)
        done = measuring.under("/bin/sh", "-c", 'umask 077; exec "$@"', "sh")("run-once")
        assert (done.returncode, done.stderr) == (0, "")
        wait_until(lambda number=number: prometheus.value(PASSES) == number)  # type: ignore[misc]
        assert prometheus.value(DELIVERED) == number
        application.execute("UPDATE retrycli_attempts SET started_at = '2026-01-01', finished_at = '2026-01-01'")
        application.execute("UPDATE retrycli_passes SET started_at = '2026-01-01', finished_at = '2026-01-01'")
        application.execute("DELETE FROM pending_messages")  # attempts at existing messages would not be pruned
    assert len(application.rows("retrycli_attempts")) == 1
    for series in (PASSES, DELIVERED):
        seen = prometheus.history(series)
        assert seen == sorted(seen)
        assert {1, 2, 3} <= set(seen)
    assert prometheus.value("node_textfile_scrape_error") == 0
    assert prometheus.value("count(node_textfile_mtime_seconds)") == 1


@pytest.mark.long
def test_the_late_alert_fires_after_two_missed_ticks_and_ends_with_the_next_pass(
    prometheus: Prometheus, application: Application, sandbox: Sandbox
) -> None:
    path = prometheus.folder / "retrycli.prom"
    settings = application.settings(sandbox.url).model_copy(update={"metrics": MetricsSettings(path=path)})

    def make_a_pass(began: datetime) -> None:
        retrycli.run_once(settings, runtime=Runtime(now=lambda: began))
        wait_until(lambda: prometheus.value(START) == pytest.approx(began.timestamp(), abs=0.01))

    assert prometheus.firing() == set()
    make_a_pass(datetime.now(UTC) - timedelta(minutes=36))
    assert prometheus.firing() == {"RetrycliLate"}
    make_a_pass(datetime.now(UTC) - timedelta(minutes=31))
    assert prometheus.firing() == set()
    make_a_pass(datetime.now(UTC))
    assert prometheus.firing() == set()
