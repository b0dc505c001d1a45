"""Health checks of a database: journal mode, clock, write permission."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import CheckConstraint, Column, Text, make_url, text

from retrycli.domain.errors import DatabaseUnavailable, SchemaMismatch
from retrycli.store.database import Database
from retrycli.store.write_check import check_writable, clock_ahead, journal_mode
from tests.store.application import NOON, Application, opened
from tests.store.conftest import Factory, application_with, file_of, in_every_mode, on_default_table
from tests.store.own_tables import enrol, queue_rows


@in_every_mode
def test_reports_the_journal_mode_and_keeps_it(database: Database) -> None:
    if not database.is_sqlite:
        pytest.skip("a server has no journal mode")
    mode = journal_mode(database)
    assert mode in {"delete", "wal"}
    check_writable(database, NOON, 10)
    assert journal_mode(database) == mode


def test_only_a_server_has_its_own_clock(database: Database) -> None:
    began = datetime.now(UTC)
    ahead = clock_ahead(database, lambda: began)
    assert ahead == timedelta(0) if database.is_sqlite else timedelta(0) < ahead < timedelta(minutes=1)


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_the_fastest_answer_determines_the_servers_time(database: Database) -> None:
    began = datetime.now(UTC)
    times = iter([began + timedelta(hours=number) for number in (0, 4, 0, 2, 0, 6)])
    ahead = clock_ahead(database, lambda: next(times))
    assert timedelta(0) < ahead + timedelta(hours=1) < timedelta(minutes=1)


def test_a_database_locked_by_another_writer_is_not_writable(sqlite_application: Application) -> None:
    hasty = Database(sqlite_application.url, patience=0)
    with closing(sqlite3.connect(file_of(sqlite_application.url))) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailable, match="database is locked"):
            check_writable(hasty, NOON, 10)
    check_writable(hasty, NOON, 10)
    hasty.close()


@contextmanager
def read_by_a_role(application: Application, *grants: str) -> Iterator[Database]:
    """Open a PostgreSQL database as a new role with some privileges."""
    role = f"reader_{uuid.uuid4().hex}"
    for statement in (f"CREATE ROLE {role} LOGIN", *(f"GRANT {grant} TO {role}" for grant in grants)):
        application.sql(statement)
    url = make_url(application.url).set(username=role).render_as_string(hide_password=False)
    with closing(Database(url)) as database:
        yield database
    application.sql(f"DROP OWNED BY {role}")
    application.sql(f"DROP ROLE {role}")


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
@on_default_table
def test_a_read_only_user_is_detected(application: Application, database: Database) -> None:
    with (
        read_by_a_role(application, "SELECT ON pending_messages") as theirs,
        pytest.raises(DatabaseUnavailable, match="permission denied"),
    ):
        check_writable(theirs, NOON, 10)


def test_the_check_leaves_nothing_behind(application: Application, database: Database) -> None:
    application.add_all([{}, {}])
    enrol(database, [1, 2])
    before = queue_rows(database)
    with application.watched() as changed:
        check_writable(database, NOON, 10)
    assert (changed, queue_rows(database)) == ({}, before)
    application.change(1, status="sent")  # this would fail if the row were still locked


@pytest.mark.parametrize(
    ("column", "check"), [("status", "status <> 'sent'"), ("last_error", "length(last_error) < 9")]
)
def test_a_violated_constraint_is_reported(engine: Factory, tmp_path: Path, column: str, check: str) -> None:
    with application_with(engine, tmp_path, Column(column, Text, CheckConstraint(check))) as made:
        made.add()
        with opened(made) as database:
            for _ in ("a failed row", "a queued message"):
                with pytest.raises(SchemaMismatch, match=r"(?i)message 1 .* check constraint"):
                    check_writable(database, NOON, 10)
                enrol(database, [1])


RAISES = {
    True: "CREATE TRIGGER no BEFORE UPDATE ON pending_messages BEGIN SELECT RAISE(ABORT, 'never'); END",
    False: "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'never'; END $$;"
    "CREATE TRIGGER no BEFORE UPDATE ON pending_messages FOR EACH ROW EXECUTE FUNCTION no()",
}
SKIPS = {
    True: "CREATE TRIGGER no BEFORE UPDATE ON pending_messages BEGIN SELECT RAISE(IGNORE); END",
    False: RAISES[False].replace("RAISE 'never'", "RETURN NULL"),
}


@pytest.mark.parametrize(("trigger", "told"), [(RAISES, "never"), (SKIPS, "had no effect")])
@on_default_table
def test_a_trigger_that_refuses_is_reported(
    application: Application, database: Database, trigger: dict[bool, str], told: str
) -> None:
    application.add()
    enrol(database, [1])
    application.sql(trigger[database.is_sqlite])
    with pytest.raises(SchemaMismatch, match=f"message 1 .*{told}"):
        check_writable(database, NOON, 10)


def test_a_strict_column_that_accepts_no_text_is_named(sqlite_application: Application) -> None:
    made = sqlite_application
    columns = "id INTEGER PRIMARY KEY, ticket_id INT, message_type TEXT, subject TEXT, body TEXT, status TEXT"
    made.sql("DROP TABLE pending_messages")
    made.sql(f"CREATE TABLE pending_messages ({columns}, retry_count INT, last_error INTEGER, sent_at TEXT) STRICT")
    made.sql("INSERT INTO pending_messages (id, ticket_id, status) VALUES (1, 1, 'failed')")
    with opened(made) as database:
        enrol(database, [1])
        with pytest.raises(SchemaMismatch, match=r"TEXT value in INTEGER column pending_messages\.last_error"):
            check_writable(database, NOON, 10)


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
@on_default_table
def test_rows_protected_by_a_policy_are_reported(application: Application, database: Database) -> None:
    """A row that the application has locked is not awaited."""
    application.add()
    enrol(database, [1])
    with opened(application) as other, other.write() as held:
        held.execute(text("SELECT 1 FROM pending_messages FOR UPDATE"))
        check_writable(database, NOON, 10)
    application.sql("ALTER TABLE pending_messages ENABLE ROW LEVEL SECURITY")
    application.sql("CREATE POLICY look ON pending_messages FOR SELECT USING (true)")
    with (
        read_by_a_role(application, "ALL ON ALL TABLES IN SCHEMA public") as theirs,
        pytest.raises(SchemaMismatch, match=r"message 1 .*had no effect"),
    ):
        check_writable(theirs, NOON, 10)
