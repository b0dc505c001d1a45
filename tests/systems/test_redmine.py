"""The shipped preset ``redmine`` with a real Redmine, and the behaviour of Redmine that it depends on."""

from __future__ import annotations

import subprocess
from collections import Counter
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.systems.desk import BODY, FILES, REFUSED, Desk, shipped, texts
from tests.systems.fire import KILLED_AFTER, Fire, deliver_all, fail_many, under_fire
from tests.systems.redmine import AGENT, COLLEAGUE, CUSTOMER, EDITOR, READER, REPLYONLY, Redmine, redmine
from tests.systems.servers import forgetful, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = [pytest.mark.slow, pytest.mark.long]  # by default, only Znuny represents the real systems

SECRET = "Nobody but us may read this."
UNKNOWN_TICKET = 999_999


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redmine]:
    """Provide one Redmine for all tests of this module. Each test has its own ticket."""
    with redmine(tmp_path_factory.mktemp("redmine")) as found:
        yield found


@pytest.fixture
def ticket(system: Redmine) -> int:
    return system.open_ticket()


@pytest.fixture
def desk(cli: Cli, application: Application, tmp_path: Path, system: Redmine) -> Desk:
    """Provide the command with the agent's credentials."""
    made = Desk(cli.having(application.variables(system.url)), application, tmp_path)
    return made.having(preset="redmine", token=system.keys[AGENT], attachments_dir=tmp_path)


@pytest.fixture
def api(system: Redmine) -> Iterator[httpx.Client]:
    """Provide Redmine's own API, as the agent sees it."""
    with system.as_user(AGENT) as client:
        yield client


def words(note: dict[str, object]) -> str:
    """Return the text of a note, without the line that identifies it."""
    text, _, key = str(note["notes"]).rpartition("\n\nRef. ")
    assert len(key) == 36
    return text


def mailed_to(system: Redmine, login: str, ticket: int) -> str:
    """Return the texts of all mails about a ticket to a recipient."""
    mails = [mail for mail in system.mails_to(login) if mail["X-Redmine-Issue-Id"] == str(ticket)]
    parts = (part.get_content() for mail in mails for part in mail.walk() if not part.is_multipart())
    return "\n".join(parts).replace("\r\n", "\n")


def put(api: httpx.Client, ticket: int, **issue: object) -> int:
    return api.put(f"/issues/{ticket}.json", json={"issue": issue}).status_code


def test_messages_to_customers_and_suppliers_become_public_notes_unchanged(
    desk: Desk, system: Redmine, ticket: int
) -> None:
    desk.fail(ticket)
    desk.fail(ticket, "supplier", body="To the supplier: <i>ß</i>")
    assert desk.run_once()["sent"] == 2
    seen = system.notes(ticket, CUSTOMER)
    assert sorted(map(words, seen)) == sorted([BODY, "To the supplier: <i>ß</i>"])
    assert not any(sample["private_notes"] for sample in seen)
    assert all(desk.in_short(message_id) == ("sent", 0) for message_id in desk.numbers)
    assert BODY in mailed_to(system, CUSTOMER, ticket)


def test_an_internal_message_becomes_a_note_hidden_from_the_customer(desk: Desk, system: Redmine, ticket: int) -> None:
    desk.fail(ticket, "internal", body=SECRET)
    assert desk.run_once()["sent"] == 1
    [note] = system.notes(ticket)
    assert (words(note), note["private_notes"]) == (SECRET, True)
    assert system.notes(ticket, CUSTOMER) == []
    assert system.notes(ticket, REPLYONLY) == []
    assert SECRET in mailed_to(system, COLLEAGUE, ticket)  # mails are written before the answer
    assert all(SECRET not in mailed_to(system, address, ticket) for address in (CUSTOMER, REPLYONLY, READER))


def test_attachments_arrive_byte_for_byte_under_their_names(desk: Desk, system: Redmine, ticket: int) -> None:
    desk.fail(ticket, attachments=desk.attach())
    assert desk.run_once()["sent"] == 1
    attached = system.ticket(ticket, CUSTOMER)["attachments"]
    assert {
        attachment["filename"]: system.download(attachment["content_url"], CUSTOMER) for attachment in attached
    } == FILES
    assert sorted(attachment["content_type"] for attachment in attached) == ["application/pdf", "text/plain"]
    [note] = system.notes(ticket)
    assert words(note) == BODY
    assert sorted(detail["new_value"] for detail in note["details"]) == sorted(FILES)


def test_sent_content_is_read_back_if_configured(desk: Desk, ticket: int) -> None:
    desk.fail(ticket)
    desk.fail(ticket, "internal", body=SECRET)
    assert desk.having(verify=True).run_once()["sent"] == 2
    assert texts([*desk.attempts(1), *desk.attempts(2)]) == "None None"


@pytest.mark.parametrize("column", ["cc_emails", "bcc_emails"])
def test_a_message_with_other_recipients_is_escalated(column: str, desk: Desk, system: Redmine, ticket: int) -> None:
    desk.fail(ticket, **{column: '["ben@example.com"]'})
    desk.run_once()
    reason, error = desk.why_escalated(1)
    assert reason == "invalid"
    assert f"can't send {column}" in error
    assert system.notes(ticket) == []


@pytest.mark.parametrize("body", ["", " \n\t"])
def test_an_empty_message_that_redmine_would_silently_drop_is_escalated(
    body: str, desk: Desk, system: Redmine, ticket: int, api: httpx.Client
) -> None:
    assert put(api, ticket, notes="") == put(api, ticket, nots="misspelt") == 204
    assert api.put(f"/issues/{ticket}.json", json={"ticket": {"notes": "x"}}).status_code == 204
    assert system.ticket(ticket)["journals"] == []
    desk.fail(ticket, body=body)
    desk.run_once()
    assert desk.why_escalated(1) == ("invalid", "Can't be sent: body is empty, but the preset redmine needs it")


def test_a_note_that_redmine_would_publish_for_lack_of_a_permission_is_escalated(
    desk: Desk, system: Redmine, ticket: int
) -> None:
    with system.as_user(REPLYONLY) as api:
        assert put(api, ticket, notes=SECRET, private_notes=True) == 204
    [note] = system.notes(ticket, CUSTOMER)
    assert (note["notes"], note["private_notes"]) == (SECRET, False)
    assert SECRET in mailed_to(system, CUSTOMER, ticket)

    ours = system.open_ticket()
    desk.fail(ours, "internal", body=SECRET)
    desk.having(token=system.keys[REPLYONLY]).run_once()
    reason, error = desk.why_escalated(1)
    assert reason == "invalid"
    assert "'Set notes as private' in the issue's project" in error
    assert system.ticket(ours)["journals"] == []


def test_an_internal_messages_attachments_that_redmine_would_publish_are_escalated(
    desk: Desk, system: Redmine, ticket: int, api: httpx.Client
) -> None:
    """Redmine keeps the note private, but lists its attachment for everybody and mails the customer."""
    name, content = next(iter(FILES.items()))
    binary = {"Content-Type": "application/octet-stream"}
    answer = api.post("/uploads.json", params={"filename": name}, content=content, headers=binary)
    upload = {"token": answer.json()["upload"]["token"], "filename": name, "content_type": "text/plain"}
    assert put(api, ticket, notes=SECRET, private_notes=True, uploads=[upload]) == 204
    assert system.notes(ticket, CUSTOMER) == []
    [attached] = system.ticket(ticket, CUSTOMER)["attachments"]
    assert system.download(attached["content_url"], CUSTOMER) == content
    assert name in mailed_to(system, CUSTOMER, ticket)

    ours = system.open_ticket()
    desk.fail(ours, "internal", body=SECRET, attachments=desk.attach())
    desk.run_once()
    reason, error = desk.why_escalated(1)
    assert reason == "invalid"
    assert "can't send attachments in internal messages" in error
    assert system.ticket(ours)["journals"] == system.ticket(ours)["attachments"] == []


def test_a_reply_that_redmine_would_drop_for_lack_of_a_permission_is_escalated(
    desk: Desk, system: Redmine, ticket: int
) -> None:
    with system.as_user(EDITOR) as api:
        assert put(api, ticket, notes="Hello") == 204
    assert system.ticket(ticket)["journals"] == []
    desk.fail(ticket)
    desk.having(token=system.keys[EDITOR]).run_once()
    reason, error = desk.why_escalated(1)
    assert reason == "invalid"
    assert "'Add notes' in the issue's project" in error


def test_an_unknown_ticket_is_escalated_and_others_are_delivered(desk: Desk, system: Redmine, ticket: int) -> None:
    desk.fail(UNKNOWN_TICKET)
    desk.fail(UNKNOWN_TICKET, "internal")
    desk.fail(ticket)
    done = desk.run_once()
    assert (done["sent"], done["escalated"]) == (1, 2)
    assert "HTTP 404" in desk.why_escalated(1)[1]
    assert desk.why_escalated(2)[0] == "permanent"
    assert len(system.notes(ticket)) == 1


@pytest.mark.parametrize("message_type", ["customer", "internal"])
def test_wrong_credentials_stop_the_pass_and_cost_no_retry(
    message_type: str, desk: Desk, system: Redmine, ticket: int
) -> None:
    for _ in range(3):
        desk.fail(ticket, message_type)
    done = desk.having(token="0" * 40).run_once(code=REFUSED)
    assert (done["result"], done["reason"]) == ("stopped", "credentials_refused")
    assert all(desk.in_short(message_id) == ("failed", 0) for message_id in desk.numbers)
    assert all(desk.application.state(message_id) == "waiting" for message_id in desk.numbers)
    assert system.notes(ticket) == []
    assert desk.run_once()["sent"] == 3


def test_doctor_and_config_check_tell_good_credentials_from_bad(desk: Desk, system: Redmine) -> None:
    assert desk.cli("config", "check").returncode == 0
    assert desk.ask_doctor("api") == ("ok", f"{system.url} responds and accepts the credentials")
    refused = f"{system.url} refuses the credentials: HTTP 401"
    assert desk.having(token="0" * 40).ask_doctor("api") == ("failure", refused)


@pytest.mark.parametrize("message_type", ["customer", "internal"])
def test_a_message_whose_answer_was_lost_is_found_and_exists_once(
    message_type: str, desk: Desk, system: Redmine, ticket: int
) -> None:
    desk.fail(ticket, message_type, attachments=desk.attach() if message_type == "customer" else None)
    with forgetful(system.url, "PUT") as between:
        done = desk.having(base_url=between.url).run_once()
    assert (done["sent"], done["unknown"]) == (0, 1)
    wait_until(lambda: len(system.notes(ticket)) == 1)
    desk.let_time_pass()
    assert desk.run_once()["sent"] == 1
    assert len(system.notes(ticket)) == 1
    assert desk.in_short(1)[0] == "sent"
    assert desk.attempts(1)[-1] == ("delivered", "found by look-up")


def test_a_message_refused_only_by_a_proxy_is_found_and_exists_once(desk: Desk, system: Redmine, ticket: int) -> None:
    desk.fail(ticket)
    with forgetful(system.url, "PUT", status=502) as between:
        assert desk.having(base_url=between.url).run_once()["unknown"] == 1
    desk.let_time_pass()
    assert desk.run_once()["sent"] == 1
    assert desk.attempts(1)[-1] == ("delivered", "found by look-up")
    assert len(system.notes(ticket)) == 1


def test_a_message_that_never_arrived_is_sent_again_after_the_settling_time(
    desk: Desk, system: Redmine, ticket: int, tmp_path: Path
) -> None:
    desk.fail(ticket)
    with forgetful(system.url, "PUT", also_the_request=True) as between:
        assert desk.having(base_url=between.url).run_once()["unknown"] == 1
    desk.let_time_pass()
    assert desk.run_once()["sent"] == 0
    assert "not found yet" in texts(desk.attempts(1)[-1:])
    desk.let_time_pass()
    assert desk.having(preset=shipped("redmine", tmp_path, settle_seconds=0)).run_once()["sent"] == 1
    assert [words(note) for note in system.notes(ticket)] == [BODY]


@pytest.mark.parametrize(
    "fire", [Fire(40, kills=4, stalls=2), pytest.param(Fire(200, kills=20, stalls=10), marks=pytest.mark.long)]
)
def test_each_message_arrives_exactly_once_though_passes_die_and_redmine_stalls(
    fire: Fire, desk: Desk, system: Redmine, tmp_path: Path
) -> None:
    rng = Random(fire.messages)

    def stall(process: subprocess.Popen[str]) -> None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(*KILLED_AFTER))
        with system.standing_still():
            process.wait()

    tickets = [system.open_ticket() for _ in range(4)]
    hasty = under_fire(desk, "redmine", tmp_path)
    texts = fail_many(hasty, tickets, fire.messages)
    happened = deliver_all(hasty, fire, rng, stall)
    print(fire, dict(happened))
    notes = [note for ticket in tickets for note in system.notes(ticket)]
    assert Counter(map(words, notes)) == Counter(texts.keys())
    assert {words(note) for note in notes if note["private_notes"]} == {t for t, k in texts.items() if k == "internal"}
    assert happened["kill"] > 0
    assert happened["found by look-up"] > 0


def test_redmine_itself_accepts_the_same_message_twice_with_any_key(
    system: Redmine, ticket: int, api: httpx.Client
) -> None:
    for _ in range(2):
        issue = {"issue": {"notes": "Once?"}}
        assert api.put(f"/issues/{ticket}.json", json=issue, headers={"Idempotency-Key": "k"}).status_code == 204
    assert [note["notes"] for note in system.notes(ticket)] == ["Once?"] * 2


def test_redmines_answers_to_invalid_requests(system: Redmine, ticket: int, api: httpx.Client) -> None:
    """The preset's outcomes depend on these answers."""
    path = f"/issues/{ticket}.json"
    note = {"issue": {"notes": "Hello"}}
    json_header = {"Content-Type": "application/json"}
    assert api.put(path, json=note, headers={"X-Redmine-API-Key": "0" * 40}).status_code == 401
    assert api.put(f"/issues/{UNKNOWN_TICKET}.json", json=note).status_code == 404
    assert api.put(path, content=b'{"issue": ', headers=json_header).status_code == 400
    assert api.put(path, json={"issue": "x"}).status_code == 500
    refused = api.put(path, json={"issue": {"notes": "Hello", "subject": ""}})
    assert (refused.status_code, refused.json()) == (422, {"errors": ["Subject cannot be blank"]})
    with system.as_user(READER) as reader:
        assert put(reader, ticket, notes="Hello") == 403
    assert system.ticket(ticket)["journals"] == []
