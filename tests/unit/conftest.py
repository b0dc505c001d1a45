"""Fixtures for tests of the engine: each test gets a separate database, copied from one template."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from retrycli.store import own_tables
from retrycli.store.database import Database
from tests.fakes import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TABLE = """
CREATE TABLE pending_messages (
    id INTEGER PRIMARY KEY, ticket_id INTEGER, message_type TEXT, subject TEXT, body TEXT, status TEXT,
    retry_count INTEGER DEFAULT 0, last_error TEXT, created_at TEXT, updated_at TEXT, sent_at TEXT
)
"""


@pytest.fixture(scope="session")
def blank_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a database file with all tables and no messages."""
    path = tmp_path_factory.mktemp("blank") / "agent.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(TABLE)
    database = Database(f"sqlite:///{path}")
    own_tables.ensure_tables(database, upgrade=True)
    database.close()
    return path


@pytest.fixture
def stage(blank_database: Path, tmp_path: Path) -> Iterator[Stage]:
    """Provide the real store on a separate database file, with fakes around it."""
    shutil.copy(blank_database, tmp_path / "agent.db")
    made = Stage(tmp_path / "agent.db")
    yield made
    made.database.close()
