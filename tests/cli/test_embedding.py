"""The FastAPI application of the manual's page on embedding, under uvicorn. Its own function sends the messages."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from base64 import b64encode
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from itsdangerous import TimestampSigner

import retrycli
from tests.cli.api import held_back
from tests.cli.command import LONGEST, wait_until
from tests.conftest import on_both
from tests.environment import BARE
from tests.web.test_serve import is_listening

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application

pytestmark = on_both

MANUAL = Path(retrycli.__file__).parent / "manual" / "embedding.md"
KEY = "a key of the application"
OFTEN = {"RETRYCLI_SCHEDULE__RETRY_INTERVAL_MINUTES": "0.01"}
"""A tick every 0.6 seconds, because a test can't move the clock of a real application."""


class Served:
    """The manual's application, served by uvicorn on a Unix socket."""

    def __init__(self, process: subprocess.Popen[str], path: Path) -> None:
        self.process = process
        self._path = path

    def get(self, path: str, user: str = "anna", host: str = "desk.example.com", key: str = KEY) -> httpx.Response:
        """Return the response to a user's request, whose session is signed with a key."""
        session = TimestampSigner(key).sign(b64encode(json.dumps({"user": user}).encode())).decode()
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self._path)), timeout=LONGEST) as client:
            return client.get(f"http://{host}{path}", headers={"Cookie": f"session={session}", "X-Remote-User": user})

    def api(self, path: str) -> dict[str, Any]:
        """Return the body of the API's response."""
        found: dict[str, Any] = self.get(f"/api/messages/{path}").json()
        return found

    def read_until(self, words: str, *, times: int = 1) -> None:
        """Read lines of the output until this number of them contain some words."""
        assert self.process.stdout is not None
        assert len([*islice((line for line in self.process.stdout if words in line), times)]) == times

    def end(self) -> str:
        """Wait until the server has ended by SIGTERM, and return the rest of its output."""
        out, _ = self.process.communicate(timeout=LONGEST)
        assert self.process.returncode in {0, -signal.SIGTERM}
        return out


WATCHED = """
from threading import Event, Thread

from main import app, scheduler


def watch():
    for is_running in (False, True):
        while scheduler.get_status()["running"] is is_running:
            Event().wait(0.01)
    print("the scheduler was asked to stop", flush=True)


Thread(target=watch, daemon=True).start()
"""
"""The manual's application, and a line of output when its scheduler begins to stop."""


@contextmanager
def served(folder: Path, variables: Mapping[str, str], *options: str, app: str = "main:app") -> Iterator[Served]:
    [code] = re.findall(r"```python\n(.+?)```", MANUAL.read_text(encoding="utf-8"), re.DOTALL)
    (folder / "main.py").write_text(code)
    [settings] = re.findall(r"```toml\n(.+?)```", MANUAL.read_text(encoding="utf-8"), re.DOTALL)
    (folder / "retrycli.toml").write_text(settings)
    path = folder / "served"
    with subprocess.Popen(
        [sys.executable, "-m", "uvicorn", app, "--uds", str(path), "--no-access-log", *options],
        env={**BARE, **OFTEN, "SESSION_KEY": KEY, **variables, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            wait_until(lambda: is_listening(path), process)
            yield Served(process, path)
        finally:
            process.terminate()


def test_it_delivers_during_its_lifespan_and_stops(application: Application, sandbox: Sandbox, tmp_path: Path) -> None:
    application.fill()
    with served(tmp_path, application.variables(sandbox.url)) as running:
        wait_until(lambda: running.api("scheduler/overview")["messages"]["waiting"] == 1, running.process)
        asked, status = datetime.now(UTC).replace(microsecond=0), running.api("scheduler/status")
        assert (status["running"], status["retry_interval_minutes"], status["max_retries"]) == (True, 0.01, 10)
        assert datetime.fromisoformat(status["next_run"]) >= asked
        page = running.get("/messages/")
        assert (page.status_code, "Failed messages" in page.text) == (200, True)
        for path in ("/messages/", "/api/messages/scheduler/status"):
            assert running.get(path, user="").status_code == 401
            assert running.get(path, key="another key").status_code == 401, "the header alone shows no user"
            assert running.get(path, host="evil.example").status_code == 421
        running.process.terminate()
        said = running.end()
    assert "Application shutdown complete" in said
    assert "Traceback" not in said
    assert len(sandbox.received) == 3
    destinations = {row["destination"] for row in application.rows("retrycli_attempts").values()}
    assert destinations == {"python:main:retry_failed_message"}


def test_it_stops_after_the_answer_to_a_request_in_flight(application: Application, tmp_path: Path) -> None:
    application.add(101)
    (tmp_path / "watched.py").write_text(WATCHED)
    with held_back() as (api, gate), served(tmp_path, application.variables(api.url), app="watched:app") as running:
        assert gate.reached.wait(LONGEST)
        running.process.terminate()
        running.read_until("the scheduler was asked to stop")
        assert application.row(101)["status"] == "failed"
        gate.opened.set()
        running.end()
    assert application.row(101)["status"] == "sent"
    assert application.last_pass()["result"] == "interrupted"


def test_one_of_several_workers_makes_the_passes(application: Application, sandbox: Sandbox, tmp_path: Path) -> None:
    workers = ("--workers", "2", "--timeout-worker-healthcheck", f"{LONGEST}")
    with served(tmp_path, application.variables(sandbox.url), *workers) as running:
        running.read_until("Application startup complete", times=2)
        wait_until(lambda: len(application.rows("retrycli_passes")) >= 3, running.process)
        # Read the passes now: when the worker that makes them has stopped, the other one may take over before it stops.
        passes = application.rows("retrycli_passes").values()
        running.process.terminate()
        said = running.end()
    assert said.count("Application shutdown complete") == 2
    assert len({row["pid"] for row in passes}) == 1
