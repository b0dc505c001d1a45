"""Sequences of changes by applications, passes and operators that broke earlier rules for message identity."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from tests.channels import webhook
from tests.cli.story import LOST, OK, OTHER_TICKET, PERMANENT, REFUSED, TICKET
from tests.cli.test_refused_rows import allow, refuse
from tests.conftest import on_both

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrycli.operations.sandbox import Answer
    from tests.cli.story import Begin, Story

pytestmark = on_both

NO_DATE = ("created_at",)
DATED = pytest.mark.parametrize("without", [(), NO_DATE], ids=["dated", "undated"])
DAYS = timedelta(days=10)
RETENTION_DAYS = 1
UNKNOWN_LIMIT = 2
TICK = timedelta(minutes=15)


@contextmanager
def row_held(story: Story) -> Iterator[None]:
    """Prevent changes to row 1: by a row lock on PostgreSQL, and by a trigger on SQLite, which has no row locks."""
    if story.application.is_sqlite:
        refuse(story.application, 1)
        yield
        allow(story.application)
    else:
        with story.application.in_transaction("SELECT * FROM pending_messages WHERE id = 1 FOR UPDATE"):
            yield


# -- backups and moves -----------------------------------------------------------------------------------------------


def test_insert_snapshot_refused_delivered_restore(begin: Begin) -> None:
    """A pass does not send the message again after the restore of a backup from before its delivery."""
    with begin(REFUSED, OK) as story:
        story.insert()
        backup = story.snapshot()
        story.ticks(2)
        assert story.status() == "sent"
        story.tick()
        story.restore(backup)
        story.ticks(3)
        assert len(story.api.requests) == 2
        story.check_already_delivered()


def test_insert_in_flight_edit_delivered_edit_back(begin: Begin) -> None:
    with begin(OK) as story:
        story.insert(body="a")
        story.api.meanwhile[1] = lambda: story.write(body="b")
        story.tick()
        story.tick()
        story.write(body="a")
        story.ticks(3)
        assert story.api.bodies == ["a"]
        story.check_already_delivered()


@DATED
def test_insert_row_locked_delivered_unlocked_move(begin: Begin, without: tuple[str, ...]) -> None:
    """The answer is kept although the row can't be written, so the moved row is not sent again."""
    with begin(OK, without=without) as story:
        story.insert()
        story.be_impatient()
        story.insert(2, body="another")
        with row_held(story):
            story.tick(timedelta(0))
        assert story.outcomes() == ["delivered"]
        story.tick()
        story.write(ticket_id=OTHER_TICKET)
        story.ticks(3)
        assert sorted(story.api.bodies) == ["a", "another"]
        assert story.status() == "sent" or story.queued()["state"] == "escalated"


# -- texts that come and go ------------------------------------------------------------------------------------------


def test_insert_no_answer_edit_delivered_edit_back_fail(begin: Begin) -> None:
    """The unanswered attempt of the first text still counts: the text keeps its key and its unknown outcome."""
    with begin(LOST, OK, LOST) as story:
        story.insert(body="a")
        story.tick()
        story.write(body="b")
        story.tick()
        assert story.status() == "sent"
        story.tick()
        story.write(body="a", status="failed", last_error="HTTP 504")
        story.ticks(5)
        story.check_escalated("unknown")
        of_a = [request.key for request in story.api.requests if request.body == "a"]
        assert (len(of_a), len(set(of_a))) == (1 + UNKNOWN_LIMIT, 1)
        story.check_keys()


def test_delivered_fail_requeue_delivered_fail_prune(begin: Begin) -> None:
    """No key is used for two deliveries, although the earlier attempts are pruned."""
    with begin(OK) as story:
        story.set("run", retention_days=RETENTION_DAYS)
        story.insert()
        story.tick()
        for number in range(2, 5):
            story.tick()
            story.write(status="failed", last_error=f"failed for the {number}. time")
            story.tick(DAYS)
            story.check_already_delivered()
            story.tick(DAYS)
            story.operator("requeue", "1")
            story.tick()
            assert (story.status(), len(story.api.requests)) == ("sent", number)
        story.check_keys()


def test_unanswered_attempts_survive_withdrawal_and_pruning(begin: Begin) -> None:
    with begin(LOST) as story:
        story.set("run", retention_days=RETENTION_DAYS)
        story.insert()
        for number in range(5):
            story.tick(DAYS)
            story.write(status="approved")
            story.tick(DAYS)
            story.write(status="failed", last_error=f"failed for the {number}. time")
        story.ticks(2)
        assert len(story.api.requests) == 1 + UNKNOWN_LIMIT
        assert len(set(story.api.keys)) == 1
        story.check_escalated("unknown")


# -- another ticket --------------------------------------------------------------------------------------------------


@DATED
def test_insert_in_flight_delete_insert_same_text_for_another_ticket_delivered(
    begin: Begin, without: tuple[str, ...]
) -> None:
    """Only the ticket distinguishes the two messages, so the second one waits for an operator's decision."""
    with begin(OK, without=without) as story:
        story.insert()
        story.api.meanwhile[1] = lambda: story.replace(ticket_id=OTHER_TICKET)
        story.tick()
        story.check_escalated("changed")
        story.ticks(2)
        story.check_escalated("changed")
        assert len(story.api.requests) == 1
        assert story.outcomes() == ["delivered"]


@DATED
def test_no_answer_move(begin: Begin, without: tuple[str, ...]) -> None:
    """The row may be a new message. If it is the same, an API that files messages by ticket would get a second copy."""
    with begin(LOST, OK, without=without) as story:
        story.insert()
        story.tick()
        story.write(ticket_id=OTHER_TICKET)
        story.ticks(3)
        assert len(story.api.requests) == 1
        story.check_escalated("changed")


THIRD_TICKET = 4713


def fail_again(story: Story) -> None:
    """Make the application withdraw the message, and fail it again after a pass."""
    story.write(status="approved")
    story.tick()
    story.write(status="failed", last_error="HTTP 502")


AGAIN: dict[str, Callable[[Story], None]] = {
    "a new error": lambda story: story.write(last_error="HTTP 502"),
    "fails again": fail_again,
    "moves back": lambda story: story.write(ticket_id=TICKET),
    "moves on": lambda story: story.write(ticket_id=THIRD_TICKET),
}
"""Changes by the application to a message that was moved in flight. None of them changes the text."""


@DATED
@pytest.mark.parametrize("again", AGAIN.values(), ids=AGAIN)
def test_a_message_moved_in_flight_and_delivered_stays_escalated(
    begin: Begin, without: tuple[str, ...], again: Callable[[Story], None]
) -> None:
    """Only an operator, or another text, ends the escalation."""
    with begin(OK, without=without) as story:
        check_moved_in_flight_stays_escalated(story, again)
        story.operator("requeue", "1")
        story.tick()
        assert story.status() == "sent"
        story.check_keys()


@DATED
def test_insert_in_flight_move_no_answer_stays_escalated(begin: Begin, without: tuple[str, ...]) -> None:
    with begin(LOST, OK, without=without) as story:
        check_moved_in_flight_stays_escalated(story, AGAIN["moves on"])


def check_moved_in_flight_stays_escalated(story: Story, again: Callable[[Story], None]) -> None:
    """Check that a message which moves to another ticket during its request is not sent again after a change."""
    story.insert()
    story.api.meanwhile[1] = lambda: story.write(ticket_id=OTHER_TICKET)
    story.tick()
    story.ticks(2)
    story.check_escalated("changed")
    again(story)
    story.ticks(3)
    assert len(story.api.requests) == 1
    story.check_escalated("changed")


@DATED
def test_insert_in_flight_move_delivered_edit(begin: Begin, without: tuple[str, ...]) -> None:
    """With another text the row is a new message, which is sent to the other ticket."""
    with begin(OK, without=without) as story:
        story.insert()
        story.api.meanwhile[1] = lambda: story.write(ticket_id=OTHER_TICKET)
        story.tick()
        story.write(body="b")
        story.ticks(2)
        assert [(request.ticket, request.body) for request in story.api.requests] == [("4711", "a"), ("4712", "b")]
        assert story.status() == "sent"


def test_a_message_moved_in_flight_causes_one_notification(begin: Begin) -> None:
    with begin(OK, without=NO_DATE) as story, webhook() as hook:
        story.set("notify", urls=(SecretStr(hook.slack_shaped),))
        story.insert()
        story.api.meanwhile[1] = lambda: story.write(ticket_id=OTHER_TICKET)
        story.tick()
        for number in range(4):
            story.tick()
            story.write(last_error=f"failed for the {number}. time")
        fail_again(story)
        story.ticks(2)
        assert len([text for text in hook.texts if "1 × Changed" in text or "1 × Not sent" in text]) == 1


def test_an_id_reused_for_the_same_text_after_an_operator_closed_it(begin: Begin) -> None:
    """The delivered text is marked as sent, so a new row is a new message, for any ticket and with its own key."""
    with begin(OK, without=NO_DATE) as story:
        story.insert()
        story.api.meanwhile[1] = lambda: story.write(ticket_id=OTHER_TICKET)
        story.tick()
        story.operator("mark-sent", "1", "--yes")
        for ticket in (THIRD_TICKET, TICKET):
            story.tick()
            story.replace(ticket_id=ticket)
            story.tick()
            assert story.status() == "sent"
        assert [request.ticket for request in story.api.requests] == ["4711", "4713", "4711"]
        story.check_keys()


def test_insert_in_flight_approve_delivered_move_fail_without_creation_times(begin: Begin) -> None:
    """The row was never marked as sent, so the moved row may still be the delivered message."""
    with begin(OK, without=NO_DATE) as story:
        story.insert()
        story.api.meanwhile[1] = lambda: story.write(status="approved")
        story.tick()
        story.write(ticket_id=OTHER_TICKET)
        story.write(status="failed", last_error="HTTP 502")
        story.ticks(3)
        assert len(story.api.requests) == 1
        story.check_escalated("changed")


def test_a_delivery_that_its_row_refused_is_recognised_when_the_row_moves(begin: Begin) -> None:
    with begin(OK, without=NO_DATE) as story:
        story.insert()
        story.insert(2, ticket_id=THIRD_TICKET)
        refuse(story.application, 1)
        story.tick()
        story.check_escalated("invalid")
        allow(story.application)
        story.write(ticket_id=OTHER_TICKET)
        story.ticks(3)
        assert len(story.api.requests) == 2
        story.check_escalated("changed")


# -- an application that retries by itself ---------------------------------------------------------------------------


WRITES = {"a new error": "last_error", "a count of 0": "retry_count"}


@pytest.mark.parametrize("column", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("answer", [REFUSED, PERMANENT], ids=["refused", "permanent"])
def test_the_application_writes_at_every_tick(begin: Begin, column: str, answer: Answer) -> None:
    """The message finally stays escalated, whatever the application writes.

    A permanent error may turn into exhausted retries, which is a second reason and a second notification.
    """
    max_retries = 3
    with begin(answer) as story, webhook() as hook:
        story.set("notify", urls=(SecretStr(hook.slack_shaped),))
        story.set("schedule", max_retries=max_retries)
        story.insert()
        for number in range(40):
            story.tick(TICK)
            story.write(**{column: f"failed for the {number}. time" if column == "last_error" else 0})
        assert len(story.api.requests) <= 3 * max_retries
        reason = str(story.queued()["escalation_reason"])
        assert reason in ({"exhausted"} if answer is REFUSED else {"permanent", "exhausted"})
        story.check_escalated(reason)
        assert len(hook.texts) == len({"exhausted" if answer is REFUSED else "permanent", reason})
        story.operator("requeue", "1")
        made = len(story.api.requests)
        story.tick()
        assert len(story.api.requests) == made + 1, "`requeue` gives all attempts back"
