"""An application's own database, as retrycli may find it: made by somebody else, with more in it than it needs."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from retrycli.settings import Database as DatabaseSettings
from retrycli.settings import Gateway as GatewaySettings
from retrycli.settings import Settings

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
OWN = (
    "retrycli_acts",
    "retrycli_attempts",
    "retrycli_breakers",
    "retrycli_passes",
    "retrycli_pause",
    "retrycli_queue",
    "retrycli_rates",
    "retrycli_told",
    "retrycli_totals",
)
DUE = (5, 6, 7)
"""The messages of `fill` that a pass would send."""

Row = dict[str, object]


class Application:
    """The database and, in a test's hands, the application behind it.

    Args:
        path: a file that is not there yet.
        like: another one's file to begin with.
    """

    def __init__(self, path: Path, *, like: Path | None = None) -> None:
        self.path = path
        if like is not None:
            shutil.copyfile(like, path)
            return
        self._script(TABLES)
        self._script("INSERT INTO ticket_states VALUES " + ", ".join(f"({each}, 'open')" for each in range(4700, 4730)))

    @property
    def url(self) -> str:
        """Its ``database.url``."""
        return f"sqlite:///{self.path}"

    def variables(self, api: str) -> dict[str, str]:
        """The two environment variables that a pass can't do without."""
        return {"RETRYCLI_DATABASE__URL": self.url, "TICKETING_API_BASE_URL": api}

    def settings(self, api: str) -> Settings:
        """The same as settings, for calls from Python."""
        return Settings(database=DatabaseSettings(url=self.url), gateway=GatewaySettings(base_url=api))

    def add(self, message_id: int, *, hours_ago: float = 3, **columns: object) -> int:
        """Add a message, one that failed three hours ago unless a test says otherwise."""
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
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        self.execute(f"INSERT INTO pending_messages ({names}) VALUES ({marks})", *row.values())
        return message_id

    def add_due(self, number: int, *, first: int = 101) -> list[int]:
        """Add so many messages that are due."""
        return [self.add(each) for each in range(first, first + number)]

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
        """Add the three that are due."""
        self.add(5, cc_emails=json.dumps(["lead@example.net"]), body='A {brace}, a "quote" and 日本.')
        self.add(6, message_type="supplier", retry_count=None)
        self.add(7, message_type="internal", recipient_email=None, retry_count=1, cc_emails=None)

    def execute(self, statement: str, *values: object) -> list[Row]:
        """Run one statement; the rows that it gives."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.row_factory = sqlite3.Row
            return [dict(each) for each in connection.execute(statement, values)]

    def rows(self, table: str = "pending_messages") -> dict[object, Row]:
        """A table's rows by their first column."""
        found = self.execute(f"SELECT * FROM {table}")
        return {next(iter(each.values())): each for each in found}

    def row(self, message_id: int) -> Row:
        """One message."""
        return self.rows()[message_id]

    def state(self, message_id: int) -> object:
        """Where a message is in retrycli's queue; None where it is not in there."""
        found = self.rows("retrycli_queue").get(message_id)
        return found and found["state"]

    def last_pass(self) -> Row:
        """The newest pass as it is written down."""
        return self.execute("SELECT * FROM retrycli_passes ORDER BY started_at DESC LIMIT 1")[0]

    def dump(self) -> list[str]:
        """The whole database as statements."""
        with closing(sqlite3.connect(self.path)) as connection:
            return list(connection.iterdump())

    def tables(self) -> set[object]:
        """The names of all tables."""
        return {each["name"] for each in self.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}

    def _script(self, statements: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.executescript(statements)
