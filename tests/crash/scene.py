"""An application with its database, its configuration and the passes over it; each test has one of its own."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrycli import app, load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from retrycli.events import PassSummary

ROOT = Path(__file__).parents[2]
TABLES = """
CREATE TABLE ticket_states (ticket_id INTEGER PRIMARY KEY, state TEXT NOT NULL);
CREATE TABLE pending_messages (
    id INTEGER PRIMARY KEY, ticket_id INTEGER NOT NULL REFERENCES ticket_states (ticket_id),
    message_type TEXT NOT NULL, recipient_email TEXT, cc_emails JSON, subject TEXT, body TEXT NOT NULL,
    status TEXT NOT NULL, retry_count INTEGER DEFAULT 0, last_error TEXT, confidence REAL,
    created_at DATETIME NOT NULL, updated_at DATETIME, sent_at DATETIME
);
"""
INSERT = """
INSERT INTO pending_messages (
    id, ticket_id, message_type, recipient_email, cc_emails, subject, body, status, retry_count, last_error,
    confidence, created_at, updated_at
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
TYPES = ("customer", "supplier", "internal")
FAILED_AT = "2025-01-02 03:04:05.678901"
OURS_TO_SET = ("RETRYCLI_", "TICKETING_")
FIRST_TICKET = 7_000
"""Tickets are numbered from here, so that no ticket's number is a message's id."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One folder with all of it."""

    folder: Path

    @property
    def database(self) -> Path:
        return self.folder / "agent.db"

    @property
    def config(self) -> Path:
        return self.folder / "retrycli.toml"

    def rows(self, query: str, *values: object) -> list[Any]:
        """What a query finds."""
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(query, values).fetchall()

    def count(self, source: str, *values: object) -> int:
        """How many rows there are of what follows FROM."""
        [[found]] = self.rows(f"SELECT count(*) FROM {source}", *values)
        return int(found)

    def change(self, statement: str) -> None:
        """Do what the application does."""
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute(statement)

    def make_tables(self) -> None:
        """Make retrycli's own tables, as ``init`` does."""
        with app.open_database(load_settings(self.config)):
            pass

    def has_tables(self) -> bool:
        """Whether a pass has made retrycli's own tables."""
        return self.count("sqlite_master WHERE name = 'retrycli_queue'") > 0

    def run_once_at(self, now: datetime) -> PassSummary:
        """Make a pass within this process, at a time that stands still."""
        return app.run_once(load_settings(self.config), surroundings=replace(app.HERE, now=lambda: now))

    def start(self, *arguments: str, **gateway: object) -> subprocess.Popen[str]:
        """Start Python with these arguments, where nothing is set but this scene's configuration, and these."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS_TO_SET)}
        ours = {f"RETRYCLI_GATEWAY__{name.upper()}": str(value) for name, value in gateway.items()}
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**inherited, "RETRYCLI_CONFIG": str(self.config), **ours},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def set_up(folder: Path, base_url: str, *, failed: int, journal_mode: str = "wal", **run: object) -> Scene:
    """Make an application's database with so many failed messages among others, and a configuration."""
    scene = Scene(folder)
    with closing(sqlite3.connect(scene.database)) as connection, connection:
        connection.execute(f"PRAGMA journal_mode = {journal_mode}")
        connection.executescript(TABLES)
        rows = [*others(failed), *(message(each, "failed") for each in range(1, failed + 1))]
        connection.executemany("INSERT INTO ticket_states VALUES (?, 'open')", [(row[1],) for row in rows])
        connection.executemany(INSERT, rows)
    lines = [
        f'[database]\nurl = "sqlite:///{scene.database}"',
        f'[gateway]\nbase_url = "{base_url}"',
        "[run]",
        *(f"{name} = {value}" for name, value in run.items()),
    ]
    scene.config.write_text("\n".join(lines))
    return scene


def others(after: int) -> list[Sequence[object]]:
    """A message in each of the statuses that are none of retrycli's business."""
    statuses = ("pending", "approved", "rejected", "sent")
    return [message(after + number, status) for number, status in enumerate(statuses, start=1)]


def message(number: int, status: str) -> Sequence[object]:
    """A row of the application's table."""
    subject, body = f'Re: "{number}" {{order}}', f"Dear customer of {number},\nit's on its way. " * 5
    cc = '["a@example.com", "b@example.com"]' if number % 2 else None
    error = "HTTP 503" if status == "failed" else None
    head = (number, FIRST_TICKET + number, TYPES[number % 3], f"{number}@example.com", cc, subject, body, status)
    return (*head, 0, error, number / 7, FAILED_AT, FAILED_AT)
