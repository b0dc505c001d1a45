"""Updates of many rows, each with its own values: SQLite gets one statement per row, PostgreSQL one for all rows."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import BigInteger, Text, bindparam, func, insert, select, update
from sqlalchemy.types import NullType, TypeEngine

from retrycli.store.bulk import NULL, SEPARATOR, BulkStatement, Values, id_in
from retrycli.store.results import START_ATTEMPTS, STARTED
from retrycli.store.schema import attempts, queue
from tests.store.application import NOON
from tests.store.heard import statements

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Update

    from retrycli.store.database import Database


def note_errors(kind: TypeEngine[str]) -> BulkStatement:
    """Set the error of each attempt, or "none" if it has no error, and one common outcome."""

    def make(of: Values) -> Update:
        error = func.coalesce(of["error"], "none")
        mine = update(attempts).where(attempts.c.message_id == of["message_id"])
        return mine.values(error=error, outcome=bindparam("result"))

    return BulkStatement(make, {"message_id": BigInteger(), "error": kind})


def errors(database: Database) -> list[tuple[object, ...]]:
    with database.read() as connection:
        columns = "message_id, error, outcome"
        found = connection.exec_driver_sql(f"SELECT {columns} FROM retrycli_attempts ORDER BY id")
        return [tuple(row) for row in found]


@pytest.fixture
def _attempts(database: Database) -> None:
    with database.write() as connection:
        rows = [dict.fromkeys(STARTED) | {"message_id": message_id, "number": 1} for message_id in (3, 1, 2, 4)]
        START_ATTEMPTS.execute(connection, rows, pass_id=None, made_by="pass", started_at=NOON, probe=None)


@pytest.mark.usefixtures("_attempts")
@pytest.mark.parametrize("kind", [Text(), NullType()], ids=["known", "unknown"])
def test_each_row_gets_its_own_values(database: Database, kind: TypeEngine[str]) -> None:
    rows: list[dict[str, object]] = [
        {"message_id": 1, "error": "{a, \"b'"},
        {"error": None, "message_id": 3},
        {"message_id": 2, "error": ""},
    ]
    with database.write() as connection:
        note_errors(kind).execute(connection, [row | {"more": 1} for row in rows], result="refused")
    assert errors(database) == [(3, "none", "refused"), (1, "{a, \"b'", "refused"), (2, "", "refused"), (4, None, None)]


@pytest.mark.usefixtures("_attempts")
def test_a_text_is_written_unchanged(database: Database) -> None:
    """PostgreSQL gets the texts in one array, in which some characters have a special meaning."""
    for error, others in product(["", NULL, SEPARATOR, f"a{SEPARATOR}{NULL}", "\n\\,é"], [0, 2]):
        rows: list[dict[str, object]] = [{"message_id": 1 + number, "error": None} for number in range(others)]
        with database.write() as connection:
            note_errors(Text()).execute(connection, [*rows, {"message_id": 4, "error": error}], result="refused")
        assert errors(database)[-1] == (4, error, "refused"), others


@pytest.mark.usefixtures("_attempts")
def test_a_server_gets_one_statement_for_all_rows_and_none_without_rows(database: Database) -> None:
    rows = [{"message_id": number, "error": "x"} for number in (1, 2, 3)]
    with statements(database) as heard, database.write() as connection:
        note_errors(Text()).execute(connection, rows, result="refused")
        note_errors(Text()).execute(connection, [], result="refused")
    [values] = [values for sql, values in heard if sql.startswith("UPDATE")]
    assert isinstance(values, list) == database.is_sqlite


# -- conditions on ids: SQLite gets a list of parameters, PostgreSQL one array -----------------------------------------

WHICH = select(queue.c.message_id).where(id_in(queue.c.message_id)).order_by(queue.c.message_id)


def found(database: Database, ids: Sequence[int]) -> list[int]:
    with database.read() as connection:
        return list(connection.execute(WHICH, {"ids": ids}).scalars())


@pytest.fixture
def _queued(database: Database) -> None:
    rows = [
        {
            "message_id": message_id,
            "state": "waiting",
            "delivery_key": "key",
            "first_failed_at": NOON,
            "unknown_count": 0,
            "birth": "NOON",
        }
        for message_id in (-1, 0, 1, 2**40)
    ]
    with database.write() as connection:
        connection.execute(insert(queue), rows)


@pytest.mark.usefixtures("_queued")
def test_finds_the_rows_of_the_given_ids(database: Database) -> None:
    cases: list[tuple[list[int], list[int]]] = [
        ([1, -1, 2], [-1, 1]),
        ([2**40, 2**63 - 1, 0], [0, 2**40]),
        ([1, 1], [1]),
        ([], []),
    ]
    with statements(database) as heard:
        for ids, there in cases:
            assert found(database, ids) == there
    different = {sql for sql, _ in heard if sql.startswith("SELECT retrycli_queue")}
    assert len(different) == (3 if database.is_sqlite else 1), "a server gets the same statement for any number of ids"
