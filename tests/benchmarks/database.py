"""The application's table, as retrycli and the bare loop find it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TABLE = """
CREATE TABLE IF NOT EXISTS pending_messages (
    id INTEGER PRIMARY KEY, ticket_id INTEGER, message_type TEXT, subject TEXT, body TEXT, status TEXT,
    retry_count INTEGER, last_error TEXT, created_at TEXT, updated_at TEXT, sent_at TEXT, recipient_email TEXT
)
"""
INSERT = """
INSERT INTO pending_messages (
    ticket_id, message_type, subject, body, status, retry_count, last_error, created_at, updated_at,
    recipient_email
) VALUES (?, 'customer', ?, ?, 'failed', ?, 'HTTP 503', ?, ?, 'someone@example.com')
"""
QUEUE = """
INSERT INTO retrycli_queue (message_id, state, next_attempt_at, delivery_key, first_failed_at, unknown_count)
SELECT id, 'waiting', created_at, lower(hex(randomblob(16))), created_at, 0 FROM pending_messages
"""
BODY = "Your order has left our house. " * 66  # 2 KB


def add_due(database: Path, count: int) -> None:
    """Add messages that failed two days ago and that no queue knows, and make the table if it isn't there."""
    _add(database, count, retry_count=0, failed_at=datetime.now(UTC) - timedelta(days=2))


def add_queued(database: Path, count: int) -> None:
    """Add such messages, and to retrycli's queue, where it is there: an earlier pass took them in, and they are due."""
    add_due(database, count)
    with closing(sqlite3.connect(database)) as connection, connection:
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'retrycli_queue'").fetchone():
            connection.execute(QUEUE)


def add_waiting(database: Path, count: int) -> None:
    """Add messages that failed just now, and so often that none is due for hours."""
    _add(database, count, retry_count=5, failed_at=datetime.now(UTC))


def count_sent(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        query = "SELECT count(*) FROM pending_messages WHERE status = 'sent' AND sent_at IS NOT NULL"
        count: int = connection.execute(query).fetchone()[0]
        return count


def _add(database: Path, count: int, *, retry_count: int, failed_at: datetime) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(TABLE)
        connection.executemany(INSERT, _rows(count, retry_count, failed_at))


def _rows(count: int, retry_count: int, failed_at: datetime) -> Iterator[tuple[object, ...]]:
    at = failed_at.strftime("%Y-%m-%d %H:%M:%S.%f")
    return ((ticket, f"Ticket {ticket}", BODY, retry_count, at, at) for ticket in range(1, count + 1))
