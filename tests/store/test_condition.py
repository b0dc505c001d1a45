"""How a database is, apart from what it holds."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import cycle

import pytest
from sqlalchemy import make_url

from retrycli.errors import DatabaseUnavailable
from retrycli.store.condition import check_writable, clock_ahead, journal_mode
from retrycli.store.database import Database
from tests.store.application import Application
from tests.store.conftest import file_of, in_every_mode


@in_every_mode
def test_the_journal_mode_is_told_and_left_as_it_is(application: Application, database: Database) -> None:
    if not database.is_sqlite:
        pytest.skip("a server has no journal mode")
    mode = journal_mode(database)
    assert mode in {"delete", "wal"}
    assert journal_mode(database) == mode
    with application.watched() as changed:
        check_writable(database)
    assert changed == {}


def test_only_a_server_has_a_clock_of_its_own(database: Database) -> None:
    began = datetime.now(UTC)
    ahead = clock_ahead(database, lambda: began)
    assert ahead == timedelta(0) if database.is_sqlite else timedelta(0) < ahead < timedelta(minutes=1)


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_a_server_is_taken_to_have_looked_at_its_clock_in_the_middle(database: Database) -> None:
    began = datetime.now(UTC)
    times = cycle([began, began + timedelta(hours=2)])
    ahead = clock_ahead(database, lambda: next(times))
    assert timedelta(0) < ahead + timedelta(hours=1) < timedelta(minutes=1)


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_the_quickest_of_its_answers_tells_its_time(database: Database) -> None:
    began = datetime.now(UTC)
    times = iter([began + timedelta(hours=each) for each in (0, 4, 0, 2, 0, 6)])
    ahead = clock_ahead(database, lambda: next(times))
    assert timedelta(0) < ahead + timedelta(hours=1) < timedelta(minutes=1)


def test_a_database_that_another_writes_to_can_not_be_written(sqlite_application: Application) -> None:
    """Whoever is in no hurry would wait for it."""
    hasty = Database(sqlite_application.url, patience=0)
    with closing(sqlite3.connect(file_of(sqlite_application.url))) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailable, match="database is locked"):
            check_writable(hasty)
    check_writable(hasty)
    hasty.close()


def test_a_user_who_may_only_look_is_found_out(application: Application, database: Database) -> None:
    """On a server, where reading and writing are rights of their own; a file that can't be written is one too."""
    if database.is_sqlite:
        readonly = Database(f"sqlite:///file:{database.place}?mode=ro&uri=true", patience=0)
    else:
        role = f"reader_{uuid.uuid4().hex}"
        application.sql(f"CREATE ROLE {role} LOGIN")
        application.sql(f"GRANT SELECT ON pending_messages TO {role}")
        readonly = Database(make_url(application.url).set(username=role).render_as_string(hide_password=False))
    try:
        with pytest.raises(DatabaseUnavailable, match=r"readonly database|permission denied"):
            check_writable(readonly)
    finally:
        readonly.close()
        if not database.is_sqlite:
            application.sql(f"DROP OWNED BY {role}")
            application.sql(f"DROP ROLE {role}")
