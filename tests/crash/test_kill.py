"""A pass killed with SIGKILL at any time loses no message and leaves only claims that expire."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

import pytest

from retrycli import load_settings
from retrycli.operations import wiring
from retrycli.operations.sandbox import Behaviour, Sandbox
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
from tests.store.conftest import FACTORIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.crash.forked import Ended
    from tests.crash.scene import Scene

LANES = ("sqlite-wal", "sqlite", "postgresql")
"""The databases to test. Their lanes run in parallel."""
LATENCY = timedelta(milliseconds=10)
CONCURRENCY = 8
STEPS, WEIGHTS = (timedelta(seconds=30), timedelta(minutes=15), timedelta(hours=5)), (1, 4, 4)
"""The times between two runs, and their weights in the random choice. Claims are still valid after the first time, and
have expired after the second. After the third, all messages are due.
"""
MOST_RUNS, MOST_DATABASES = 100, 100
"""The limits on runs without a kill per database, and on databases per lane, so that a test ends."""


@dataclass
class Lane:
    """Passes over databases of one kind until all kills are used, and the phases that the kills hit."""

    folder: Path
    name: str
    rng: Random
    messages: int
    moments: list[float]
    """The times of the kills, as shares of the duration of an undisturbed pass. Each is used once."""
    databases: int = 0
    runs: int = 0
    twice: int = 0
    escalated: int = 0
    by_phase: Counter[str] = field(default_factory=Counter)
    in_flight: list[int] = field(default_factory=list)

    def go(self) -> None:
        with forking(self.folder) as run:
            with self._set_up("undisturbed") as (stage, _):
                whole = run(Wanted(str(stage.config), 0))
                assert not whole.killed
            while self.moments:
                assert self.databases < MOST_DATABASES, "runs end before they can be killed"
                self.databases += 1
                self._use_up(f"database-{self.databases}", run, whole.seconds)

    def _use_up(self, name: str, run: Callable[[Wanted], Ended], life: float) -> None:
        with self._set_up(name) as (stage, server):
            before = left_alone(stage, self.messages)
            killed = self._run_until_nothing_is_left(stage, server, run, life)
            check_messages(stage, server, self.messages)
            check_passes(stage, killed)
            assert left_alone(stage, self.messages) == before
            self.twice += sum(request.times > 1 for request in server.received)
            self.escalated += stage.count("retrycli_queue")
            if stage.application.is_sqlite:
                assert stage.rows("PRAGMA integrity_check") == [("ok",)]

    @contextmanager
    def _set_up(self, name: str) -> Iterator[tuple[Scene, Sandbox]]:
        folder = self.folder / name
        folder.mkdir()
        with (
            Sandbox(Behaviour(latency=LATENCY), rng=Random(0)) as server,
            FACTORIES[self.name](folder, None) as url,
        ):
            run = {"concurrency": CONCURRENCY}
            yield scene.set_up(folder, server.url, failed=self.messages, url=url, journal_mode=None, **run), server

    def _run_until_nothing_is_left(
        self, stage: Scene, server: Sandbox, run: Callable[[Wanted], Ended], life: float
    ) -> dict[int, str]:
        """Run passes, and kill them until no kill is left; return the phase of each killed process.

        The last pass is not killed. Its clock is past the end of every earlier lease, so that it recovers all messages.
        """
        ahead, lease = timedelta(0), wiring.pass_rules(load_settings(stage.config)).lease
        killed = {}
        for _ in range(MOST_RUNS + len(self.moments)):  # killed runs do not count towards the limit
            done = nothing_is_left(stage)
            ahead += lease if done else timedelta(0)
            which = self.rng.randrange(len(self.moments)) if self.moments and not done else None
            moment = None if which is None else self.moments[which] * life
            ended = run(Wanted(str(stage.config), ahead.total_seconds(), after_seconds=moment))
            self.runs += 1
            if ended.killed:
                assert which is not None
                del self.moments[which]
                wait_until_forgotten(stage)
                killed[ended.pid] = self._look_at_the_dead(stage, ended.pid)
                check_nothing_is_lost(stage, server, self.messages)
            elif done:
                return killed
            ahead += self.rng.choices(STEPS, WEIGHTS)[0]
        raise AssertionError(f"still not done after {MOST_RUNS} runs that were not killed")

    def _look_at_the_dead(self, stage: Scene, pid: int) -> str:
        phase, in_flight = phase_of(stage, pid)
        self.by_phase[phase] += 1
        if in_flight:
            self.in_flight.append(in_flight)
        return phase


@pytest.mark.slow
@pytest.mark.parametrize(
    ("messages", "kills", "share"),
    [
        (500, {"sqlite-wal": 6, "sqlite": 6, "postgresql": 3}, 2 / 3),
        # Later kills would often come after the end of the pass, because another pass has sent a part of the messages.
        pytest.param(500, {"sqlite-wal": 290, "sqlite": 290, "postgresql": 140}, 1 / 3, marks=pytest.mark.long),
    ],
    ids=["15", "720"],
)
def test_no_message_is_lost_or_stuck_however_often_a_pass_is_killed(
    messages: int, kills: Mapping[str, int], share: float, tmp_path: Path
) -> None:
    """The kills are spread evenly over the first part, ``share``, of the duration of an undisturbed pass."""
    lanes = [
        _lane(tmp_path / name, name, messages, kills[name], share, Random(seed)) for seed, name in enumerate(LANES)
    ]
    with ThreadPoolExecutor(len(lanes)) as pool:
        for gone in [pool.submit(lane.go) for lane in lanes]:
            gone.result()
    print(_report(lanes))
    assert {lane.name: lane.by_phase.total() for lane in lanes} == kills
    assert sum(len(lane.in_flight) for lane in lanes) >= sum(kills.values()) // 10, (
        "hardly a kill hit requests in flight"
    )


def _lane(folder: Path, name: str, messages: int, kills: int, share: float, rng: Random) -> Lane:
    folder.mkdir()
    return Lane(folder, name, rng, messages, [share * (number + rng.random()) / kills for number in range(kills)])


def _report(lanes: Sequence[Lane]) -> str:
    def line(what: str, *figures: object) -> str:
        return f"{what:<50}" + "".join(f"{figure!s:>12}" for figure in figures)

    phases = sorted({phase for lane in lanes for phase in lane.by_phase})
    return "\n".join(
        [
            line("\nkills by phase", *(lane.name for lane in lanes)),
            *(line(phase, *(lane.by_phase[phase] for lane in lanes)) for phase in phases),
            line("runs", *(lane.runs for lane in lanes)),
            line("databases", *(lane.databases for lane in lanes)),
            line("attempts in flight at a kill", *(sum(lane.in_flight) for lane in lanes)),
            line("messages that arrived more than once", *(lane.twice for lane in lanes)),
            line("escalated messages", *(lane.escalated for lane in lanes)),
        ]
    )
