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
    from tests.cli.application import Application
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


@SEEN
def test_a_text_that_was_delivered_is_escalated_when_its_row_fails_again(begin: Begin, *, seen: bool) -> None:
    with begin() as story:
        story.insert()
        story.tick()
        story.write(status="approved")
        story.ticks(seen)
        story.write(status="failed", last_error="HTTP 502")
        story.ticks(3)
        story.check_already_delivered()
        assert story.api.bodies == ["a"]


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


def test_an_operator_can_reject_a_row_whose_text_was_delivered(begin: Begin) -> None:
    with begin() as story:
        story.insert()
        story.tick()
        story.write(status="failed", last_error="HTTP 502")
        story.tick()
        story.operator("reject", "1", "--yes", "--reason", "it was said")
        story.ticks(2)
        assert (story.status(), story.api.bodies) == ("rejected", ["a"])


@SEEN
@pytest.mark.parametrize("retries", [9, 10])
def test_a_text_that_was_delivered_is_not_exhausted(begin: Begin, retries: int, *, seen: bool) -> None:
    """Otherwise an operator would send it again without a word about its delivery."""
    with begin() as story:
        story.insert()
        story.tick()
        story.write(status="approved")
        story.ticks(seen)
        story.write(status="failed", last_error="HTTP 502", retry_count=retries)
        done = story.command("run-once")
        assert "reached max retries" not in done.stderr
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

OTHERS = {
    "another ticket": {"ticket_id": OTHER_TICKET, "created_at": LATER, "body": "b"},
    "the same ticket": {"created_at": LATER, "body": "b"},
    "the same ticket and text": {"created_at": LATER, "body": "a"},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_reused_id_does_not_inherit_its_predecessors_delivery(begin: Begin, other: dict[str, object]) -> None:
    """The attempt delivered the old message, so a later pass must send the new one."""
    with begin() as story:
        story.insert()
        story.api.meanwhile[1] = lambda: story.replace(**other)
        story.tick()
        story.ticks(2)
        assert story.status() == "sent"
        assert story.outcomes() == ["delivered", "delivered"]
        assert story.api.bodies == ["a", other["body"]]
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


def test_without_dates_a_reused_id_is_detected_by_its_ticket(begin: Begin) -> None:
    with begin(without=NO_DATE) as story:
        story.insert()
        story.api.meanwhile[1] = lambda: story.replace(ticket_id=OTHER_TICKET, body="b")
        story.ticks(3)
        assert story.status() == "sent"
        assert [(request.ticket, request.body) for request in story.api.requests] == [
            (str(TICKET), "a"),
            (str(OTHER_TICKET), "b"),
        ]
        story.check_keys()


@pytest.mark.parametrize("answer", [REFUSED, PERMANENT, LOST], ids=["refused", "permanent", "lost"])
def test_a_reused_id_does_not_inherit_counts_errors_or_escalations(begin: Begin, answer: object) -> None:
    with begin(answer, OK) as story:
        story.insert()
        story.api.meanwhile[1] = lambda: story.replace(created_at=LATER, body="b", last_error="HTTP 504")
        before = story.tick(), story.application.row(1)
        assert (before[1]["retry_count"], before[1]["last_error"]) == (0, "HTTP 504")
        story.tick()
        assert (story.status(), story.api.bodies) == ("sent", ["a", "b"])
        assert story.application.row(1)["retry_count"] == 0
        story.check_keys()


EDITS: dict[str, object] = {
    "message_type": "supplier",
    "recipient_email": "bo@example.com",
    "cc_emails": '["lead@example.com"]',
    "bcc_emails": '["lead@example.com"]',
    "subject": "Re: Refund",
    "body": "b",
    "attachments": '["terms.pdf"]',
}


@pytest.mark.parametrize("column", EDITS)
def test_a_row_whose_text_changed_in_flight_is_not_marked_sent(begin: Begin, column: str) -> None:
    """The old text was delivered: an operator decides whether to send the new one too."""
    with begin() as story:
        story.insert()
        story.api.meanwhile[1] = lambda: story.write(**{column: EDITS[column]})
        story.tick()
        story.check_escalated("changed")
        assert story.outcomes() == ["delivered"]
        story.ticks(2)
        story.check_escalated("changed")
        assert len(story.api.requests) == 1


def test_an_operator_can_send_the_text_that_changed_in_flight(begin: Begin) -> None:
    with begin() as story:
        story.insert(body="a")
        story.api.meanwhile[1] = lambda: story.write(body="b")
        story.tick()
        story.operator("requeue", "1")
        story.tick()
        assert (story.status(), story.api.bodies) == ("sent", ["a", "b"])
        story.check_keys()


@pytest.mark.parametrize("answer", [REFUSED, PERMANENT, LOST], ids=["refused", "permanent", "lost"])
def test_a_row_whose_text_changed_in_flight_gets_no_count_or_error(begin: Begin, answer: object) -> None:
    with begin(answer, OK) as story:
        story.insert(body="a")
        story.api.meanwhile[1] = lambda: story.write(body="b")
        story.tick()
        assert story.application.row(1)["retry_count"] == 0
        assert "b" not in story.api.bodies
        story.check_escalated("changed")


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


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_an_id_reused_before_its_turn_gets_a_new_key(begin: Begin, other: dict[str, object]) -> None:
    """The first answers are lost. While a pass repeats the first request, the application reuses the second id."""
    with begin(LOST, LOST, OK) as story:
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


def test_a_text_edited_before_its_turn_gets_a_new_key(begin: Begin) -> None:
    with begin(LOST, LOST, OK) as story:
        story.insert(1, body="first", ticket_id=4720)
        story.insert(2, body="a")
        story.tick()
        story.api.meanwhile[3] = lambda: story.write(2, body="b")
        story.ticks(3)
        assert [story.status(1), story.status(2)] == ["sent", "sent"]
        assert story.api.bodies == ["first", "a", "first", "b"]
        story.check_keys()


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_manual_retry_of_a_reused_id_sends_the_new_message_with_a_new_key(
    begin: Begin, other: dict[str, object]
) -> None:
    with begin(LOST, OK) as story:
        story.insert()
        story.tick()
        story.replace(**other)
        story.operator("retry", "1")
        assert (story.status(), story.api.bodies) == ("sent", ["a", other["body"]])
        story.check_keys()
        assert len(set(story.api.keys)) == 2


def test_a_manual_retry_of_an_edited_row_gets_a_new_key(begin: Begin) -> None:
    with begin(LOST, OK) as story:
        story.insert(body="a")
        story.tick()
        story.write(body="b")
        story.operator("retry", "1", "--yes")
        assert (story.status(), story.api.bodies) == ("sent", ["a", "b"])
        story.check_keys()


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


@on_sqlite
@pytest.mark.parametrize("same", ["2026-01-02T03:04:05Z", "2026-01-02 03:04:05.000000", "2026-01-02T04:04:05+01:00"])
def test_the_creation_time_is_compared_as_an_instant(begin: Begin, same: str) -> None:
    with begin(LOST, OK) as story:
        story.insert()
        story.tick()
        story.write(created_at=same)
        story.tick()
        assert story.status() == "sent"
        assert len(set(story.api.keys)) == 1


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

SHOWN: dict[str, dict[str, object]] = {
    "a new error": {"last_error": "HTTP 504"},
    "another text": {"body": "b"},
    "another count": {"retry_count": 1},
}


@SEEN
@pytest.mark.parametrize("shown", SHOWN.values(), ids=SHOWN)
@pytest.mark.parametrize(
    "without", [(), pytest.param(("updated_at",), marks=pytest.mark.long)], ids=["dated", "undated"]
)
def test_an_escalated_message_that_fails_again_is_sent(
    begin: Begin, shown: dict[str, object], without: tuple[str, ...], *, seen: bool
) -> None:
    """The status goes from failed to approved and back, with or without a pass in between."""
    with begin(PERMANENT, OK, without=without) as story:
        story.insert()
        story.tick()
        story.check_escalated("permanent")
        story.write(status="approved")
        story.ticks(seen)
        story.write(status="failed", **shown)
        story.tick()
        assert (story.status(), len(story.api.requests)) == ("sent", 2)
        story.check_keys()


@pytest.mark.parametrize("shown", SHOWN.values(), ids=SHOWN)
def test_an_escalated_message_waits_again_if_the_application_changes_its_text(
    begin: Begin, shown: dict[str, object]
) -> None:
    """The row's status stays ``failed``, so only its other columns show that the application tried again."""
    with begin(PERMANENT, OK) as story:
        story.insert()
        story.tick()
        story.write(**shown)
        story.tick()
        assert (story.status(), len(story.api.requests)) == ("sent", 2)


def test_an_escalated_message_waits_again_after_a_pass_saw_it_not_failed(begin: Begin) -> None:
    with begin(PERMANENT, OK) as story:
        story.insert()
        story.tick()
        story.write(status="approved")
        story.tick()
        story.write(status="failed")
        story.tick()
        assert (story.status(), len(story.api.requests)) == ("sent", 2)


@pytest.mark.parametrize("without", [(), ("updated_at",)], ids=["dated", "undated"])
def test_an_escalated_message_that_fails_again_unchanged_stays_escalated(
    begin: Begin, without: tuple[str, ...]
) -> None:
    """A later ``updated_at`` is not enough: applications set it for many reasons."""
    with begin(PERMANENT, OK, without=without) as story:
        story.insert()
        story.tick()
        story.write(status="approved")
        story.write(status="failed")
        story.ticks(2)
        story.check_escalated("permanent")
        assert len(story.api.requests) == 1


@pytest.mark.parametrize(
    "unchanged", [{"updated_at": LATER}, {"confidence_score": 0.1}, {"sent_at": LATER}, {"ticket_id": OTHER_TICKET}]
)
def test_an_escalated_message_stays_escalated_if_only_other_columns_change(
    begin: Begin, unchanged: dict[str, object]
) -> None:
    with begin(PERMANENT, OK) as story:
        story.insert()
        story.tick()
        story.write(**unchanged)
        story.ticks(2)
        story.check_escalated("permanent")
        assert len(story.api.requests) == 1


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


def render_anew(application: Application) -> None:
    """Create a trigger that writes another text whenever the retry count changes."""
    if application.is_sqlite:
        application.execute(
            "CREATE TRIGGER anew AFTER UPDATE OF retry_count ON pending_messages "
            "BEGIN UPDATE pending_messages SET body = 'attempt ' || NEW.retry_count WHERE id = NEW.id; END"
        )
        return
    application.execute(
        "CREATE FUNCTION anew() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.body := 'attempt ' || NEW.retry_count; RETURN NEW; END $$"
    )
    application.execute(
        "CREATE TRIGGER anew BEFORE UPDATE OF retry_count ON pending_messages FOR EACH ROW EXECUTE FUNCTION anew()"
    )


def test_a_text_that_a_trigger_renders_anew_may_arrive_three_times(begin: Begin) -> None:
    with begin(LOST) as story:
        story.insert()
        render_anew(story.application)
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
        assert story.status() == "sent"


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
