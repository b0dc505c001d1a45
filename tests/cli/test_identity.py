"""The identity of a message is more than its id: ids may be reused, and rows may be rewritten or fail again."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from retrycli.operations import wiring
from tests.cli.story import LATER, LOST, MADE, OK, OTHER_TICKET, PERMANENT, REFUSED, TICKET
from tests.conftest import on_both, on_sqlite
from tests.gateway.deliveries import gateway_settings, preset_file
from tests.gateway.mail_server import MailServer
from tests.gateway.mails import mail_settings
from tests.gateway.senders import sender

if TYPE_CHECKING:
    from pathlib import Path

    from retrycli.operations.sandbox import Answer
    from tests.cli.story import Begin, Story

pytestmark = on_both

NO_DATE = ("created_at",)
BUSY: Answer = (503, {})
DAY = timedelta(days=1)
SEEN = pytest.mark.parametrize("seen", [False, True], ids=["between two passes", "seen by a pass"])
"""Run a test without and with a pass between two actions of the application; the outcome must be the same."""


# -- a row that fails again after it was sent ------------------------------------------------------------------------


@SEEN
@pytest.mark.parametrize("without", [(), ("updated_at",)], ids=["dated", "undated"])
def test_a_new_text_in_a_sent_row_gets_a_new_key(begin: Begin, without: tuple[str, ...], *, seen: bool) -> None:
    with begin(without=without) as story:
        story.insert(body="a")
        story.tick()
        story.write(status="approved", body="b")
        story.ticks(seen)
        story.write(status="failed", last_error="HTTP 502")
        story.tick()
        assert story.status() == "sent"
        assert [request.content["body"] for request in story.api.received] == ["a", "b"]
        story.check_keys()


@pytest.mark.parametrize("command", ["requeue", "retry --yes"])
def test_an_operator_can_send_a_delivered_text_again_with_the_next_key(begin: Begin, command: str) -> None:
    with begin() as story:
        story.insert()
        story.tick()
        for times in (2, 3):
            story.write(status="failed", last_error=f"failed for the {times}. time")
            story.tick()
            story.operator(*command.split(), "1")
            story.tick()
            assert story.status() == "sent"
            assert len(story.api.requests) == times
        story.check_keys()


CHANGES: dict[str, tuple[dict[str, object], str]] = {
    "ticket": ({"ticket_id": OTHER_TICKET}, f"this text may have arrived under ticket {TICKET}"),
    "recipient": ({"recipient_email": "max@example.org"}, "may have arrived with the recipients that it had before"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_requeue_allows_nothing_of_what_the_message_becomes_later(begin: Begin, change: str) -> None:
    columns, why = CHANGES[change]
    with begin(LOST, OK) as story:
        story.set("schedule", max_retries=1)
        story.insert()
        story.ticks(2)
        story.check_escalated("exhausted")
        story.operator("requeue", "1")
        story.write(**columns)
        story.ticks(2)
        story.check_escalated("changed")
        assert why in str(story.application.row(1)["last_error"])
        assert len(story.api.requests) == 1
        story.operator("requeue", "1")  # of what the message is now
        story.tick()
        assert (story.status(), len(story.api.requests)) == ("sent", 2)


@on_sqlite
def test_advice_concerns_the_text_in_the_row_and_the_ticket_of_the_attempt(begin: Begin) -> None:
    with begin(LOST) as story:
        story.insert()
        story.tick()
        assert "mark-sent 1" in story.command.on_terminal("explain", "1").words
        story.write(ticket_id=OTHER_TICKET)
        assert f"Check ticket {TICKET}: " in story.command("retry", "1").stderr
        story.write(body="b")
        assert "mark-sent" not in story.command.on_terminal("explain", "1").words


def test_a_requeue_of_another_text_does_not_allow_to_repeat_a_delivered_one(begin: Begin) -> None:
    with begin(OK, PERMANENT, OK) as story:
        story.insert(body="a")
        story.tick()
        story.write(status="failed", body="b")
        story.tick()
        story.operator("requeue", "1")
        story.write(body="a")
        story.ticks(2)
        story.check_already_delivered()
        assert story.api.bodies == ["a", "b"]


@pytest.mark.parametrize("kind", ["http", "python"])
def test_a_mail_that_some_recipients_have_goes_to_all_of_them_only_if_an_operator_says_so(
    begin: Begin, tmp_path: Path, kind: str
) -> None:
    """Only the SMTP gateway can leave out recipients. Another gateway is configured after the first attempt."""
    sent = tmp_path / "sent"
    note = f"from pathlib import Path\ndef send(message):\n    Path('{sent}').write_text(message.body)"
    with begin() as story, MailServer(RCPT={"ben@example.com": "450 4.2.1 busy"}) as server:
        gateway = story.settings.gateway
        if kind == "python":
            gateway = type(gateway)(**sender(tmp_path, note).model_dump(exclude_unset=True))
        story.settings = story.settings.model_copy(update={"gateway": mail_settings(server.url)})
        story.insert(cc_emails='["ben@example.com"]')
        story.tick()
        assert [mail.recipients for mail in server.mails] == [("ana@example.com",)]
        story.settings = story.settings.model_copy(update={"gateway": gateway})
        if kind == "http":  # the message still waits, so nobody has been told
            assert "retrycli retry 1 --yes" in story.command("retry", "1").stderr
        story.tick()
        story.check_escalated("changed")
        assert "some recipients already have this text" in str(story.application.row(1)["last_error"])
        assert (story.api.requests, sent.exists()) == ([], False)
        story.operator("requeue", "1")
        story.tick()
        assert story.status() == "sent"
        assert len(story.api.requests) + sent.exists() == 1


NOT_INTERNAL = (201, {"internal": False})


def ask_for_confirmation(story: Story, folder: Path) -> None:
    """Use a preset by which an answer must confirm that the message is internal."""
    confirming = """
        [messages.customer]
        path = "/tickets/{ticket_id}/messages"
        body = { body = "{body}" }
        confirmed = { path = "internal", equals = true }
    """
    gateway = gateway_settings(story.api.url, preset=preset_file(folder, confirming))
    story.settings = story.settings.model_copy(update={"gateway": gateway})


@pytest.mark.parametrize("change", ["a new count", "another status between"])
@pytest.mark.parametrize("body", ["Hello", "I was told that the message arrived, but I can't see it"])
def test_a_text_that_arrived_but_not_as_intended_is_not_sent_again(
    begin: Begin, tmp_path: Path, change: str, body: str
) -> None:
    """The preset's condition for confirmed answers says, for example, that a note became public."""
    with begin(NOT_INTERNAL) as story:
        ask_for_confirmation(story, tmp_path)
        story.insert(body=body)
        story.tick()
        story.check_escalated("permanent")
        assert "the message arrived, but according to the response" in str(story.application.row(1)["last_error"])
        if change == "a new count":
            story.write(retry_count=1)
        else:
            story.write(status="approved")
            story.tick()
            story.write(status="failed")
        story.ticks(2)
        story.check_already_delivered()
        assert len(story.api.requests) == 1


@pytest.mark.parametrize("by", ["application", "operator"])
def test_a_text_that_may_have_arrived_is_not_sent_again_because_its_recipient_was_corrected(
    begin: Begin, by: str
) -> None:
    """The reply may be in the ticket. Only an operator can see whether the new recipient still needs it."""
    with begin(LOST, OK) as story:
        story.insert(recipient_email="max@exampel.org")
        story.tick()
        if by == "application":
            story.write(recipient_email="max@example.org")
        else:
            story.command("edit", "1", "--recipient", "max@example.org", "--yes")
        if by == "operator":  # nobody has been told yet
            assert "may have arrived" in story.command("retry", "1").stderr
        story.ticks(2)
        story.check_escalated("changed")
        assert "may have arrived with the recipients that it had before" in str(story.application.row(1)["last_error"])
        assert len(story.api.requests) == 1
        story.operator("requeue", "1")
        story.tick()
        assert (story.status(), len(story.api.requests)) == ("sent", 2)


def test_an_operators_decision_outlives_its_history_while_the_message_waits(begin: Begin) -> None:
    with begin(OK, BUSY, BUSY, OK) as story:
        story.set("run", retention_days=1)
        story.insert()
        story.tick()
        story.write(status="failed", last_error="HTTP 502")
        story.tick()
        story.operator("requeue", "1")
        for _ in range(3):
            story.tick(2 * DAY)
        assert story.status() == "sent"
        story.check_keys()


@SEEN
@pytest.mark.parametrize("retries", [0, 9, 10])
def test_a_text_that_was_delivered_is_escalated_as_such_when_its_row_fails_again(
    begin: Begin, retries: int, *, seen: bool
) -> None:
    """As exhausted, an operator would send it again without a word about its delivery."""
    with begin() as story:
        story.insert()
        story.tick()
        story.write(status="approved")
        story.ticks(seen)
        story.write(status="failed", last_error="HTTP 502", retry_count=retries)
        assert "reached max retries" not in story.command("run-once").stderr
        story.ticks(3)
        story.check_already_delivered()
        assert story.api.bodies == ["a"]


def test_a_delivered_text_is_recognised_after_a_later_delivery(begin: Begin) -> None:
    with begin() as story:
        story.insert(body="a")
        story.tick()
        story.write(status="failed", body="b", last_error="HTTP 502")
        story.tick()
        story.write(status="failed", body="a", last_error="HTTP 504")
        story.tick()
        story.check_already_delivered()
        assert story.api.bodies == ["a", "b"]


# -- an id or a text that changes while a request is out ---------------------------------------------------------------

NEW: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
    "another ticket": ({"ticket_id": OTHER_TICKET, "created_at": LATER, "body": "b"}, ()),
    "another ticket, undated": ({"ticket_id": OTHER_TICKET, "body": "b"}, NO_DATE),
    "the same ticket": ({"created_at": LATER, "body": "b"}, ()),
    "the same ticket and text": ({"created_at": LATER, "body": "a"}, ()),
}
"""Messages that reuse an id, and the columns that their table lacks."""
OTHER = pytest.mark.parametrize(("other", "without"), NEW.values(), ids=NEW)


@OTHER
@pytest.mark.parametrize("answer", [OK, REFUSED, PERMANENT, LOST], ids=["delivered", "refused", "permanent", "lost"])
def test_a_reused_id_does_not_inherit_its_predecessors_answer(
    begin: Begin, answer: object, other: dict[str, object], without: tuple[str, ...]
) -> None:
    """The attempt sent the old message, so a later pass must send the new one."""
    with begin(answer, OK, without=without) as story:
        story.insert()
        story.api.meanwhile[1] = lambda: story.replace(last_error="HTTP 504", **other)
        story.tick()
        row = story.application.row(1)
        assert (row["status"], row["retry_count"], row["last_error"]) == ("failed", 0, "HTTP 504")
        story.ticks(2)
        assert (story.status(), story.application.row(1)["retry_count"]) == ("sent", 0)
        assert [(request.ticket, request.body) for request in story.api.requests] == [
            (str(TICKET), "a"),
            (str(other.get("ticket_id", TICKET)), other["body"]),
        ]
        story.check_keys()


def test_a_reused_id_does_not_show_its_predecessors_history(begin: Begin) -> None:
    """Otherwise an operator would mark a message as sent that was never attempted."""
    with begin() as story:
        story.insert()
        story.tick()
        story.replace(created_at=str(wiring.utc_now().replace(tzinfo=None)), body="b")
        assert json.loads(story.command("show", "1", "--json").stdout)["attempts"] == []
        story.operator("reject", "1", "--reason", "no longer wanted", "--yes")
        found = json.loads(story.command("show", "1", "--json").stdout)
        assert (found["attempts"], [act["act"] for act in found["acts"]]) == ([], ["rejected"])


EDITS: dict[str, object] = {
    "message_type": "supplier",
    "recipient_email": "bo@example.com",
    "cc_emails": '["lead@example.com"]',
    "bcc_emails": '["lead@example.com"]',
    "subject": "Re: Refund",
    "body": "b",
    "attachments": '["terms.pdf"]',
}


@pytest.mark.parametrize(
    ("answer", "column"), [*((OK, column) for column in EDITS), (REFUSED, "body"), (PERMANENT, "body"), (LOST, "body")]
)
def test_no_answer_is_written_to_a_row_whose_text_changed_in_flight(begin: Begin, answer: object, column: str) -> None:
    """The old text may be delivered: an operator decides whether to send the new one too."""
    with begin(answer, OK) as story:
        story.insert()
        story.api.meanwhile[1] = lambda: story.write(**{column: EDITS[column]})
        for _ in range(3):
            story.tick()
            story.check_escalated("changed")
            assert (story.application.row(1)["retry_count"], len(story.api.requests)) == (0, 1)
        if column != "attachments":  # the preset can't send them
            story.operator("requeue", "1")
            story.tick()
            assert (story.status(), len(story.api.requests)) == ("sent", 2)
            story.check_keys()


@pytest.mark.parametrize("column", ["confidence_score", "updated_at", "last_error", "retry_count"])
def test_columns_outside_the_text_may_change_in_flight(begin: Begin, column: str) -> None:
    values: dict[str, object] = {"confidence_score": 0.1, "updated_at": LATER, "last_error": "HTTP 1", "retry_count": 4}
    with begin() as story:
        story.insert()
        story.api.meanwhile[1] = lambda: story.write(**{column: values[column]})
        story.ticks(2)
        assert (story.status(), story.api.bodies) == ("sent", ["a"])


@pytest.mark.parametrize(
    ("count", "waits"), [(0, True), (8, True), (10, False), (12, False)], ids=["reset", "lowered", "added", "raised"]
)
def test_a_message_whose_count_is_lowered_in_flight_is_not_exhausted(begin: Begin, count: int, *, waits: bool) -> None:
    with begin(REFUSED, OK) as story:
        story.insert(retry_count=9)
        story.api.meanwhile[1] = lambda: story.write(retry_count=count)
        story.tick()
        row = story.application.row(1)
        assert (row["retry_count"], str(row["last_error"]).startswith("Max retries")) == (count, not waits)
        story.tick()
        assert (story.status(), len(story.api.requests)) == (("sent", 2) if waits else ("failed", 1))


# -- an id or a text that changes before its turn comes ----------------------------------------------------------------


@pytest.mark.parametrize(("other", "without"), [*NEW.values(), ({"body": "b"}, ())], ids=[*NEW, "an edit"])
def test_what_is_new_before_its_turn_gets_a_new_key(
    begin: Begin, other: dict[str, object], without: tuple[str, ...]
) -> None:
    """The first answers are lost. While a pass repeats the first request, the application replaces the second row."""
    with begin(LOST, LOST, OK, without=without) as story:
        story.insert(1, body="first", ticket_id=4720)
        story.insert(2, body="a")
        story.tick()
        story.api.meanwhile[3] = lambda: story.replace(2, **other)
        story.ticks(3)
        assert [story.status(1), story.status(2)] == ["sent", "sent"]
        assert story.api.bodies == ["first", "a", "first", other["body"]]
        assert story.api.keys[0] == story.api.keys[2]
        assert story.api.keys[3] != story.api.keys[1]
        story.check_keys()


@OTHER
def test_a_manual_retry_of_a_reused_id_sends_the_new_message_with_a_new_key(
    begin: Begin, other: dict[str, object], without: tuple[str, ...]
) -> None:
    with begin(LOST, OK, without=without) as story:
        story.insert()
        story.tick()
        story.replace(**other)
        story.operator("retry", "1")
        assert (story.status(), story.api.bodies) == ("sent", ["a", other["body"]])
        story.check_keys()
        assert len(set(story.api.keys)) == 2


# -- an id that is reused for the same ticket --------------------------------------------------------------------------

SAME_TICKET = pytest.mark.parametrize("body", ["a", "b"], ids=["the same text", "another text"])


@SEEN
@SAME_TICKET
@pytest.mark.parametrize("answer", [PERMANENT, REFUSED], ids=["escalated", "waiting"])
def test_a_new_message_with_the_id_and_ticket_of_a_failed_one_is_sent(
    begin: Begin, answer: object, body: str, *, seen: bool
) -> None:
    with begin(answer, OK) as story:
        story.insert()
        story.tick()
        story.delete()
        story.ticks(seen)
        story.insert(created_at=LATER, body=body)
        story.tick()
        assert (story.status(), story.api.bodies) == ("sent", ["a", body])
        assert story.application.row(1)["retry_count"] == 0
        assert len(set(story.api.keys)) == 2


@SEEN
@SAME_TICKET
def test_a_reused_id_does_not_inherit_its_predecessors_unknown_attempts(begin: Begin, body: str, *, seen: bool) -> None:
    """A message that reuses an id is a new one, even with the same text, so the old attempts do not count."""
    with begin(LOST) as story:
        story.insert()
        story.ticks(3)
        story.check_escalated("unknown")
        story.delete()
        story.ticks(seen)
        story.insert(created_at=LATER, body=body)
        story.ticks(4)
        story.check_escalated("unknown")
        first, second = story.api.keys[:3], story.api.keys[3:]
        assert (len(set(first)), len(set(second)), len(second)) == (1, 1, 3)
        assert first[0] != second[0]


@pytest.mark.parametrize("without", [(), ("updated_at",), NO_DATE])
def test_the_key_is_stable_across_retries(begin: Begin, without: tuple[str, ...]) -> None:
    with begin(LOST, REFUSED, REFUSED, OK, without=without) as story:
        story.insert()
        story.ticks(4)
        assert story.status() == "sent"
        assert (len(story.api.keys), len(set(story.api.keys))) == (4, 1)


def test_a_message_moved_to_another_ticket_keeps_its_key(begin: Begin) -> None:
    """Tickets may be merged between two attempts. With the same key the API drops a second copy."""
    with begin(REFUSED, OK) as story:
        story.insert()
        story.tick()
        story.write(ticket_id=OTHER_TICKET)
        story.tick()
        assert story.status() == "sent"
        assert [request.ticket for request in story.api.requests] == [str(TICKET), str(OTHER_TICKET)]
        assert len(set(story.api.keys)) == 1


# -- an escalated message that the application retries by itself -------------------------------------------------------

STEPS: dict[str, tuple[list[dict[str, object] | None], bool]] = {
    "a new error": ([{"last_error": "HTTP 504"}], True),
    "another text": ([{"body": "b"}], True),
    "another count": ([{"retry_count": 1}], True),
    "fails again with a new error": ([{"status": "approved"}, {"status": "failed", "last_error": "HTTP 504"}], True),
    "a pass saw it approved": ([{"status": "approved"}, None, {"status": "failed"}], True),
    "fails again unchanged": ([{"status": "approved"}, {"status": "failed"}], False),
    "other columns": ([{"confidence_score": 0.1, "sent_at": LATER}], False),
    "another ticket": ([{"ticket_id": OTHER_TICKET}], False),
}
"""What the application writes to the row of an escalated message, with a pass at None; and whether it is sent again."""


@pytest.mark.parametrize(("steps", "is_sent"), STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("without", [(), ("updated_at",)], ids=["dated", "undated"])
def test_an_escalated_message_is_sent_if_the_application_has_tried_it_again(
    begin: Begin, steps: list[dict[str, object] | None], without: tuple[str, ...], *, is_sent: bool
) -> None:
    """A later ``updated_at`` is not enough: applications set it for many reasons."""
    with begin(PERMANENT, OK, without=without) as story:
        story.insert()
        story.tick()
        story.check_escalated("permanent")
        for step in steps:
            story.tick() if step is None else story.write(**step)
        story.ticks(2)
        assert (story.status(), len(story.api.requests)) == (("sent", 2) if is_sent else ("failed", 1))
        story.check_keys()


def test_an_exhausted_message_stays_escalated_until_the_application_resets_its_count(begin: Begin) -> None:
    with begin(OK) as story:
        story.insert(retry_count=10)
        story.tick()
        story.check_escalated("exhausted")
        story.write(last_error="HTTP 504")
        story.tick()
        story.check_escalated("exhausted")
        assert not story.api.requests
        story.write(retry_count=0)
        story.tick()
        assert story.status() == "sent"


def test_a_message_that_may_have_arrived_stays_escalated_until_its_text_changes(begin: Begin) -> None:
    with begin(LOST, LOST, LOST, OK) as story:
        story.insert(body="a")
        story.ticks(3)
        story.check_escalated("unknown")
        story.write(last_error="HTTP 504", retry_count=0)
        story.ticks(2)
        story.check_escalated("unknown")
        assert len(story.api.requests) == 3
        story.write(body="b")
        story.tick()
        assert (story.status(), story.api.bodies) == ("sent", ["a", "a", "a", "b"])
        story.check_keys()


def test_a_text_that_is_rendered_anew_after_each_failure_may_arrive_three_times(begin: Begin) -> None:
    """No two requests have the same text, so only the message tells how many may have arrived."""
    with begin(LOST) as story:
        story.insert()
        for number in (1, 2):
            story.tick()
            story.write(body=f"attempt {number} failed")
        for number in (3, 4):  # the application changes the escalated message, so it is sent once more
            story.tick()
            story.check_escalated("unknown")
            assert len(story.api.requests) == number
            assert f"unknown outcomes: {number}" in str(story.application.row(1)["last_error"])
            story.write(body=f"attempt {number} failed")


RENDER_ANEW = """
CREATE TRIGGER anew AFTER UPDATE OF retry_count ON pending_messages
BEGIN UPDATE pending_messages SET body = 'attempt ' || NEW.retry_count WHERE id = NEW.id; END
"""


@on_sqlite
def test_a_text_that_a_trigger_renders_anew_may_arrive_three_times(begin: Begin) -> None:
    with begin(LOST) as story:
        story.insert()
        story.application.execute(RENDER_ANEW)
        story.ticks(9)
        story.check_escalated("unknown")
        assert len(story.api.requests) == 3


@pytest.mark.parametrize("second", [(503, {}), (429, {})])
def test_a_doubt_about_other_recipients_outlives_a_later_failure(begin: Begin, second: object) -> None:
    with begin(LOST, second, OK) as story:
        story.insert(recipient_email="max@exampel.org")
        story.ticks(2)
        story.write(recipient_email="max@example.org")
        story.ticks(2)
        story.check_escalated("changed")
        assert len(story.api.requests) == 2


def test_a_retry_asks_if_an_earlier_text_may_have_arrived(begin: Begin) -> None:
    with begin(LOST, OK) as story:
        story.insert()
        story.tick()
        story.write(body="b")
        done = story.command("retry", "1")
        assert (done.returncode, "may have arrived" in done.stderr) == (4, True), done.stderr
        assert len(story.api.requests) == 1
        story.operator("retry", "1", "--yes")
        assert (story.status(), story.api.bodies) == ("sent", ["a", "b"])
        story.check_keys()


def test_a_waiting_message_adopts_the_applications_retry_count(begin: Begin) -> None:
    with begin(REFUSED) as story:
        story.insert()
        story.tick()
        assert story.application.row(1)["retry_count"] == 1
        story.write(retry_count=9)
        story.tick()
        story.check_escalated("exhausted")
        assert (story.application.row(1)["retry_count"], len(story.api.requests)) == (10, 2)


# -- a migration of the application's that adds creation times to its table, or drops them -----------------------------


def migrate(story: Story, *, to_dates: bool) -> None:
    if to_dates:
        story.application.execute("ALTER TABLE pending_messages ADD COLUMN created_at TIMESTAMP")
        story.application.execute("UPDATE pending_messages SET created_at = ?", MADE)
    else:
        story.application.execute("ALTER TABLE pending_messages DROP COLUMN created_at")


TO_DATES = pytest.mark.parametrize("to_dates", [True, False], ids=["adds dates", "drops dates"])


@TO_DATES
def test_a_migration_of_dates_makes_no_message_new(begin: Begin, *, to_dates: bool) -> None:
    """A delivered text that fails again, and an escalated message, would be sent again."""
    with begin(OK, PERMANENT, LOST, BUSY, OK, without=NO_DATE if to_dates else ()) as story:
        for number, body in enumerate("abc", 1):
            story.insert(number, body=body)
            story.tick(timedelta(0))
        story.operator("pause", "--message", "3")
        before = story.queued(3)["delivery_key"]
        migrate(story, to_dates=to_dates)
        story.write(1, status="failed")
        story.ticks(3)
        assert story.api.bodies == ["a", "b", "c"]
        story.check_escalated("changed", 1)
        story.check_escalated("permanent", 2)
        assert [story.status(number) for number in (1, 2, 3)] == ["failed"] * 3
        story.operator("resume", "--message", "3")
        story.ticks(2)
        assert story.status(3) == "sent"
        assert story.api.keys[-1] == before
        assert "held" not in story.command("status").stdout


def test_a_row_that_gets_its_date_during_its_delivery_is_marked_as_sent(begin: Begin) -> None:
    with begin() as story:
        story.insert(created_at=None)
        story.api.meanwhile[1] = lambda: story.write(created_at=MADE)
        story.ticks(2)
        assert (story.status(), story.api.bodies) == ("sent", ["a"])


@pytest.mark.parametrize("moves", [False, True], ids=["stays", "moves"])
def test_a_delivery_is_known_after_its_row_got_a_date(begin: Begin, *, moves: bool) -> None:
    """The ticket identified the row, and then its date does, also if the row moves to another ticket later."""
    with begin() as story:
        story.insert(created_at=None)
        story.api.meanwhile[1] = lambda: story.write(created_at=MADE, body="b")
        story.tick()
        story.write(body="a")
        if moves:
            story.tick()
            story.write(ticket_id=OTHER_TICKET)
        story.ticks(2)
        story.check_already_delivered()
        assert story.api.bodies == ["a"]


@TO_DATES
def test_after_a_migration_of_dates_a_reused_id_is_another_message(begin: Begin, *, to_dates: bool) -> None:
    with begin(PERMANENT, OK, without=NO_DATE if to_dates else ()) as story:
        story.insert()
        story.tick()
        migrate(story, to_dates=to_dates)
        story.write(ticket_id=OTHER_TICKET)
        story.ticks(2)
        assert story.status() == "sent"
        story.check_keys()
