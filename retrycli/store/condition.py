"""How a database is, apart from what it holds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import false, update

if TYPE_CHECKING:
    from retrycli.store.database import Database


def journal_mode(database: Database) -> str:
    """The journal mode of a SQLite file, as ``wal``."""
    with database.read() as connection:
        return str(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one())


def clock_ahead(database: Database, now: Callable[[], datetime]) -> timedelta:
    """How far a server's clock is ahead of ours; a file has none.

    It is taken to have been read in the middle between question and answer, as in RFC 5905, section 8, so it is
    wrong by half of the way there and back at most.
    """
    if database.is_sqlite:
        return timedelta(0)
    with database.read() as connection:
        asked_at = now()
        there: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
        return there - (asked_at + (now() - asked_at) / 2)


WRITTEN = ("status", "retry_count", "last_error", "sent_at")
"""What a pass writes of a message."""


def check_writable(database: Database) -> None:
    """Change no message, as a pass would change one: that takes the right to write, and, of a file, its write lock.

    Raises:
        DatabaseUnavailable: there is no getting it.
        SchemaMismatch: the application's table is not as needed.
    """
    messages = database.messages
    as_they_are = {name: messages.c[name] for name in WRITTEN if name in messages.c}
    nothing = update(messages).where(false()).values(as_they_are)
    with database.nothing_kept(), database.write() as connection:
        connection.execute(nothing)
