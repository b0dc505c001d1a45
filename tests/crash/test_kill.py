"""A pass killed with SIGKILL at any of its concurrent requests loses no message and leaves only claims that expire."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

import pytest

from retrycli import load_settings
from retrycli.domain.identity import REBIRTHS
from retrycli.operations import wiring
from tests.crash import scene
from tests.crash.forked import Wanted, forking
from tests.crash.invariants import (
    check_messages,
    check_nothing_is_lost,
    check_passes,
    left_alone,
    nothing_is_left,
    phase_of,
    wait_until_forgotten,
)
from tests.crash.killing import Killing
from tests.store.conftest import FACTORIES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.crash.forked import Run
    from tests.crash.scene import Scene
    from tests.store.conftest import Factory

LANES = ("sqlite-wal", "sqlite", "postgresql")
"""The databases to test. Their lanes run in parallel."""
LATER = timedelta(hours=1)
"""The time after which the claims of a killed pass have expired and all waiting messages are due."""
LATENCY = timedelta(milliseconds=10)
CONCURRENCY = 8
STEPS, WEIGHTS = (timedelta(seconds=30), timedelta(minutes=15), timedelta(hours=5)), (1, 4, 4)
"""The times between two runs, and their weights in the random choice. Claims are still valid after the first time, and
have expired after the second. After the third, all messages are due.
"""
MOST_RUNS = 100
"""The limit on runs without a kill per database, so that a test ends."""


@dataclass
class Lane:
    """Passes over databases of one kind until all kills are used.

    A kill comes at a random request of a pass. If the pass sends fewer, the kill is left for a later pass. The first
    pass over a database sends enough, so each database uses at least one kill.
    """

    folder: Path
    name: str
    rng: Random
    messages: int
    left: int
    """The number of kills that are left."""
    databases: int = 0
    runs: int = 0
    twice: int = 0
    escalated: int = 0
    in_flight: list[int] = field(default_factory=list)
    """By kill: the number of attempts that had no answer."""

    def go(self) -> None:
        with forking(self.folder) as run:
            while self.left:
                before = self.left
                self.databases += 1
                self._use_up(f"database-{self.databases}", run)
                assert self.left < before

    def _use_up(self, name: str, run: Run) -> None:
        with self._set_up(name) as (stage, server):
            before = left_alone(stage, self.messages)
            killed = self._run_until_nothing_is_left(stage, server, run)
            check_messages(stage, server, self.messages)
            check_passes(stage, killed)
            assert left_alone(stage, self.messages) == before
            self.twice += sum(request.times > 1 for request in server.received)
            self.escalated += stage.count("retrycli_queue")
            if stage.application.is_sqlite:
                assert stage.rows("PRAGMA integrity_check") == [("ok",)]

    @contextmanager
    def _set_up(self, name: str) -> Iterator[tuple[Scene, Killing]]:
        folder = self.folder / name
        folder.mkdir()
        with Killing(LATENCY) as server, FACTORIES[self.name](folder, None) as url:
            run = {"concurrency": CONCURRENCY}
            yield scene.set_up(folder, server.url, failed=self.messages, url=url, journal_mode=None, **run), server

    def _run_until_nothing_is_left(self, stage: Scene, server: Killing, run: Run) -> dict[int, str]:
        """Run passes, and kill them until no kill is left; return the phase of each killed process.

        The last pass is not killed. Its clock is past the end of every earlier lease, so that it recovers all messages.
        """
        ahead, lease = timedelta(0), wiring.pass_rules(load_settings(stage.config)).lease
        killed = {}
        for _ in range(MOST_RUNS + self.left):  # killed runs do not count towards the limit
            done = nothing_is_left(stage)
            ahead += lease if done else timedelta(0)
            request = self.rng.randint(1, self.messages // 4) if self.left and not done else 0
            wanted = Wanted(str(stage.config), ahead.total_seconds())
            ended = server.kill_at(request, run, wanted, accepts=self.rng.random() < 1 / 2)
            self.runs += 1
            if ended.killed:
                self.left -= 1
                wait_until_forgotten(stage)
                killed[ended.pid], in_flight = phase_of(stage, ended.pid)
                assert in_flight, "a request was sent before its attempt was recorded"
                self.in_flight.append(in_flight)
                check_nothing_is_lost(stage, server, self.messages)
            elif done:
                return killed
            ahead += self.rng.choices(STEPS, WEIGHTS)[0]
        raise AssertionError(f"still not done after {MOST_RUNS} runs that were not killed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("messages", "kills"),
    [
        (120, {"sqlite-wal": 6, "sqlite": 6, "postgresql": 3}),
        pytest.param(500, {"sqlite-wal": 290, "sqlite": 290, "postgresql": 140}, marks=pytest.mark.long),
    ],
    ids=["15", "720"],
)
def test_no_message_is_lost_or_stuck_however_often_a_pass_is_killed(
    messages: int, kills: Mapping[str, int], tmp_path: Path
) -> None:
    lanes = [Lane(tmp_path / name, name, Random(seed), messages, kills[name]) for seed, name in enumerate(LANES)]
    for lane in lanes:
        lane.folder.mkdir()
    with ThreadPoolExecutor(len(lanes)) as pool:
        for gone in [pool.submit(lane.go) for lane in lanes]:
            gone.result()
    for lane in lanes:
        print(
            f"\n{lane.name}: {kills[lane.name]} of {lane.runs} passes killed with {sum(lane.in_flight)} attempts in "
            f"flight; {lane.twice} messages arrived more than once, and {lane.escalated} were escalated"
        )
    assert {lane.name: len(lane.in_flight) for lane in lanes} == kills


def test_a_row_whose_birth_changes_at_each_request_is_not_sent_forever_though_each_pass_is_killed(
    engine: Factory, tmp_path: Path
) -> None:
    with engine(tmp_path, None) as url, Killing(timedelta(0)) as api, forking(tmp_path) as run:
        stage = scene.set_up(tmp_path, api.url, failed=1, url=url, journal_mode=None)
        for number in range(REBIRTHS + 2):
            api.kill_at(1, run, Wanted(str(stage.config), number * LATER.total_seconds()), accepts=True)
            wait_until_forgotten(stage)
            stage.change(f"UPDATE pending_messages SET created_at = '2025-03-04 05:06:0{number}' WHERE id = 1")
        assert stage.rows("SELECT escalation_reason FROM retrycli_queue") == [("invalid",)]
        assert stage.rows("SELECT outcome FROM retrycli_attempts") == [("unknown",)] * REBIRTHS
    assert sum(request.times for request in api.received) == REBIRTHS
