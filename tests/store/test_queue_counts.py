"""Metrics of the queue and of the passes."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import update

from retrycli.domain.message import MessageType, State
from retrycli.domain.passes import PassResult, PassSummary
from retrycli.store.claims import Claims
from retrycli.store.database import Database
from retrycli.store.passes import Ledger
from retrycli.store.schema import queue
from retrycli.store.summaries import PassTimes, QueueCounts
from tests.store.application import HOUR, MINUTE, NOON, Application
from tests.store.conftest import on_default_table
from tests.store.heard import statements
from tests.store.own_tables import FAILED_AT, PASS, enrol, escalate


@pytest.fixture
def measures(database: Database) -> QueueCounts:
    return QueueCounts(database)


def by_place(measures: QueueCounts) -> dict[tuple[str, str | None], int]:
    """Return the number of messages by state and type, without zeros."""
    return {(state.value, kind): number for (state, kind), number in measures.in_queue().numbers.items() if number}


def test_counts_messages_by_state_and_type_with_the_oldest_waiting_one(
    application: Application, database: Database, measures: QueueCounts
) -> None:
    found = measures.in_queue()
    assert set(found.numbers.values()) == {0}
    assert (found.waiting_since, found.escalated_since, found.unacknowledged_since) == (None, None, None)
    application.add_all([{}, {}, {"message_type": "customer"}, {"message_type": "customer"}, {"status": "sent"}, {}])
    enrol(database, [4], at=NOON - HOUR, failed_at=FAILED_AT - 9 * HOUR)
    assert Claims(database).claim(PASS, NOON, 1) == [4]
    enrol(database, [1])
    enrol(database, [2], failed_at=FAILED_AT - HOUR)
    enrol(database, [3])
    assert by_place(measures) == {("waiting", "supplier"): 2, ("waiting", "customer"): 1, ("sending", "customer"): 1}
    assert measures.in_queue().numbers.keys() == {(state, kind) for state in State for kind in (*MessageType, None)}
    assert measures.in_queue().waiting_since == FAILED_AT - HOUR
    application.delete(1)
    application.change(3, message_type="pigeon")
    assert by_place(measures) == {("waiting", "supplier"): 1, ("waiting", None): 2, ("sending", "customer"): 1}


def test_escalated_messages_have_the_oldest_and_the_oldest_unacknowledged_age(
    application: Application, database: Database, measures: QueueCounts
) -> None:
    for hours in (3, 2, 1):
        escalate(database, application.add(), at=NOON - hours * HOUR)
    found = measures.in_queue()
    assert by_place(measures) == {("escalated", "supplier"): 3}
    assert (found.escalated_since, found.unacknowledged_since) == (NOON - 3 * HOUR, NOON - 3 * HOUR)
    for message_ids, nobodys in ([1], NOON - 2 * HOUR), ([2, 3], None):
        with database.write() as connection:
            connection.execute(update(queue).where(queue.c.message_id.in_(message_ids)).values(acknowledged_at=NOON))
        found = measures.in_queue()
        assert (found.escalated_since, found.unacknowledged_since) == (NOON - 3 * HOUR, nobodys)


@on_default_table
def test_reads_only_ids_and_types_of_the_applications_table(database: Database, measures: QueueCounts) -> None:
    assert database.messages is not None
    with statements(database) as seen:
        measures.in_queue()
    [sql] = [statement for statement, _ in seen if "pending_messages" in statement]
    assert set(re.findall(r"pending_messages\.(\w+)", sql)) == {"id", "message_type"}


def test_the_last_pass_is_the_newest_finished_one(ledger: Ledger, measures: QueueCounts) -> None:
    """While deliveries are paused, the last completed pass may be much older than the last pass."""
    assert measures.last_pass() is None
    for number, result in enumerate([PassResult.COMPLETED, PassResult.COMPLETED, PassResult.PAUSED]):
        start = NOON + number * HOUR
        ledger.start_pass(f"p{number}", host="box", pid=1, now=start)
        ledger.finish_pass(PassSummary(f"p{number}", result), start + MINUTE)
    ledger.start_pass("running", host="box", pid=1, now=NOON + 9 * HOUR)
    assert measures.last_pass() == PassTimes(NOON + 2 * HOUR, NOON + 2 * HOUR + MINUTE)
    assert measures.last_pass(result=PassResult.COMPLETED) == PassTimes(NOON + HOUR, NOON + HOUR + MINUTE)
    assert measures.last_pass(result=PassResult.FAILED) is None
