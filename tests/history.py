"""A generated week of a support desk: attempts, passes, two outages, and escalated messages."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from retrycli.store import own_tables
from retrycli.store.database import Database

MINUTE = timedelta(minutes=1)
TICK = 15 * MINUTE
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

TABLE = """
CREATE TABLE pending_messages (
    id INTEGER PRIMARY KEY, ticket_id INTEGER, message_type TEXT, subject TEXT, body TEXT, status TEXT,
    retry_count INTEGER, last_error TEXT, created_at TEXT, updated_at TEXT, sent_at TEXT
)
"""
MESSAGE = "INSERT INTO pending_messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)"
ATTEMPT = """
INSERT INTO retrycli_attempts (
    message_id, pass_id, number, made_by, started_at, finished_at, outcome, status_code, error, duration_ms, waited_s
) VALUES (?, ?, ?, 'pass', ?, ?, ?, ?, ?, ?, ?)
"""
PASS = """
INSERT INTO retrycli_passes (
    id, host, pid, started_at, heartbeat_at, finished_at, result, sent, rescheduled, escalated, unknown, released,
    reason
) VALUES (?, 'mill', 4711, ?, ?, ?, ?, ?, ?, 0, 0, 0, ?)
"""
ESCALATED = """
INSERT INTO retrycli_queue (
    message_id, state, delivery_key, first_failed_at, unknown_count, escalated_at, escalation_reason, fingerprint, birth
) VALUES (?, 'escalated', ?, ?, 0, ?, ?, ?, ?)
"""

OUTCOMES = (
    ("delivered", 200, None, 80),
    ("transient", 503, "HTTP 503: the upstream is overloaded", 9),
    ("unknown", None, "no response within 30 s", 4),
    ("unreachable", None, "ClientConnectorError: connection refused", 3),
    ("refused", 200, "refused: ticket {} is locked", 2),
    ("permanent", 422, "HTTP 422: recipient unknown", 1),
    ("throttled", 429, "HTTP 429", 1),
)
DOWN = ("unreachable", None, "ClientConnectorError: connection refused")
TRIES = ((1, 64), (2, 19), (3, 9), (4, 4), (5, 2), (6, 1), (8, 1))
WAITS = {1: 15, 2: 45, 3: 105, 4: 225, 5: 465, 6: 705, 8: 1185}
"""The minutes from the first failure to the attempt, by the attempt's number."""
CAUSES = (
    ("permanent", "HTTP 422: recipient unknown", 12, 3),
    ("exhausted", "Max retries (10) exceeded. Manual intervention required. Last error: HTTP 503", 4, 1),
    ("invalid", "Can't be sent: cc_emails is not valid JSON", 1, 2),
)
"""The reason, the last error, the number of messages, and their age in days."""


def make(path: Path, *, attempts: int, now: datetime, days: float = 7, people: bool = True) -> None:
    """Create an application's database with a generated history that ends at ``now``."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA synchronous = off")
        connection.execute(TABLE)
    database = Database(f"sqlite:///{path}")
    own_tables.ensure_tables(database, upgrade=True)
    database.close()
    rng = Random(0)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA synchronous = off")
        outages = [(now - 0.9 * DAY, now - 0.9 * DAY + 9 * HOUR), (now - 5.1 * DAY, now - 5.1 * DAY + 75 * MINUTE)]
        connection.executemany(ATTEMPT, _attempts(attempts, now, days, outages, rng))
        connection.executemany(PASS, _passes(now, days, outages))
        connection.executemany(MESSAGE, (_message(number, now) for number in range(1, attempts // 2 + 1)))
        if people:
            _escalate(connection, attempts + 1, now)


def _attempts(
    number: int, now: datetime, days: float, outages: list[tuple[datetime, datetime]], rng: Random
) -> Iterator[tuple[object, ...]]:
    """Generate attempts. During an outage, one in forty is made and fails; the others are made afterwards."""
    weights, tries = [each[3] for each in OUTCOMES], [each for each, _ in TRIES]
    kinds = rng.choices(OUTCOMES, weights, k=number)
    counts = rng.choices(tries, [count for _, count in TRIES], k=number)
    step = days * DAY / max(number, 1)
    for each in range(number):
        at = now - days * DAY + (each + 0.5) * step
        outcome, status, error, _ = kinds[each]
        tried = counts[each]
        waited = WAITS[tried] * 60 + rng.randrange(900)
        for begin, end in outages:
            if begin <= at < end:
                if each % 40:
                    at = end + (at - begin) / 8  # this message waited for the end of the outage
                    waited += int((at - begin).total_seconds())
                else:
                    outcome, status, error = DOWN
        text = None if error is None else error.format(each % 5000)
        times = (_text(at), _text(at + 0.2 * timedelta(seconds=1)))
        yield (each // 2 + 1, f"pass-{each // 40}", tried, *times, outcome, status, text, 200, waited)


def _passes(now: datetime, days: float, outages: list[tuple[datetime, datetime]]) -> Iterator[tuple[object, ...]]:
    """Generate a pass for each tick. In every 400 ticks, two passes are missing, one is skipped and one fails."""
    last = datetime.fromtimestamp(now.timestamp() // 900 * 900, UTC)
    for number in range(int(days * DAY / TICK)):
        at = last - number * TICK + timedelta(seconds=2)
        down = any(begin <= at < end for begin, end in outages)
        if number % 400 in {130, 131}:
            continue
        result = {200: "skipped", 333: "failed"}.get(number % 400, "stopped" if down else "completed")
        sent = 0 if down or result != "completed" else 9
        times = (_text(at), _text(at), _text(at + timedelta(seconds=9)))
        yield (f"tick-{number}", *times, result, sent, sent // 4, "breaker_open" if down else None)


def _message(number: int, now: datetime) -> tuple[object, ...]:
    kind = ("customer", "supplier", "customer", "internal")[number % 4]
    at = _text(now - 8 * DAY)
    return (number, 4700 + number % 300, kind, f"Re: {number}", "Text", "sent", 1, None, at, at)


def _escalate(connection: sqlite3.Connection, first: int, now: datetime) -> None:
    number = first
    for reason, error, count, days in CAUSES:
        for _ in range(count):
            at = _text(now - days * DAY + number % 7 * HOUR)
            row = (number, 4700 + number % 300, "supplier" if number % 3 else "customer", "Re: tea", "Text", "failed")
            connection.execute(MESSAGE, (*row, 10, error, at, at))
            connection.execute(
                ESCALATED, (number, f"{number:036d}", at, at, reason, f"{len(error) * 7919**3 % 16**12:012x}", at)
            )
            number += 1


def _text(time: datetime) -> str:
    """Format a time as SQLite stores it."""
    return time.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


if __name__ == "__main__":
    make(Path(sys.argv[1]), attempts=int(sys.argv[2]), now=datetime.now(UTC))
