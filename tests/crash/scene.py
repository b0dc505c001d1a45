"""An application with its database and configuration, and functions that run passes on it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrycli import load_settings
from retrycli.operations import run_pass, wiring
from tests.cli.application import Application

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from retrycli.domain.passes import PassSummary
    from tests.cli.application import Row

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
TYPES = ("customer", "supplier", "internal")
FAILED_AT = "2025-01-02 03:04:05.678901"
FIRST_TICKET = 7_000
"""The number of the first ticket. It is high, so that ticket numbers differ from message ids."""


@dataclass(frozen=True, slots=True)
class Scene:
    """The folder and the application of one test. A PostgreSQL database is not in the folder."""

    folder: Path
    application: Application

    @property
    def database(self) -> Path:
        return self.application.path

    @property
    def config(self) -> Path:
        return self.folder / "retrycli.toml"

    def rows(self, query: str, *values: object) -> list[Any]:
        return self.application.asked(query, *values)

    def count(self, source: str, *values: object) -> int:
        """Count the rows of `source`, the text after FROM."""
        [[found]] = self.rows(f"SELECT count(*) FROM {source}", *values)
        return int(found)

    def change(self, statement: str) -> None:
        self.application.execute(statement)

    def make_tables(self) -> None:
        """Create retrycli's own tables, as ``init`` does."""
        with wiring.open_database(load_settings(self.config)):
            pass

    def has_tables(self) -> bool:
        """Return whether a pass has created retrycli's own tables."""
        return "retrycli_queue" in self.application.tables()

    def run_once_at(self, now: datetime) -> PassSummary:
        """Run a pass in this process, at a fixed time."""
        return run_pass.run_once(load_settings(self.config), runtime=replace(wiring.DEFAULT_RUNTIME, now=lambda: now))

    def start(
        self, *arguments: str, under: Sequence[str] = (), settings: Mapping[str, object] | None = None
    ) -> subprocess.Popen[str]:
        """Start Python with this configuration (see the function `start`)."""
        return start(self.config, *arguments, under=under, settings=settings)


def start(
    config: Path, *arguments: str, under: Sequence[str] = (), settings: Mapping[str, object] | None = None
) -> subprocess.Popen[str]:
    """Start Python with arguments, a configuration and more settings.

    Args:
        config: the configuration.
        arguments: for Python.
        under: a program that starts Python, such as strace.
        settings: values by name, such as `run.limit`.
    """
    ours = {f"RETRYCLI_{name.replace('.', '__').upper()}": str(value) for name, value in (settings or {}).items()}
    own = {"RETRYCLI_CONFIG": str(config), **ours}
    return subprocess.Popen(
        [*under, sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | own,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def set_up(
    folder: Path, base_url: str, *, failed: int, url: str | None = None, journal_mode: str | None = "wal", **run: object
) -> Scene:
    """Create a database with this number of failed messages and some others, and a configuration.

    The database is a SQLite file in the folder, unless `url` names an empty database. A SQLite file gets
    `journal_mode`, or keeps its own if `journal_mode` is None.
    """
    application = Application(url or f"sqlite:///{folder / 'agent.db'}", tables=TABLES)
    if application.is_sqlite and journal_mode is not None:
        application.execute(f"PRAGMA journal_mode = {journal_mode}")
    rows = [*others(failed), *(message(message_id, "failed") for message_id in range(1, failed + 1))]
    application.insert("ticket_states", [{"ticket_id": row["ticket_id"], "state": "open"} for row in rows])
    application.insert("pending_messages", rows)
    return configure(folder, application, base_url, **run)


def configure(folder: Path, application: Application, base_url: str, **run: object) -> Scene:
    """Write the configuration for an existing application. Its time limits are longer than any delay of the machine."""
    scene = Scene(folder, application)
    lines = [
        f'[database]\nurl = "{application.url}"',
        f'[gateway]\nbase_url = "{base_url}"\nconnect_timeout_seconds = 120\nrequest_timeout_seconds = 120',
        "[run]",
        f'lock_file = "{folder / "retrycli.lock"}"',
        *(f"{name} = {value}" for name, value in run.items()),
    ]
    scene.config.write_text("\n".join(lines))
    return scene


def others(after: int) -> list[Row]:
    """Return a message in each of the statuses that retrycli ignores."""
    statuses = ("pending", "approved", "rejected", "sent")
    return [message(after + number, status) for number, status in enumerate(statuses, start=1)]


def message(number: int, status: str) -> Row:
    return {
        "id": number,
        "ticket_id": FIRST_TICKET + number,
        "message_type": TYPES[number % 3],
        "recipient_email": f"{number}@example.com",
        "cc_emails": '["a@example.com", "b@example.com"]' if number % 2 else None,
        "subject": f'Re: "{number}" {{order}}',
        "body": f"Dear customer of {number},\nit's on its way. " * 5,
        "status": status,
        "retry_count": 0,
        "last_error": "HTTP 503" if status == "failed" else None,
        "confidence": number / 7,
        "created_at": FAILED_AT,
        "updated_at": FAILED_AT,
    }
