"""``mark-sent``: an operator states that messages have arrived, and no pass sends them again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import retrycli
from tests.cli.api import held_back
from tests.cli.command import end
from tests.cli.story import LOST, OK, REFUSED
from tests.cli.test_act import acts, facts
from tests.cli.test_refused_rows import refuse
from tests.conftest import on_both

if TYPE_CHECKING:
    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application
    from tests.cli.command import Cli
    from tests.cli.story import Begin

pytestmark = on_both

MARK = ("mark-sent", "--yes", "--by", "anna")


# -- what is recorded --------------------------------------------------------------------------------------------------


def test_a_message_that_may_have_arrived_is_marked_sent_and_recorded(begin: Begin) -> None:
    with begin(LOST) as story:
        story.insert()
        story.ticks(3)
        story.check_escalated("unknown")
        story.operator(*MARK, "1", "--note", "seen in ticket 4711")
        row = story.application.row(1)
        assert (row["status"], row["last_error"]) == ("sent", None)
        assert row["sent_at"] is not None
        assert story.application.rows("retrycli_queue") == {}
        *_, third, stated = story.application.rows("retrycli_attempts").values()
        same = ("birth", "digest", "delivery_key", "deliveries", "ticket", "message_type")
        assert [stated[each] for each in same] == [third[each] for each in same]
        assert (stated["number"], stated["made_by"], stated["pass_id"]) == (4, "anna", None)
        assert (stated["outcome"], stated["error"]) == ("delivered", "stated by an operator")
        assert stated["finished_at"] is not None
        [act] = story.application.rows("retrycli_acts").values()
        assert (act["by"], act["act"], act["detail"]) == ("anna", "marked_sent", "seen in ticket 4711")


def test_a_marked_text_is_sent_again_only_by_an_operator_and_with_the_next_key(begin: Begin) -> None:
    """The application sets the row to failed again, twice. Its new text is sent."""
    with begin(LOST, LOST, LOST, OK) as story:
        story.insert()
        story.ticks(3)
        story.operator(*MARK, "1")
        for times in (1, 2):
            story.write(status="failed", last_error=f"failed for the {times}. time")
            story.ticks(2)
            story.check_already_delivered()
            assert len(story.api.requests) == 3
            story.operator(*MARK, "1")
            assert story.status() == "sent"
        story.write(status="failed", last_error="HTTP 502")
        story.operator("retry", "1", "--yes")
        assert (story.status(), len(set(story.api.keys))) == ("sent", 2)
        story.write(status="failed", body="b", last_error="HTTP 500")
        story.tick()
        assert (story.status(), story.api.bodies) == ("sent", ["a"] * 4 + ["b"])
        assert story.api.keys[4] not in story.api.keys[:4]


def test_statistics_count_a_marked_delivery(at_work: Cli, application: Application) -> None:
    """A marked delivery has no duration and no destination, which all reports must tolerate."""
    application.add(5)
    assert at_work(*MARK, "5").returncode == 0
    shown = at_work.show_all(piped=["stats", "metrics", "status --json", "show 5", "run-once", "report --html -"])
    assert {name: (result.returncode, result.stderr) for name, result in shown.piped.items()} == dict.fromkeys(
        shown.piped, (0, "")
    )


def test_marks_a_message_that_no_pass_has_seen(begin: Begin) -> None:
    """The row contains everything that the record of the delivery needs."""
    with begin() as story:
        story.insert()
        story.operator(*MARK, "1")
        assert story.status() == "sent"
        story.write(status="failed", last_error="HTTP 502")
        story.ticks(2)
        story.check_already_delivered()
        assert story.api.requests == []


def test_marks_a_waiting_message(begin: Begin) -> None:
    with begin(REFUSED) as story:
        story.insert()
        story.tick()
        assert story.queued()["state"] == "waiting"
        story.operator(*MARK, "1")
        story.tick()
        assert (story.status(), len(story.api.requests)) == ("sent", 1)


def test_marks_an_invalid_message(at_work: Cli, application: Application) -> None:
    application.add(9, body=None)
    assert facts(at_work(*MARK, "9")) == {"marked_sent": 1, "refused": 0, "left": 0}
    assert application.row(9)["status"] == "sent"
    assert acts(application) == [(9, "anna", "marked_sent")]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_does_not_mark_a_message_that_is_being_sent(cli: Cli, application: Application) -> None:
    application.add(101)
    with held_back() as (sandbox, gate):
        at_work = cli.having(application.variables(sandbox.url))
        process = at_work.start("run-once")
        assert gate.reached.wait(60)
        named = at_work(*MARK, "101")
        found = at_work(*MARK, "--type", "customer")
        gate.opened.set()
        assert end(process).returncode == 0
    assert named.returncode == 4
    assert named.stderr.startswith("retrycli: message 101 is being sent now (")
    assert (found.returncode, facts(found)) == (4, {"marked_sent": 0, "refused": 1, "left": 0})
    assert acts(application) == []


def test_marks_a_new_text_only_after_a_pass_has_reported_it(begin: Begin) -> None:
    """The list says that the message may have arrived, but the application has written another text since."""
    with begin(LOST) as story:
        story.insert()
        story.ticks(3)
        story.check_escalated("unknown")
        story.write(body="b")
        done = story.command(*MARK, "1")
        assert (done.returncode, facts(done)) == (4, {"marked_sent": 0, "refused": 1, "left": 0})
        assert "an earlier text may have arrived, but the text that is now in its row was not sent" in done.stderr
        story.operator("run-once")
        story.operator(*MARK, "1")
        assert story.status() == "sent"


def test_a_row_that_refuses_changes_is_named_and_not_sent_again(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    """The other messages are marked. The named message can be marked when its table accepts changes again."""
    first, closed, *others = application.add_due(4)
    refuse(application, closed)
    done = at_work(*MARK, *map(str, (first, closed, *others)))
    assert (done.returncode, facts(done)) == (4, {"marked_sent": 3, "refused": 1, "left": 0})
    assert f"message {closed} is recorded as delivered, and no pass will send it" in done.stderr
    assert "ticket 12 is closed" in done.stderr
    assert {row["status"] for message_id, row in application.rows().items() if message_id != closed} == {"sent"}
    assert application.state(closed) == "escalated"
    application.execute("DROP TRIGGER closed" + ("" if application.is_sqlite else " ON pending_messages"))
    application.execute("UPDATE pending_messages SET last_error = 'HTTP 502', retry_count = 1 WHERE status = 'failed'")
    assert at_work.json("run-once")["sent"] == 0
    assert sandbox.received == ()
    assert at_work(*MARK, str(closed)).returncode == 0
    assert application.row(closed)["status"] == "sent"


# -- choosing and confirming -------------------------------------------------------------------------------------------


def test_is_public_in_python(application: Application) -> None:
    application.add_due(2)
    settings = application.settings("http://127.0.0.1:9")
    done = retrycli.mark_sent(settings, [101, 404], note="by telephone", by="anna")
    assert (done.done, [*done.refused]) == (1, [404])
    assert application.row(101)["status"] == "sent"
    with pytest.raises(retrycli.RetrycliError):
        raise done.refused[404]


# -- what operators are advised ----------------------------------------------------------------------------------------


def test_advises_to_investigate_a_message_that_may_have_arrived_before_resending(begin: Begin) -> None:
    """A second send could deliver the message twice. The preset has no look-up, so none is proposed."""
    with begin(LOST) as story:
        for message_id in (1, 2):
            story.insert(message_id)
        story.insert(3, body=None)
        story.ticks(3)
        doubtful = ("list-failed", "--state", "may_have_arrived", "--sort", "id")
        assert [each["id"] for each in story.command.json(*doubtful)["messages"]] == [1, 2]
        shown = story.command.on_terminal("show", "1").words
        assert "Next: check the ticket, then `retrycli mark-sent 1` if the message arrived" in shown
        assert "Next: check the ticket, then" in story.command.on_terminal("explain", "1").words
        listed = story.command.on_terminal("escalations").words
        assert "may have arrived. Check the tickets: if all messages arrived" in listed
        assert "if all messages arrived, `retrycli mark-sent --fingerprint" in listed
        story.operator(*MARK, "2")
        assert "Next: check the ticket, then" in story.command.on_terminal("escalations").words


def test_advises_to_investigate_delivered_messages_before_resending(begin: Begin) -> None:
    with begin() as story:
        for message_id in (1, 2):
            story.insert(message_id)
        story.tick()
        for message_id in (1, 2):
            story.write(message_id, status="failed", last_error="HTTP 502")
        story.tick()
        listed = story.command.on_terminal("escalations").words
        assert "Check the tickets: `retrycli mark-sent --fingerprint" in listed
        assert "When the cause is fixed" not in listed
        story.operator(*MARK, "2")
        assert "Next: retrycli show 1" in story.command.on_terminal("escalations").words
