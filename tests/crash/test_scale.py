"""The costs of a pass with large tables. `tests/store/test_plans.py` checks what PostgreSQL reads.

An idle pass must take the same time and memory with a million rows as with empty tables. A delivering pass must need
the same memory, whether all of a thousand messages are due or a hundred thousand of a million.
"""

from __future__ import annotations

import random
import sqlite3
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pytest

from retrycli.operations.sandbox import Behaviour, Sandbox
from tests.crash import scene
from tests.crash.scene import Scene

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MILLION = 1_000_000
ROUNDS = 7
NOBODY = "http://127.0.0.1:9"
MOST_TIME = 1.3
MOST_MEMORY = 1.2
LIMIT = 1000
"""The number of messages that the memory tests deliver. It exceeds what a pass claims or records in one transaction."""


NUMBERS = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :rows)"
ROWS = f"""
INSERT INTO pending_messages (
    id, ticket_id, message_type, recipient_email, subject, body, status, retry_count, created_at, updated_at
) {NUMBERS} SELECT
    n, 1, 'customer', n || '@example.com', 'Re: ' || n, printf('%200d', n), :status, 3, '2025-01-02 03:04:05',
    '2025-01-02 03:04:05'
FROM numbers
"""
QUEUE = """
INSERT INTO retrycli_queue (message_id, state, next_attempt_at, delivery_key, first_failed_at, unknown_count, birth)
SELECT
    id, 'waiting', strftime('%Y-%m-%d %H:%M:%f000', 'now', '+1 day', id || ' seconds'), printf('%036d', id),
    '2025-01-02 03:04:05.000000', 0, created_at
FROM pending_messages
"""
DUE = "UPDATE retrycli_queue SET next_attempt_at = '2025-01-02 03:04:05.000000'"
A_TENTH = " WHERE message_id % 10 = 0"


@dataclass(frozen=True, slots=True)
class Taken:
    """The costs of several calls, as medians."""

    seconds: float
    cpu_seconds: float
    kib: float


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Scene]]:
    """Provide an empty table, two tables with a million rows, and one with a thousand."""
    folder = tmp_path_factory.mktemp("scale")
    made = {name: _scene(folder / name) for name in ("empty", "waiting", "sent", "thousand")}
    _fill(made["waiting"], "failed", QUEUE)
    _fill(made["sent"], "sent")
    _fill(made["thousand"], "failed", QUEUE, rows=LIMIT)
    yield made
    for value in made.values():
        value.database.unlink()  # otherwise pytest keeps 800 MB for its next three runs


@pytest.fixture(scope="session")
def idle(scenes: dict[str, Scene]) -> dict[str, Taken]:
    """Measure idle passes on all scenes except `thousand`."""
    return _idle({name: scenes[name].config for name in ("empty", "waiting", "sent")})


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("million", ["waiting", "sent"])
def test_an_idle_pass_takes_no_longer_for_a_million_rows(million: str, idle: dict[str, Taken]) -> None:
    """CPU time is compared, because it depends far less than real time on the machine's load."""
    assert idle[million].cpu_seconds <= MOST_TIME * idle["empty"].cpu_seconds


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("million", ["waiting", "sent"])
def test_an_idle_pass_needs_no_more_memory_for_a_million_rows(million: str, idle: dict[str, Taken]) -> None:
    assert idle[million].kib <= MOST_MEMORY * idle["empty"].kib


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.usefixtures("idle")  # the idle passes must run before any message is due
def test_a_pass_over_a_hundred_thousand_due_messages_needs_no_more_memory(scenes: dict[str, Scene]) -> None:
    there = {name: scenes[name] for name in ("thousand", "waiting")}
    there["thousand"].change(DUE)
    there["waiting"].change(DUE + A_TENTH)
    with Sandbox(Behaviour(), rng=random.Random(0)) as api:
        taken = _measure(1, {name: _with_api(result.config, api.url) for name, result in there.items()}, limit=LIMIT)
    print(_table(f"passes that deliver {LIMIT:,} messages", taken))
    assert [value.count("pending_messages WHERE status = 'sent'") for value in there.values()] == [LIMIT, LIMIT]
    assert taken["waiting"].kib <= MOST_MEMORY * taken["thousand"].kib


# -- what they are measured on ----------------------------------------------------------------------------------------


def _scene(folder: Path) -> Scene:
    folder.mkdir()
    made = scene.set_up(folder, NOBODY, failed=0)
    made.change("DELETE FROM pending_messages")
    return made


def _fill(stage: Scene, status: str, queue: str | None = None, *, rows: int = MILLION) -> None:
    """Insert this number of messages, and optionally their queue rows."""
    stage.make_tables()
    with closing(sqlite3.connect(stage.database)) as connection:
        connection.execute("PRAGMA synchronous = off")
        with connection:
            connection.execute(ROWS, {"status": status, "rows": rows})
            if queue is not None:
                connection.execute(queue)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _with_api(config: Path, url: str) -> Path:
    """Write a copy of the configuration that uses another API; return its path."""
    other = config.with_name(f"with-api-{config.name}")
    other.write_text(config.read_text().replace(NOBODY, url))
    return other


# -- how --------------------------------------------------------------------------------------------------------------


def _idle(configs: Mapping[str, Path]) -> dict[str, Taken]:
    print(_table("the first pass, which compares all rows", _measure(1, configs)))
    taken = _measure(ROUNDS, configs)
    print(_table(f"passes with nothing due, medians of {ROUNDS}", taken))
    return taken


def _measure(rounds: int, configs: Mapping[str, Path], **run: object) -> dict[str, Taken]:
    names = {str(each): name for name, each in configs.items()}
    samples: dict[str, list[Sequence[float]]] = defaultdict(list)
    first = next(iter(configs.values()))
    settings = {f"run.{name}": value for name, value in run.items()}
    with scene.start(first, "-m", "tests.crash.in_turns", str(rounds), *names, settings=settings) as process:
        output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    for line in output.splitlines():
        config, *figures = line.split()
        samples[names[config]].append([float(figure) for figure in figures])
    return {name: _taken(*zip(*own, strict=True)) for name, own in samples.items()}


def _taken(seconds: Sequence[float], cpu_seconds: Sequence[float], kib: Sequence[float]) -> Taken:
    return Taken(median(seconds), median(cpu_seconds), median(kib))


def _table(title: str, taken: dict[str, Taken]) -> str:
    lines = (
        f"{name:<10}{own.seconds * 1000:>8.0f} ms{own.cpu_seconds * 1000:>8.0f} ms CPU{own.kib / 1024:>8.1f} MiB"
        for name, own in taken.items()
    )
    return "\n".join(["", title, *lines])
