"""Unusable tables: one line that names the table and the remedy, exit 78, and nothing is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from retrycli.domain.message import REQUIRED_COLUMNS
from tests.conftest import on_both

if TYPE_CHECKING:
    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application
    from tests.cli.command import Cli, Finished

pytestmark = on_both

INDEX = "CREATE INDEX retrycli_failed ON"


def failed(application: Application) -> str:
    """Return the status column as the suggested index names it; PostgreSQL compares a varchar as text."""
    return "status" if application.is_sqlite else "CAST(status AS text)"


def without_a_key(application: Application, source: str = "SELECT * FROM pending_messages") -> None:
    """Replace the table with a copy that has no key, and permits null ids."""
    application.execute(f"CREATE TABLE copied AS {source}")
    application.execute("DROP TABLE pending_messages")
    application.execute("ALTER TABLE copied RENAME TO pending_messages")


def view(application: Application, query: str = "SELECT * FROM stored") -> None:
    application.execute("ALTER TABLE pending_messages RENAME TO stored")
    application.execute(f"CREATE VIEW pending_messages AS {query}")


def check_refused(done: Finished, *words: str, code: int = 78) -> None:
    """Check that the error is one line with the problem and a remedy."""
    assert done.returncode == code, done.stderr
    [line] = done.stderr.splitlines()
    for word in ("pending_messages", *words):
        assert word in line


@pytest.mark.parametrize("twin", ["failed", "sent", "in a view"])
def test_refuses_two_rows_with_one_id(at_work: Cli, application: Application, sandbox: Sandbox, twin: str) -> None:
    """A result would be written to both rows, even if the other row is not failed."""
    application.add_due(2)
    if twin == "in a view":
        view(application, "SELECT * FROM stored UNION ALL SELECT * FROM stored WHERE id = 102")
    else:
        without_a_key(application)
        application.add(102, status=twin)
    for command in ("run-once", "run-once --dry-run", "retry 102", "status"):
        check_refused(at_work(*command.split()), "more than one row with the id 102", "PRIMARY KEY")
    assert sandbox.received == ()
    assert application.rows("retrycli_attempts") == {}


def test_a_table_without_a_key_is_usable_if_its_ids_are_unique(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    """Duplicate ids of rows that are not failed affect only their readers."""
    application.add_due(2)
    without_a_key(application)
    application.execute("UPDATE pending_messages SET id = NULL WHERE id = 102")
    check_refused(at_work("run-once"), "a failed message whose id is null", "NOT NULL")
    assert sandbox.received == ()
    application.execute("UPDATE pending_messages SET id = 102 WHERE id IS NULL")
    for _ in range(2):
        application.add(9, status="sent")
    assert at_work.json("run-once")["sent"] == 2
    check_refused(at_work("show", "9"), "more than one row with the id 9")
    assert len(sandbox.received) == 2


def test_refuses_a_view_that_is_not_updatable(at_work: Cli, application: Application, sandbox: Sandbox) -> None:
    application.add_due(2)
    view(application, "SELECT * FROM stored LIMIT 1000")
    for command in ("run-once", "reject 101 --reason double"):
        check_refused(at_work(*command.split()), "it is read-only", "database.table")
    assert sandbox.received == ()


def test_refuses_an_index_on_a_view_before_it_asks(at_work: Cli, application: Application) -> None:
    view(application)
    done = at_work("db", "index")
    check_refused(done, "is a view", f"{INDEX} TABLE (id) WHERE {failed(application)} = 'failed'")
    assert done.stdout == ""


@pytest.mark.databases("postgresql")
def test_refuses_an_index_on_a_foreign_table(at_work: Cli, application: Application) -> None:
    kinds = {"id": "INTEGER", "retry_count": "INTEGER"}
    columns = ", ".join(f"{column} {kinds.get(column, 'TEXT')}" for column in REQUIRED_COLUMNS)
    application.execute("DROP TABLE pending_messages")
    application.execute("CREATE FOREIGN DATA WRAPPER elsewhere")
    application.execute("CREATE SERVER elsewhere FOREIGN DATA WRAPPER elsewhere")
    application.execute(f"CREATE FOREIGN TABLE pending_messages ({columns}) SERVER elsewhere")
    check_refused(at_work("db", "index", "--yes"), "is a foreign table", f"{INDEX} TABLE (id)")


@pytest.mark.databases("postgresql")
def test_an_index_on_a_partitioned_table_is_left_to_the_operator(at_work: Cli, application: Application) -> None:
    """An index that the operator creates with the statement in the error is found."""
    application.execute("CREATE TABLE parts (LIKE pending_messages) PARTITION BY RANGE (id)")
    application.execute("CREATE TABLE part_1 PARTITION OF parts DEFAULT")
    application.execute("DROP TABLE pending_messages")
    application.execute("ALTER TABLE parts RENAME TO pending_messages")
    statement = f"{INDEX} pending_messages (id) WHERE {failed(application)} = 'failed'"
    check_refused(at_work("db", "index", "--yes"), "is a partitioned table", statement)
    application.execute(statement)
    assert at_work.json("db", "index")["before"] == "there"
    check_refused(
        at_work("db", "index", "--drop", "--yes"), "is a partitioned table", "DROP INDEX public.retrycli_failed"
    )
