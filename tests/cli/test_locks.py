"""The application holds locks during requests: no answer is lost, and messages with unlocked rows are not delayed."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from threading import Event, Thread
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine

from tests.cli.story import impatient
from tests.cli.test_refused_rows import check_a_later_pass_sends_others
from tests.cli.test_unwritten import (
    ALL,
    BY_TYPE,
    HELD_SECONDS,
    IDS,
    MESSAGES,
    ONE,
    OTHERS,
    REJECT,
    Holder,
    check_each_was_sent_once,
    check_escalated_alone,
    check_invalid_one_stops_no_other,
    check_rejected_but_one,
    check_requeued_but_one,
    insert_all,
    locked,
)
from tests.conftest import on_both

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrycli.operations.sandbox import Answer
    from tests.cli.application import Application
    from tests.cli.command import Cli
    from tests.cli.story import Begin, Story

pytestmark = on_both

on_postgresql = pytest.mark.databases("postgresql")
on_sqlite = pytest.mark.databases("sqlite")

REQUEST_TIMEOUT = 4.0
"""Locks are held for longer. If a pass blocked on the lock, it would treat answers as timeouts."""
MANY = range(1, 25)


class Reader(Holder):
    """A thread of the application that reads in one transaction, which blocks commits in rollback-journal mode."""

    def run(self) -> None:
        with closing(sqlite3.connect(self._application.path, timeout=60, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            connection.execute(self._statement).fetchone()
            self._held.set()
            time.sleep(HELD_SECONDS)
            connection.execute("COMMIT")


def answer_slowly(story: Story) -> None:
    """Make the API answer each message but the first after its own delay, shorter than the request timeout."""
    at_once = story.api.answer

    def slowly(method: str, path: str, key: str | None, body: bytes) -> Answer:
        number = int(json.loads(body)["body"].split()[1])
        if number > 1:
            time.sleep(0.2 + number % 8 * 0.15)
        return at_once(method, path, key, body)

    story.api.answer = slowly  # type: ignore[method-assign]
    story.set("gateway", request_timeout_seconds=REQUEST_TIMEOUT)


def insert_many(story: Story) -> None:
    for message_id in MANY:
        story.insert(message_id, ticket_id=4700 + message_id, body=f"text {message_id}")


def write_tickets_too(application: Application) -> None:
    """Create a trigger that writes a row of another table for each message that changes."""
    application.execute(
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "UPDATE ticket_states SET state = 'x' WHERE ticket_id = NEW.ticket_id; RETURN NEW; END $$"
    )
    application.execute("CREATE TRIGGER touch AFTER UPDATE ON pending_messages FOR EACH ROW EXECUTE FUNCTION touch()")


LOCKS = {
    "table": "LOCK TABLE pending_messages IN ACCESS EXCLUSIVE MODE",
    "two rows": "SELECT * FROM pending_messages WHERE id IN (5, 10) FOR UPDATE",
}


def check_no_answer_is_lost(story: Story, holder: Holder) -> None:
    story.api.meanwhile[4] = holder.take
    story.tick()
    holder.join()
    story.ticks(2)
    assert sorted(story.api.bodies) == sorted(f"text {message_id}" for message_id in MANY)
    assert {message_id: story.status(message_id) for message_id in MANY} == dict.fromkeys(MANY, "sent")
    assert {message_id: story.outcomes(message_id) for message_id in MANY} == {
        message_id: ["delivered"] for message_id in MANY
    }


@on_postgresql
@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_no_answer_is_lost_while_the_application_holds_a_lock_for_long(begin: Begin, lock: str) -> None:
    with begin() as story:
        insert_many(story)
        write_tickets_too(story.application)
        answer_slowly(story)
        check_no_answer_is_lost(story, Holder(story.application, lock))


@on_sqlite
@pytest.mark.parametrize(
    ("journal", "use", "statement"),
    [("delete", Reader, "SELECT * FROM pending_messages"), ("wal", Holder, "UPDATE ticket_states SET state = 'busy'")],
)
def test_no_answer_is_lost_while_the_application_uses_the_file(
    begin: Begin, journal: str, use: type[Holder], statement: str
) -> None:
    with begin() as story:
        story.application.asked(f"PRAGMA journal_mode = {journal}")
        insert_many(story)
        answer_slowly(story)
        check_no_answer_is_lost(story, use(story.application, statement))


@on_postgresql
@pytest.mark.parametrize("lock", ["rows", "rows of a trigger"])
def test_locked_rows_do_not_stop_other_rows(begin: Begin, lock: str) -> None:
    """A pass reaches the locked rows first, so a wait for their locks would delay all other rows."""
    held, free = [1, 2, 3], [4, 5, 6, 7, 8, 9]
    tickets = "UPDATE ticket_states SET state = 'held' WHERE ticket_id IN (4701, 4702, 4703)"
    with begin() as story:
        insert_all(story)
        write_tickets_too(story.application)
        story.be_impatient()
        with locked(story, held) if lock == "rows" else story.application.in_transaction(tickets):
            assert (story.tick().result, len(story.api.requests)) == ("completed", MESSAGES)
            assert {story.status(message_id) for message_id in free} == {"sent"}
            assert {story.status(message_id) for message_id in held} == {"failed"}
            assert {message_id: story.outcomes(message_id) for message_id in ALL} == {
                message_id: ["delivered"] for message_id in ALL
            }
            assert story.tick().result == "completed"
        story.ticks(2)
        check_each_was_sent_once(story)


@on_postgresql
def test_a_deadlock_with_the_application_loses_no_answer(begin: Begin) -> None:
    with begin() as story:
        insert_all(story)
        write_tickets_too(story.application)
        held = Event()

        def deadlock() -> None:
            with closing(create_engine(story.application.url, poolclass=NullPool).connect()) as connection:
                connection.exec_driver_sql("UPDATE ticket_states SET state = 'app' WHERE ticket_id = 4709")
                held.set()
                for ticket in range(4708, 4701, -1):
                    time.sleep(0.1)
                    connection.exec_driver_sql(f"UPDATE ticket_states SET state = 'app' WHERE ticket_id = {ticket}")
                connection.commit()

        thread = Thread(target=deadlock)

        def begin_deadlock() -> None:
            thread.start()
            assert held.wait(60)

        story.api.meanwhile[1] = begin_deadlock
        story.tick()
        thread.join()
        story.ticks(2)
        check_each_was_sent_once(story)


@on_postgresql
def test_a_row_deleted_and_reinserted_in_one_transaction_is_not_reported_as_hidden(begin: Begin) -> None:
    with begin() as story:
        story.insert(body="a")
        story.be_impatient()
        with closing(create_engine(story.application.url, poolclass=NullPool).connect()) as connection:
            connection.exec_driver_sql("CREATE TEMPORARY TABLE kept AS SELECT * FROM pending_messages")
            connection.exec_driver_sql("DELETE FROM pending_messages")
            connection.exec_driver_sql("INSERT INTO pending_messages SELECT * FROM kept")
            story.tick()
            connection.commit()
        story.ticks(2)
        assert (story.status(), story.api.bodies) == ("sent", ["a"])


@on_postgresql
@pytest.mark.parametrize("which", [IDS, BY_TYPE], ids=["by id", "by filter"])
@pytest.mark.parametrize("lock", ["row", "row of a trigger"])
def test_a_locked_row_does_not_prevent_requeueing_others(begin: Begin, which: Sequence[str], lock: str) -> None:
    with begin() as story:
        insert_all(story)
        write_tickets_too(story.application)
        story.application.execute("UPDATE pending_messages SET retry_count = 10")
        story.tick()
        command = story.command.having({"RETRYCLI_DATABASE__URL": impatient(story.application.url)})
        ticket = "UPDATE ticket_states SET state = 'held' WHERE ticket_id = 4705"
        with locked(story, [ONE]) if lock == "row" else story.application.in_transaction(ticket):
            done = command("requeue", *which, "--yes")
        named = which == IDS
        assert done.returncode == (4 if named else 0), done.stderr
        assert f"message {ONE} " in done.stderr or not named
        assert {story.queued(message_id)["state"] for message_id in OTHERS} == {"waiting"}
        assert story.queued(ONE)["state"] == "escalated"


@on_postgresql
@pytest.mark.parametrize("act", [REJECT, ("mark-sent", "--yes")], ids=["reject", "mark-sent"])
def test_a_row_whose_trigger_is_blocked_is_named_and_left_alone(begin: Begin, act: Sequence[str]) -> None:
    with begin() as story:
        insert_all(story)
        write_tickets_too(story.application)
        command = story.command.having({"RETRYCLI_DATABASE__URL": impatient(story.application.url)})
        with story.application.in_transaction("UPDATE ticket_states SET state = 'held' WHERE ticket_id = 4705"):
            done = command(*act, *IDS)
        assert done.returncode == 4, done.stderr
        assert f"message {ONE} " in done.stderr
        assert {story.status(message_id) for message_id in OTHERS} == {"rejected" if act == REJECT else "sent"}
        story.tick()
        assert (story.status(ONE), story.api.bodies) == ("sent", [f"text {ONE}"])


# -- a row that refuses a change in its own way ------------------------------------------------------------------------


FAILS = {
    "a code of a lost connection": "RAISE EXCEPTION 'closed' USING ERRCODE = '08001'",
    "a table that does not exist": "INSERT INTO no_such_table VALUES (1)",
}


@on_postgresql
@pytest.mark.parametrize("statement", FAILS.values(), ids=FAILS)
def test_a_row_whose_trigger_fails_with_any_code_is_escalated_alone(begin: Begin, statement: str) -> None:
    with begin() as story:
        insert_all(story)
        story.application.execute(
            f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {statement}; RETURN NEW; END $$"
        )
        story.application.execute(
            "CREATE TRIGGER closed BEFORE UPDATE ON pending_messages FOR EACH ROW "
            f"WHEN (OLD.id = {ONE}) EXECUTE FUNCTION fail()"
        )
        check_escalated_alone(story)


def roll_back(application: Application, which: str = f"= {ONE}") -> None:
    """Create a trigger that rolls back every transaction that changes one of these rows."""
    application.execute(
        f"CREATE TRIGGER rolls_back BEFORE UPDATE ON pending_messages WHEN OLD.id {which} "
        "BEGIN SELECT RAISE(ROLLBACK, 'closed'); END"
    )


@on_sqlite
@pytest.mark.parametrize("one", [1, ONE, MESSAGES])
def test_a_row_that_rolls_back_its_transaction_is_escalated_alone(begin: Begin, one: int) -> None:
    with begin() as story:
        insert_all(story)
        roll_back(story.application, f"= {one}")
        check_escalated_alone(story, one)


@on_sqlite
def test_only_rows_that_roll_back_their_transactions_are_escalated(begin: Begin) -> None:
    with begin() as story:
        insert_many(story)
        roll_back(story.application, "% 3 = 0")
        story.ticks(3)
        assert sorted(story.api.bodies) == sorted(f"text {message_id}" for message_id in MANY)
        for message_id in MANY:
            if message_id % 3:
                assert (story.status(message_id), story.outcomes(message_id)) == ("sent", ["delivered"])
            else:
                story.check_escalated("invalid", message_id)


@on_sqlite
def test_an_invalid_message_that_rolls_back_stops_no_other(begin: Begin) -> None:
    with begin() as story:
        check_invalid_one_stops_no_other(story, roll_back)


@on_sqlite
@pytest.mark.parametrize("which", [IDS, BY_TYPE], ids=["by id", "by filter"])
def test_a_row_that_rolls_back_does_not_stop_operator_actions_on_others(begin: Begin, which: tuple[str, ...]) -> None:
    with begin() as story:
        roll_back(story.application)
        check_rejected_but_one(story, *which)
    with begin() as story:
        check_requeued_but_one(story, roll_back, *which)


@on_sqlite
def test_a_row_that_rolls_back_and_whose_pass_died_does_not_stop_later_passes(
    cli: Cli, application: Application
) -> None:
    check_a_later_pass_sends_others(cli, application, lambda here, closed: roll_back(here, f"= {closed}"))
