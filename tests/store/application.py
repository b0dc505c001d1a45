"""The application whose table retrycli uses: tables like those of a real application, and its changes to its own rows.

It has its own connections to the database, so a test sees each row as the application does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Column,
    DateTime,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    delete,
    event,
    insert,
    make_url,
    select,
    text,
    update,
)

from retrycli.domain.message import REQUIRED_COLUMNS
from retrycli.store import own_tables
from retrycli.store.connection import BUSY_SECONDS
from retrycli.store.database import Database

if TYPE_CHECKING:
    from sqlalchemy import Engine, Executable

    from retrycli.domain.table_mapping import TableMapping

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
"""The current time in these tests."""
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)

TICKET = 12345
"""The default ticket of a message."""


def naive(time: datetime) -> datetime:
    """Convert a time to the application's format: UTC without an offset."""
    return time.astimezone(UTC).replace(tzinfo=None)


def messages_table(metadata: MetaData, name: str, schema: str | None = None) -> Table:
    """Define ``pending_messages`` with every column that retrycli uses, and two others.

    Nearly all columns are nullable, so that tests can add invalid rows.
    """
    tickets = Table(
        "ticket_states",
        metadata,
        Column("ticket_id", Integer, primary_key=True, autoincrement=False),
        Column("state", String(20), nullable=False),
        Column("updated_at", DateTime),
        schema=schema,
    )
    return Table(
        name,
        metadata,
        Column("id", Integer, primary_key=True),
        Column("ticket_id", Integer, ForeignKey(tickets.c.ticket_id)),
        Column("message_type", String(20)),
        Column("subject", Text),
        Column("body", Text),
        Column("status", String(20), nullable=False),
        Column("retry_count", Integer),
        Column("last_error", Text),
        Column("created_at", DateTime),
        Column("updated_at", DateTime),
        Column("sent_at", DateTime),
        Column("recipient_email", String(255)),
        Column("cc_emails", Text),
        Column("bcc_emails", Text),
        Column("attachments", Text),
        Column("draft_of", Integer),
        Column("priority", Integer, nullable=False, server_default="3"),
        schema=schema,
    )


def bare_table(metadata: MetaData, name: str, schema: str | None = None) -> Table:
    """Define a table of the required columns."""
    numbers = ("id", "ticket_id", "retry_count")
    columns = [
        Column(column, Integer if column in numbers else Text, primary_key=column == "id")
        for column in REQUIRED_COLUMNS
    ]
    return Table(name, metadata, *columns, schema=schema)


class Application:
    """The application, with its tables in a database.

    Args:
        url: the database.
        table: the name of its table, optionally with a schema.
        kind: builds the definition of its table.
        made: whether the tables exist already.
    """

    mapping: TableMapping | None = None
    """How its table holds messages; None if the columns have retrycli's own names."""
    settings: Mapping[str, object] = MappingProxyType({})
    """The settings of the database that describe its table."""

    def __init__(
        self,
        url: str,
        table: str = "pending_messages",
        *,
        kind: Callable[[MetaData, str, str | None], Table] = messages_table,
        made: bool = False,
    ) -> None:
        self.url = url
        self.table_name = table
        self._engine = create_engine(url)
        self._ids = count(1)
        if is_sqlite(url):
            hasten(self._engine)
            respect_foreign_keys(self._engine)
        metadata = MetaData()
        schema, _, name = table.rpartition(".")
        self.table = kind(metadata, name, schema or None)
        if not made:
            self._make(metadata, schema)

    def _make(self, metadata: MetaData, schema: str) -> None:
        with self._engine.begin() as connection:
            if schema and not is_sqlite(self.url):
                connection.execute(text(f"CREATE SCHEMA {schema}"))
            metadata.create_all(connection)
            for value in metadata.tables.values():
                if value.name == "ticket_states":
                    connection.execute(insert(value), [{"ticket_id": TICKET + n, "state": "open"} for n in range(3)])

    def add(self, **changes: object) -> int:
        """Add a message that has just failed, with a test's changes; return its id."""
        return self.add_all([changes])[0]

    def add_all(self, rows: Iterable[Mapping[str, object]]) -> list[int]:
        """Add many messages at once; return their ids."""
        made = [self._row(row) for row in rows]
        if made:
            self._execute(insert(self.table), made)
        return [entry["id"] for entry in made]

    def change(self, message_id: int, **values: object) -> None:
        self._execute(update(self.table).where(self.table.c.id == message_id).values(values))

    def id_of(self, number: int) -> int:
        """Return an id as retrycli's functions return it, which is written as in the application's table."""
        return number

    def number_of(self, shown: str) -> int:
        """Return the id that retrycli shows in this way."""
        return int(shown)

    def word(self, status: str) -> str:
        """Return a status as retrycli shows it."""
        return status

    def row_lock(self, message_id: int) -> str:
        """Return the SQL that locks a row on a server."""
        return f"SELECT 1 FROM pending_messages WHERE id = {message_id} FOR UPDATE"

    def delete(self, *ids: int) -> None:
        """Delete rows, or all of them if no id is given."""
        statement = delete(self.table)
        self._execute(statement.where(self.table.c.id.in_(ids)) if ids else statement)

    def row(self, message_id: int) -> dict[str, Any]:
        """Return one row with all its columns, as the database stores them."""
        return self.rows()[message_id]

    def rows(self) -> dict[int, dict[str, Any]]:
        """Return all rows by id, with all their columns, as the database stores them."""
        statement = select(text("*")).select_from(self.table)
        with self._engine.connect() as connection:
            return {row["id"]: dict(row) for row in connection.execute(statement).mappings()}

    @contextmanager
    def watched(self) -> Iterator[dict[int, dict[str, Any]]]:
        """Record the changes made in the block: for each changed row the new values by column."""
        before = self.rows()
        changed: dict[int, dict[str, Any]] = {}
        yield changed
        after = self.rows()
        assert after.keys() == before.keys()
        for message_id, row in after.items():
            if news := {name: value for name, value in row.items() if value != before[message_id][name]}:
                changed[message_id] = news

    def sql(self, statement: str, **values: object) -> None:
        """Run SQL as the application."""
        self._execute(text(statement), values)

    def asked(self, statement: str) -> list[dict[str, Any]]:
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(statement)).mappings()]

    def close(self) -> None:
        self._engine.dispose()

    def _row(self, changes: Mapping[str, object]) -> dict[str, Any]:
        usual: dict[str, Any] = {
            "id": next(self._ids) if "id" not in changes else None,
            "ticket_id": TICKET,
            "message_type": "supplier",
            "subject": "Your delivery",
            "body": "Where is it?",
            "status": "failed",
            "retry_count": 0,
            "last_error": "HTTP 503",
            "created_at": naive(NOON - HOUR),
            "updated_at": naive(NOON - 15 * MINUTE),
            "sent_at": None,
            "recipient_email": "orders@example.com",
            "cc_emails": '["boss@example.com"]',
            "bcc_emails": "[]",
            "attachments": None,
            "draft_of": None,
            "priority": 1,
        }
        return {name: value for name, value in usual.items() if name in self.table.c} | dict(changes)

    def _execute(
        self, statement: Executable, values: Mapping[str, object] | Sequence[Mapping[str, object]] | None = None
    ) -> None:
        with self._engine.begin() as connection:
            connection.execute(statement, values)


def hasten(engine: Engine) -> None:
    """Make SQLite skip waiting for the disk, because no test causes a power failure."""
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))


def respect_foreign_keys(engine: Engine) -> None:
    """Make SQLite enforce foreign keys, as PostgreSQL does."""
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))


def is_sqlite(url: str) -> bool:
    return make_url(url).get_backend_name() == "sqlite"


@contextmanager
def opened(
    application: Application, *, url: str | None = None, upgrade: bool = True, patience: int = BUSY_SECONDS
) -> Iterator[Database]:
    """Open the application's database as retrycli does, and create retrycli's own tables."""
    database = Database(url or application.url, application.table_name, application.mapping, patience=patience)
    if database.is_sqlite:
        hasten(database._engine)
    try:
        own_tables.ensure_tables(database, upgrade=upgrade)
        yield database
    finally:
        database.close()
