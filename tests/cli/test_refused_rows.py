"""A row of which the application's table takes no change keeps no other from being taken in, sent and written down."""

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
    """Have a trigger of the application's refuse every change of a message."""
    refuse_rows(application, f"= {message_id}")


def refuse_rows(application: Application, which: str) -> None:
    """Have a trigger of the application's refuse every change of some rows, by their ids."""
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
    """Have the trigger refuse no change any more."""
    application.execute("DROP TRIGGER closed" + ("" if application.is_sqlite else " ON pending_messages"))


def check_handed_over(application: Application, sandbox: Sandbox, message_id: object, others: Sequence[object]) -> None:
    """It is in a person's hands and as it was; each other was sent, once."""
    rows = application.rows()
    assert {rows[each]["status"] for each in others} == {"sent"}
    assert (rows[message_id]["status"], rows[message_id]["last_error"]) == ("failed", "HTTP 503")
    [own] = application.rows("retrycli_queue").values()
    assert (own["message_id"], own["state"], own["escalation_reason"]) == (message_id, "escalated", "invalid")
    assert {each.times for each in sandbox.received} == {1}


def check_told(done: Finished, message_id: object) -> None:
    """The pass is none that failed, and its log names the message and what is in the way."""
    assert done.returncode == 0, done.stderr
    told, metric = done.stderr.splitlines()
    assert f"Message {message_id} needs an operator (invalid: " in told
    assert CLOSED in told
    assert "METRIC: message_escalated" in metric


def test_it_is_sent_once_and_a_person_is_told(at_work: Cli, application: Application, sandbox: Sandbox) -> None:
    """What came of the attempt is in the history, so that nobody has to guess."""
    first, closed, *others = application.add_due(MESSAGES)
    refuse(application, closed)
    check_told(at_work("run-once"), closed)
    check_handed_over(application, sandbox, closed, [first, *others])
    [attempt] = at_work.json("show", str(closed))["attempts"]
    assert attempt["outcome"] == "delivered"
    assert CLOSED in attempt["error"]
    assert at_work.json("run-once")["sent"] == 0
    assert len(sandbox.received) == MESSAGES


def test_what_begins_in_the_transaction_that_it_undoes_is_sent_once(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    """Its tries are used up when its turn comes, which is together with the turn of others."""
    application.add_due(MESSAGES)
    assert at_work.json("run-once", "--limit", "1")["sent"] == 1
    *others, closed = (each for each, row in application.rows().items() if row["status"] == "failed")
    application.execute(f"UPDATE pending_messages SET retry_count = 10 WHERE id = {closed}")
    refuse(application, closed)
    check_told(at_work("run-once"), closed)
    check_handed_over(application, sandbox, closed, others)


def test_what_can_not_be_sent_keeps_no_other_from_being_taken_in(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    closed = application.add(1, body=None)
    others = application.add_due(MESSAGES)
    refuse(application, closed)
    done = at_work("run-once")
    check_told(done, closed)
    assert "body is missing" in done.stderr
    check_handed_over(application, sandbox, closed, others)


def check_a_later_pass_sends_others(
    cli: Cli, application: Application, close: Callable[[Application, int], None]
) -> None:
    """Kill a pass that sends a message, close its row, and check that a later pass escalates it and sends others."""
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


def test_one_that_was_being_sent_when_its_pass_died_keeps_no_later_pass_from_its_work(
    cli: Cli, application: Application
) -> None:
    check_a_later_pass_sends_others(cli, application, refuse)


def test_the_pass_before_it_that_finds_the_row_sends_all_the_same(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    """What is tried out before anything is sent is tried with another message where one takes no change."""
    *others, closed = application.add_due(MESSAGES)
    refuse(application, closed)
    check_told(at_work("run-once"), closed)
    check_handed_over(application, sandbox, closed, others)


@pytest.mark.parametrize("number", [1, MESSAGES])
def test_a_table_that_takes_no_change_at_all_is_told_before_anything_is_sent(
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
    assert "rejects results of messages" in done.stderr
    assert {each["state"] for each in application.rows("retrycli_queue").values()} == {"waiting"}
