"""Passes on four hosts with one PostgreSQL server are killed. Each message arrives, and is never sent concurrently."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from queue import SimpleQueue
from random import Random
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import make_url

from retrycli.operations.sandbox import Behaviour, Sandbox
from tests.cli.command import LONGEST, wait_until
from tests.crash import scene
from tests.crash.scene import FIRST_TICKET

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from retrycli.operations.sandbox import Answer
    from tests.crash.scene import Scene

pytestmark = pytest.mark.databases("postgresql")

HOSTS = 4
LATENCY = timedelta(milliseconds=50)
CLAIMED = 32
"""The number of messages that each host claims at first. So a process is killed at one of its first requests."""
LONGEST_SECONDS = 600
"""The timeout of the test, in seconds."""

PRESET = """
[messages.{kind}]
method = "POST"
path = "/tickets/{{ticket_id}}/messages"
ignores = ["cc_emails"]
body = {{ process = "{process}" }}
"""
AGAIN_AND_AGAIN = {
    "schedule.max_retries": 1000,
    "schedule.due_slack_seconds": 0,
    "schedule.backoff": "fixed",
    "schedule.base_minutes": 0.01,
    "gateway.unknown_limit": 100,
}
"""Settings with which each pass immediately resends messages with unknown outcomes."""


LONG_AGO = "heartbeat_at - interval '1 hour'"


@dataclass(frozen=True, slots=True)
class Request:
    """One request that the API received, with times from the test's clock."""

    process: str
    key: str | None
    began: float
    ended: float


class Api(Sandbox):
    """An API that accepts everything, kills processes, and records the process and the times of each request.

    Args:
        kills: the number of processes to kill.
    """

    def __init__(self, kills: int) -> None:
        super().__init__(Behaviour(latency=LATENCY), rng=Random(0))
        self.requests: defaultdict[int, list[Request]] = defaultdict(list)
        """By message: the requests that were accepted."""
        self.kills = kills
        """The number of kills that remain."""
        self.fatal: dict[str, int] = {}
        """By process: the number of the request that kills it."""
        self.pids: defaultdict[str, SimpleQueue[int]] = defaultdict(SimpleQueue)
        self.all_there = Event()
        """Is set when each host has sent a request."""
        self._begun: Counter[str] = Counter()
        self._writing = Lock()

    def answer(self, method: str, path: str, key: str | None, body: bytes) -> Answer:
        began = time.monotonic()
        process = json.loads(body)["process"]
        with self._writing:
            self._begun[process] += 1
            is_fatal = self.kills > 0 and self._begun[process] == self.fatal.get(process)
            self.kills -= is_fatal
            if len({name.partition("-")[0] for name in self._begun if name in self.fatal}) == HOSTS:
                self.all_there.set()
        if process in self.fatal:
            self.all_there.wait(LONGEST)
        if is_fatal and self.fatal[process] % 2:
            self._kill(process)
        answer = super().answer(method, path, key, body)
        message_id = int(path.split("/")[2]) - FIRST_TICKET
        with self._writing:
            self.requests[message_id].append(Request(process, key, began, time.monotonic()))
        if is_fatal:
            self._kill(process)
        return answer

    def _kill(self, process: str) -> None:
        os.kill(self.pids[process].get(timeout=LONGEST), signal.SIGKILL)
        raise ConnectionAbortedError


@dataclass
class Fleet:
    """The hosts, each with its own lock, and the kills of their processes."""

    stage: Scene
    api: Api
    died: dict[str, float] = field(default_factory=dict)
    """By killed process: the time by which it was certainly dead."""
    in_flight: list[int] = field(default_factory=list)
    """The number of attempts in flight in each killed pass."""
    runs: int = 0

    def deliver(self) -> None:
        """Run all hosts in parallel until no message is left."""
        deadline = time.monotonic() + LONGEST_SECONDS
        with self._start(0, "0-takes-all-in", "--limit", "1") as process:
            assert process.wait() == 0
        with ThreadPoolExecutor(HOSTS) as pool:
            for gone in [pool.submit(self._live, number, Random(number), deadline) for number in range(HOSTS)]:
                gone.result()

    def _live(self, host: int, rng: Random, deadline: float) -> None:
        """Run the passes of one host one after the other. The last pass is not killed, so that it recovers the rest."""
        done = False
        while not done:
            assert time.monotonic() < deadline, "still not done"
            done = self.stage.count("pending_messages WHERE status = 'failed'") == 0
            self.runs += 1
            name = f"{host}-{self.runs}"
            self.api.fatal[name] = rng.randint(1, CLAIMED)
            with self._start(host, name) as process:
                self.api.pids[name].put(process.pid)
                _, errors = process.communicate()
            assert process.returncode in {0, -signal.SIGKILL}, errors
            if process.returncode != 0:
                self._let_its_claims_lapse(name, process.pid)

    def _start(self, host: int, name: str, *options: str) -> subprocess.Popen[str]:
        folder = self.stage.folder
        preset = folder / f"{name}.toml"
        preset.write_text("".join(PRESET.format(kind=kind, process=name) for kind in scene.TYPES))
        url = make_url(self.stage.application.url).update_query_dict({"application_name": name})
        own = {
            "database.url": url.render_as_string(hide_password=False),
            "gateway.preset": preset,
            "run.lock_file": folder / f"{host}.lock",
        }
        return self.stage.start("-m", "retrycli", "run-once", *options, settings=AGAIN_AND_AGAIN | own)

    def _let_its_claims_lapse(self, name: str, pid: int) -> None:
        """Let the claims of a dead process expire. Living processes keep their claims.

        This function first waits until PostgreSQL has closed the session, because until then it may still execute
        statements. The claims expire at the current time and not earlier. Otherwise a running pass that began before
        an attempt could record the attempt's end before its start.
        """
        wait_until(lambda: self.stage.count("pg_stat_activity WHERE application_name = ?", name) == 0)
        self.died[name] = time.monotonic()
        for (pass_id,) in self.stage.rows("SELECT id FROM retrycli_passes WHERE pid = ?", pid):
            open_ones = self.stage.count("retrycli_attempts WHERE pass_id = ? AND finished_at IS NULL", pass_id)
            self.in_flight.append(open_ones)
            self.stage.change(f"UPDATE retrycli_queue SET claim_expires_at = now() WHERE claimed_by = '{pass_id}'")
            self.stage.change(f"UPDATE retrycli_passes SET heartbeat_at = {LONG_AGO} WHERE id = '{pass_id}'")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("messages", "kills"),
    [(200, 4), pytest.param(2_000, 16, marks=pytest.mark.long), pytest.param(20_000, 100, marks=pytest.mark.long)],
    ids=["200", "2000", "20000"],
)
def test_hosts_killed_at_random_lose_no_message_and_never_send_one_concurrently(
    tmp_path: Path, url: str, messages: int, kills: int
) -> None:
    with Api(kills) as api:
        stage = scene.set_up(tmp_path, api.url, failed=messages, url=url)
        stage.make_tables()
        fleet = Fleet(stage, api)
        fleet.deliver()
    twice = _check_requests(api, fleet)
    _check_history(stage, api, messages)
    _check_passes(stage, messages)
    print(
        f"\n{messages:,} messages by {HOSTS} hosts: {fleet.runs} passes, {len(fleet.died)} of them "
        f"killed with {sum(fleet.in_flight)} attempts in flight; {twice} messages arrived more than once"
    )
    assert api.all_there.is_set()
    assert len(fleet.died) == len(fleet.in_flight) == kills
    assert min(fleet.in_flight) > 0


def _check_requests(api: Api, fleet: Fleet) -> int:
    """Check that a message is sent again only after the death of its sender; return the number of such messages.

    The API may read a request after the death of its sender.
    """
    twice = 0
    for message_id, unordered in api.requests.items():
        requests = sorted(unordered, key=lambda each: min(each.began, fleet.died.get(each.process, math.inf)))
        assert len({request.key for request in requests}) == 1, f"message {message_id} has come under two keys"
        for before, after in pairwise(requests):
            assert fleet.died.get(before.process, math.inf) < after.began, f"message {message_id}: {requests}"
        twice += len(requests) > 1
    return twice


def _check_history(stage: Scene, api: Api, messages: int) -> None:
    """Check that each message arrived at most once per attempt, and was retried only after unknown outcomes."""
    history: defaultdict[int, list[Any]] = defaultdict(list)
    for message_id, outcome in stage.rows("SELECT message_id, outcome FROM retrycli_attempts ORDER BY message_id, id"):
        history[message_id].append(outcome)
    rows = stage.rows("SELECT id, status, retry_count, last_error FROM pending_messages WHERE id <= ?", messages)
    assert len(rows) == len(history) == len(api.requests) == messages
    for message_id, status, retry_count, last_error in rows:
        assert (status, last_error) == ("sent", None)
        assert history[message_id] == ["unknown"] * retry_count + ["delivered"]
        assert len(api.requests[message_id]) <= len(history[message_id])
    assert stage.count("retrycli_queue") == 0


def _check_passes(stage: Scene, messages: int) -> None:
    """Check that each pass has ended, and that the passes together counted each message once."""
    results = dict(stage.rows("SELECT result, sum(sent) FROM retrycli_passes GROUP BY result"))
    assert results.keys() == {"completed", "interrupted"}
    assert sum(results.values()) == messages
