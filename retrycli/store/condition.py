"""How a database is, apart from what it holds."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import false, func, select, update

if TYPE_CHECKING:
    from retrycli.store.database import Database


def journal_mode(database: Database) -> str:
    """The journal mode of a SQLite file, as ``wal``."""
    with database.read() as connection:
        return str(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one())


def clock(database: Database) -> datetime | None:
    """What time a server has; None for a file, which has no clock."""
    if database.is_sqlite:
        return None
    with database.read() as connection:
        found: datetime = connection.execute(select(func.now())).scalar_one()
        return found


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
