"""Measure the cost of claims, and of the same statements sent by the bare driver.

`claims_at_work.py store DATABASE SIZE` claims messages in batches of SIZE until none is due, begins an attempt for each
and records it as delivered, with `retrycli.store`. `statements DATABASE SIZE FILE` does the same and writes the
statements that reached the driver to FILE. `driver DATABASE FILE` has sqlite3 or psycopg run exactly these statements,
on a copy of the database that they were recorded from. `store` and `driver` print the total seconds of each step,
without the first batch, which warms up. Each command is a separate process: see `processes.run_together`.
"""

from __future__ import annotations

import json
import pickle
import sqlite3
import sys
import time
from collections import defaultdict
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import event

from retrycli.domain.message import QueuedMessage
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.transition import Claim, Decision, Transition
from retrycli.store.claims import Claims
from retrycli.store.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS = ("claim", "begin", "record")
BEGIN = "BEGIN IMMEDIATE"
DELIVERED = Outcome(OutcomeKind.DELIVERED, 200)

Statement = tuple[str, object, bool]
"""The text of the statement, its parameters, and whether they are for executemany."""


class Watch:
    """A stopwatch for each step, which also records the statements that reach the driver."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.statements: list[tuple[str, list[Statement]]] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.statements.append((name, []))
        began = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - began

    def listen_to(self, database: Database) -> None:
        """Record the statements that reach the driver, from the first step on."""

        def write_down(
            _connection: object, _cursor: object, text: str, parameters: object, _context: object, many: object
        ) -> None:
            if self.statements and text != BEGIN:
                self.statements[-1][1].append((text, parameters, bool(many)))

        event.listen(database._engine, "before_cursor_execute", write_down)


def at_work(database: Database, size: int, watch: Watch) -> None:
    claims = Claims(database)
    _ = database.messages  # inspects the table now, outside the measured steps
    now = datetime.now(UTC)
    claim = Claim("benchmark", now + timedelta(hours=1))
    for number in range(claims.count_due(now) // size):
        if number == 1:
            watch.seconds.clear()
        with watch.step("claim"):
            ids = claims.claim(claim, now, size)
        with watch.step("begin"):
            begun = claims.results.begin(claim, ids, made_by="pass", pass_id="benchmark", now=now, fit=_is_fit)
        settled = [
            Decision(attempt.message_id, Transition.delivered(), DELIVERED, timedelta(), now) for attempt in begun
        ]
        with watch.step("record"):
            assert not claims.results.record(claim, settled, now).lost


def _is_fit(_queued: QueuedMessage) -> bool:
    return True


def replay(
    connection: Any,  # noqa: ANN401  a connection of sqlite3 or psycopg
    steps: list[tuple[str, list[Statement]]],
    begin: str | None,
    watch: Watch,
) -> None:
    """Run each step in a transaction, as the store does."""
    cursor = connection.cursor()
    for number, (name, statements) in enumerate(steps):
        if number == len(STEPS):
            watch.seconds.clear()
        with watch.step(name):
            if begin:
                cursor.execute(begin)
            for text, parameters, many in statements:
                if many:
                    cursor.executemany(text, parameters)
                else:
                    cursor.execute(text, parameters)
                    if cursor.description:
                        cursor.fetchall()
            connection.commit()


def main(command: str, url: str, *further: str) -> None:
    watch = Watch()
    match command, further:
        case ("store", [size]):
            at_work(Database(url), int(size), watch)
        case ("statements", [size, file]):
            database = Database(url)
            watch.listen_to(database)
            at_work(database, int(size), watch)
            Path(file).write_bytes(pickle.dumps(watch.statements))
            return
        case ("driver", [file]):
            steps = pickle.loads(Path(file).read_bytes())
            if url.startswith("sqlite:"):
                replay(sqlite3.connect(url.removeprefix("sqlite:///")), steps, BEGIN, watch)
            else:
                there = url.replace("+psycopg", "")
                # The recorded statements include BEGIN and COMMIT.
                replay(psycopg.connect(there, prepare_threshold=None, autocommit=True), steps, None, watch)
        case _:
            sys.exit(__doc__)
    print(json.dumps(watch.seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
