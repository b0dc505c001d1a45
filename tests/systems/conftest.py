"""A real Prometheus that reads a real node_exporter's textfile collector, both on loopback."""

from __future__ import annotations

import json
import shutil
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import application, at_work, cli, prepared, sandbox, templates
from tests.cron.machine import FILES
from tests.environment import free_port
from tests.systems.servers import running, says, wait_until

__all__ = ["application", "at_work", "cli", "prepared", "prometheus", "sandbox", "templates"]

EVERY = "1s"
"""The interval at which Prometheus scrapes and evaluates its rules."""


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus with the rules of ``cron/``, and the folder that its one target reads."""

    url: str
    folder: Path

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the current result of an expression."""
        found = self._get("/api/v1/query", query=expression)
        assert isinstance(found, dict)
        results: list[dict[str, Any]] = found["result"]
        return results

    def value(self, expression: str) -> float | None:
        """Return the one value of an expression, or None if there is no result."""
        results = self.query(expression)
        return float(results[0]["value"][1]) if results else None

    def history(self, series: str) -> list[float]:
        """Return all samples of one series, oldest first."""
        [found] = self.query(f"{series}[10m]")
        return [float(value) for _, value in found["values"]]

    def firing(self) -> set[str]:
        """Return the firing alerts, after the next evaluation of the rules."""
        asked = time.time()
        wait_until(lambda: self._looked_at() > asked)
        return {entry["metric"]["alertname"] for entry in self.query('ALERTS{alertstate="firing"}')}

    def _looked_at(self) -> float:
        """Return the time of the last evaluation of the rules."""
        [group] = self._get("/api/v1/rules")["groups"]
        return datetime.fromisoformat(group["lastEvaluation"]).timestamp()

    def _get(self, path: str, **parameters: str) -> Any:  # noqa: ANN401
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)["data"]


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    """Provide a Prometheus and its node_exporter, without data."""
    programs = {"prometheus": "prometheus", "prometheus-node-exporter": "prometheus-node-exporter"}
    for program, package in programs.items():
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt-get install {package}")
    folder = tmp_path / "textfile"
    folder.mkdir()
    reads, asks = free_port(), free_port()
    settings = tmp_path / "prometheus.yml"
    settings.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": EVERY, "evaluation_interval": EVERY},
                "rule_files": [str(FILES / "prometheus-rules.yml")],
                "scrape_configs": [{"job_name": "node", "static_configs": [{"targets": [f"127.0.0.1:{reads}"]}]}],
            }
        )
    )
    exporter = [
        "prometheus-node-exporter",
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={folder}",
        f"--web.listen-address=127.0.0.1:{reads}",
    ]
    server = [
        "prometheus",
        f"--config.file={settings}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{asks}",
        "--log.level=warn",
    ]
    with running(exporter, tmp_path / "exporter.log"), running(server, tmp_path / "prometheus.log") as process:
        found = Prometheus(f"http://127.0.0.1:{asks}", folder)
        wait_until(lambda: says(f"{found.url}/-/ready", 200, process, tmp_path / "prometheus.log"))
        yield found
