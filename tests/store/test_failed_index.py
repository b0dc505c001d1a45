"""The index of failed rows: its state, its creation and removal, and its use by a pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from retrycli.domain.errors import DatabaseUnavailable
from retrycli.domain.transition import IdRange
from retrycli.store.application_table import NAME, FailedIndex, IndexState
from retrycli.store.enrolment import START, Enrolment
from tests.store.application import Application, bare_table, opened
from tests.store.conftest import on_default_table
from tests.store.heard import BEGINNINGS, statements
from tests.store.own_tables import enrol, queue_rows, retire
from tests.store.test_enrolment import fresh_ids
from tests.store.test_listing import strict_table

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table

    from retrycli.store.database import Database
    from tests.store.conftest import Factory


@pytest.fixture
def index(database: Database) -> FailedIndex:
    return FailedIndex(database)


def make(index: FailedIndex) -> None:
    index.execute(index.statements())


@on_default_table
def test_creates_and_drops_the_index_on_request(database: Database, index: FailedIndex) -> None:
    concurrently = "" if database.is_sqlite else "CONCURRENTLY "
    assert index.state() is IndexState.ABSENT
    assert index.statements(drop=True) == []
    status = "status" if database.is_sqlite else "CAST(status AS text)"
    made = [f"CREATE INDEX {concurrently}retrycli_failed ON pending_messages (id) WHERE {status} = 'failed'"]
    assert index.statements() == made
    make(index)
    with statements(database) as seen:
        assert index.state() is IndexState.THERE
    assert len([sql for sql, _ in seen if not sql.startswith(BEGINNINGS)]) == 1
    assert index.statements() == []
    taken_away = [f"DROP INDEX {concurrently}{'' if database.is_sqlite else 'public.'}retrycli_failed"]
    assert index.statements(drop=True) == taken_away
    index.execute(taken_away)
    assert index.state() is IndexState.ABSENT


KINDS = [("pending_messages", strict_table), ("Pending Messages", bare_table), ("{schema}.Order", bare_table)]


@pytest.mark.parametrize(("table", "kind"), KINDS)
def test_creates_the_index_on_any_table(
    engine: Factory, tmp_path: Path, table: str, kind: Callable[[MetaData, str, str | None], Table]
) -> None:
    with engine(tmp_path, None) as url:
        schema = "main" if url.startswith("sqlite") else "ticketing"
        made = Application(url, table.format(schema=schema), kind=kind)
        made.add_all([{}, {"status": "sent"}])
        with opened(made) as database:
            index = FailedIndex(database)
            make(index)
            assert index.state() is IndexState.THERE
            assert fresh_ids(Enrolment(database)) == [1]
            index.execute(index.statements(drop=True))
            assert index.state() is IndexState.ABSENT
        made.close()


def test_an_index_of_that_name_on_another_table_does_not_count(application: Application, index: FailedIndex) -> None:
    """PostgreSQL and SQLite refuse a second index with the same name in a schema, so the error must name it."""
    application.sql("CREATE INDEX retrycli_failed ON ticket_states (ticket_id)")
    assert index.state() is IndexState.ABSENT
    with pytest.raises(DatabaseUnavailable, match=r"retrycli_failed.* already exists"):
        make(index)


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
@on_default_table
def test_an_invalid_index_does_not_count_and_can_be_rebuilt(
    application: Application, database: Database, index: FailedIndex
) -> None:
    """If its build times out behind another transaction, PostgreSQL leaves an invalid index."""
    with application._engine.begin() as connection:
        connection.execute(text("UPDATE pending_messages SET subject = 'tea'"))
        with database.outside_transactions() as ours:
            ours.exec_driver_sql("SET statement_timeout = 100")
        with pytest.raises(DatabaseUnavailable, match="unusable until `retrycli db index` succeeds"):
            make(index)
    with database.outside_transactions() as ours:
        ours.exec_driver_sql("SET statement_timeout = 0")
    assert index.state() is IndexState.INVALID
    first, second = index.statements()
    assert (first, second.split()[0]) == (f"DROP INDEX CONCURRENTLY public.{NAME}", "CREATE")
    assert index.statements(drop=True) == [first]
    make(index)
    assert index.state() is IndexState.THERE


def test_with_the_index_each_pass_compares_all_of_few_failed_rows(
    application: Application, database: Database, index: FailedIndex
) -> None:
    application.add_all([{"status": "sent"} for _ in range(20)])
    enrolment = Enrolment(database, tail=3, sweep=5)
    assert len(enrolment.plan_sweep(START)[0]) == 2
    make(index)
    for message_id in (1, 7, 20):
        application.change(message_id, status="failed")
    assert enrolment.plan_sweep(START) == ([IdRange(None, None)], START)
    assert fresh_ids(enrolment) == [1, 7, 20]
    enrol(database, [1, 7, 20])
    application.change(7, status="sent")
    spans, _ = enrolment.plan_sweep(START)
    assert [retire(enrolment, span) for span in spans] == [1]
    assert queue_rows(database).keys() == {1, 20}


def test_with_the_index_many_failed_rows_are_still_swept(
    application: Application, database: Database, index: FailedIndex
) -> None:
    """Only failed rows count towards the size of a slice."""
    application.add_all([{"status": "failed" if message_id % 10 == 0 else "sent"} for message_id in range(1, 101)])
    make(index)
    enrolment = Enrolment(database, tail=3, sweep=2)
    assert enrolment.plan_sweep(START) == ([IdRange(START, 20), IdRange(70, None)], 20)
    assert enrolment.plan_sweep(60) == ([IdRange(60, 70), IdRange(70, None)], START)
    assert enrolment.goes_round()
    assert not Enrolment(database, tail=8, sweep=2).goes_round()
