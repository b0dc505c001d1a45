"""The ``look-up`` command checks in the ticketing system whether messages have arrived, and sends nothing."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

import retrycli
from retrycli.config.gateway import GatewaySettings
from retrycli.config.loader import load_settings
from retrycli.domain.message import MessageType
from retrycli.gateway.presets.loader import findable_requests, preset_text
from retrycli.operations.wiring import DEFAULT_RUNTIME
from tests.cli.command import LONGEST, end, wait_until
from tests.cli.story import LOST, TICKET
from tests.cli.test_refused_rows import refuse
from tests.conftest import on_both
from tests.gateway.hostile import closed_port, mute_port
from tests.gateway.ticketing.arrived import Arrived
from tests.gateway.ticketing.fake import Answered, Refusing
from tests.gateway.ticketing.redmine import Redmine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.cli.application import Application
    from tests.cli.command import Cli, Finished
    from tests.cli.story import Begin, Story
    from tests.gateway.ticketing.fake import Asked, Fake

pytestmark = on_both

LONG_AGO = "2026-01-02 04:00:00.000000"


def asking(url: str) -> Mapping[str, str]:
    """Return the environment variables for a Redmine server."""
    return {
        "TICKETING_API_BASE_URL": url,
        "RETRYCLI_GATEWAY__PRESET": "redmine",
        "RETRYCLI_GATEWAY__TOKEN": "our-redmine-key",
        "RETRYCLI_GATEWAY__REQUEST_TIMEOUT_SECONDS": "2",
    }


class Desk:
    """A message that may have arrived, and the command with a Redmine server as its gateway."""

    def __init__(self, story: Story, fake: Fake) -> None:
        self.story, self.fake = story, fake
        self.command = story.command.having(asking(fake.url))

    @property
    def key(self) -> str:
        """Return the key of the message's attempts."""
        return str(self.story.queued()["delivery_key"])

    def arrive(self) -> None:
        """Make the lost request arrive in Redmine."""
        self.fake.arrived.append(Arrived(1, str(TICKET), f"a\n\nRef. {self.key}"))

    def look_up(self, *args: str, code: int = 0) -> list[tuple[object, object]]:
        """Look up messages; return the id and the result of each."""
        told = self.command.json("look-up", *(args or ("1",)), "--by", "anna", code=code)
        return [(result["id"], result["result"]) for result in told["results"]]

    def acts(self) -> list[tuple[object, ...]]:
        """Return the recorded actions of operators."""
        rows = self.story.application.rows("retrycli_acts").values()
        return [(row["message_id"], row["by"], row["act"], row["detail"]) for row in rows]

    def check_sent_nothing(self) -> None:
        """Check that Redmine received only queries."""
        assert {request.method for request in self.fake.asked} <= {"GET"}

    def check_as_before(self, before: Mapping[str, object], row: Mapping[str, object]) -> None:
        """Check that neither the queue nor the application's row changed, and that there was no further attempt."""
        assert self.story.queued() == before
        assert self.story.application.row(1) == row
        assert self.story.outcomes() == ["unknown"] * 3
        self.check_sent_nothing()


@contextmanager
def lost(begin: Begin, fake: Fake, **columns: object) -> Iterator[Desk]:
    """Provide a message that was sent to a system three times without an answer, long ago."""
    with begin(LOST) as story, fake:
        story.insert(**columns)
        story.ticks(3)
        story.check_escalated("unknown")
        story.application.execute(
            "UPDATE retrycli_attempts SET started_at = ?, finished_at = ?, destination = ?, preset = ?",
            LONG_AGO,
            LONG_AGO,
            fake.url,
            findable_requests(GatewaySettings(preset="redmine"), MessageType.CUSTOMER),
        )
        yield Desk(story, fake)


def test_a_message_found_in_the_system_is_recorded_as_delivered(begin: Begin) -> None:
    with lost(begin, Redmine()) as desk:
        desk.arrive()
        key = desk.key
        assert desk.look_up() == [(1, "arrived")]
        row = desk.story.application.row(1)
        assert (row["status"], row["last_error"]) == ("sent", None)
        assert row["sent_at"] is not None
        assert desk.story.application.rows("retrycli_queue") == {}
        *_, attempt = desk.story.application.rows("retrycli_attempts").values()
        assert (attempt["number"], attempt["outcome"], attempt["made_by"]) == (4, "delivered", "anna")
        assert (attempt["delivery_key"], attempt["error"]) == (key, "found by look-up")
        assert attempt["finished_at"] is not None
        assert desk.acts() == [(1, "anna", "looked_up", "arrived")]
        desk.check_sent_nothing()


def test_a_found_message_is_not_sent_when_its_row_fails_again(begin: Begin) -> None:
    with lost(begin, Redmine()) as desk:
        desk.arrive()
        desk.look_up()
        desk.story.write(status="failed", last_error="HTTP 502")
        desk.story.ticks(2)
        desk.story.check_already_delivered()
        assert len(desk.story.api.requests) == 3
        done = desk.command("look-up", "1")
        assert done.returncode == 4
        assert "has arrived: its text was delivered at" in done.stderr
        assert "retrycli mark-sent 1" in done.stderr


def test_a_message_not_found_stays_unchanged(begin: Begin) -> None:
    with lost(begin, Redmine()) as desk:
        before, row = desk.story.queued(), desk.story.application.row(1)
        assert desk.look_up() == [(1, "absent")]
        desk.check_as_before(before, row)
        assert desk.acts() == [(1, "anna", "looked_up", "absent")]
        screen = desk.command.on_terminal("look-up", "1")
        assert "Message 1 has not arrived. Nothing was changed." in screen.words
        assert "Next: retrycli retry 1" in screen.words


def test_a_message_not_found_in_another_system_may_have_arrived_in_the_first(begin: Begin) -> None:
    """No pass sends it to the second system, and a retry asks first."""
    with lost(begin, Redmine()) as desk:
        desk.story.application.execute("UPDATE retrycli_attempts SET destination = 'https://old.example.com'")
        before, row = desk.story.queued(), desk.story.application.row(1)
        [told] = desk.command.json("look-up", "1", code=3)["results"]
        assert (told["result"], told["error"]) == (
            "unknown",
            "not found; an earlier attempt was sent to https://old.example.com with another base_url or preset, "
            "so check there",
        )
        desk.check_as_before(before, row)
        assert desk.command("retry", "1").returncode == 4
        desk.story.write(retry_count=0)  # with retries left, an escalated message would wait again
        assert desk.command.json("run-once")["sent"] == 0
        desk.story.check_escalated("unknown")
        desk.check_sent_nothing()


def test_a_look_up_does_not_deny_that_some_recipients_have_the_mail(begin: Begin) -> None:
    with lost(begin, Redmine()) as desk:
        application = desk.story.application
        application.execute("UPDATE retrycli_attempts SET outcome = 'transient', delivered_to = '[\"a@example.com\"]'")
        [told] = desk.command.json("look-up", "1", code=3)["results"]
        said = "not found here, but some recipients already have it by mail"
        assert (told["result"], told["error"]) == ("unknown", said)


def test_after_an_edit_a_look_up_does_not_deny_that_the_text_before_it_arrived(begin: Begin) -> None:
    with lost(begin, Redmine()) as desk:
        desk.arrive()
        desk.story.operator("edit", "1", "--subject", "Re: Invoice 4711", "--yes")
        [told] = desk.command.json("look-up", "1", code=3)["results"]
        assert (told["result"], told["error"]) == (
            "unknown",
            "not found, but an earlier version of it has arrived; check the ticket",
        )


class Broken(Redmine):
    """A Redmine server that stores a note and then answers 502."""

    def answer(self, asked: Asked) -> Answered:
        answered = super().answer(asked)
        return Answered(502) if asked.method == "PUT" else answered


def test_a_message_not_found_by_another_preset_may_have_arrived_through_the_first(begin: Begin, tmp_path: Path) -> None:
    """A look-up finds what its own preset has written. A change of the look-up itself proves no less than before."""
    file = tmp_path / "desk.toml"
    second = preset_text("redmine").replace('"{delivery_key}"', '"Ref. {delivery_key}"')
    first = second.replace("Ref. ", "Our message ")
    with begin() as story, Broken() as fake:
        variables = {**asking(fake.url), "RETRYCLI_GATEWAY__PRESET": str(file), "RETRYCLI_GATEWAY__UNKNOWN_LIMIT": "0"}
        desk = story.command.having(variables)
        story.set("gateway", base_url=fake.url, preset=str(file), token=SecretStr("key"), unknown_limit=0)
        file.write_text(first, encoding="utf-8")
        story.insert()
        story.tick()
        file.write_text(second, encoding="utf-8")
        assert desk("retry", "1").returncode == 4
        story.tick()
        story.check_escalated("unknown")
        assert len(fake.arrived) == 1
        story.application.execute("UPDATE retrycli_attempts SET finished_at = ?", LONG_AGO)
        [told] = desk.json("look-up", "1", code=3)["results"]
        assert f"not found; an earlier attempt was sent to {fake.url} with another " in told["error"]
        fake.arrived.clear()
        file.write_text(first + "settle_seconds = 0\n", encoding="utf-8")
        assert [told["result"] for told in desk.json("look-up", "1")["results"]] == ["absent"]


def test_a_look_up_is_proposed_where_the_gateway_has_one(begin: Begin) -> None:
    with lost(begin, Redmine()) as desk:
        step = "Next: `retrycli look-up 1`; if it finds nothing, check the ticket, then `retrycli mark-sent 1`"
        for command in ("show 1", "explain 1", "escalations"):
            assert step in desk.command.on_terminal(*command.split()).words
        assert "look-up 1" in desk.command("escalations").stdout


def test_a_message_that_may_still_appear_is_not_reported_as_absent(begin: Begin) -> None:
    """A ticketing system may list a new entry only after a while."""
    with begin(LOST) as story, Redmine() as fake:
        story.insert()
        story.ticks(1)
        desk = Desk(story, fake)
        assert desk.look_up(code=3) == [(1, "unknown")]
        assert story.queued()["state"] == "waiting"


@pytest.mark.parametrize(
    ("fake", "said"),
    [
        (Refusing(401, {}), "401"),
        (Refusing(500, {}), "500"),
        (Refusing(200, {"issue": {}}), "proves nothing"),
        (Refusing(200, b"<html>maintenance</html>"), "look-up"),
    ],
    ids=["401", "500", "incomplete", "not JSON"],
)
def test_an_inconclusive_answer_changes_nothing(begin: Begin, fake: Refusing, said: str) -> None:
    again = Refusing(200, b"")
    again._answered = fake._answered  # a server can't be restarted, so each database needs a copy
    with lost(begin, again) as desk:
        before, row = desk.story.queued(), desk.story.application.row(1)
        told = desk.command.json("look-up", "1", code=3)["results"]
        assert [(entry["id"], entry["result"]) for entry in told] == [(1, "unknown")]
        assert said in told[0]["error"]
        desk.check_as_before(before, row)


def test_a_wait_that_a_look_up_is_asked_for_is_kept_for_passes(begin: Begin) -> None:
    with lost(begin, Refusing(429, {}, {"Retry-After": "3600"})) as desk:
        assert desk.look_up(code=3) == [(1, "unknown")]
        breakers = desk.story.application.rows("retrycli_breakers")
        assert breakers[desk.fake.url]["state"] == "resting"


def test_a_busy_systems_wait_concerns_no_other_message(begin: Begin) -> None:
    with lost(begin, Refusing(503, {}, {"Retry-After": "3600"})) as desk:
        assert desk.look_up(code=3) == [(1, "unknown")]
        breakers = desk.story.application.rows("retrycli_breakers").values()
        assert "resting" not in {breaker["state"] for breaker in breakers}


def test_an_error_contains_no_secrets_and_no_customer_texts(begin: Begin) -> None:
    subject = "Re: Invoice of the second of March"
    with lost(begin, Refusing(401, {"errors": [f"our-redmine-key is wrong for {subject}"]}), subject=subject) as desk:
        done = desk.command("look-up", "1")
        assert done.returncode == 3
        assert "401" in done.stdout
        [act] = desk.acts()
        assert not [secret for secret in ("our-redmine-key", subject) if secret in f"{done.stdout} {done.stderr} {act}"]


@pytest.mark.parametrize("place", [closed_port, mute_port], ids=["closed", "mute"])
def test_a_system_without_an_answer_changes_nothing(
    begin: Begin, place: Callable[[], AbstractContextManager[int]]
) -> None:
    with lost(begin, Redmine()) as desk, place() as port:
        before, row = desk.story.queued(), desk.story.application.row(1)
        done = desk.command.having(asking(f"http://127.0.0.1:{port}"))("look-up", "1")
        assert done.returncode == 3, done.stderr
        assert done.stdout.splitlines()[0].startswith("1\tunknown\t")
        desk.check_as_before(before, row)
        screen = desk.command.having(asking(f"http://127.0.0.1:{port}")).on_terminal("look-up", "1")
        assert "It is not known whether message 1 has arrived: look-up: " in screen.words
        assert "if the message is there, `retrycli mark-sent 1`" in screen.words


def check_not_possible(done: Finished) -> None:
    """Check that the error names the ticket to search and the command to run afterwards."""
    assert done.returncode == 4
    [said] = done.stderr.splitlines()
    assert said.startswith("retrycli: message 5 can't be looked up: ")
    assert "Search ticket 4705" in said
    assert "retrycli mark-sent 5" in said


def test_a_gateway_without_a_look_up_is_reported_with_the_manual_way(at_work: Cli, application: Application) -> None:
    application.add(5)
    check_not_possible(at_work("look-up", "5"))
    assert application.state(5) == "waiting"
    mail = {
        "TICKETING_API_BASE_URL": "smtp://127.0.0.1:9",
        "RETRYCLI_GATEWAY__KIND": "smtp",
        "RETRYCLI_GATEWAY__SENDER": "desk@example.com",
    }
    check_not_possible(at_work.having(mail)("look-up", "5"))
    assert application.state(5) == "waiting"
    assert application.rows("retrycli_attempts") == {}


class Slow(Redmine):
    """A Redmine server that answers only after a test permits it."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.opened = Event(), Event()

    def answer(self, asked: Asked) -> Answered:
        self.reached.set()
        self.opened.wait(LONGEST)
        return super().answer(asked)


def test_no_pass_sends_a_message_during_its_look_up(cli: Cli, application: Application) -> None:
    """A look-up claims its message, so a second look-up is refused too."""
    application.add(5)
    with Slow() as fake:
        variables = {**application.variables(fake.url), **asking(fake.url)}
        at_work = cli.having({**variables, "RETRYCLI_GATEWAY__REQUEST_TIMEOUT_SECONDS": "60"})
        process = at_work.start("look-up", "5")
        assert fake.reached.wait(LONGEST)
        assert at_work.json("run-once")["sent"] == 0
        second = at_work("look-up", "5")
        fake.opened.set()
        assert end(process).returncode == 0
        assert second.returncode == 4
        assert "message 5 is being sent now" in second.stderr
        assert {request.method for request in fake.asked} == {"GET"}
        assert application.state(5) == "waiting"
        assert at_work.json("run-once")["sent"] == 1


@pytest.mark.databases("postgresql")
def test_an_arrival_is_kept_while_the_application_locks_the_row(begin: Begin) -> None:
    """The arrival is recorded at once, and the row is updated as soon as it is unlocked."""
    with lost(begin, Slow()) as desk:
        desk.arrive()
        process = desk.command.having({"RETRYCLI_GATEWAY__REQUEST_TIMEOUT_SECONDS": "60"}).start("look-up", "1")
        assert isinstance(desk.fake, Slow)
        assert desk.fake.reached.wait(LONGEST)
        with desk.story.application.in_transaction("SELECT * FROM pending_messages FOR UPDATE"):
            desk.fake.opened.set()
            wait_until(lambda: "delivered" in desk.story.outcomes(), process)
            assert desk.story.status() == "failed"
        assert end(process).returncode == 0
        assert desk.story.status() == "sent"
        assert desk.story.outcomes() == [*["unknown"] * 3, "delivered"]


def test_reports_messages_that_cannot_be_looked_up_and_looks_up_the_others(cli: Cli, application: Application) -> None:
    """Message 1 is sent, message 404 does not exist, and message 9 is invalid."""
    application.fill()
    application.add(9, body=None)
    with Redmine() as fake:
        at_work = cli.having({**application.variables(fake.url), **asking(fake.url)})
        done = at_work("look-up", "1", "404", "9", "7")
        assert done.returncode == 4
        one, none, bad = (line for line in done.stderr.splitlines() if line.startswith("retrycli: "))
        assert "message 1 is sent, not failed: there is nothing to look up" in one
        assert "no message 404" in none
        assert "message 9 can't be sent: body is missing" in bad
        assert done.stdout.splitlines()[0].startswith("7\tabsent")


def test_a_row_that_refuses_changes_is_escalated_and_reported_as_arrived(begin: Begin) -> None:
    with lost(begin, Redmine()) as desk:
        desk.arrive()
        desk.story.insert(2)  # otherwise the whole table would refuse changes, which ends the command earlier
        desk.story.tick()
        refuse(desk.story.application, 1)
        told = desk.command.json("look-up", "1")["results"]
        assert [(result["result"], "could not be marked" in result["error"]) for result in told] == [("arrived", True)]
        desk.story.check_escalated("invalid")
        assert desk.story.outcomes() == [*["unknown"] * 3, "delivered"]


def test_is_public_in_python(application: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    application.add(5)
    with Redmine() as fake:
        for name, value in {**application.variables(fake.url), **asking(fake.url)}.items():
            monkeypatch.setenv(name, value)
        settings = load_settings()
        assert retrycli.look_up(settings, 5, by="anna") == retrycli.LookUp(retrycli.Presence.ABSENT)
        with pytest.raises(retrycli.RetrycliError, match="no message 404"):
            retrycli.look_up(settings, 404)
        stopping = replace(DEFAULT_RUNTIME, stop_requested=lambda: True)
        with pytest.raises(retrycli.RetrycliError, match="message 5 was not looked up, because a stop was requested"):
            retrycli.look_up(settings, 5, runtime=stopping)


def test_accepts_ids_and_no_filters(at_work: Cli) -> None:
    done = at_work("look-up")
    assert done.returncode == 2
    assert "give the ids of the messages" in " ".join(done.stderr.split())
