"""The FastAPI application of the manual's page on embedding, under uvicorn."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import retrycli
from tests.cli.api import held_back
from tests.cli.command import LONGEST, wait_until
from tests.conftest import on_both
from tests.environment import BARE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application

pytestmark = on_both
pytest.importorskip("uvicorn")

MANUAL = Path(retrycli.__file__).parent / "manual" / "embedding.md"
OFTEN = {"RETRYCLI_SCHEDULE__RETRY_INTERVAL_MINUTES": "0.01"}
"""A tick every 0.6 seconds, because a test can't move the clock of a real application."""


class Served:
    """The manual's application, served by uvicorn on a Unix socket."""

    def __init__(self, process: subprocess.Popen[str], path: Path) -> None:
        self.process = process
        self._path = path

    def deliveries(self) -> dict[str, Any]:
        """Return the answer of ``/deliveries``."""
        connection = HTTPConnection("application")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self._path))
        connection.request("GET", "/deliveries")
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return found

    def end(self) -> str:
        """Wait until the server has ended by SIGTERM, and return the rest of its output."""
        out, _ = self.process.communicate(timeout=LONGEST)
        assert self.process.returncode in {0, -signal.SIGTERM}
        return out


@contextmanager
def served(folder: Path, variables: Mapping[str, str], *options: str) -> Iterator[Served]:
    [code] = re.findall(r"```python\n(.+?)```", MANUAL.read_text(encoding="utf-8"), re.DOTALL)
    (folder / "main.py").write_text(code)
    path = folder / "served"
    with subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "main:app", "--uds", str(path), "--no-access-log", *options],
        env={**BARE, **OFTEN, **variables, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            wait_until(path.exists, process)
            yield Served(process, path)
        finally:
            process.terminate()


def test_it_delivers_during_its_lifespan_and_stops(application: Application, sandbox: Sandbox, tmp_path: Path) -> None:
    application.fill()
    with served(tmp_path, application.variables(sandbox.url)) as running:
        wait_until(lambda: running.deliveries()["messages"]["waiting"] == 1, running.process)
        status = running.deliveries()["scheduler"]
        assert (status["running"], status["retry_interval_minutes"], status["max_retries"]) == (True, 0.01, 10)
        running.process.terminate()
        said = running.end()
    assert "Application shutdown complete" in said
    assert "Traceback" not in said
    assert len(sandbox.received) == 3


def test_it_stops_after_the_answer_to_a_request_in_flight(application: Application, tmp_path: Path) -> None:
    application.add(101)
    with held_back() as (api, gate), served(tmp_path, application.variables(api.url)) as running:
        assert gate.reached.wait(LONGEST)
        running.process.terminate()
        assert running.process.stdout is not None
        while "Waiting for application shutdown" not in running.process.stdout.readline():
            pass
        assert application.row(101)["status"] == "failed"
        gate.opened.set()
        running.end()
    assert application.row(101)["status"] == "sent"
    assert application.last_pass()["result"] == "interrupted"


def test_one_of_several_workers_makes_the_passes(application: Application, sandbox: Sandbox, tmp_path: Path) -> None:
    with served(tmp_path, application.variables(sandbox.url), "--workers", "2") as running:
        wait_until(lambda: len(application.rows("retrycli_passes")) >= 3, running.process)
        running.process.terminate()
        said = running.end()
    assert said.count("Application shutdown complete") == 2
    assert len({row["pid"] for row in application.rows("retrycli_passes").values()}) == 1


def test_it_continues_after_a_pass_without_a_database(tmp_path: Path) -> None:
    """Otherwise deliveries would stop for good, unnoticed."""
    gone = {"RETRYCLI_DATABASE__URL": "sqlite:///gone.db", "TICKETING_API_BASE_URL": "http://127.0.0.1:9"}
    with served(tmp_path, gone) as running:
        assert running.process.stdout is not None
        failures = 0
        while failures < 2:
            failures += "Message retry pass failed: no database at " in running.process.stdout.readline()
        running.process.terminate()
        assert "Application shutdown complete" in running.end()
