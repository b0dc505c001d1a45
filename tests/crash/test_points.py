"""A pass killed with SIGKILL, at any commit or request, loses no message and leaves only claims that expire."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import pytest

from retrycli.operations.sandbox import Behaviour, Sandbox
from retrycli.operations.wiring import utc_now
from tests.cli.application import Application
from tests.crash import scene
from tests.crash.forked import Wanted, forking, kill_at_each_point
from tests.crash.invariants import (
    check_messages,
    check_nothing_is_lost,
    check_passes,
    clear_up,
    left_alone,
    message_id,
    phase_of,
    wait_until_forgotten,
)
from tests.crash.points import AFTER_AN_ANSWER, AGAIN, BEFORE_A_REQUEST, MADE_TABLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from retrycli.operations.sandbox import Answer, Received
    from tests.crash.forked import Ended, Run
    from tests.crash.scene import Scene
    from tests.store.conftest import Factory

MESSAGES = 8
FAIL_LATER = (7, 8)
"""Messages that fail after the first pass."""
CLAIMED, WAITING = 20, 21
"""Two more messages, which the application sends itself after the first pass. That pass had claimed only `CLAIMED`."""
ANSWERS = {3: ("transient", "delivered"), 5: ("permanent",)}
"""The API's successive answers to some messages. It repeats the last answer."""
STATUSES = {"transient": 503, "permanent": 422, "delivered": 200}
LATER = timedelta(hours=1)
OLD = "2024-11-05 06:07:08.000000"
OLD_ROWS = (
    "INSERT INTO retrycli_passes (id, host, pid, started_at, heartbeat_at, finished_at, result, sent, rescheduled, "
    f"escalated, unknown, released) VALUES ('old', 'old', 1, '{OLD}', '{OLD}', '{OLD}', 'completed', 1, 0, 0, 0, 0)",
    "INSERT INTO retrycli_attempts (message_id, pass_id, number, made_by, started_at, finished_at, outcome) "
    f"VALUES (12, 'old', 1, 'pass', '{OLD}', '{OLD}', 'delivered')",
)
"""An old pass and its attempt, which the next pass must delete."""

WRITES = {
    *("+passes", "~passes", "-passes", "+queue", "~queue", "-queue", "+attempts", "~attempts", "-attempts"),
    "~pending_messages",
}
"""The kinds of writes, each of which is in some commit."""
NOBODY = "http://127.0.0.1:9"


class Api(Sandbox):
    """An API that gives some messages a configured answer. It starts with the requests of an earlier API."""

    def __init__(self, before: Iterable[Received] = ()) -> None:
        super().__init__(Behaviour(), rng=Random(0))
        self._kept.update({row.key or row.id: row for row in before})
        self._left = {of_id: list(answers) for of_id, answers in ANSWERS.items()}

    def answer(self, method: str, path: str, key: str | None, body: bytes) -> Answer:
        left = self._left.get(message_id(path.split("/")[2]), ["delivered"])
        says = left.pop(0) if len(left) > 1 else left[0]
        if says == "delivered":
            return super().answer(method, path, key, body)
        return STATUSES[says], {"succeeded": False, "messages": [says]}


@dataclass(frozen=True)
class Start:
    """The initial state of a killed pass: a database to copy, and its history."""

    url: str
    left_alone: Sequence[object] = ()
    ahead: timedelta = timedelta(0)
    arrived: Sequence[Received] = ()
    killed: dict[int, str] = field(default_factory=dict)


@dataclass
class Field:
    """A folder for copies of databases, and a function that runs passes on them."""

    folder: Path
    engine: Factory
    run: Run
    scenes: int = 0

    @contextmanager
    def scene_from(self, start: Start) -> Iterator[tuple[Scene, Api]]:
        """Copy a database, and start an API for it."""
        self.scenes += 1
        folder = self.folder / f"{self.scenes}"
        folder.mkdir()
        with self.engine(folder, start.url) as url, Api(start.arrived) as api:
            there = Application(url, tables=None)
            yield scene.configure(folder, there, api.url, concurrency=4, retention_days=365), api

    def kill_everywhere(self, start: Start, met: set[str], *, thorough: bool) -> None:
        """Kill passes at each point that is not in `met`, and check that later passes repair the result."""
        wanted = Wanted("", start.ahead.total_seconds(), thorough=thorough)
        for (stage, api), ended in kill_at_each_point(self.run, wanted, met, partial(self.scene_from, start)):
            self._check_repair(start, stage, api, ended)

    def _check_repair(self, start: Start, stage: Scene, api: Api, ended: Ended) -> None:
        wait_until_forgotten(stage)
        check_nothing_is_lost(stage, api, MESSAGES)
        killed = start.killed | {ended.pid: phase_of(stage, ended.pid)[0]}
        clear_up(stage, utc_now() + start.ahead + LATER)
        check_messages(stage, api, MESSAGES, ANSWERS)
        check_passes(stage, killed)
        assert left_alone(stage, MESSAGES) == start.left_alone
        assert stage.count("retrycli_passes WHERE id = 'old'") == 0
        assert stage.count("retrycli_attempts WHERE pass_id = 'old'") == 0
        if stage.application.is_sqlite:
            assert stage.rows("PRAGMA integrity_check") == [("ok",)]

    @contextmanager
    def starts(self) -> Iterator[list[Start]]:
        """Yield two starts: a database without retrycli's tables, and one with a history in which a pass has died."""
        folder = self.folder / "start"
        folder.mkdir()
        with self.engine(folder, None) as url:
            empty = scene.set_up(folder, NOBODY, failed=MESSAGES, url=url, journal_mode=None)
            made = {CLAIMED: scene.FAILED_AT, WAITING: str(utc_now().replace(tzinfo=None))}
            rows = [scene.message(point, "failed") | {"created_at": at, "updated_at": at} for point, at in made.items()]
            tickets = [{"ticket_id": row["ticket_id"], "state": "open"} for row in rows]
            empty.application.insert("ticket_states", tickets)
            empty.application.insert("pending_messages", rows)
            _set_status(empty, "approved", FAIL_LATER)
            with self.scene_from(Start(url)) as (later, api):
                died = self.run(Wanted(str(later.config), 0, point=AFTER_AN_ANSWER))
                wait_until_forgotten(later)
                phase, in_flight = phase_of(later, died.pid)
                assert in_flight == 1
                for row in OLD_ROWS:
                    later.change(row)
                for stage in (empty, later):
                    _set_status(stage, "sent", list(made))
                    _set_status(stage, "failed", FAIL_LATER)
                untouched = left_alone(later, MESSAGES)
                there = later.application.url
                yield [Start(url, untouched), Start(there, untouched, LATER, api.received, {died.pid: phase})]


def _set_status(stage: Scene, status: str, ids: Sequence[int]) -> None:
    stage.change(f"UPDATE pending_messages SET status = '{status}' WHERE id IN ({', '.join(map(str, ids))})")


@pytest.fixture
def ground(engine: Factory, tmp_path: Path) -> Iterator[Field]:
    with forking(tmp_path) as run:
        yield Field(tmp_path, engine, run)


@pytest.mark.slow
@pytest.mark.databases("sqlite-wal", "postgresql", once=True)
def test_a_pass_killed_at_any_point_loses_nothing(ground: Field) -> None:
    """If both starts reach a point, the pass is killed only in the second one, to save time."""
    met: set[str] = set()
    with ground.starts() as starts:
        for start in reversed(starts):
            ground.kill_everywhere(start, met, thorough=False)
    assert met >= {BEFORE_A_REQUEST, AFTER_AN_ANSWER, f"after commit: {MADE_TABLES}"}
    assert {word for visit in met for word in visit.split()} >= WRITES


@pytest.mark.long
@pytest.mark.databases("sqlite", "sqlite-wal", "postgresql")
def test_a_pass_killed_at_any_visit_to_any_point_loses_nothing(ground: Field) -> None:
    again = {f"{BEFORE_A_REQUEST}{AGAIN}{nth}" for nth in range(2, MESSAGES - len(FAIL_LATER))}
    with ground.starts() as starts:
        for start in starts:
            met: set[str] = set()
            ground.kill_everywhere(start, met, thorough=True)
            assert met >= again
