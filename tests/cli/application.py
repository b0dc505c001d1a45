"""An application's database as retrycli finds it: created by another program, with data that retrycli ignores."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, NullPool, create_engine, inspect, make_url

from retrycli.config.gateway import RoutedGatewaySettings as GatewaySettings
from retrycli.config.settings import DatabaseSettings, RunSettings, Settings
from retrycli.operations import wiring
from retrycli.system.pass_lock import Holder, PassLock

TABLES = """
CREATE TABLE ticket_states (
    ticket_id INTEGER PRIMARY KEY,
    state VARCHAR(20) NOT NULL
);
CREATE TABLE pending_messages (
    id INTEGER PRIMARY KEY,
    ticket_id INTEGER NOT NULL REFERENCES ticket_states (ticket_id),
    message_type VARCHAR(20) NOT NULL,
    recipient_email VARCHAR(255),
    cc_emails JSON,
    bcc_emails JSON,
    subject TEXT,
    body TEXT,
    attachments JSON,
    confidence_score FLOAT,
    status VARCHAR(20) NOT NULL,
    retry_count INTEGER,
    last_error TEXT,
    created_at DATETIME,
    updated_at DATETIME,
    sent_at DATETIME
);
CREATE INDEX pending_messages_status ON pending_messages (status);
"""
TICKETS = "INSERT INTO ticket_states VALUES " + ", ".join(f"({ticket}, 'open')" for ticket in range(4700, 4730)) + ";"
OWN = (
    "retrycli_acts",
    "retrycli_attempts",
    "retrycli_breakers",
    "retrycli_escalations",
    "retrycli_holds",
    "retrycli_keys",
    "retrycli_own_values",
    "retrycli_passes",
    "retrycli_pause",
    "retrycli_queue",
    "retrycli_rates",
    "retrycli_selection",
    "retrycli_told",
    "retrycli_totals",
)
DUE = (5, 6, 7)
"""The ids of the due messages that `fill` adds."""

Row = dict[str, object]


class Application:
    """An application's database, with methods to change and read it in a test.

    Args:
        url: the database's URL.
        tables: statements that create its tables; None if they exist already.
    """

    def __init__(self, url: str, *, tables: str | None = TABLES + TICKETS) -> None:
        self.url = url
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        utc = {} if self.is_sqlite else {"options": "-c timezone=UTC"}
        safe = {} if self.is_sqlite else {"use_native_hstore": False}  # the driver's look-up would run planted code
        # PostgreSQL can't copy a database that has an open connection, so no pool keeps one open.
        self._engine = create_engine(url, poolclass=NullPool, connect_args=utc, **safe)
        if tables is not None:
            self._make(tables)

    @property
    def path(self) -> Path:
        assert self.is_sqlite
        return Path(str(make_url(self.url).database))

    @property
    def place(self) -> str:
        """Return the database's location, as commands print it."""
        return str(self.path) if self.is_sqlite else make_url(self.url).render_as_string()

    @property
    def lock(self) -> Path:
        """Return the path of the pass lock. On a server, each database has its own, so that tests share no lock."""
        if self.is_sqlite:
            return wiring.lock_path(self.settings("http://127.0.0.1:9"))
        return Path(tempfile.gettempdir(), f"{make_url(self.url).database}.lock")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the pass lock, as a running pass does."""
        lock = PassLock(self.lock)
        holder = Holder(os.getpid(), "mill", wiring.utc_now())
        lock.acquire(holder, wait_seconds=0, now=wiring.utc_now, sleep=lambda _: None)
        try:
            yield
        finally:
            lock.release()

    def variables(self, api: str) -> dict[str, str]:
        """Return the environment variables for a pass: database, API and, on a server, a separate lock."""
        lock = {} if self.is_sqlite else {"RETRYCLI_RUN__LOCK_FILE": str(self.lock)}
        return {"RETRYCLI_DATABASE__URL": self.url, "TICKETING_API_BASE_URL": api, **lock}

    def settings(self, api: str) -> Settings:
        """Return the settings that `variables` describes, for calls from Python."""
        return Settings(
            database=DatabaseSettings(url=self.url),
            gateway=GatewaySettings(base_url=api),
            run=RunSettings() if self.is_sqlite else RunSettings(lock_file=self.lock),
        )

    def add(self, message_id: int, *, hours_ago: float = 3, **columns: object) -> int:
        """Add a message, by default one that failed three hours ago."""
        made = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=hours_ago)
        row: Row = {
            "id": message_id,
            "ticket_id": 4700 + message_id % 30,
            "message_type": "customer",
            "recipient_email": "ana@example.com",
            "cc_emails": "[]",
            "bcc_emails": "[]",
            "subject": "Re: Invoice",
            "body": "It is attached.",
            "attachments": "[]",
            "confidence_score": 0.93,
            "status": "failed",
            "retry_count": 0,
            "last_error": "HTTP 503",
            "created_at": str(made),
            "updated_at": str(made),
            **columns,
        }
        self.insert("pending_messages", [row])
        return message_id

    def add_due(self, number: int, *, first: int = 101) -> list[int]:
        """Add due messages with consecutive ids, and return the ids."""
        return [self.add(message_id) for message_id in range(first, first + number)]

    def fill(self) -> Application:
        """Add messages in all five statuses: three of the failed ones are due, and one must wait."""
        self.add(1, status="sent", retry_count=2, last_error=None, sent_at="2026-01-02 03:04:05")
        self.add(2, status="pending", last_error=None)
        self.add(3, status="approved", last_error=None)
        self.add(4, status="rejected")
        self.fill_due()
        self.add(8, retry_count=3, hours_ago=0)
        return self

    def fill_due(self) -> None:
        self.add(5, cc_emails=json.dumps(["lead@example.net"]), body='A {brace}, a "quote" and 日本.')
        self.add(6, message_type="supplier", retry_count=None)
        self.add(7, message_type="internal", recipient_email=None, retry_count=1, cc_emails=None)

    def execute(self, statement: str, *values: object) -> list[Row]:
        """Run one statement, with a ``?`` for each value; return its rows."""
        with self._engine.begin() as connection:
            found = connection.exec_driver_sql(self._own_marks(statement), values or None)
            return [dict(row) for row in found.mappings()] if found.returns_rows else []

    def asked(self, question: str, *values: object) -> list[tuple[Any, ...]]:
        """Return a query's rows as tuples."""
        with self._engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(self._own_marks(question), values or None)]

    def insert(self, table: str, rows: Sequence[Row]) -> None:
        """Insert rows that all have the same columns."""
        names, marks = ", ".join(rows[0]), ", ".join("?" * len(rows[0]))
        statement = self._own_marks(f"INSERT INTO {table} ({names}) VALUES ({marks})")
        with self._engine.begin() as connection:
            connection.exec_driver_sql(statement, [tuple(row.values()) for row in rows])

    @contextmanager
    def in_transaction(self, statement: str) -> Iterator[None]:
        """Run a statement in a transaction that stays open during the block, and then roll it back."""
        with self._engine.connect() as connection:
            connection.exec_driver_sql(statement)
            yield

    def rows(self, table: str = "pending_messages") -> dict[object, Row]:
        """Return a table's rows, keyed by their first column."""
        found = self.execute(f"SELECT * FROM {table} ORDER BY 1")
        return {next(iter(row.values())): row for row in found}

    def row(self, message_id: int) -> Row:
        [row] = self.execute("SELECT * FROM pending_messages WHERE id = ?", message_id)
        return row

    def state(self, message_id: int) -> object:
        """Return a message's state in retrycli's queue, or None if it is not in the queue."""
        found = self.execute("SELECT state FROM retrycli_queue WHERE message_id = ?", message_id)
        return found[0]["state"] if found else None

    def last_pass(self) -> Row:
        return self.execute("SELECT * FROM retrycli_passes ORDER BY started_at DESC LIMIT 1")[0]

    def tables(self) -> set[str]:
        with self._engine.connect() as connection:
            return set(inspect(connection).get_table_names())

    def columns(self, table: str = "pending_messages") -> list[str]:
        with self._engine.connect() as connection:
            return [str(column["name"]) for column in inspect(connection).get_columns(table)]

    def schema(self, *, but: str | None = None) -> list[str]:
        """Return the schema as sorted lines, without the tables whose names start with `but`."""
        with self._engine.connect() as connection:
            return sorted(self._schema(connection, but))

    def dump(self) -> list[str]:
        """Return the schema and every row as lines, so that a test can compare whole databases."""
        rows = (
            f"{table}: {row}"
            for table in sorted(self.tables())
            for row in sorted(map(repr, self.execute(f"SELECT * FROM {table}")))
        )
        return [*self.schema(), *rows]

    def _schema(self, connection: Connection, but: str | None) -> Iterable[str]:
        if self.is_sqlite:
            found = connection.exec_driver_sql("SELECT tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL")
            return [sql for table, sql in found if but is None or not table.startswith(but)]
        looked_at = inspect(connection)
        return (
            f"{table}: {part}"
            for table in looked_at.get_table_names()
            if but is None or not table.startswith(but)
            for part in (looked_at.get_columns(table), looked_at.get_indexes(table), looked_at.get_foreign_keys(table))
        )

    def _make(self, tables: str) -> None:
        with self._engine.begin() as connection:
            for statement in tables.split(";")[:-1]:
                connection.exec_driver_sql(statement if self.is_sqlite else statement.replace("DATETIME", "TIMESTAMP"))

    def _own_marks(self, statement: str) -> str:
        return statement if self.is_sqlite else statement.replace("%", "%%").replace("?", "%s")
