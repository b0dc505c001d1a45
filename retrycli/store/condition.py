"""How a database is, apart from what it holds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import false, update

from retrycli.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    from retrycli.store.database import Database


def journal_mode(database: Database) -> str:
    """The journal mode of a SQLite file, as ``wal``."""
    with database.read() as connection:
        return str(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one())


CLOCK_READINGS = 3
"""On a machine that is busy, one answer may well be late by more than a request takes."""


def clock_ahead(database: Database, now: Callable[[], datetime]) -> timedelta:
    """How far a server's clock is ahead of ours; a file has none.

    It is taken to have been read in the middle between question and answer (RFC 5905, section 8), so it is wrong by
    half of the way there and back at most; of some readings, the quickest counts (section 10).
    """
    if database.is_sqlite:
        return timedelta(0)
    with database.read() as connection:

        def reading() -> tuple[timedelta, timedelta]:
            """How long the way there and back was, and how far ahead the clock."""
            asked_at = now()
            there: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
            took = now() - asked_at
            return took, there - (asked_at + took / 2)

        _, ahead = min(reading() for _ in range(CLOCK_READINGS))
    return ahead


WRITTEN = ("status", "retry_count", "last_error", "sent_at")
"""What a pass writes of a message."""


ROOM = 4 * 1024 * 1024
"""So many bytes must be free where a SQLite file is: as many as its write-ahead log grows by until it is copied into
the file. With less, an attempt might still be written down before its request goes out, and what came of it no more."""


def check_writable(database: Database) -> None:
    """Change no message, as a pass would change one: that takes the right to write, and, of a file, its write lock.

    A change of nothing is written nowhere, so whether there is room for changes is asked apart.

    Raises:
        DatabaseUnavailable: there is no getting it.
        SchemaMismatch: the application's table is not as needed.
    """
    messages = database.messages
    as_they_are = {name: messages.c[name] for name in WRITTEN if name in messages.c}
    nothing = update(messages).where(false()).values(as_they_are)
    with database.nothing_kept(), database.write() as connection:
        connection.execute(nothing)
    if database.file is not None:
        _check_room(database.file)


def _check_room(file: Path) -> None:
    disk = shutil.disk_usage(file)
    if disk.total and disk.free < ROOM:  # some file systems have no figures at all
        raise DatabaseUnavailable(
            f"{file}: its disk has {disk.free // 1024} KiB free, and {ROOM // 1024} are needed to write down what "
            "comes of messages; free some space"
        )
