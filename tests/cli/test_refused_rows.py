"""A row whose table refuses changes does not stop other rows from being enrolled, sent and recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from retrycli.operations import run_pass, wiring
from tests.cli.api import held_back
from tests.conftest import on_both

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application
    from tests.cli.command import Cli, Finished

pytestmark = on_both

MESSAGES = 10
CLOSED = "ticket 12 is closed"


def refuse(application: Application, message_id: object) -> None:
    """Create a trigger of the application that refuses every change of a message."""
    refuse_rows(application, f"= {message_id}")


def refuse_rows(application: Application, which: str) -> None:
    """Create a trigger of the application that refuses every change of the rows whose ids match."""
    if application.is_sqlite:
        application.execute(
            f"CREATE TRIGGER closed BEFORE UPDATE ON pending_messages WHEN OLD.id {which} "
            f"BEGIN SELECT RAISE(ABORT, '{CLOSED}'); END"
        )
        return
    application.execute(
        f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{CLOSED}'; END $$"
    )
    application.execute(
        "CREATE TRIGGER closed BEFORE UPDATE ON pending_messages FOR EACH ROW "
        f"WHEN (OLD.id {which}) EXECUTE FUNCTION refuse()"
    )


def allow(application: Application) -> None:
    """Drop the trigger, so that all changes succeed."""
    application.execute("DROP TRIGGER closed" + ("" if application.is_sqlite else " ON pending_messages"))


def check_handed_over(application: Application, sandbox: Sandbox, message_id: object, others: Sequence[object]) -> None:
    """Check that the message is escalated with its row unchanged, and that each other message was sent once."""
    rows = application.rows()
    assert {rows[each]["status"] for each in others} == {"sent"}
    assert (rows[message_id]["status"], rows[message_id]["last_error"]) == ("failed", "HTTP 503")
    [own] = application.rows("retrycli_queue").values()
    assert (own["message_id"], own["state"], own["escalation_reason"]) == (message_id, "escalated", "invalid")
    assert {request.times for request in sandbox.received} == {1}


def check_told(done: Finished, message_id: object) -> None:
    """Check that the pass did not fail, and that its log names the message and the cause."""
    assert done.returncode == 0, done.stderr
    told, metric = done.stderr.splitlines()
    assert f"Message {message_id} needs an operator (invalid: " in told
    assert CLOSED in told
    assert "METRIC: message_escalated" in metric


def test_a_message_whose_row_refuses_changes_is_sent_once_and_escalated(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    """The history shows the delivery, so that no operator sends the message again."""
    first, closed, *others = application.add_due(MESSAGES)
    refuse(application, closed)
    check_told(at_work("run-once"), closed)
    check_handed_over(application, sandbox, closed, [first, *others])
    [attempt] = at_work.json("show", str(closed))["attempts"]
    assert attempt["outcome"] == "delivered"
    assert CLOSED in attempt["error"]
    assert at_work.json("run-once")["sent"] == 0
    [escalated] = at_work.json("list-failed")["messages"]
    assert (escalated["state"], escalated["may_have_arrived"]) == ("escalated", True)
    for told in (("show", str(closed)), ("explain", str(closed)), ("escalations",)):
        assert "Next: check the ticket, then `retrycli mark-sent" in at_work.on_terminal(*told).words
    allow(application)
    again = at_work("retry", str(closed))
    assert (again.returncode, "would then be sent twice" in again.stderr) == (4, True)
    assert len(sandbox.received) == MESSAGES


def test_a_delivered_message_that_can_not_be_marked_as_sent_says_so_in_its_row(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    """Otherwise an operator would requeue it with others, and it would be sent again."""
    first, closed, *_ = application.add_due(3)
    refuse_rows(application, f"= {closed} AND NEW.status = 'sent'")
    check_told(at_work("run-once"), closed)
    said = f"Delivered, but its row could not be marked as sent: {CLOSED}"
    row = application.row(closed)
    assert (row["status"], row["last_error"], row["retry_count"]) == ("failed", said, 0)
    [escalated] = at_work.json("escalations")["escalations"]
    assert (escalated["id"], escalated["last_error"]) == (closed, said)
    assert said in at_work("escalations").stdout
    for _ in range(2):
        assert at_work.json("run-once")["sent"] == 0
    assert (len(sandbox.received), application.row(first)["status"]) == (3, "sent")


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("position", [0, 1, -1])
def test_a_row_whose_trigger_fails_as_a_server_does_is_escalated_alone(
    at_work: Cli, application: Application, sandbox: Sandbox, position: int
) -> None:
    """Neither the change nor the error that says so may cost the other messages their results, whether other results
    are written at the same time or not.
    """
    others = [*application.add_due(MESSAGES)]
    broken = others.pop(position)
    application.execute(
        "CREATE FUNCTION export() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN COPY (SELECT 1) TO '/nonexistent/file'; RETURN NEW; END $$"
    )
    application.execute(
        "CREATE TRIGGER export BEFORE UPDATE ON pending_messages FOR EACH ROW "
        f"WHEN (OLD.id = {broken}) EXECUTE FUNCTION export()"
    )
    for limit in ("1", "1000"):
        done = at_work("run-once", "--limit", limit)
        assert done.returncode == 0, done.stderr
    check_handed_over(application, sandbox, broken, others)


def test_an_exhausted_message_whose_row_refuses_changes_is_sent_once(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    """A pass finds the exhausted message in the same batch as other messages."""
    application.add_due(MESSAGES)
    assert at_work.json("run-once", "--limit", "1")["sent"] == 1
    *others, closed = (message_id for message_id, row in application.rows().items() if row["status"] == "failed")
    application.execute(f"UPDATE pending_messages SET retry_count = 10 WHERE id = {closed}")
    refuse(application, closed)
    check_told(at_work("run-once"), closed)
    check_handed_over(application, sandbox, closed, others)


@pytest.mark.parametrize("body", [None, "It is attached."], ids=["invalid", "valid"])
def test_the_pass_that_first_finds_the_row_still_enrols_and_sends_others(
    at_work: Cli, application: Application, sandbox: Sandbox, body: str | None
) -> None:
    """Before it sends, a pass tries to write the last message's row, and tries others if that row refuses changes."""
    closed = application.add(201, body=body)
    others = application.add_due(MESSAGES)
    refuse(application, closed)
    done = at_work("run-once")
    check_told(done, closed)
    assert ("body is missing" in done.stderr) is (body is None)
    check_handed_over(application, sandbox, closed, others)


def check_a_later_pass_sends_others(
    cli: Cli, application: Application, close: Callable[[Application, int], None]
) -> None:
    """Check that a later pass escalates a killed pass's message, whose row refuses changes, and sends the others."""
    [closed] = application.add_due(1)
    with held_back() as (api, gate):
        process = cli.having(application.variables(api.url)).start("run-once")
        assert gate.reached.wait(60)
        process.kill()
        process.communicate()
        close(application, closed)
        others = application.add_due(MESSAGES, first=201)
        gate.opened.set()
        later = replace(wiring.DEFAULT_RUNTIME, now=lambda: wiring.utc_now() + timedelta(hours=1))
        summary = run_pass.run_once(application.settings(api.url), runtime=later)
        assert (summary.result, summary.sent, summary.escalated) == ("completed", MESSAGES, 1)
        check_handed_over(application, api, closed, others)


def test_a_row_that_refuses_changes_and_whose_pass_died_does_not_stop_later_passes(
    cli: Cli, application: Application
) -> None:
    check_a_later_pass_sends_others(cli, application, refuse)


@pytest.mark.parametrize("number", [1, MESSAGES])
def test_a_table_that_refuses_all_changes_is_reported_before_anything_is_sent(
    at_work: Cli, application: Application, sandbox: Sandbox, number: int
) -> None:
    application.add_due(number)
    application.execute(
        "CREATE TRIGGER closed BEFORE UPDATE ON pending_messages BEGIN SELECT RAISE(ABORT, 'never'); END"
        if application.is_sqlite
        else "ALTER TABLE pending_messages ADD CONSTRAINT never CHECK (status = 'failed')"
    )
    done = at_work("run-once")
    assert (done.returncode, sandbox.received) == (78, ())
    assert "rejects the changes that record a result" in done.stderr
    assert {queued["state"] for queued in application.rows("retrycli_queue").values()} == {"waiting"}
