"""The preset ``redmine`` as it is shipped, against a real Redmine, and what Redmine does that it has to know of."""

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

pytestmark = [pytest.mark.slow, pytest.mark.long]  # by default Znuny stands for the real systems

SECRET = "Nobody but us may read this."
UNKNOWN_TICKET = 999_999


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redmine]:
    """One for all tests of this module: each has a ticket of its own."""
    with redmine(tmp_path_factory.mktemp("redmine")) as found:
        yield found


@pytest.fixture
def ticket(system: Redmine) -> int:
    return system.open_ticket()


@pytest.fixture
def desk(cli: Cli, application: Application, tmp_path: Path, system: Redmine) -> Desk:
    """The command as the agent's."""
    made = Desk(cli.having(application.variables(system.url)), application, tmp_path)
    return made.having(preset="redmine", token=system.keys[AGENT], attachments_dir=tmp_path)


@pytest.fixture
def api(system: Redmine) -> Iterator[httpx.Client]:
    """Redmine's own API, as the agent sees it."""
    with system.as_user(AGENT) as client:
        yield client


def words(note: dict[str, object]) -> str:
    """What a note says, without the line by which it is found again."""
    text, _, key = str(note["notes"]).rpartition("\n\nRef. ")
    assert len(key) == 36
    return text


def mailed_to(system: Redmine, login: str, ticket: int) -> str:
    """The texts of all mails about a ticket that somebody got."""
    mails = [each for each in system.mails_to(login) if each["X-Redmine-Issue-Id"] == str(ticket)]
    parts = (part.get_content() for each in mails for part in each.walk() if not part.is_multipart())
    return "\n".join(parts).replace("\r\n", "\n")


def put(api: httpx.Client, ticket: int, **issue: object) -> int:
    return api.put(f"/issues/{ticket}.json", json={"issue": issue}).status_code


# -- what arrives ---------------------------------------------------------------------------------------------


def test_messages_to_customers_and_suppliers_are_notes_that_the_customer_reads_as_they_were_written(
    desk: Desk, system: Redmine, ticket: int
) -> None:
    desk.fail(ticket)
    desk.fail(ticket, "supplier", body="To the supplier: <i>ß</i>")
    assert desk.run_once()["sent"] == 2
    seen = system.notes(ticket, CUSTOMER)
    assert sorted(map(words, seen)) == sorted([BODY, "To the supplier: <i>ß</i>"])
    assert not any(each["private_notes"] for each in seen)
    assert all(desk.in_short(each) == ("sent", 0) for each in desk.numbers)
    assert BODY in mailed_to(system, CUSTOMER, ticket)


def test_an_internal_message_is_a_note_that_the_customer_neither_sees_nor_is_mailed(
    desk: Desk, system: Redmine, ticket: int
) -> None:
    desk.fail(ticket, "internal", body=SECRET)
    assert desk.run_once()["sent"] == 1
    [note] = system.notes(ticket)
    assert (words(note), note["private_notes"]) == (SECRET, True)
    assert system.notes(ticket, CUSTOMER) == []
    assert system.notes(ticket, REPLYONLY) == []
    assert SECRET in mailed_to(system, COLLEAGUE, ticket)  # mails are written before the answer
    assert all(SECRET not in mailed_to(system, each, ticket) for each in (CUSTOMER, REPLYONLY, READER))


def test_attachments_arrive_byte_for_byte_under_their_names(desk: Desk, system: Redmine, ticket: int) -> None:
    desk.fail(ticket, attachments=desk.attach())
    assert desk.run_once()["sent"] == 1
    attached = system.ticket(ticket, CUSTOMER)["attachments"]
    assert {each["filename"]: system.download(each["content_url"], CUSTOMER) for each in attached} == FILES
    assert sorted(each["content_type"] for each in attached) == ["application/pdf", "text/plain"]
    [note] = system.notes(ticket)
    assert words(note) == BODY
    assert sorted(each["new_value"] for each in note["details"]) == sorted(FILES)


def test_what_arrived_is_read_back_where_that_is_asked_for(desk: Desk, ticket: int) -> None:
    desk.fail(ticket)
    desk.fail(ticket, "internal", body=SECRET)
    assert desk.having(verify=True).run_once()["sent"] == 2
    assert texts([*desk.attempts(1), *desk.attempts(2)]) == "None None"


# -- what does not --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["cc_emails", "bcc_emails"])
def test_a_message_with_other_recipients_goes_to_a_person(
    column: str, desk: Desk, system: Redmine, ticket: int
) -> None:
    desk.fail(ticket, **{column: '["ben@example.com"]'})
    desk.run_once()
    reason, error = desk.why_escalated(1)
    assert reason == "invalid"
    assert f"can't send {column}" in error
    assert system.notes(ticket) == []


@pytest.mark.parametrize("body", ["", " \n\t"])
def test_an_empty_message_which_redmine_would_drop_without_a_word_goes_to_a_person(
    body: str, desk: Desk, system: Redmine, ticket: int, api: httpx.Client
) -> None:
    assert put(api, ticket, notes="") == put(api, ticket, nots="misspelt") == 204
    assert api.put(f"/issues/{ticket}.json", json={"ticket": {"notes": "x"}}).status_code == 204
    assert system.ticket(ticket)["journals"] == []
    desk.fail(ticket, body=body)
    desk.run_once()
    assert desk.why_escalated(1) == ("invalid", "Can't be sent: body is empty, but the preset redmine needs it")


def test_a_note_that_redmine_would_publish_for_want_of_a_right_goes_to_a_person(
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


def test_an_internal_messages_attachments_which_redmine_would_publish_go_to_a_person(
    desk: Desk, system: Redmine, ticket: int, api: httpx.Client
) -> None:
    """The note stays private; what is attached to it is listed to everybody, and the customer is mailed of it."""
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


def test_a_reply_that_redmine_would_drop_for_want_of_a_right_goes_to_a_person(
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


def test_an_unknown_ticket_is_escalated_and_the_others_go_on(desk: Desk, system: Redmine, ticket: int) -> None:
    desk.fail(UNKNOWN_TICKET)
    desk.fail(UNKNOWN_TICKET, "internal")
    desk.fail(ticket)
    done = desk.run_once()
    assert (done["sent"], done["escalated"]) == (1, 2)
    assert "HTTP 404" in desk.why_escalated(1)[1]
    assert desk.why_escalated(2)[0] == "permanent"
    assert len(system.notes(ticket)) == 1


@pytest.mark.parametrize("message_type", ["customer", "internal"])
def test_wrong_credentials_stop_the_pass_and_are_charged_to_nobody(
    message_type: str, desk: Desk, system: Redmine, ticket: int
) -> None:
    for _ in range(3):
        desk.fail(ticket, message_type)
    done = desk.having(token="0" * 40).run_once(code=REFUSED)
    assert (done["result"], done["reason"]) == ("stopped", "credentials_refused")
    assert all(desk.in_short(each) == ("failed", 0) for each in desk.numbers)
    assert all(desk.application.state(each) == "waiting" for each in desk.numbers)
    assert system.notes(ticket) == []
    assert desk.run_once()["sent"] == 3


def test_doctor_and_config_check_tell_good_credentials_from_bad(desk: Desk, system: Redmine) -> None:
    assert desk.cli("config", "check").returncode == 0
    assert desk.ask_doctor("api") == ("ok", f"{system.url} is there and accepts the credentials")
    refused = f"{system.url} refuses the credentials: HTTP 401"
    assert desk.having(token="0" * 40).ask_doctor("api") == ("failure", refused)


# -- exactly once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message_type", ["customer", "internal"])
def test_a_message_whose_answer_was_lost_is_found_again_and_exists_once(
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


def test_a_message_that_a_proxy_says_was_not_taken_is_found_all_the_same_and_exists_once(
    desk: Desk, system: Redmine, ticket: int
) -> None:
    desk.fail(ticket)
    with forgetful(system.url, "PUT", status=502) as between:
        assert desk.having(base_url=between.url).run_once()["unknown"] == 1
    desk.let_time_pass()
    assert desk.run_once()["sent"] == 1
    assert desk.attempts(1)[-1] == ("delivered", "found by look-up")
    assert len(system.notes(ticket)) == 1


def test_a_message_that_never_arrived_is_sent_again_once_it_can_turn_up_no_more(
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
    assert [words(each) for each in system.notes(ticket)] == [BODY]


@pytest.mark.parametrize(
    "fire", [Fire(40, kills=4, stalls=2), pytest.param(Fire(200, kills=20, stalls=10), marks=pytest.mark.long)]
)
def test_each_message_arrives_exactly_once_however_passes_are_killed_and_redmine_stands_still(
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
    notes = [each for ticket in tickets for each in system.notes(ticket)]
    assert Counter(map(words, notes)) == Counter(texts.keys())
    assert {words(each) for each in notes if each["private_notes"]} == {t for t, k in texts.items() if k == "internal"}
    assert happened["kill"] > 0
    assert happened["found by look-up"] > 0


def test_redmine_itself_takes_the_same_message_twice_whatever_key_it_bears(
    system: Redmine, ticket: int, api: httpx.Client
) -> None:
    for _ in range(2):
        issue = {"issue": {"notes": "Once?"}}
        assert api.put(f"/issues/{ticket}.json", json=issue, headers={"Idempotency-Key": "k"}).status_code == 204
    assert [each["notes"] for each in system.notes(ticket)] == ["Once?"] * 2


# -- what Redmine answers -------------------------------------------------------------------------------------


def test_what_redmine_answers_to_what_is_wrong(system: Redmine, ticket: int, api: httpx.Client) -> None:
    """What the preset's outcomes stand on."""
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
