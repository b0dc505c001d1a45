"""Operator actions: each requires a state, is recorded with its operator, and changes nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, String, insert, select

from retrycli.domain.errors import NoSuchMessage, NotActionable
from retrycli.domain.listing import ActionRecord, Filter
from retrycli.domain.message import EscalationReason, QueuedMessage, State, UnusableMessage
from retrycli.domain.operator_action import OperatorAction
from retrycli.domain.transition import ActionKind, ChangedMessage, Claim, Decision, IdRange, Transition
from retrycli.store import schema
from retrycli.store.claims import Claims
from retrycli.store.counters import count_ended, prune
from retrycli.store.database import Database
from retrycli.store.enrolment import Enrolment
from retrycli.store.history import message_details
from retrycli.store.identity import birth_text, load, with_queue
from retrycli.store.listing import MessageQueries
from retrycli.store.operator_actions import Acts
from retrycli.store.passes import Ledger
from retrycli.store.summaries import escalation_groups
from tests.store.application import HOUR, MINUTE, NOON, Application, opened
from tests.store.conftest import Factory, application_with, in_every_mode
from tests.store.own_tables import PASS, begin, enrol, queue_rows
from tests.store.test_claims import OTHER_STATUSES, side_by_side, two_sides

LATER = NOON + HOUR
MAKERS: dict[ActionKind, OperatorAction] = {
    ActionKind.REQUEUED: OperatorAction.requeued(LATER, by="ada", at=NOON),
    ActionKind.REJECTED: OperatorAction.rejected("no longer wanted", by="ada", at=NOON),
    ActionKind.ACKNOWLEDGED: OperatorAction(ActionKind.ACKNOWLEDGED, "ada", NOON),
    ActionKind.NOTED: OperatorAction.noted("phoned them", by="ada", at=NOON),
}
"""Actions that can apply to many messages at once, by kind."""
OF_ESCALATIONS = [ActionKind.REQUEUED, ActionKind.ACKNOWLEDGED, ActionKind.NOTED]
EVERY = pytest.mark.parametrize("kind", MAKERS)


@pytest.fixture
def acts(database: Database) -> Acts:
    return Acts(database)


def escalate(database: Database, *ids: int, reason: EscalationReason = EscalationReason.UNKNOWN) -> None:
    """Enrol and attempt messages, and escalate them with nine used retries and two unknown outcomes."""
    for message_id in ids:
        enrol(database, [message_id])
    claims = Claims(database)
    assert sorted(claims.claim(PASS, NOON, len(ids))) == sorted(ids)
    begin(claims, ids)
    change = Transition.escalated(reason, last_error="May have arrived", retry_count=9, unknown_count=2)
    claims.results.record(PASS, [Decision(message_id, change) for message_id in ids], NOON)


def perform(acts: Acts, kind: ActionKind, ids: Sequence[int]) -> set[int]:
    """Perform an action on messages; return the messages that it left alone."""
    performed = acts.perform(kind, dict.fromkeys(ids, MAKERS[kind]))
    assert performed.refused == {}
    return set(performed.lost)


def history(database: Database) -> list[tuple[Any, ...]]:
    """Return the recorded actions, oldest first."""
    columns = (schema.acts.c.message_id, schema.acts.c.at, schema.acts.c.by, schema.acts.c.act, schema.acts.c.detail)
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(select(*columns).order_by(schema.acts.c.id))]


def test_a_requeued_message_waits_with_all_its_retries_and_the_same_key(
    application: Application, database: Database, acts: Acts
) -> None:
    """The key stays the same, so that the destination recognises a message that it already has."""
    application.add_all([{}] * 3)
    escalate(database, 1, 2, 3)
    perform(acts, ActionKind.ACKNOWLEDGED, [1, 2])
    perform(acts, ActionKind.NOTED, [1, 2])
    before = queue_rows(database)
    due = {1: LATER, 3: LATER + HOUR}
    wanted = {message_id: OperatorAction.requeued(at, by="ada", at=NOON) for message_id, at in due.items()}
    with application.watched() as changed:
        assert acts.perform(ActionKind.REQUEUED, wanted).lost == set()
    assert changed == {1: {"retry_count": 0}, 3: {"retry_count": 0}}
    after = queue_rows(database)
    details = [(row[0], row[4]) for row in history(database) if row[3] == "requeued"]
    assert details == [(1, "due 2025-03-03T13:00:00Z"), (3, "due 2025-03-03T14:00:00Z")]
    waiting: dict[str, object] = {
        "state": "waiting",
        "unknown_count": 0,
        "escalated_at": None,
        "escalation_reason": None,
        "fingerprint": None,
        "acknowledged_by": None,
        "acknowledged_at": None,
        "note": None,
    }
    for message_id, at in due.items():
        assert after[message_id] == before[message_id] | waiting | {"next_attempt_at": at}
    assert after[2] == before[2]
    assert Claims(database).claim(Claim("next", LATER), LATER, 9) == [1]


def test_a_rejected_message_belongs_to_the_application_again(
    application: Application, database: Database, acts: Acts
) -> None:
    application.add_all([{}] * 4)
    escalate(database, 1)
    enrol(database, [2, 4])
    with application.watched() as changed:
        assert perform(acts, ActionKind.REJECTED, [1, 2, 3]) == set()
    rejected = {"status": "rejected", "last_error": "Rejected by ada: no longer wanted"}
    assert changed == dict.fromkeys((1, 2, 3), rejected)
    assert queue_rows(database).keys() == {4}
    Enrolment(database).retire(IdRange(None, None))
    assert Enrolment(database).newly_failed(IdRange(None, None), 9) == []
    assert message_details(database, 1).acts == [ActionRecord(NOON, "ada", "rejected", "no longer wanted")]


IGNORE_CHANGES = {
    True: "CREATE TRIGGER ignore BEFORE UPDATE ON {} BEGIN SELECT RAISE(IGNORE); END",
    False: "CREATE FUNCTION ignore() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
    "CREATE TRIGGER ignore BEFORE UPDATE ON {} FOR EACH ROW EXECUTE FUNCTION ignore()",
}


def test_a_row_whose_change_a_trigger_ignores_keeps_its_count_and_its_error(
    application: Application, database: Database, acts: Acts
) -> None:
    """Also if retrycli keeps the two itself. A requeue tells by the error who has rejected the message."""
    application.add()
    escalate(database, 1)
    application.sql(IGNORE_CHANGES[database.is_sqlite].format(application.table_name))
    with application.watched() as changed:
        performed = acts.perform(ActionKind.REJECTED, {1: MAKERS[ActionKind.REJECTED]})
    assert [*performed.refused] == [1]
    assert changed == {}


def test_an_acknowledged_message_stays_escalated_and_is_no_longer_new(
    application: Application, database: Database, acts: Acts, views: MessageQueries
) -> None:
    application.add_all([{}, {}])
    escalate(database, 1, 2)
    before = queue_rows(database)
    with application.watched() as changed:
        assert perform(acts, ActionKind.ACKNOWLEDGED, [1]) == set()
    assert changed == {}
    assert queue_rows(database) == before | {1: before[1] | {"acknowledged_by": "ada", "acknowledged_at": NOON}}
    assert list(views.ids(Filter(state=State.ESCALATED))) == [1, 2]
    assert list(views.ids(Filter(state=State.ESCALATED, new=True))) == [2]
    (group,) = escalation_groups(database)
    assert (group.count, group.new) == (2, 1)
    before = queue_rows(database)
    again = OperatorAction(ActionKind.ACKNOWLEDGED, "bert", LATER)
    assert acts.perform(ActionKind.ACKNOWLEDGED, {1: again}).lost == {1}
    assert queue_rows(database) == before
    assert str(acts.why_not(ActionKind.ACKNOWLEDGED, [1], NOON)[1]) == "message 1 was already acknowledged by ada"


def test_a_note_replaces_the_previous_one_and_the_history_keeps_both(
    application: Application, database: Database, acts: Acts
) -> None:
    application.add()
    escalate(database, 1)
    before = queue_rows(database)
    perform(acts, ActionKind.NOTED, [1])
    acts.perform(ActionKind.NOTED, {1: OperatorAction.noted("they wrote", by="bert", at=LATER)})
    assert queue_rows(database) == {1: before[1] | {"note": "they wrote"}}
    assert history(database) == [(1, NOON, "ada", "noted", "phoned them"), (1, LATER, "bert", "noted", "they wrote")]


@EVERY
def test_withdrawn_messages_are_left_alone(
    application: Application, database: Database, acts: Acts, kind: ActionKind
) -> None:
    """The application's row decides, because no pass has updated the queue yet."""
    escalated = dict(enumerate(OTHER_STATUSES, start=1))
    unknown = dict(enumerate(OTHER_STATUSES, start=len(escalated) + 1))
    failed = len(escalated) + len(unknown) + 1
    application.add_all([*({} for _ in escalated), *({"status": each} for each in OTHER_STATUSES), {}])
    escalate(database, *escalated, failed)
    for number, status in escalated.items():
        application.change(number, status=status)
    before = queue_rows(database)
    left = escalated | unknown
    with application.watched() as changed:
        assert perform(acts, kind, [*left, failed]) == left.keys()
    assert changed.keys() <= {failed}
    after = queue_rows(database)
    assert {number: after[number] for number in escalated} == {number: before[number] for number in escalated}
    assert [row[0] for row in history(database)] == [failed]
    reasons = acts.why_not(kind, list(left), NOON)
    for number, error in reasons.items():
        assert isinstance(error, NotActionable)
        is_rejected = kind is ActionKind.REQUEUED and left[number] == "rejected"
        status = application.word(left[number])
        why = "can't be requeued: " if is_rejected else f"is {status}, not failed: there is nothing to "
        assert f"message {number} {why}" in str(error)


@EVERY
def test_messages_that_are_being_sent_or_missing_are_left_alone(
    application: Application, database: Database, acts: Acts, kind: ActionKind
) -> None:
    application.add_all([{}, {}])
    escalate(database, 1)
    Claims(database).claim_one(Claim("a-hand", LATER), 1, NOON)
    enrol(database, [2])
    Claims(database).claim(PASS, NOON, 1)
    before = queue_rows(database)
    with application.watched() as changed:
        assert perform(acts, kind, [1, 2, 7]) == {1, 2, 7}
    assert changed == {}
    assert queue_rows(database) == before
    assert history(database) == []
    why = acts.why_not(kind, [1, 2, 7], NOON)
    assert isinstance(why[7], NoSuchMessage)
    assert str(why[1]).startswith("message 1 is being sent now (claimed by a-hand); run `retrycli show 1` after ")
    assert "being sent now (claimed by the-pass)" in str(why[2])


@pytest.mark.parametrize("kind", OF_ESCALATIONS)
def test_only_escalated_messages_can_be_requeued_acknowledged_or_noted(
    application: Application, database: Database, acts: Acts, kind: ActionKind
) -> None:
    application.add_all([{}, {}])
    enrol(database, [1])
    before = queue_rows(database)
    with application.watched() as changed:
        assert perform(acts, kind, [1, 2]) == {1, 2}
    assert changed == {}
    assert queue_rows(database) == before
    assert all("is not escalated" in str(error) for error in acts.why_not(kind, [1, 2], NOON).values())


@in_every_mode
def test_of_two_concurrent_requeues_one_changes_each_message(application: Application) -> None:
    ids = range(1, 61)
    application.add_all([{}] * len(ids))
    with two_sides(application) as sides:
        escalate(sides[0], *ids)

        def requeue(side: int) -> None:
            for message_id in ids:
                act = OperatorAction.requeued(NOON, by=f"side-{side}", at=NOON)
                Acts(sides[side]).perform(ActionKind.REQUEUED, {message_id: act})

        side_by_side(requeue)
        assert sorted(row[0] for row in history(sides[0])) == list(ids)


@in_every_mode
def test_a_message_rejected_during_a_claim_is_either_sent_or_rejected(application: Application) -> None:
    ids = range(1, 41)
    lost: set[int] = set()
    begun: list[int] = []
    application.add_all([{}] * len(ids))
    with two_sides(application) as sides:
        enrol(sides[0], ids)

        def reject_or_send(side: int) -> None:
            if side == 0:
                for message_id in ids:
                    lost.update(perform(Acts(sides[side]), ActionKind.REJECTED, [message_id]))
                return
            claims = Claims(sides[side])
            while found := claims.claim(PASS, NOON, 2):
                begun.extend(message.message_id for message in begin(claims, found))

        side_by_side(reject_or_send)
    rejected = {message_id for message_id, row in application.rows().items() if row["status"] == "rejected"}
    assert rejected.isdisjoint(begun)
    assert lost == set(begun)
    assert rejected | set(begun) == set(ids)


def test_rows_locked_by_another_transaction_are_left_alone(
    application: Application, database: Database, acts: Acts
) -> None:
    """Waiting could deadlock, because a claiming pass may wait for a row that the rejection has locked."""
    if database.is_sqlite:
        pytest.skip("in a file one transaction that writes goes after the other")
    application.add_all([{}, {}, {}])
    enrol(database, [1, 2])
    with opened(application) as others:
        with others.transaction():
            assert Claims(others).claim(PASS, NOON, 1) == [1]
            assert perform(acts, ActionKind.REJECTED, [1, 2]) == {1}
            assert "was locked or modified by another transaction" in str(
                acts.why_not(ActionKind.REJECTED, [1], NOON)[1]
            )
            Ledger(others).take_turn("api", NOON, MINUTE, LATER)
        assert "is being sent now" in str(acts.why_not(ActionKind.REJECTED, [1], NOON)[1])
        with others.write() as connection:
            connection.execute(select(others.messages.c.id).with_for_update())
            assert perform(acts, ActionKind.REJECTED, [3]) == {3}
    assert application.row(3)["status"] == "failed"


READ = {"subject": "Your delivery", "body": "Where is it?", "recipient_email": "orders@example.com"}
CHANGE = {"subject": "Your order"}
EDITED = OperatorAction.edited({"subject": "Your delivery"}, CHANGE, ticket="4711", by="ada", at=NOON)


def test_the_first_failure_of_a_message_is_not_that_of_an_earlier_one_with_its_id(
    application: Application, database: Database, acts: Acts
) -> None:
    message_id = application.add()
    [birth] = database.rows(select(birth_text(database.messages)))
    tried = [(birth[0], 600), (birth[0], 60), ("2020-01-01 00:00:00", 6000)]
    rows = [
        {
            "message_id": message_id,
            "number": number,
            "made_by": "pass",
            "started_at": NOON,
            "waited_s": waited,
            "birth": of,
        }
        for number, (of, waited) in enumerate(tried, 1)
    ]
    with database.write() as connection:
        connection.execute(insert(schema.attempts), rows)
    assert acts.first_failures([message_id]) == {message_id: NOON - 10 * MINUTE}


def edit(acts: Acts, message_id: int = 1, *, changes: dict[str, str] | None = None, at: datetime = NOON) -> None:
    act = OperatorAction.edited(READ, changes or CHANGE, ticket="4711", by="ada", at=at)
    acts.edit(message_id, act, read=READ, changes=changes or CHANGE)


@pytest.mark.parametrize("escalated", [True, False])
def test_an_edited_message_gets_a_new_key_and_keeps_its_place(
    application: Application, database: Database, acts: Acts, *, escalated: bool
) -> None:
    """Unlike a change by the application, an operator's edit does not end an escalation."""
    application.add_all([{}, {}])
    enrol(database, [2])
    enrol(database, [1])
    key = loaded(database, 1).delivery_key
    if escalated:
        escalate_waiting(database, 1)
    before = queue_rows(database)
    changes = {"subject": "Your order", "body": "It is here.", "recipient_email": "new@example.com"}
    with application.watched() as changed:
        edit(acts, changes=changes)
    assert changed == {1: changes}
    assert loaded(database, 1).delivery_key != key
    same = ("state", "next_attempt_at", "escalated_at", "escalation_reason", "first_failed_at", "unknown_count")
    after = queue_rows(database)
    assert {name: after[1][name] for name in same} == {name: before[1][name] for name in same}
    assert after[2] == before[2]
    assert not any(decision.changed for decision in review(database))
    assert history(database) == [(1, NOON, "ada", "edited", "subject, body, recipient_email")]


def review(database: Database) -> list[ChangedMessage]:
    """Review all escalated messages that the application may have changed, and keep them escalated."""
    enrolment, found = Enrolment(database), []

    def stay(each: ChangedMessage) -> Decision:
        found.append(each)
        return Decision(each.message.message_id, Transition.released(), message=each.message)

    enrolment.review(enrolment.retire(IdRange(None, None)), stay, NOON)
    return found


def escalate_waiting(database: Database, message_id: int) -> None:
    claims = Claims(database)
    claims.claim_one(PASS, message_id, NOON)
    [message] = begin(claims, [message_id], fit=lambda _: False)
    expired = Transition.escalated(EscalationReason.EXPIRED, last_error="Expired: the message is too old to be sent")
    claims.results.record(PASS, [Decision(message_id, expired, message=message)], NOON)


def loaded(database: Database, message_id: int) -> QueuedMessage | UnusableMessage:
    this = with_queue(database).where(schema.queue.c.message_id == message_id)
    with database.read() as connection:
        [message] = load(connection, connection.execute(this), [message_id])
    return message


def test_an_edit_of_a_row_modified_concurrently_is_refused(
    application: Application, database: Database, acts: Acts
) -> None:
    """Even changes to different columns are refused, because nobody has checked them together."""
    application.add()
    enrol(database, [1])
    before = queue_rows(database)
    for column, value in READ.items():
        application.change(1, **{column: "changed"})
        with application.watched() as changed, pytest.raises(NotActionable, match="was modified since you"):
            edit(acts)
        assert changed == {}, column
        application.change(1, **{column: value})
    assert queue_rows(database) == before
    assert history(database) == []


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_a_text_too_long_for_its_column_is_refused(engine: Factory, tmp_path: Path) -> None:
    """SQLite accepts text of any length, so the limit exists only on PostgreSQL."""
    with application_with(engine, tmp_path, Column("subject", String(13))) as made, opened(made) as database:
        made.add()
        enrol(database, [1])
        row = message_details(database, 1, body=True).row
        acts, read = Acts(database), {"subject": row["subject"]}
        told = "message 1 can't have a subject of 14 characters, because its column holds only 13; nothing was written"
        with made.watched() as changed, pytest.raises(NotActionable, match=told):
            acts.edit(1, EDITED, read=read, changes={"subject": "ü" * 14})
        assert changed == {}
        acts.edit(1, EDITED, read=read, changes={"subject": "ü" * 13})


def test_a_value_that_is_not_text_can_be_replaced_by_text(loose_application: Application) -> None:
    loose_application.add()
    loose_application.sql("UPDATE pending_messages SET subject = CAST(x'ff41' AS TEXT), body = NULL")
    with opened(loose_application) as database:
        enrol(database, [1])
        row = message_details(database, 1, body=True).row
        read = {name: row[name] for name in ("subject", "body")}
        assert read == {"subject": "\udcffA", "body": None}
        Acts(database).edit(1, EDITED, read=read, changes={"subject": "A", "body": "Where is it?"})
    assert (loose_application.row(1)["subject"], loose_application.row(1)["body"]) == ("A", "Where is it?")


def test_a_message_that_is_not_failed_is_being_sent_or_missing_is_not_edited(
    application: Application, database: Database, acts: Acts
) -> None:
    application.add_all([{}] * 4)
    enrol(database, [1, 2, 3])
    Claims(database).claim(PASS, NOON, 1)
    application.change(2, status="approved")
    why = f"message 2 is {application.word('approved')}, not failed: there is nothing to edit"
    cases = (1, NotActionable, r"message 1 is being sent now \(claimed by the-pass\)"), (2, NotActionable, why)
    for number, kind, words in (*cases, (5, NoSuchMessage, "5")):
        with application.watched() as changed, pytest.raises(kind, match=words):
            edit(acts, number)
        assert changed == {}
        with pytest.raises(kind, match=words):
            acts.check_editable(number, NOON)
    assert (acts.check_editable(3, NOON), acts.check_editable(4, NOON)) == (True, False), "the queue has the first"


def test_old_actions_are_pruned_like_attempts(
    application: Application, database: Database, acts: Acts, ledger: Ledger
) -> None:
    application.add()
    escalate(database, 1)
    for hour in range(3):
        acts.perform(ActionKind.NOTED, {1: OperatorAction.noted("so", by="ada", at=NOON + hour * HOUR)})
    assert count_ended(ledger._database, NOON + 2 * HOUR)["acts"] == 2
    assert prune(ledger._database, NOON + 2 * HOUR, 1) == 1
    assert prune(ledger._database, NOON + 2 * HOUR, 9) == 1
    assert [row[1] for row in history(database)] == [NOON + 2 * HOUR]
