"""The lists that an operator sees, and their filters, order and counts."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Enum, Integer, MetaData, Table, Text, update

from retrycli.domain.cursor import Sort
from retrycli.domain.errors import SchemaMismatch
from retrycli.domain.listing import FILTER_FIELDS, AttemptRecord, Filter, ListedMessage
from retrycli.domain.message import EscalationReason, MessageStatus, MessageType, State
from retrycli.domain.operator_action import OperatorAction
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.transition import ActionKind, Claim, Decision, IdRange, Transition
from retrycli.store.claims import Claims
from retrycli.store.database import Database
from retrycli.store.enrolment import Enrolment
from retrycli.store.history import message_details
from retrycli.store.listing import PAGE, MessageQueries
from retrycli.store.operator_actions import Acts
from retrycli.store.schema import queue
from retrycli.store.summaries import MAX_GROUPS, QueueCounts, escalation_groups
from tests.store.application import HOUR, MINUTE, NOON, TICKET, Application, bare_table, opened
from tests.store.conftest import Factory
from tests.store.own_tables import FAILED_AT, PASS, begin, enrol, escalate, queue_rows, retire

HAND = Claim("a-hand", NOON + HOUR)


def shown(
    views: MessageQueries, wanted: Filter | None = None, *, sort: Sort = "next", limit: int | None = None
) -> list[int]:
    return [message.id for message in views.messages(wanted or Filter(), sort=sort, limit=limit)]


@pytest.fixture
def in_every_state(application: Application, database: Database) -> Application:
    """Add messages 1 to 5 (not enrolled, due, waiting for an hour, being sent, escalated), and a sent message 6."""
    application.add_all([{"last_error": "HTTP 503"}] * 5)
    application.add(status="sent")
    enrol(database, [4], at=NOON - HOUR)
    assert Claims(database).claim(PASS, NOON, 9) == [4]
    enrol(database, [2])
    enrol(database, [3], at=NOON + HOUR)
    escalate(database, 5)
    return application


def test_a_listed_message_has_all_its_facts(in_every_state: Application, views: MessageQueries) -> None:
    del in_every_state
    found = {message.id: message for message in views.messages(Filter())}
    new = ListedMessage(
        id=1,
        ticket_id=TICKET,
        message_type="supplier",
        state=State.WAITING,
        retry_count=0,
        next_attempt_at=None,
        last_error="HTTP 503",
        created_at=NOON - HOUR,
        first_failed_at=None,
        reason=None,
        escalated_at=None,
        claimed_by=None,
        recipient="orders@example.com",
        subject="Your delivery",
    )
    assert found[1] == new
    states = {message_id: message.state for message_id, message in found.items()}
    assert states == {1: "waiting", 2: "waiting", 3: "waiting", 4: "sending", 5: "escalated"}
    assert (found[3].next_attempt_at, found[3].claimed_by) == (NOON + HOUR, None)
    assert (found[4].claimed_by, found[4].next_attempt_at) == ("the-pass", NOON - HOUR)
    assert (found[5].reason, found[5].escalated_at, found[5].next_attempt_at) == ("permanent", NOON, None)
    assert found[5].last_error == "HTTP 404"


FILTERS: list[tuple[Filter, list[int]]] = [
    (Filter(), [1, 2, 3, 4, 5]),
    (Filter(state=State.WAITING), [1, 2, 3]),
    (Filter(state=State.SENDING), [4]),
    (Filter(state=State.ESCALATED), [5]),
    (Filter(due_by=NOON), [2]),
    (Filter(due_by=NOON - timedelta(microseconds=1)), []),
    (Filter(due_by=NOON + HOUR), [2, 3]),
    (Filter(failed_before=FAILED_AT), []),
    (Filter(failed_before=FAILED_AT + timedelta(microseconds=1)), [2, 3, 4, 5]),
    (Filter(failed_after=FAILED_AT, failed_before=NOON), [2, 3, 4, 5]),
    (Filter(failed_after=FAILED_AT + timedelta(microseconds=1)), []),
    (Filter(recipient="ORDERS@"), [1, 2, 3, 4, 5]),
    (Filter(recipient="%"), []),
    (Filter(subject=["none", "DELIVERY"]), [1, 2, 3, 4, 5]),
    (Filter(subject="none"), []),
    (Filter(state=State.WAITING, failed_before=NOON), [2, 3]),
    (Filter(state=State.ESCALATED, due_by=NOON + HOUR), []),
    (Filter(error="404"), [5]),
    (Filter(error="404", state=State.WAITING), []),
    (Filter(message_type=MessageType.CUSTOMER), []),
    (Filter(message_type=MessageType.SUPPLIER), [1, 2, 3, 4, 5]),
    (Filter(message_type=[MessageType.CUSTOMER, MessageType.SUPPLIER], error="404"), [5]),
    (Filter(state=[State.SENDING, State.ESCALATED]), [4, 5]),
    (Filter(state={State.WAITING, State.ESCALATED}), [1, 2, 3, 5]),
    (Filter(error=["404", "no such error"]), [5]),
    (Filter(ticket=["none", str(TICKET)], state=State.SENDING), [4]),
    (Filter(state=[]), [1, 2, 3, 4, 5]),
    (Filter(message_type=MessageType.SUPPLIER, ticket=str(TICKET), error="http", failed_before=NOON), [2, 3, 4, 5]),
]


def test_a_message_must_meet_all_filters(in_every_state: Application, views: MessageQueries) -> None:
    del in_every_state
    for wanted, expected in FILTERS:
        assert (shown(views, wanted, sort="id"), views.count(wanted)) == (expected, len(expected)), wanted


@pytest.mark.parametrize("name", FILTER_FIELDS)
def test_each_condition_that_an_operator_gives_leaves_messages_out(views: MessageQueries, name: str) -> None:
    """Otherwise an action would reach messages that nobody chose."""
    kind = FILTER_FIELDS[name].kind
    value: Any = NOON if kind is datetime else next(iter(kind)) if issubclass(kind, StrEnum) else "x"
    assert str(views.failed(Filter(**{name: value}))) != str(views.failed(Filter()))


def test_a_ticket_filter_matches_the_whole_number(application: Application, views: MessageQueries) -> None:
    application.add_all([{"ticket_id": TICKET}, {"ticket_id": TICKET + 1}, {"ticket_id": None}])
    found = {"12345": [1], "12346": [2], "1234": [], "%": [], "012345": [], "x' OR 1": []}
    assert {ticket: shown(views, Filter(ticket=ticket)) for ticket in found} == found


ERRORS: list[str | None] = [
    "HTTP 503",
    "disk 100% full",
    "disk 1000 full",
    "file_name",
    "fileXname",
    'it\'s "quoted"',
    "back\\slash",
    "Überlauf",
]
ERRORS += ["straße gesperrt", "refused: 発送できません", None]
PIECES: list[tuple[str, list[int]]] = [
    ("http", [1]),
    ("%", [2]),
    ("DISK 100", [2, 3]),
    ("file_", [4]),
    ('\'s "QUOTED"', [6]),
    ("'; DROP TABLE pending_messages; --", []),
    ("back\\s", [7]),
    ("ÜberLAUF", [8]),
    ("STRAßE", [9]),
    ("発送", [10]),
    (":error", []),
    ("/", []),
    ("", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
]


def test_an_error_filter_matches_a_literal_part(application: Application, views: MessageQueries) -> None:
    application.add_all([{"last_error": each} for each in ERRORS])
    for error, expected in PIECES:
        wanted = Filter(error=error)
        assert (shown(views, wanted, sort="id"), views.count(wanted)) == (expected, len(expected)), error


def test_a_filter_may_have_the_largest_number_of_the_longest_values(
    application: Application, views: MessageQueries
) -> None:
    application.add_all([{"last_error": f"{'x' * 1_000}y"}])
    longest = [f"{number:0>999}" for number in range(99)]
    errors = [*longest[:9], "x" * 1_000]
    wanted = Filter(state=[*State] * 25, ticket=[*longest, "9100"], error=errors, fingerprint=longest)
    wanted.check()
    assert shown(views, wanted) == []
    assert shown(views, replace(wanted, fingerprint=None, ticket=None)) == [1]


def test_a_list_shows_and_searches_the_beginning_of_a_long_error(
    application: Application, views: MessageQueries
) -> None:
    application.add_all([{"last_error": f"{'é' * length}EnD"} for length in (1_997, 1_998)])
    assert [each.last_error for each in views.messages(Filter())] == ["é" * 1_997 + "EnD", "é" * 1_998 + "E…"]
    assert shown(views, Filter(error="end")) == [1]


def test_filters_tolerate_a_ticket_that_is_text_and_an_error_that_is_not_valid_utf8(
    loose_application: Application,
) -> None:
    loose_application.add_all([{}, {}])
    loose_application.sql("UPDATE pending_messages SET last_error = CAST(x'636166e9' AS TEXT) WHERE id = 1")
    loose_application.sql("UPDATE pending_messages SET ticket_id = 'A-1' WHERE id = 2")
    with opened(loose_application) as database:
        views = MessageQueries(database)
        for wanted in (Filter(error="CAF"), Filter(ticket="12345")):
            assert shown(views, wanted) == [1]
        for wanted in (Filter(error="503"), Filter(ticket="A-1")):
            assert shown(views, wanted) == [2]


@pytest.fixture
def shuffled(application: Application, database: Database) -> Application:
    """Add messages 1 to 6 so that every sort column gives a different order. Message 6 is not in the queue."""
    application.add_all([{"retry_count": value} for value in (2, None, 7, 2, 0, 9)])
    for message_id, due, failed in ((1, 3, 5), (2, 1, 4), (3, 3, 1), (4, 2, 2)):
        enrol(database, [message_id], at=NOON + due * HOUR, failed_at=NOON - failed * HOUR)
    escalate(database, 5)
    return application


ORDERS: list[tuple[Sort, list[int]]] = [
    ("next", [2, 4, 1, 3, 5, 6]),
    ("id", [1, 2, 3, 4, 5, 6]),
    ("tries", [6, 3, 1, 4, 2, 5]),
    ("age", [1, 2, 4, 3, 5, 6]),
]


def test_lists_are_sorted_and_limited(shuffled: Application, views: MessageQueries) -> None:
    del shuffled
    for (sort, expected), limit in product(ORDERS, (None, 0, 1, 4, 99)):
        assert shown(views, sort=sort, limit=limit) == expected[:limit], (sort, limit)


def test_a_message_changed_during_listing_appears_at_most_once(
    application: Application, database: Database, views: MessageQueries
) -> None:
    """A message keeps its initial position and shows current values, unless it no longer matches the filter."""
    last = 2 * PAGE + 2
    application.add_all([{}] * last)
    enrol(database, range(1, last + 1), at=NOON)
    coming = views.messages(Filter(message_type=MessageType.SUPPLIER))
    assert next(coming).id == 1
    with database.write() as connection:  # moves rows across the end of the page that is being read
        later = update(queue).values(next_attempt_at=NOON + HOUR)
        connection.execute(later.where(queue.c.message_id.in_([1, 2])))
        connection.execute(later.where(queue.c.message_id == last).values(next_attempt_at=NOON - HOUR))
    application.change(last - 1, status="sent")
    application.change(last - 2, message_type="customer")
    application.change(last - 3, retry_count=7)
    application.delete(last - 4)
    application.add()
    found = {message.id: message for message in coming}
    gone = {1, last - 1, last - 2, last - 4}
    assert list(found) == [message_id for message_id in range(1, last + 1) if message_id not in gone]
    assert found[last - 3].retry_count == 7
    assert (found[2].next_attempt_at, found[last].next_attempt_at) == (NOON, NOON - HOUR)


def test_the_application_can_write_during_listing(sqlite_application: Application) -> None:
    """With a rollback journal, an open read transaction would block writers."""
    sqlite_application.add_all([{}] * (PAGE + 1))
    with opened(sqlite_application) as database:
        coming = MessageQueries(database).messages(Filter())
        next(coming)
        with closing(sqlite3.connect(database.place, timeout=0)) as connection, connection:
            connection.execute("UPDATE pending_messages SET subject = 'tea'")
        assert len(list(coming)) == PAGE


def test_an_id_that_is_not_a_number_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "agent.db").touch()
    made = Application(f"sqlite:///{tmp_path / 'agent.db'}", kind=bare_table)
    made.sql("ALTER TABLE pending_messages RENAME COLUMN id TO number")
    made.sql("ALTER TABLE pending_messages ADD COLUMN id")
    made.sql("INSERT INTO pending_messages (number, id, status) VALUES (1, 'one', 'failed')")
    with (
        opened(made) as database,
        pytest.raises(SchemaMismatch, match="the ids in the application's table must be integers"),
    ):
        MessageQueries(database).ids(Filter())
    made.close()


def test_due_messages_are_listed_in_claiming_order(
    in_every_state: Application, database: Database, views: MessageQueries
) -> None:
    in_every_state.add_all([{}, {}])
    enrol(database, [8], at=NOON - MINUTE)
    enrol(database, [7], at=NOON)
    assert list(views.due(NOON)) == [(NOON - MINUTE, 8), (NOON, 2), (NOON, 7)]
    in_every_state.change(8, status="sent")
    assert [message_id for _, message_id in views.due(NOON + HOUR)] == [2, 7, 3]
    assert list(views.due(NOON - MINUTE)) == []


def test_counts_the_messages_ahead_of_a_message(
    shuffled: Application, database: Database, views: MessageQueries
) -> None:
    """Messages with the same due time are claimed in the order of their ids."""
    del shuffled
    late = NOON + 9 * HOUR
    assert [views.count_ahead(message_id, late) for message_id in (2, 4, 1, 3)] == [0, 1, 2, 3]
    assert views.count_ahead(3, NOON + 2 * HOUR) == 2
    assert views.count_ahead(3, late, after=NOON + HOUR) == 2
    assert views.count_ahead(3, NOON + 2 * HOUR, after=NOON + HOUR) == 1
    assert [views.count_ahead(message_id, late) for message_id in (5, 6)] == [0, 0], "escalated, or not in the queue"
    assert Claims(database).claim(PASS, NOON + HOUR, 1) == [2]
    assert views.count_ahead(3, late) == 2


def counts(database: Database, at: datetime = NOON) -> dict[str, int]:
    """Return the counts of the queue, without zeros."""
    return {state: number for state, number in QueueCounts(database).counts(at).items() if number}


def test_counts_messages_by_state(in_every_state: Application, database: Database) -> None:
    """The application's row decides. A message that no pass has seen yet counts as waiting, and never as due."""
    always = {"waiting": 3, "sending": 1, "escalated": 1}
    assert counts(database, NOON - HOUR) == always
    assert counts(database) == always | {"due": 1}
    assert counts(database, NOON + HOUR) == always | {"due": 2}
    in_every_state.change(2, status="approved")
    in_every_state.delete(5)
    assert counts(database, NOON + HOUR) == {"waiting": 2, "due": 1, "sending": 1}
    in_every_state.delete()
    assert QueueCounts(database).counts(NOON) == dict.fromkeys(("waiting", "due", "sending", "escalated"), 0)


def escalate_by(database: Database, message_id: int, error: str, *, at: datetime = NOON) -> None:
    """Enrol a message as escalated by an answer of the ticketing API."""
    escalate(database, message_id, at=at, error=error, outcome=Outcome(OutcomeKind.PERMANENT, 422, error))


def test_groups_escalations_by_cause(application: Application, database: Database, views: MessageQueries) -> None:
    application.add_all(
        [{"message_type": kind} for kind in ("customer", "supplier", "customer", "internal", "supplier")]
    )
    escalate_by(database, 5, "HTTP 404: no ticket 5", at=NOON)
    escalate_by(database, 1, "HTTP 422: recipient 17 unknown", at=NOON + HOUR)
    escalate_by(database, 2, "HTTP 422: recipient 18 unknown", at=NOON - HOUR)
    escalate_by(database, 3, "HTTP 422: recipient 19 unknown", at=NOON)
    enrol(database, [4])
    larger, smaller = escalation_groups(views._database)
    assert (larger.count, larger.new, larger.types) == (3, 3, {"customer": 2, "supplier": 1})
    assert (larger.oldest, larger.newest) == (NOON - HOUR, NOON + HOUR)
    assert (larger.example.id, larger.example.last_error) == (1, "HTTP 422: recipient 17 unknown")
    assert (larger.cause, smaller.cause) == ("HTTP 422: recipient … unknown", "HTTP 404: no ticket …")
    assert (smaller.count, smaller.example.id) == (1, 5)
    assert shown(views, Filter(fingerprint=larger.fingerprint), sort="id") == [1, 2, 3]
    assert shown(views, Filter(reason=EscalationReason.PERMANENT), sort="id") == [1, 2, 3, 5]
    assert shown(views, Filter(reason=EscalationReason.EXHAUSTED)) == []
    application.change(1, status="sent")
    application.change(3, status="rejected")
    sizes = [(group.count, group.example.id) for group in escalation_groups(views._database)]
    assert sorted(sizes) == [(1, 2), (1, 5)], "the application's row decides, before a pass has updated the queue"


def test_finds_escalations_in_a_period(application: Application, database: Database, views: MessageQueries) -> None:
    application.add_all([{}] * 3)
    for message_id in (1, 2, 3):
        escalate_by(database, message_id, "HTTP 422: recipient unknown", at=NOON + message_id * HOUR)
    between = Filter(state=State.ESCALATED, escalated_after=NOON + HOUR, escalated_until=NOON + 2 * HOUR)
    (group,) = escalation_groups(views._database, between)
    assert (group.count, group.example.id) == (1, 2)
    assert shown(views, between) == [2]
    assert escalation_groups(views._database, Filter(state=State.ESCALATED, escalated_after=NOON + 3 * HOUR)) == []


def test_excludes_escalations_of_some_causes(
    application: Application, database: Database, views: MessageQueries
) -> None:
    """Escalations by older versions have no fingerprint. They are included."""
    application.add_all([{}] * 3)
    escalate_by(database, 1, "HTTP 422: recipient unknown")
    escalate_by(database, 2, "HTTP 404: no ticket")
    escalate(database, 3)
    with database.write() as connection:
        connection.execute(update(queue).where(queue.c.message_id == 3).values(fingerprint=None))
    first, second, third = escalation_groups(database)
    assert (first.example.id, second.example.id, third.fingerprint) == (1, 2, None)
    assert shown(views, Filter(state=State.ESCALATED, other_than=[str(first.fingerprint)])) == [2, 3]
    both = [str(first.fingerprint), str(second.fingerprint)]
    assert shown(views, Filter(state=State.ESCALATED, other_than=both)) == [3]


def test_the_number_of_groups_is_limited(application: Application, database: Database, views: MessageQueries) -> None:
    """The limit must not remove the largest group, even if it comes last."""
    number = MAX_GROUPS + 2
    application.add_all([{}] * number)
    words = ("".join(chr(ord("a") + int(digit)) for digit in str(message_id)) for message_id in range(1, number - 1))
    entries = [
        (Decision(message_id, Transition.escalated(EscalationReason.PERMANENT, last_error=word)), FAILED_AT, TICKET)
        for message_id, word in enumerate([*words, "last", "last"], 1)
    ]
    Enrolment(database).enrol(entries, NOON)
    groups = escalation_groups(views._database)
    assert len(groups) == MAX_GROUPS
    assert (groups[0].count, groups[0].example.last_error) == (2, "last")


def test_shows_a_message_with_its_body_and_history(
    application: Application, database: Database, views: MessageQueries
) -> None:
    application.add_all([{}, {}])
    enrol(database, [1, 2])
    claims = Claims(database)
    outcome = Outcome(
        OutcomeKind.TRANSIENT, 503, "HTTP 503", timedelta(seconds=90), delivered_to=("ana@x.test",), external_id="m-7"
    )
    claims.claim(PASS, NOON, 1)
    [message] = begin(claims, [1])
    tried = Decision(1, Transition.released(), outcome, timedelta(seconds=2), NOON + MINUTE, message)
    claims.results.record(PASS, [tried], NOON + MINUTE)
    claims.claim_one(HAND, 1, NOON)
    begin(claims, [1], HAND, at=NOON + HOUR, made_by="ada")
    found = message_details(database, 1, body=True)
    assert found.row == application.row(1)
    assert found.row["body"] == "Where is it?"
    assert found.queue == queue_rows(database)[1] | {"delivered_to": ["ana@x.test"]}
    assert found.attempts == [
        AttemptRecord(1, "pass", "the-pass", NOON, NOON + MINUTE, "transient", 503, "HTTP 503", 90, 2000, "m-7"),
        AttemptRecord(2, "ada", None, NOON + HOUR, None, None, None, None, None, None, None),
    ]


@pytest.mark.parametrize(("body", "told"), [("Where is it?", ""), ("", ""), (None, None)])
def test_without_its_body_a_message_says_whether_it_has_one(
    application: Application, database: Database, body: str | None, told: str | None
) -> None:
    application.add(body=body)
    assert message_details(database, 1).row == application.row(1) | {"body": told}


def strict_table(metadata: MetaData, name: str, schema: str | None) -> Table:
    """Define a table with enumerations. On PostgreSQL they are types of the database."""
    kinds = Enum(*map(str, MessageType), name="message_kind")
    statuses = Enum(*map(str, MessageStatus), name="message_status")
    return Table(
        name,
        metadata,
        Column("id", Integer, primary_key=True),
        Column("ticket_id", Integer),
        Column("message_type", kinds),
        Column("subject", Text),
        Column("body", Text),
        Column("status", statuses),
        Column("retry_count", Integer),
        Column("last_error", Text),
        schema=schema,
    )


def test_columns_may_be_enumerations(engine: Factory, tmp_path: Path) -> None:
    """Every query and write must convert values to the enumerations' types."""
    with engine(tmp_path, None) as url, closing(Application(url, kind=strict_table)) as made:
        made.add_all([{}, {"message_type": "customer"}, {"status": "sent"}, {}])
        with opened(made) as database:
            enrolment, claims = Enrolment(database), Claims(database)
            views, acts = MessageQueries(database), Acts(database)
            assert len(enrolment.newly_failed(IdRange(None, None), 9)) == 3
            enrol(database, [1, 3, 4])
            escalate(database, 2)
            assert retire(enrolment, IdRange(None, None)) == 1
            assert shown(views, Filter(message_type=MessageType.CUSTOMER)) == [2]
            assert counts(database) == {"waiting": 2, "due": 2, "escalated": 1}
            edited = OperatorAction.edited({}, {"subject": "Your order"}, ticket="4711", by="ada", at=NOON)
            acts.edit(4, edited, read={"subject": "Your delivery"}, changes={"subject": "Your order"})
            requeued = OperatorAction.requeued(NOON + HOUR, by="ada", at=NOON)
            assert acts.perform(ActionKind.REQUEUED, {2: requeued}).lost == set()
            rejected = OperatorAction.rejected("no", by="ada", at=NOON)
            assert acts.perform(ActionKind.REJECTED, {4: rejected}).lost == set()
            ids = claims.claim(PASS, NOON, 9)
            begin(claims, ids)
            sent = Decision(1, Transition.delivered(), finished_at=NOON)
            assert claims.results.record(PASS, [sent], NOON).lost == set()
        statuses = {message_id: str(row["status"]) for message_id, row in made.rows().items()}
        assert statuses == {1: "sent", 2: "failed", 3: "sent", 4: "rejected"}
