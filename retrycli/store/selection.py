"""The application's table that the queue belongs to.

The queue identifies messages by id, and other tables have the same ids. A pass over another table would drop every
message without a failed row there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import delete, func, insert, select, text

from retrycli.domain.errors import ConfigurationError
from retrycli.domain.message import MessageStatus
from retrycli.store.messages import status_text
from retrycli.store.schema import queue, selection

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from retrycli.store.database import Database

REMEMBERED = "SELECT table_name FROM retrycli_selection"
IN_POSTGRESQL = text("""
SELECT CAST(n.nspname AS text) || '.' || CAST(c.relname AS text)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = CAST(pg_catalog.to_regclass(:name) AS oid)
""")


class Belonging(NamedTuple):
    """The table that the queue belongs to, compared with the configured one."""

    remembered: str | None
    configured: str | None
    messages: int
    """Number of messages in the queue."""
    found: int
    """Number of them with a failed row in the configured table."""


def check(database: Database) -> None:
    """Check that the queue belongs to the configured table.

    Raises:
        ConfigurationError: it belongs to another table.
    """
    with database.read() as connection:
        remembered = _remembered(connection)
        configured = remembered and full_name(database, connection)
    if configured is not None and configured != remembered:
        raise ConfigurationError(
            f"the queue in {database.place} belongs to the table {remembered}, and database.table names {configured}; "
            f"set database.table to {remembered}, or, if the application has renamed it, run `retrycli table accept`"
        )


def adopt(database: Database, connection: Connection) -> None:
    """Assign the queue to the configured table if it belongs to none yet."""
    if _remembered(connection) is None:
        connection.execute(insert(selection).values(table_name=full_name(database, connection)))


def compare(database: Database) -> Belonging:
    """Compare the queue with the configured table."""
    m = database.messages.c
    size = select(func.count()).select_from(queue)
    failed = size.join_from(queue, database.messages, m.id == queue.c.message_id)
    with database.read() as connection:
        return Belonging(
            _remembered(connection),
            full_name(database, connection),
            connection.execute(size).scalar_one(),
            connection.execute(failed.where(m.status == status_text(MessageStatus.FAILED))).scalar_one(),
        )


def accept(database: Database) -> None:
    """Assign the queue to the configured table, whatever table it belonged to."""
    with database.write() as connection:
        database.advisory_lock(connection)
        connection.execute(delete(selection))
        adopt(database, connection)


def full_name(database: Database, connection: Connection) -> str | None:
    """Return the canonical name of the application's table; None if there is no table."""
    schema_name, name = database.quoted_table
    if not database.is_sqlite:
        qualified = f"{schema_name}.{name}" if schema_name else name
        return connection.execute(IN_POSTGRESQL, {"name": qualified}).scalar()
    # A file has one schema, `main`, and table names ignore the case of ASCII letters.
    return "".join([letter.lower() if letter.isascii() else letter for letter in database.table_name])


def _remembered(connection: Connection) -> str | None:
    return connection.exec_driver_sql(REMEMBERED).scalar()
