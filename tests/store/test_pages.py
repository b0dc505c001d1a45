"""Pages of a list: together they are the whole list, however the rows change in between."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert

from retrycli.domain.cursor import SORTS, Cursor, MessageCursor, Sort
from retrycli.domain.listing import Filter
from retrycli.domain.message import State
from retrycli.store.listing import MessageQueries
from retrycli.store.passes import Ledger
from retrycli.store.schema import passes, queue
from tests.store.application import HOUR, NOON, Application, opened
from tests.store.conftest import on_default_table
from tests.store.own_tables import enrol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrycli.store.database import Database

ANY = Filter()


def pages(views: MessageQueries, sort: Sort, size: int, wanted: Filter = ANY) -> Iterator[list[int]]:
    """Yield the ids of each page, each read when it is asked for."""
    end: MessageCursor | None = None
    for _ in range(99):
        ids, end = views.ids_and_end(wanted, sort=sort, after=end, limit=size)
        yield [*ids]
        if end is None:
            return
    pytest.fail("the list has no end")


SOME_TIMES = st.sampled_from([NOON, NOON + HOUR, NOON + HOUR + timedelta(microseconds=1), NOON + 2 * HOUR, None])
Row = tuple[datetime | None, datetime | None, int | None]
ROWS = st.lists(st.tuples(SOME_TIMES, SOME_TIMES, st.sampled_from([0, 1, 10, None])), max_size=12)
"""When each message is due (None: not in the queue), when it first failed, and its retries."""
CHANGES = st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["add", "deliver", "remove"])), max_size=8)


def fill(application: Application, database: Database, rows: list[Row]) -> list[int]:
    ids = application.add_all([{"retry_count": tries} for *_, tries in rows])
    for message_id, (due, failed, _) in zip(ids, rows, strict=True):
        if due is not None:
            enrol(database, [message_id], at=due, failed_at=failed or NOON)
    return ids


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, changes=CHANGES, sort=st.sampled_from(SORTS), size=st.integers(1, 4), before=st.integers(0, 3))
def test_no_page_repeats_a_message_and_none_that_stays_is_left_out(
    application: Application,
    database: Database,
    rows: list[Row],
    changes: list[tuple[int, str]],
    sort: Sort,
    size: int,
    before: int,
) -> None:
    """Messages are added, sent and deleted between two pages."""
    application.delete()
    with database.write() as connection:
        connection.execute(delete(queue))
    ids = fill(application, database, rows)
    views = MessageQueries(database)
    whole = [*views.ids(ANY, sort=sort)]
    coming = pages(views, sort, size)
    seen = [message_id for page in islice(coming, before) for message_id in page]
    gone: set[int] = set()
    for number, change in changes:
        if change == "add":
            fill(application, database, [rows[number % len(rows)]] if rows else [])
        elif ids:
            gone.add(message_id := ids[number % len(ids)])
            if change == "deliver":
                application.change(message_id, status="sent")
                with database.write() as connection:
                    connection.execute(delete(queue).where(queue.c.message_id == message_id))
            else:
                application.delete(message_id)
    seen += [message_id for page in coming for message_id in page]
    assert len(seen) == len({*seen})
    assert [message_id for message_id in seen if message_id in whole] == [
        message_id for message_id in whole if message_id in seen
    ]
    assert {*whole} - {*seen} <= gone


def test_pages_together_are_the_list(application: Application, database: Database) -> None:
    """The sizes divide the list or do not; filters apply to each page."""
    rows: list[Row] = [(NOON + number % 5 * HOUR, NOON - number % 3 * HOUR, number % 4) for number in range(20)]
    fill(application, database, [*rows, (None, None, 7), (None, None, None)])
    views = MessageQueries(database)
    for sort in SORTS:
        for wanted in (ANY, Filter(state=State.WAITING), Filter(due_by=NOON + 2 * HOUR), Filter(error="none")):
            whole = [*views.ids(wanted, sort=sort)]
            for size in (1, 11, 23) if wanted is ANY else (3, 22):
                found = [*pages(views, sort, size, wanted)]
                assert [message_id for page in found for message_id in page] == whole, (sort, wanted, size)
                assert [len(page) for page in found[:-1]] == [size] * (len(found) - 1)
                assert found[-1] or not whole, "the last page is empty only if the list is"


@pytest.mark.parametrize("value", ["'lots'", "1e300", "x'00'", "2.5"])
def test_pages_by_tries_tolerate_values_that_are_not_counts(sqlite_application: Application, value: str) -> None:
    """SQLite stores any value in any column."""
    sqlite_application.add_all([{"retry_count": number % 3} for number in range(9)])
    sqlite_application.sql(f"UPDATE pending_messages SET retry_count = {value} WHERE id IN (2, 5, 6)")
    with opened(sqlite_application) as database:
        views = MessageQueries(database)
        assert sorted(message_id for page in pages(views, "tries", 2) for message_id in page) == [*range(1, 10)]


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
@pytest.mark.parametrize("kind", ["double precision", "numeric", "smallint"])
@on_default_table
def test_pages_by_tries_work_with_every_number_type(application: Application, kind: str) -> None:
    application.add_all([{"retry_count": number % 3} for number in range(9)])
    application.sql(f"ALTER TABLE pending_messages ALTER retry_count TYPE {kind}")
    if kind != "smallint":
        application.sql("UPDATE pending_messages SET retry_count = 'NaN' WHERE id = 8")
        application.sql("UPDATE pending_messages SET retry_count = '1e30' WHERE id = 9")
    with opened(application) as database:
        views = MessageQueries(database)
        assert sorted(message_id for page in pages(views, "tries", 2) for message_id in page) == [*range(1, 10)]


def test_an_extreme_cursor_gives_an_empty_page(application: Application, views: MessageQueries) -> None:
    application.add_all([{}] * 3)
    latest = NOON.replace(year=9999)
    ends: dict[Sort, MessageCursor] = {
        "id": Cursor("id", None, 2**63 - 1),
        "next": Cursor("next", None, 2**63 - 1),
        "tries": Cursor("tries", -(2**63), 2**63 - 1),
    }
    for sort, end in ends.items():
        assert not views.ids(ANY, sort=sort, after=end, limit=5)
    assert len(views.ids(ANY, sort="age", after=Cursor("age", latest, -(2**63)), limit=5)) == 3
    assert len(views.ids(ANY, sort="id", after=Cursor("id", None, -(2**63)), limit=5)) == 3


def test_passes_are_paged_by_their_start(database: Database, ledger: Ledger) -> None:
    """Passes of several hosts may begin at the same time. New passes do not move the later pages."""
    counts = dict.fromkeys(("sent", "rescheduled", "escalated", "unknown", "released"), 0)
    began = [NOON - number // 3 * HOUR for number in range(10)]

    def add(name: str, number: int) -> None:
        times = {"started_at": began[number], "heartbeat_at": began[number]}
        with database.write() as connection:
            connection.execute(insert(passes).values(id=f"{name}-{number}", host="mill", pid=1, **times, **counts))

    for number in range(10):
        add("pass", number)
    whole = [record.pass_id for record in ledger.last_passes(99)]
    found = ledger.last_passes(4)
    add("another", 0)
    while rest := ledger.passes_after(found[-1].started_at, found[-1].pass_id, 4):
        found += rest
    assert [record.pass_id for record in found] == whole
