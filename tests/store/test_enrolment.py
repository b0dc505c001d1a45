"""Enrolment: which messages enter the queue, which leave it, and which rows a pass reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Text, select, update

from retrycli.domain.errors import DatabaseBusy
from retrycli.domain.fingerprint import fingerprint
from retrycli.domain.message import Message, MessageType, State
from retrycli.domain.transition import ChangedMessage, Decision, IdRange, Transition
from retrycli.store.claims import Claims
from retrycli.store.database import Database
from retrycli.store.enrolment import RETIRED_AT_ONCE, START, Enrolment
from retrycli.store.schema import queue
from tests.cli.story import impatient
from tests.store.application import HOUR, MINUTE, NOON, TICKET, Application, naive, opened
from tests.store.conftest import Factory, application_with, on_default_table
from tests.store.heard import statements
from tests.store.own_tables import FAILED_AT, PASS, begin, enrol, entry, escalate, queue_rows, retire
from tests.store.test_claims import OTHER_STATUSES, take_back

ALL = IdRange(None, None)


def fresh_ids(enrolment: Enrolment, span: IdRange = ALL, limit: int = 100) -> list[int]:
    return [
        message.id if isinstance(message, Message) else message.message_id
        for message in enrolment.newly_failed(span, limit)
    ]


def test_finds_only_failed_messages_until_they_are_enrolled(
    application: Application, database: Database, enrolment: Enrolment
) -> None:
    application.add_all([{"status": status} for status in [*OTHER_STATUSES, "failed", "Failed", "", "failed"]])
    assert fresh_ids(enrolment) == fresh_ids(enrolment) == [5, 8]
    enrol(database, [5])
    assert fresh_ids(enrolment) == [8]


def put(database: Database, message_id: int, state: State) -> None:
    """Enrol a message, and bring it into a state."""
    if state is State.ESCALATED:
        escalate(database, message_id)
        return
    enrol(database, [message_id])
    if state is State.SENDING:
        assert Claims(database).claim(PASS, NOON, 1) == [message_id]


SPANS: list[tuple[IdRange, list[int]]] = [
    (ALL, [-3, 10, 20, 30]),
    (IdRange(10, None), [20, 30]),
    (IdRange(None, 20), [-3, 10, 20]),
    (IdRange(10, 20), [20]),
    (IdRange(11, 19), []),
    (IdRange(START, 10), [-3, 10]),
]


def test_a_span_excludes_its_start_and_includes_its_end(application: Application, enrolment: Enrolment) -> None:
    """A limit selects the lowest ids."""
    application.add_all([{"id": message_id} for message_id in (30, 10, 20, -3)])
    for span, expected in SPANS:
        assert fresh_ids(enrolment, span) == expected, span
    assert fresh_ids(enrolment, limit=2) == [-3, 10]


def test_a_message_is_found_with_the_columns_that_decide_about_it(
    application: Application, enrolment: Enrolment
) -> None:
    """Bodies and unknown columns may be large, so enrolment must not read them."""
    application.add(retry_count=None, last_error="HTTP 503", attachments='["invoice.pdf"]', priority=7)
    (found,) = enrolment.newly_failed(ALL, 10)
    assert isinstance(found, Message)
    assert (found.id, found.ticket_id, found.message_type) == (1, TICKET, MessageType.SUPPLIER)
    assert (found.retry_count, found.last_error) == (0, "HTTP 503")
    assert (found.created_at, found.updated_at) == (NOON - HOUR, NOON - 15 * MINUTE)
    assert found.fields["body"] == ""
    assert found.fields["subject"] == "Your delivery"
    assert found.fields["cc_emails"] == ["boss@example.com"]
    assert found.fields["attachments"] == ["invoice.pdf"]
    assert "priority" not in found.fields


def test_a_waiting_message_gets_a_queue_row_and_its_own_row_is_unchanged(
    application: Application, database: Database, enrolment: Enrolment
) -> None:
    application.add()
    with application.watched() as changed:
        enrolment.enrol([entry(1, at=NOON + 15 * MINUTE)], NOON)
    assert changed == {}
    assert queue_rows(database)[1] == {
        "message_id": 1,
        "state": "waiting",
        "next_attempt_at": NOON + 15 * MINUTE,
        "delivery_key": queue_rows(database)[1]["delivery_key"],
        "claimed_by": None,
        "claim_expires_at": None,
        "first_failed_at": FAILED_AT,
        "unknown_count": 0,
        "escalated_at": None,
        "escalation_reason": None,
        "fingerprint": None,
        "acknowledged_by": None,
        "acknowledged_at": None,
        "note": None,
        "ticket": str(TICKET),
        "delivered_to": None,
        "birth": application.asked("SELECT CAST(created_at AS TEXT) AS birth FROM pending_messages")[0]["birth"],
        "digest": None,
        "seen_count": None,
        "seen_error": None,
        "seen_updated_at": None,
        "rebirths": None,
    }


def test_a_message_escalated_on_enrolment_has_the_reason_in_its_row(
    application: Application, database: Database, enrolment: Enrolment
) -> None:
    """A message that the application has sent meanwhile keeps its row."""
    transition = Transition.invalid("body is missing")
    application.add_all([{"retry_count": 10}, {}, {"status": "sent"}])
    with application.watched() as changed:
        both = [(Decision(message_id, transition), FAILED_AT, TICKET) for message_id in (1, 3)]
        enrolment.enrol([both[0], entry(2), both[1]], NOON)
        enrolment.enrol([], NOON)
    assert changed == {1: {"last_error": "Can't be sent: body is missing"}}
    row = queue_rows(database)[1]
    assert (row["state"], row["escalation_reason"], row["escalated_at"]) == ("escalated", "invalid", NOON)
    assert (row["next_attempt_at"], row["first_failed_at"]) == (None, FAILED_AT)
    assert row["fingerprint"] == fingerprint(Decision(1, transition))
    other = queue_rows(database)[2]
    assert (other["state"], other["fingerprint"]) == ("waiting", None)


@pytest.mark.parametrize("state", list(State))
def test_an_enrolled_message_is_not_enrolled_again(
    application: Application, database: Database, enrolment: Enrolment, state: State
) -> None:
    application.add_all([{}, {}])
    put(database, 1, state)
    before = queue_rows(database)
    with application.watched() as changed:
        enrolment.enrol([(Decision(1, Transition.invalid("no body")), NOON, TICKET), entry(2)], NOON + HOUR)
    assert changed == {}
    after = queue_rows(database)
    assert after.pop(2)["state"] == "waiting"
    assert after == before


def test_a_withdrawn_message_leaves_the_queue_unless_it_is_being_sent(
    application: Application, database: Database, enrolment: Enrolment
) -> None:
    cases = dict(enumerate(product(State, [*OTHER_STATUSES, "deleted"]), start=2))
    application.add_all([{}] * (len(cases) + 1))
    enrol(database, [1], at=NOON + HOUR)
    stay = {1}
    for number, (state, status) in cases.items():
        put(database, number, state)
        stay |= {number} if state is State.SENDING else set()
        take_back(application, number, status)
        with application.watched() as changed:
            assert retire(enrolment, ALL) == (state is not State.SENDING), (state, status)
        assert changed == {}, (state, status)
        assert queue_rows(database).keys() == stay, (state, status)
    assert retire(enrolment, ALL) == 0


def test_a_message_with_a_null_status_leaves_the_queue(engine: Factory, tmp_path: Path) -> None:
    with application_with(engine, tmp_path, Column("status", Text)) as made, opened(made) as database:
        made.add_all([{}, {}])
        enrol(database, [1, 2])
        made.change(1, status=None)
        assert retire(Enrolment(database), ALL) == 1
        assert queue_rows(database).keys() == {2}


@pytest.mark.parametrize("state", list(State))
def test_a_message_with_a_reused_id_is_new(
    application: Application, database: Database, enrolment: Enrolment, state: State
) -> None:
    """SQLite reuses the id of a deleted newest row. A message being sent stays until its outcome is known."""
    application.add_all([{"retry_count": 3}, {}])
    put(database, 1, state)
    key = queue_rows(database)[1]["delivery_key"]
    enrol(database, [2])
    application.delete(1)
    application.add(id=1, ticket_id=TICKET + 1, created_at=naive(NOON), retry_count=0)
    assert retire(enrolment, ALL) == (state is not State.SENDING)
    if state is not State.SENDING:
        assert fresh_ids(enrolment) == [1]
        enrolment.enrol([(entry(1)[0], NOON, TICKET + 1)], NOON)
        assert queue_rows(database)[1]["delivery_key"] != key
        m = database.messages.c
        assert database.rows(select(m.retry_count).where(m.id == 1)) == [(0,)]
        assert retire(enrolment, ALL) == 0


@pytest.mark.parametrize("ticket", ["12.0", "NULL", "''", "x'00'", "CAST(x'41ff' AS TEXT)", "char(65, 0, 66)"])
def test_an_invalid_ticket_is_not_a_different_one(loose_application: Application, ticket: str) -> None:
    loose_application.sql("ALTER TABLE pending_messages RENAME COLUMN ticket_id TO old")
    loose_application.sql("ALTER TABLE pending_messages ADD COLUMN ticket_id")
    loose_application.sql(
        "INSERT INTO pending_messages (id, ticket_id, message_type, body, status) "
        f"VALUES (1, {ticket}, 'supplier', 'b', 'failed')"
    )
    with opened(loose_application) as database:
        enrolment = Enrolment(database)
        [found] = enrolment.newly_failed(ALL, 1)
        enrolment.enrol([(Decision(1, Transition.invalid("no ticket")), NOON, found.ticket_id)], NOON)
        assert retire(enrolment, ALL) == 0


def test_a_ticket_with_trailing_blanks_is_not_a_different_one(bare_application: Application) -> None:
    """PostgreSQL returns the trailing blanks of a ``char`` column, but ignores them in comparisons."""
    bare_application.add()
    with opened(bare_application) as database:
        if not database.is_sqlite:
            bare_application.sql("ALTER TABLE pending_messages ALTER ticket_id TYPE char(9)")
        enrolment = Enrolment(database)
        [found] = enrolment.newly_failed(ALL, 1)
        enrolment.enrol([(entry(1)[0], NOON, found.ticket_id)], NOON)
        assert retire(enrolment, ALL) == 0


def test_retires_only_messages_in_the_span(application: Application, database: Database, enrolment: Enrolment) -> None:
    application.add_all([{}] * 6)
    enrol(database, range(1, 7))
    application.delete()
    assert retire(enrolment, IdRange(2, 4)) == 2
    assert queue_rows(database).keys() == {1, 2, 5, 6}
    assert retire(enrolment, IdRange(5, None)) == 1
    assert retire(enrolment, IdRange(None, 2)) == 2
    assert queue_rows(database).keys() == {5}


def test_retires_more_messages_than_fit_in_one_transaction(
    application: Application, database: Database, enrolment: Enrolment
) -> None:
    """Many messages that are being sent stay in the queue, and must not hide the others."""
    number = 2 * RETIRED_AT_ONCE + 3
    application.add_all([{}] * number)
    enrol(database, range(1, number + 1))
    assert len(Claims(database).claim(PASS, NOON, RETIRED_AT_ONCE)) == RETIRED_AT_ONCE
    application.delete()
    with statements(database) as seen:
        assert retire(enrolment, ALL) == RETIRED_AT_ONCE + 3
    assert len([sql for sql, _ in seen if sql.startswith("DELETE")]) == 3
    assert len(queue_rows(database)) == RETIRED_AT_ONCE


def covers(span: IdRange, message_id: int) -> bool:
    above = span.after is None or message_id > span.after
    return above and (span.upto is None or message_id <= span.upto)


def covered_by(spans: Sequence[IdRange], ids: Iterable[int]) -> set[int]:
    return {message_id for message_id in ids if any(covers(span, message_id) for span in spans)}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.sets(st.integers(-50, 500), max_size=40),
    tail=st.integers(1, 8),
    sweep=st.integers(1, 8),
    stale=st.integers(-51, 501),
)
@example(ids={-40, -7, 0, 90, 91, 92}, tail=3, sweep=2, stale=91)
@example(ids=set(range(1, 9)), tail=3, sweep=2, stale=3)
def test_every_id_is_covered_within_the_required_number_of_passes(
    application: Application, database: Database, ids: set[int], tail: int, sweep: int, stale: int
) -> None:
    """`stale` is where the last sweep ended, before rows were added and deleted."""
    application.delete()  # the rows of the previous example
    application.add_all([{"id": message_id} for message_id in ids])
    enrolment = Enrolment(database, tail=tail, sweep=sweep)
    newest = set(sorted(ids)[-tail:])
    swept_to, seen, passes = START, [], 0
    while passes == 0 or swept_to != START:
        spans, swept_to = enrolment.plan_sweep(swept_to)
        covered = covered_by(spans, ids)
        assert newest <= covered
        assert len(covered - newest) <= sweep
        seen += spans
        passes += 1
    assert passes == max(1, -(-len(ids - newest) // sweep))
    assert covered_by(seen, range(-51, 502)) == set(range(-51, 502))
    older = sorted(ids - newest)
    spans, swept_to = enrolment.plan_sweep(stale)
    assert covered_by(spans, ids) == newest | {*[message_id for message_id in older if message_id > stale][:sweep]}
    assert swept_to == START or swept_to in older
    spans, swept_to = enrolment.plan_sweep(None)
    assert swept_to == START
    assert all(sum(covers(span, message_id) for span in spans) == 1 for message_id in range(-51, 502))


def stays(found: ChangedMessage) -> Decision:
    return Decision(found.message.message_id, Transition.released(), message=found.message)


def test_a_message_that_is_being_sent_or_has_left_the_queue_is_not_reviewed(
    application: Application, database: Database, enrolment: Enrolment
) -> None:
    application.add_all([{}] * 3)
    put(database, 1, State.ESCALATED)
    put(database, 3, State.ESCALATED)
    application.change(1, last_error="another one")
    Claims(database).claim_one(PASS, 1, NOON)
    before = queue_rows(database)[1]
    anew = Transition.changed("Not sent: this text was already delivered")
    reviewed = enrolment.review([1, 2, 3, 4], lambda found: stays(found)._replace(transition=anew), NOON)
    assert [message.message_id for message in reviewed] == [3]
    assert queue_rows(database)[1] == before


def write(database: Database, statement: str) -> None:
    with database.write() as connection:
        connection.exec_driver_sql(statement)


@on_default_table
def test_the_application_cannot_change_a_row_during_its_review(application: Application, database: Database) -> None:
    """A concurrent write would count as already reviewed, and no pass would notice it."""
    application.add()
    put(database, 1, State.ESCALATED)
    found = []

    def meanwhile(each: ChangedMessage) -> Decision:
        with opened(application, url=impatient(application.url), patience=0) as other, pytest.raises(DatabaseBusy):
            write(other, "UPDATE pending_messages SET last_error = 'another one'")
        found.append(each.changed)
        return stays(each)

    Enrolment(database).review([1], meanwhile, NOON)
    application.change(1, last_error="another one")
    Enrolment(database).review([1], meanwhile, NOON)
    assert found == [False, True]


def test_an_attempted_message_is_compared_in_sql(application: Application, database: Database) -> None:
    """The row's birth must have the database's format. Otherwise every pass would read all attempted messages."""
    application.add(created_at=naive(NOON))
    enrol(database, [1])
    born = queue_rows(database)[1]["birth"]
    claims = Claims(database)
    assert claims.claim(PASS, NOON, 1) == [1]
    [message] = begin(claims, [1], fit=lambda _: False)
    due = Transition.rescheduled(NOON, retry_count=1, unknown_count=0, last_error="HTTP 503")
    claims.results.record(PASS, [Decision(1, due, message=message)], NOON)
    assert queue_rows(database)[1]["birth"] == born


def test_a_birth_in_another_format_is_adopted(
    application: Application, database: Database, enrolment: Enrolment
) -> None:
    application.add(created_at=naive(NOON))
    enrol(database, [1])
    born = queue_rows(database)[1]["birth"]
    with database.write() as connection:
        connection.execute(update(queue).values(birth=NOON.isoformat()))
    assert retire(enrolment, ALL) == 0
    assert queue_rows(database)[1]["birth"] == born
