"""A pass killed with SIGKILL, at any commit or request, loses no message and leaves only claims that expire."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

import pytest

from retrycli.operations.sandbox import Behaviour, Sandbox
from retrycli.operations.wiring import utc_now
from tests.cli.application import Application
from tests.crash import scene
from tests.crash.forked import Wanted, forking
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
from tests.crash.points import AFTER_AN_ANSWER, stands_for_others

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from retrycli.operations.sandbox import Answer, Received
    from tests.crash.forked import Ended
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

ATTEMPTS = 5
"""The maximum number of passes to reach a point, because the points vary a little from pass to pass."""
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

    @property
    def seconds(self) -> float:
        return self.ahead.total_seconds()


@dataclass
class Table:
    """The counts after the kills at each point.

    In the second start, they may include the claims and the unfinished attempt of an earlier dead pass.
    """

    kills: Counter[str] = field(default_factory=Counter)
    sending: Counter[str] = field(default_factory=Counter)
    under_way: Counter[str] = field(default_factory=Counter)
    twice: Counter[str] = field(default_factory=Counter)

    def text(self) -> str:
        columns = (self.kills, self.sending, self.under_way, self.twice)
        lines = [(name, *(column[name] for column in columns)) for name in self.kills]
        heading = ("point", "kills", "sending", "under way", "twice")
        return "\n".join(
            f"{name:<80}" + "".join(f"{figure!s:>11}" for figure in figures)
            for name, *figures in [heading, *lines, ("in all", *(column.total() for column in columns))]
        )


@dataclass
class Field:
    """A folder for copies of databases, and a function that runs passes on them."""

    folder: Path
    engine: Factory
    run: Callable[[Wanted], Ended]
    table: Table = field(default_factory=Table)
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

    def points_from(self, start: Start) -> dict[str, int]:
        """Return the points of an undisturbed pass, and the number of visits to each."""
        with self.scene_from(start) as (stage, _):
            listing = stage.folder / "points"
            assert not self.run(Wanted(str(stage.config), start.seconds, listing=str(listing))).killed
            found: dict[str, int] = json.loads(listing.read_text())
            return found

    def kill_at(self, start: Start, name: str, nth: int) -> None:
        """Kill a pass at a point, and check that later passes repair the result."""
        assert any(self._is_killed_at(start, name, nth) for _ in range(ATTEMPTS)), f"{name} was not reached {nth} times"

    def _is_killed_at(self, start: Start, name: str, nth: int) -> bool:
        with self.scene_from(start) as (stage, api):
            ended = self.run(Wanted(str(stage.config), start.seconds, point=(name, nth)))
            if ended.killed:
                self._check_repair(start, stage, api, name, ended.pid)
            return ended.killed

    def _check_repair(self, start: Start, stage: Scene, api: Api, name: str, pid: int) -> None:
        wait_until_forgotten(stage)
        check_nothing_is_lost(stage, api, MESSAGES)
        killed = start.killed | {pid: phase_of(stage, pid)[0]}
        self._note(stage, name)
        clear_up(stage, utc_now() + start.ahead + LATER)
        self.table.twice[name] += sum(request.times > 1 for request in api.received)
        check_messages(stage, api, MESSAGES, ANSWERS)
        check_passes(stage, killed)
        assert left_alone(stage, MESSAGES) == start.left_alone
        assert stage.count("retrycli_passes WHERE id = 'old'") == 0
        assert stage.count("retrycli_attempts WHERE pass_id = 'old'") == 0
        if stage.application.is_sqlite:
            assert stage.rows("PRAGMA integrity_check") == [("ok",)]

    def _note(self, stage: Scene, name: str) -> None:
        self.table.kills[name] += 1
        if stage.has_tables():
            self.table.sending[name] += stage.count("retrycli_queue WHERE state = 'sending'")
            self.table.under_way[name] += stage.count("retrycli_attempts WHERE finished_at IS NULL")

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
                died = self.run(Wanted(str(later.config), 0, point=(AFTER_AN_ANSWER, 1)))
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
    with ground.starts() as starts:
        where = {name: start for start in starts for name in ground.points_from(start) if stands_for_others(name)}
        for name, start in where.items():
            ground.kill_at(start, name, 1)
    print(f"\n{ground.table.text()}")
    assert ground.table.kills == dict.fromkeys(where, 1)


@pytest.mark.long
@pytest.mark.databases("sqlite", "sqlite-wal", "postgresql")
def test_a_pass_killed_at_any_visit_to_any_point_loses_nothing(ground: Field) -> None:
    with ground.starts() as starts:
        found = [(start, ground.points_from(start)) for start in starts]
        for start, points in found:
            for name, times in points.items():
                for nth in range(1, times + 1):
                    ground.kill_at(start, name, nth)
    print(f"\n{ground.table.text()}")
    assert ground.table.kills == sum((Counter(points) for _, points in found), Counter())
