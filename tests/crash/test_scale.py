"""A pass with nothing due costs the same whether the tables are empty or hold a million rows."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pytest

from tests.crash import scene
from tests.crash.scene import Scene

if TYPE_CHECKING:
    from collections.abc import Iterator

MILLION = 1_000_000
ROUNDS = 7
NOBODY = "http://127.0.0.1:9"
MOST_TIME = 1.3
MOST_MEMORY = 1.2

NUMBERS = f"WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {MILLION})"
ROWS = f"""
INSERT INTO pending_messages (
    id, ticket_id, message_type, recipient_email, subject, body, status, retry_count, created_at, updated_at
) {NUMBERS} SELECT
    n, 1, 'customer', n || '@example.com', 'Re: ' || n, printf('%200d', n), ?, 3, '2025-01-02 03:04:05',
    '2025-01-02 03:04:05'
FROM numbers
"""
QUEUE = """
INSERT INTO retrycli_queue (message_id, state, next_attempt_at, delivery_key, first_failed_at, unknown_count)
SELECT
    id, 'waiting', strftime('%Y-%m-%d %H:%M:%f000', 'now', '+1 day', id || ' seconds'), printf('%036d', id),
    '2025-01-02 03:04:05.000000', 0
FROM pending_messages
"""


@dataclass(frozen=True, slots=True)
class Idle:
    """What a call with nothing due takes."""

    seconds: float
    cpu_seconds: float
    """What is compared: it depends far less than the other on what else the machine is doing."""
    kib: float


@pytest.fixture(scope="session")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Idle]]:
    """Medians of calls in turns, over an empty table and two of a million rows."""
    folder = tmp_path_factory.mktemp("scale")
    scenes = {name: _scene(folder / name) for name in ("empty", "waiting", "sent")}
    _fill(scenes["waiting"], "failed", QUEUE)
    _fill(scenes["sent"], "sent")
    print(_table("the first pass, which compares all rows", _measure(1, scenes)))
    medians = _measure(ROUNDS, scenes)
    print(_table(f"passes with nothing due, medians of {ROUNDS}", medians))
    yield medians
    for each in scenes.values():
        each.database.unlink()  # 800 MB that pytest would keep for its next three runs


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("million", ["waiting", "sent"])
def test_a_pass_with_nothing_due_takes_no_longer_for_a_million_rows(million: str, idle: dict[str, Idle]) -> None:
    assert idle[million].cpu_seconds <= MOST_TIME * idle["empty"].cpu_seconds


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("million", ["waiting", "sent"])
def test_a_pass_with_nothing_due_needs_no_more_memory_for_a_million_rows(million: str, idle: dict[str, Idle]) -> None:
    assert idle[million].kib <= MOST_MEMORY * idle["empty"].kib


def _scene(folder: Path) -> Scene:
    folder.mkdir()
    made = scene.set_up(folder, NOBODY, failed=0)
    made.change("DELETE FROM pending_messages")
    return made


def _fill(stage: Scene, status: str, queue: str | None = None) -> None:
    """Put a million rows into a table, and into the queue."""
    stage.make_tables()
    with closing(sqlite3.connect(stage.database)) as connection:
        connection.execute("PRAGMA synchronous = off")
        with connection:
            connection.execute(ROWS, (status,))
            if queue is not None:
                connection.execute(queue)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _measure(rounds: int, scenes: dict[str, Scene]) -> dict[str, Idle]:
    names = {str(each.config): name for name, each in scenes.items()}
    samples = defaultdict(list)
    with scenes["empty"].start("-m", "tests.crash.in_turns", str(rounds), *names) as process:
        output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    for line in output.splitlines():
        config, *figures = line.split()
        samples[names[config]].append([float(each) for each in figures])
    return {name: Idle(*(median(each) for each in zip(*own, strict=True))) for name, own in samples.items()}


def _table(title: str, taken: dict[str, Idle]) -> str:
    lines = (
        f"{name:<10}{each.seconds * 1000:>8.0f} ms{each.cpu_seconds * 1000:>8.0f} ms CPU{each.kib / 1024:>8.1f} MiB"
        for name, each in taken.items()
    )
    return "\n".join(["", title, *lines])
