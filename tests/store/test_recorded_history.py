"""Reading the history of a period: pages of attempts, old rows without a type, and messages of the queue."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert

from retrycli.domain.circuit_breaker import BreakerRules
from retrycli.domain.history_reader import HistoryReader
from retrycli.domain.message import MessageType
from retrycli.domain.recorded_history import RecordedPass
from retrycli.store import schema
from retrycli.store.recorded_history import PAGE, HistoryQueries
from tests.store.application import HOUR, MINUTE, NOON, TICKET, Application, opened

if TYPE_CHECKING:
    from retrycli.domain.recorded_history import RecordedHistory
    from retrycli.store.database import Database

SECOND = timedelta(seconds=1)
SINCE = NOON - 24 * HOUR
BIRTH = "2025-03-03T08:00:00.000000+00:00"


@pytest.fixture
def queries(database: Database) -> HistoryQueries:
    return HistoryQueries(database)


def attempts(database: Database, *rows: dict[str, object]) -> None:
    """Add attempts at messages that failed a quarter of an hour before. A row has at least a message and a start."""
    usual: dict[str, Any] = {
        "pass_id": "the-pass",
        "number": 1,
        "made_by": "pass",
        "finished_at": NOON,
        "outcome": "refused",
        "status_code": 200,
        "waited_s": 900,
        "birth": BIRTH,
        "digest": "1:a:b",
        "ticket": str(TICKET),
        "message_type": "customer",
    }
    with database.write() as connection:
        connection.execute(insert(schema.attempts), [usual | row for row in rows])


def queued(database: Database, message_id: int, **values: object) -> None:
    row: dict[str, Any] = {
        "message_id": message_id,
        "state": "waiting",
        "delivery_key": f"{message_id:036d}",
        "first_failed_at": NOON - HOUR,
        "unknown_count": 0,
        "ticket": str(TICKET),
        "birth": "2025-03-03 08:00:00",
    }
    with database.write() as connection:
        connection.execute(insert(schema.queue).values(row | values))


def read(queries: HistoryQueries) -> RecordedHistory:
    passes = {made.pass_id: made for made in queries.passes(SINCE)}
    reader = HistoryReader(BreakerRules(), passes, dict.fromkeys(MessageType, "https://x"), since=SINCE)
    queries.read_into(reader, SINCE)
    return reader.history()


def test_reads_the_attempts_of_the_period_page_by_page(database: Database, queries: HistoryQueries) -> None:
    attempts(database, {"message_id": 1, "started_at": SINCE - HOUR})
    number = PAGE + 100
    rows = [
        {"message_id": 1, "started_at": NOON - HOUR + each * SECOND, "number": each + 1, "retry_after_s": each % 7}
        for each in range(number)
    ]
    attempts(database, *rows)
    found = read(queries)
    [message] = found.messages
    waits = [outcome.retry_after for outcome in message.outcomes]
    assert waits == [timedelta(seconds=each % 7) for each in range(number)]
    assert message.first_failed_at == NOON - HOUR - 15 * MINUTE
    assert message.created_at == datetime.fromisoformat(BIRTH)
    assert found.attempts == number


def test_an_old_attempt_gets_the_type_and_ticket_of_its_row(
    application: Application, database: Database, queries: HistoryQueries
) -> None:
    message_id = application.add(message_type="supplier", ticket_id=TICKET)
    old = dict.fromkeys(("message_type", "ticket", "birth", "digest"))
    attempts(database, *({"message_id": each, "started_at": NOON} | old for each in (message_id, 4711)))
    [message] = read(queries).messages
    assert (message.message_id, message.message_type, message.ticket) == (message_id, "supplier", str(TICKET))


def test_reads_messages_of_the_queue_that_were_never_attempted(
    application: Application, database: Database, queries: HistoryQueries
) -> None:
    ids = [application.add(message_type="internal") for _ in range(4)]
    queued(database, ids[0])
    queued(database, ids[1], state="escalated", escalation_reason="invalid")
    queued(database, ids[2], first_failed_at=SINCE - HOUR)
    queued(database, ids[3])
    attempts(database, {"message_id": ids[3], "started_at": NOON, "message_type": "internal"})
    queued(database, 4711)
    found = {message.message_id: message for message in read(queries).messages}
    assert list(found) == [ids[0], ids[1], ids[3]]
    assert {message.message_type for message in found.values()} == {MessageType.INTERNAL}
    assert [outcome.kind for outcome in found[ids[1]].outcomes] == ["invalid"]
    assert found[ids[0]].created_at == datetime.fromisoformat(BIRTH)


def test_reads_the_passes_of_the_period_in_order(database: Database, queries: HistoryQueries) -> None:
    counts = dict.fromkeys(("sent", "rescheduled", "escalated", "unknown", "released"), 0)
    starts = {"late": NOON, "early": NOON - HOUR, "old": SINCE - MINUTE}
    with database.write() as connection:
        for name, at in starts.items():
            row = {"id": name, "host": "mill", "pid": 7, "started_at": at, "heartbeat_at": at, "result": "completed"}
            connection.execute(insert(schema.passes).values(row | counts | {"reason": "breaker_open"}))
    assert queries.passes(SINCE) == [
        RecordedPass("early", NOON - HOUR, "completed", "breaker_open"),
        RecordedPass("late", NOON, "completed", "breaker_open"),
    ]


def test_an_empty_history_has_no_messages(queries: HistoryQueries) -> None:
    found = read(queries)
    assert (found.messages, found.outages, found.attempts) == ([], {}, 0)


def test_finds_the_times_of_a_table(queries: HistoryQueries) -> None:
    assert queries.has_times


def test_finds_that_a_table_has_no_times(bare_application: Application) -> None:
    with opened(bare_application) as bare:
        assert not HistoryQueries(bare).has_times
