"""A condition on ids: SQLite gets a list of parameters, PostgreSQL one array."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, select

from retrycli.store.bulk import id_in
from retrycli.store.schema import queue
from tests.store.application import NOON
from tests.store.heard import statements

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrycli.store.database import Database

WHICH = select(queue.c.message_id).where(id_in(queue.c.message_id)).order_by(queue.c.message_id)


def found(database: Database, ids: Sequence[int]) -> list[int]:
    with database.read() as connection:
        return list(connection.execute(WHICH, {"ids": ids}).scalars())


@pytest.fixture(autouse=True)
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
