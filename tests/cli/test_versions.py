"""Texts that change between attempts: with a look-up, the customer gets one version, unless an operator wants another.

The ticketing system may store a message, and still answer with an error or not at all.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.cli.story import OTHER_TICKET, TICKET
from tests.cli.test_look_up import asking
from tests.conftest import on_both
from tests.gateway.mail_server import MailServer
from tests.gateway.ticketing.fake import Answered
from tests.gateway.ticketing.redmine import Redmine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.cli.story import Begin, Story
    from tests.gateway.ticketing.fake import Asked

pytestmark = on_both

STORED, NOT_STORED, REJECTED = "stored, but answered 507", "answered 507", "answered 503"
REFUSED, REFUSED_BUT_STORED = "answered 202", "stored, but answered 202"
UNDONE = "back to the first text"


class Faulty(Redmine):
    """A Redmine that gives each note the next of its answers, and stores the notes that come after them."""

    def __init__(self, answers: Sequence[str]) -> None:
        super().__init__()
        self.answers = list(answers)

    def answer(self, asked: Asked) -> Answered:
        if asked.method != "PUT" or not self.answers:
            return super().answer(asked)
        answer = self.answers.pop(0)
        if answer in {STORED, REFUSED_BUT_STORED}:
            super().answer(asked)
        return Answered(int(answer[-3:]))

    @property
    def texts(self) -> list[str]:
        """Return the first lines of the notes, which are the bodies of the messages."""
        return [note.text.splitlines()[0] for note in self.arrived]


def through(story: Story, fake: Faulty) -> None:
    """Make the story's passes and commands send through a Redmine."""
    story.set("gateway", base_url=fake.url, preset="redmine", token="our-redmine-key")
    story.command = story.command.having(asking(fake.url))


STEPS = st.tuples(st.sampled_from([STORED, NOT_STORED, REJECTED]), st.sampled_from(["", "new", "ticket", UNDONE]))


@given(st.lists(STEPS, min_size=1, max_size=5))
# Each call of `begin` prepares a database of its own.
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example([(STORED, "new"), (REJECTED, "")])
@example([(STORED, "ticket"), (NOT_STORED, "new")])
@example([(NOT_STORED, "new"), (STORED, "new"), (NOT_STORED, UNDONE)])
def test_one_version_arrives(begin: Begin, steps: list[tuple[str, str]]) -> None:
    with begin() as story, Faulty([answer for answer, _ in steps]) as fake:
        through(story, fake)
        story.insert(body="a")
        for number, (_, change) in enumerate(steps):
            story.tick()
            if story.status() == "failed" and change:
                story.write(
                    body="a" if change == UNDONE else f"version {number}",
                    **({"ticket_id": OTHER_TICKET} if change == "ticket" else {}),
                )
        story.ticks(len(steps) + 2)
        # A text that may have arrived in another ticket is not sent again.
        assert len(fake.arrived) == 1 or (not fake.arrived and any(change == "ticket" for _, change in steps))
        if story.status() != "sent":
            story.check_escalated("changed")
            assert str(story.application.row(1)["last_error"]).startswith("Not sent: ")


def test_a_requeue_sends_a_second_version(begin: Begin) -> None:
    with begin() as story, Faulty([STORED]) as fake:
        through(story, fake)
        story.insert(body="a")
        story.tick()
        story.write(body="b")
        story.tick()
        assert story.outcomes() == ["transient", "permanent"]
        story.check_escalated("changed")
        assert "`retrycli requeue 1` sends it again" in story.command.on_terminal("show", "1").words
        asked = story.command("retry", "1")
        assert asked.returncode == 3
        assert "an earlier version of it has arrived" in asked.stdout
        story.operator("requeue", "1")
        story.tick()
        assert (fake.texts, story.status()) == (["a", "b"], "sent")


@pytest.mark.parametrize(("answer", "result"), [(STORED, "unknown"), (NOT_STORED, "absent")])
def test_a_look_up_searches_for_earlier_versions(begin: Begin, answer: str, result: str) -> None:
    with begin() as story, Faulty([answer]) as fake:
        through(story, fake)
        story.insert(body="a")
        story.tick()
        story.application.execute("UPDATE retrycli_attempts SET finished_at = ?", "2026-01-02 04:00:00.000000")
        story.write(body="b")
        found = story.command.json("look-up", "1", code=3 if result == "unknown" else 0)["results"]
        assert [each["result"] for each in found] == [result]
        assert result == "absent" or "an earlier version of it has arrived" in found[0]["error"]
        assert story.status() == "failed"


@pytest.mark.parametrize("stored", [True, False])
def test_a_refusal_with_a_success_status_is_looked_up_before_another_attempt(begin: Begin, *, stored: bool) -> None:
    """The preset's rule for success may be too narrow. An operator who has removed a cause need not wait."""
    with begin() as story, Faulty([REFUSED_BUT_STORED if stored else REFUSED]) as fake:
        through(story, fake)
        story.insert()
        story.ticks(1)
        assert story.command("retry", "1").returncode == 0
        assert story.outcomes() == ["refused", "delivered"]
        assert (len(fake.arrived), story.status()) == (1, "sent")


def test_a_refused_message_is_looked_up_in_the_ticket_that_it_had(begin: Begin) -> None:
    with begin() as story, Faulty([REFUSED_BUT_STORED]) as fake:
        through(story, fake)
        story.insert()
        story.tick()
        story.write(ticket_id=OTHER_TICKET)
        assert [each["result"] for each in story.command.json("look-up", "1", code=3)["results"]] == ["unknown"]
        story.tick()
        story.check_escalated("changed")
        assert len(fake.arrived) == 1


def test_retry_asks_if_the_text_may_have_arrived_in_another_ticket(begin: Begin) -> None:
    with begin() as story, Faulty([STORED]) as fake:
        through(story, fake)
        story.insert()
        story.tick()
        story.write(ticket_id=OTHER_TICKET)
        asked = story.command("retry", "1")
        assert (asked.returncode, f"Check ticket {TICKET}" in asked.stderr) == (4, True)
        assert len(fake.arrived) == 1


BEN = "ben@example.com"


def test_a_text_edited_after_a_partial_delivery_is_sent_only_after_a_question(begin: Begin) -> None:
    """Ana has the first text, and would get the second as well."""
    with begin() as story, MailServer(RCPT={BEN: "450 4.2.0 busy"}) as server:
        by_mail = {"kind": "smtp", "base_url": server.url, "sender": "desk@example.com", "starttls": False}
        story.set("gateway", **by_mail)
        env = {f"RETRYCLI_GATEWAY__{name.upper()}": str(value).lower() for name, value in by_mail.items()}
        story.command = story.command.having({"TICKETING_API_BASE_URL": "", **env})
        story.insert(cc_emails=json.dumps([BEN]))
        story.ticks(2)
        assert [mail.recipients for mail in server.mails] == [("ana@example.com",)]
        said = "RCPT ben@example.com: SMTP 450 4.2.0 busy; earlier delivered to all other recipients"
        assert story.application.row(1)["last_error"] == said
        edited = story.command.on_terminal("edit", "1", "--subject", "Re: right price", answers=["y"])
        assert "The text before this edit may have arrived, perhaps at only some recipients." in edited.words
        asked = story.command("retry", "1")
        assert (asked.returncode, "may have arrived" in asked.stderr) == (4, True)
        story.tick()
        story.check_escalated("changed")
        assert story.application.row(1)["last_error"] == (
            "Not sent: some recipients already have an earlier version of its text"
        )
        assert len(server.mails) == 1
        story.operator("requeue", "1")
        story.tick()
        assert [mail.recipients for mail in server.mails] == [("ana@example.com",)] * 2
