"""Answers that a pass can't record, because the application's row is locked, skips updates or refuses them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta
from threading import Event, Thread
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from retrycli.operations.wiring import utc_now
from tests.cli.story import LOST, OK, PERMANENT, REFUSED, impatient
from tests.cli.test_identity import NOT_INTERNAL, ask_for_confirmation
from tests.cli.test_refused_rows import CLOSED, refuse_rows
from tests.conftest import on_both

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.cli.application import Application
    from tests.cli.command import Finished
    from tests.cli.story import Begin, Story

pytestmark = on_both

on_postgresql = pytest.mark.databases("postgresql")
"""For features that SQLite does not have: row locks, rules, policies and deferred triggers."""
MESSAGES = 9
ALL = range(1, MESSAGES + 1)
ONE = 5
"""The id of the only row that can't be changed."""
OTHERS = [message_id for message_id in ALL if message_id != ONE]
IDS, BY_TYPE = tuple(map(str, ALL)), ("--type", "customer")
REJECT = ("reject", "--yes", "--reason", "no longer true")


def insert_all(story: Story) -> None:
    for message_id in ALL:
        story.insert(message_id, ticket_id=4700 + message_id, body=f"text {message_id}")


def check_each_was_sent_once(story: Story, ids: Sequence[int] = ALL) -> None:
    """Check that the API received each message once, and that rows and attempts record the delivery."""
    assert sorted(story.api.bodies) == [f"text {message_id}" for message_id in ALL]
    assert {message_id: story.status(message_id) for message_id in ids} == dict.fromkeys(ids, "sent")
    assert {message_id: story.outcomes(message_id) for message_id in ALL} == {
        message_id: ["delivered"] for message_id in ALL
    }


# -- the application holds a lock for longer than a pass waits --------------------------------------------------------


HELD_SECONDS = 6


class Holder(Thread):
    """A thread of the application that holds a lock, by default for longer than any request takes."""

    def __init__(self, application: Application, statement: str, seconds: float = HELD_SECONDS) -> None:
        super().__init__()
        self._application = application
        self._statement = statement
        self._seconds = seconds
        self._held = Event()

    def take(self) -> None:
        """Start the thread, and wait until it holds the lock."""
        self.start()
        assert self._held.wait(60)

    def run(self) -> None:
        with self._application.in_transaction(self._statement):
            self._held.set()
            Event().wait(self._seconds)


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("at", [1, MESSAGES])
def test_no_answer_is_lost_while_the_application_holds_the_write_lock(begin: Begin, at: int) -> None:
    """The pass keeps the answers, and records them as soon as it can. Here it waits only 0.2 s for a lock, not 30 s."""
    with begin() as story:
        insert_all(story)
        story.be_impatient()
        lock = Holder(story.application, "UPDATE ticket_states SET state = 'busy' WHERE ticket_id = 4711", seconds=2)
        story.api.meanwhile[at] = lock.take
        summary = story.tick()
        lock.join()
        assert (summary.result, summary.sent) == ("completed", MESSAGES)
        story.ticks(2)
        check_each_was_sent_once(story)


@contextmanager
def locked(story: Story, ids: Sequence[int]) -> Iterator[None]:
    """Make the application lock rows until the block ends."""
    these = ", ".join(map(str, ids))
    with story.application.in_transaction(f"SELECT * FROM pending_messages WHERE id IN ({these}) FOR UPDATE"):
        yield


@on_postgresql
@pytest.mark.parametrize("ids", [[1], list(ALL)], ids=["the first", "all"])
def test_no_answer_is_lost_while_the_application_locks_rows_for_a_whole_pass(begin: Begin, ids: list[int]) -> None:
    """Attempts are recorded although the rows are locked. A later pass updates the rows, and repeats no delivery."""
    with begin() as story:
        insert_all(story)
        story.be_impatient()
        with locked(story, ids):
            assert story.tick().result == "completed"
        assert "unknown" not in {kind for message_id in ALL for kind in story.outcomes(message_id)}
        assert {kind for message_id in set(ALL) - set(ids) for kind in story.outcomes(message_id)} <= {"delivered"}
        sent = {request.body for request in story.api.requests}
        assert {f"text {message_id}" for message_id in ALL if story.outcomes(message_id) == ["delivered"]} == sent
        story.ticks(3)
        check_each_was_sent_once(story)


@on_postgresql
def test_a_row_that_is_locked_and_then_edited_is_not_marked_sent(begin: Begin) -> None:
    with begin() as story:
        story.insert(body="a")
        story.be_impatient()
        with locked(story, [1]):
            story.tick()
        story.write(body="b")
        story.ticks(2)
        story.check_escalated("changed")
        assert story.api.bodies == ["a"]


@on_postgresql
def test_a_text_that_arrived_but_not_as_intended_is_not_marked_sent_by_a_later_pass(
    begin: Begin, tmp_path: Path
) -> None:
    """The answer is kept while the row is locked. It is neither a delivery as intended nor forgotten."""
    with begin(NOT_INTERNAL) as story:
        ask_for_confirmation(story, tmp_path)
        story.insert()
        story.be_impatient()
        with locked(story, [1]):
            story.tick()
        story.ticks(2)
        story.check_escalated("permanent")
        story.write(retry_count=1)
        story.ticks(2)
        story.check_already_delivered()
        assert len(story.api.requests) == 1


@on_postgresql
@pytest.mark.parametrize("answer", [REFUSED, LOST, PERMANENT], ids=["refused", "lost", "permanent"])
def test_an_answer_other_than_a_delivery_is_also_kept_while_the_row_is_locked(begin: Begin, answer: object) -> None:
    kinds = {str(REFUSED): "refused", LOST: "unknown", str(PERMANENT): "permanent"}
    with begin(answer, OK) as story:
        story.insert()
        story.be_impatient()
        with locked(story, [1]):
            story.tick()
        assert story.outcomes() == [kinds[str(answer)]]
        assert "died" not in str(story.application.execute("SELECT error FROM retrycli_attempts"))


@on_postgresql
def test_manual_attempts_are_recorded_though_the_breaker_cannot_be_closed(begin: Begin) -> None:
    """The next probe finds out that the destination works."""
    with begin() as story:
        insert_all(story)
        command = story.command.having({"RETRYCLI_DATABASE__URL": impatient(story.application.url)})
        with story.application.in_transaction("LOCK TABLE retrycli_breakers"):
            done = command("retry", *IDS, "--yes")
        assert done.returncode == 0, done.stderr
        check_each_was_sent_once(story)


@on_postgresql
def test_a_locked_row_does_not_prevent_rejecting_others(begin: Begin) -> None:
    with begin() as story:
        insert_all(story)
        command = story.command.having({"RETRYCLI_DATABASE__URL": impatient(story.application.url)})
        with locked(story, [ONE]):
            done = command(*REJECT, *IDS)
        assert done.returncode == 4
        assert f"message {ONE} " in done.stderr
        assert {story.status(message_id) for message_id in OTHERS} == {"rejected"}
        assert story.status(ONE) == "failed"


# -- a row whose UPDATE the database skips in silence -----------------------------------------------------------------


def skip_by_trigger(application: Application, which: str) -> None:
    """Create a trigger that skips every update of some rows."""
    if application.is_sqlite:
        application.execute(
            f"CREATE TRIGGER skip BEFORE UPDATE ON pending_messages WHEN OLD.id {which} BEGIN SELECT RAISE(IGNORE); END"
        )
        return
    application.execute("CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$")
    application.execute(
        f"CREATE TRIGGER skip BEFORE UPDATE ON pending_messages FOR EACH ROW WHEN (OLD.id {which}) "
        "EXECUTE FUNCTION skip()"
    )


def refuse_at_commit(application: Application, which: str) -> None:
    """Create a deferred constraint trigger that refuses every change of some rows."""
    application.execute(
        f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{CLOSED}'; END $$"
    )
    application.execute(
        "CREATE CONSTRAINT TRIGGER closed AFTER UPDATE ON pending_messages DEFERRABLE INITIALLY DEFERRED "
        f"FOR EACH ROW WHEN (OLD.id {which}) EXECUTE FUNCTION refuse()"
    )


def skip_by_rule(application: Application, which: str) -> None:
    """Create a PostgreSQL rule that turns every update of some rows into a no-op."""
    application.execute(f"CREATE RULE skip AS ON UPDATE TO pending_messages WHERE OLD.id {which} DO INSTEAD NOTHING")


@contextmanager
def role(story: Story) -> Iterator[str]:
    """Create a role that owns nothing, so that policies apply to it; yield a database URL that uses the role."""
    name = f"passes_of_{make_url(story.application.url).database}"
    there = make_url(story.application.url).update_query_dict({"options": f"-c role={name}"})
    story.application.execute(f"CREATE ROLE {name}")
    for kind in ("TABLES", "SEQUENCES"):
        story.application.execute(f"GRANT ALL ON ALL {kind} IN SCHEMA public TO {name}")
    try:
        yield there.render_as_string(hide_password=False)
    finally:
        story.application.execute(f"DROP OWNED BY {name}")
        story.application.execute(f"DROP ROLE {name}")


def skip_by_policy(application: Application, which: str) -> None:
    """Use row-level security to hide some rows from updates."""
    for statement in (
        "ALTER TABLE pending_messages ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY reading ON pending_messages FOR SELECT USING (true)",
        f"CREATE POLICY writing ON pending_messages FOR UPDATE USING (NOT (id {which}))",
    ):
        application.execute(statement)


def check_escalated_alone(story: Story, one: int = ONE) -> None:
    """Check that only the message whose row refuses changes is escalated, and that each message was sent once."""
    summary = story.tick()
    assert (summary.result, summary.sent) == ("completed", MESSAGES - 1)
    story.ticks(3)
    check_each_was_sent_once(story, [message_id for message_id in ALL if message_id != one])
    story.check_escalated("invalid", one)


@pytest.mark.parametrize("one", [1, ONE, MESSAGES])
def test_a_message_whose_row_skips_updates_is_sent_once_and_escalated_alone(begin: Begin, one: int) -> None:
    """Before it sends, a pass tries to write the last message's row, and must try others if that row skips updates."""
    with begin() as story:
        insert_all(story)
        skip_by_trigger(story.application, f"= {one}")
        check_escalated_alone(story, one)


@on_postgresql
@pytest.mark.parametrize("one", [1, ONE])
@pytest.mark.parametrize("refuses", [skip_by_rule, refuse_at_commit])
def test_a_message_that_a_rule_or_a_constraint_keeps_from_updates_is_sent_once_and_escalated_alone(
    begin: Begin, refuses: Callable[[Application, str], None], one: int
) -> None:
    with begin() as story:
        insert_all(story)
        refuses(story.application, f"= {one}")
        check_escalated_alone(story, one)


@on_postgresql
def test_a_message_that_a_policy_hides_from_updates_is_sent_once_and_escalated_alone(begin: Begin) -> None:
    with begin() as story, role(story) as url:
        insert_all(story)
        skip_by_policy(story.application, f"= {ONE}")
        story.set("database", url=url)
        check_escalated_alone(story)


@pytest.mark.parametrize("answer", [REFUSED, PERMANENT, LOST], ids=["refused", "permanent", "lost"])
def test_a_failure_whose_row_skips_updates_is_escalated_and_not_attempted_again(begin: Begin, answer: object) -> None:
    """The row can't store the retry count, so only the escalation ends the attempts."""
    with begin(answer) as story:
        story.insert()
        story.insert(2, ticket_id=4720)
        skip_by_trigger(story.application, "= 1")
        story.ticks(4)
        assert [request.ticket for request in story.api.requests].count("4711") == 1
        story.check_escalated("invalid")


def check_invalid_one_stops_no_other(story: Story, refuses: Callable[[Application, str], None]) -> None:
    """Check that an invalid message whose row refuses changes is escalated, and that the others are sent."""
    insert_all(story)
    story.application.execute(f"UPDATE pending_messages SET body = NULL WHERE id = {ONE}")
    refuses(story.application, f"= {ONE}")
    story.ticks(3)
    assert sorted(story.api.bodies) == [f"text {message_id}" for message_id in OTHERS]
    story.check_escalated("invalid", ONE)


def test_an_invalid_message_that_skips_updates_stops_no_other(begin: Begin) -> None:
    with begin() as story:
        check_invalid_one_stops_no_other(story, skip_by_trigger)


MANY = range(101, 131)
"""More refusing rows than the first sample of rows that a pass tries to write."""


@pytest.mark.parametrize("refuses", [skip_by_trigger, refuse_rows], ids=["in silence", "with an error"])
@pytest.mark.parametrize("due", ["later", "at once"])
def test_many_rows_that_refuse_changes_stop_no_other(
    begin: Begin, refuses: Callable[[Application, str], None], due: str
) -> None:
    with begin() as story:
        insert_all(story)
        now = str(utc_now().replace(tzinfo=None))
        failed_at = {"created_at": now, "updated_at": now} if due == "later" else {}
        for message_id in MANY:
            story.insert(message_id, ticket_id=4720 + message_id % 8, body=f"text {message_id}", **failed_at)
        refuses(story.application, "> 100")
        story.tick(timedelta(0))
        assert {story.status(message_id) for message_id in ALL} == {"sent"}
        # A queue of only these rows would look like a table that refuses all changes.
        story.insert(MESSAGES + 1, body="text 10")
        story.ticks(2)
        assert sorted(story.api.bodies) == sorted(f"text {message_id}" for message_id in (*ALL, 10, *MANY))
        assert {story.queued(message_id)["escalation_reason"] for message_id in MANY} == {"invalid"}


def check_refused(story: Story, refuses: Callable[[Application, str], None]) -> None:
    insert_all(story)
    refuses(story.application, "> 0")
    done = story.command("run-once")
    assert (done.returncode, story.api.requests) == (78, [])
    assert "pending_messages" in done.stderr


def test_a_table_that_skips_all_updates_is_an_invalid_configuration(begin: Begin) -> None:
    with begin() as story:
        check_refused(story, skip_by_trigger)


@on_postgresql
def test_a_table_that_refuses_all_changes_at_commit_is_an_invalid_configuration(begin: Begin) -> None:
    with begin() as story:
        check_refused(story, refuse_at_commit)


@pytest.mark.parametrize("command", [REJECT, ("mark-sent", "--yes")], ids=["reject", "mark-sent"])
def test_an_attempted_row_that_skips_an_operators_change_stays_escalated(
    begin: Begin, command: tuple[str, ...]
) -> None:
    """Only a change by the application makes the message wait again."""
    with begin(REFUSED, OK) as story:
        story.insert()
        story.tick()
        skip_by_trigger(story.application, "= 1 AND NEW.body = OLD.body")
        story.operator(*command, "1", code=4)
        story.insert(2, ticket_id=4720)
        story.ticks(2)
        story.check_escalated("invalid")
        assert [request.ticket for request in story.api.requests] == ["4711", "4720"]


def test_a_row_that_skipped_an_operators_change_waits_again_after_an_edit(begin: Begin) -> None:
    """The first pass runs only after the operator's change and the edit."""
    with begin() as story:
        story.insert()
        skip_by_trigger(story.application, "= 1 AND NEW.status = 'rejected'")
        story.operator(*REJECT, "1", code=4)
        story.write(body="b")
        story.ticks(2)
        assert (story.status(), story.api.bodies) == ("sent", ["b"])


# -- a row that refuses a change --------------------------------------------------------------------------------------


def check_one_refused(done: Finished) -> None:
    """Check that one message was refused and the others were not; the command names it if it was given by id."""
    named = str(ONE) in done.args
    assert done.returncode == (4 if named else 0), done.stderr
    assert f"message {ONE} " in done.stderr or not named
    assert f"ed\t{MESSAGES - 1}\nrefused\t1\n" in done.stdout


def check_rejected_but_one(story: Story, *which: str) -> None:
    """Check that an operator rejects all messages except the one whose row refuses changes, which is not sent."""
    insert_all(story)
    check_one_refused(story.command(*REJECT, *which))
    assert {story.status(message_id) for message_id in OTHERS} == {"rejected"}
    assert story.status(ONE) == "failed"
    assert ONE not in {action["message_id"] for action in story.application.rows("retrycli_acts").values()}
    story.ticks(2)
    assert not story.api.requests
    story.check_escalated("invalid", ONE)


def check_requeued_but_one(story: Story, refuses: Callable[[Application], None], *which: str) -> None:
    """Check that an operator requeues all messages except the one whose row refuses changes, which stays escalated."""
    insert_all(story)
    story.application.execute("UPDATE pending_messages SET retry_count = 10")
    story.tick()
    refuses(story.application)
    check_one_refused(story.command("requeue", *which, "--yes"))
    assert {story.queued(message_id)["state"] for message_id in OTHERS} == {"waiting"}
    assert story.queued(ONE)["state"] == "escalated"
    story.tick()
    assert sorted(story.api.bodies) == [f"text {message_id}" for message_id in OTHERS]


@pytest.mark.parametrize(
    ("refuses", "which"), [(refuse_rows, IDS), (skip_by_trigger, BY_TYPE)], ids=["at once, by id", "in silence"]
)
def test_a_row_that_refuses_changes_does_not_prevent_operator_actions_on_others(
    begin: Begin, refuses: Callable[[Application, str], None], which: tuple[str, ...]
) -> None:
    with begin() as story:
        refuses(story.application, f"= {ONE}")
        check_rejected_but_one(story, *which)
    with begin() as story:
        check_requeued_but_one(story, lambda application: refuses(application, f"= {ONE}"), *which)


@on_postgresql
def test_a_deferred_constraint_does_not_prevent_operator_actions_on_others(begin: Begin) -> None:
    with begin() as story:
        refuse_at_commit(story.application, f"= {ONE}")
        check_rejected_but_one(story, *IDS)
    with begin() as story:
        check_requeued_but_one(story, lambda application: refuse_at_commit(application, f"= {ONE}"), *IDS)
