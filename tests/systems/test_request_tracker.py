"""The shipped preset ``request-tracker`` with a real RT, and the behaviour of RT that it depends on."""

from __future__ import annotations

import base64
import re
import subprocess
from collections import Counter
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from tests.systems.desk import BODY, FILES, REFUSED, Desk, shipped, texts
from tests.systems.fire import KILLED_AFTER, PATIENCE, Fire, deliver_all, fail_many, under_fire
from tests.systems.request_tracker import (
    AGENT,
    BLIND,
    CUSTOMER,
    DISABLED,
    REPLYONLY,
    WITH_FIELD,
    WITHOUT_FIELD,
    RequestTracker,
    request_tracker,
)
from tests.systems.servers import forgetful, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import EmailMessage
    from pathlib import Path

    import httpx

    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = [pytest.mark.slow, pytest.mark.long]  # by default, only Znuny represents the real systems

FIRST_LINE = BODY.partition("\n")[0]
SECRET = "Nobody but us may read this."
UNKNOWN_TICKET = 999_999
IMPATIENT = 4
"""Seconds that a pass waits for an answer in tests in which it must give up."""
STALLS = 5
"""Seconds that RT's mail command takes for each mail in these tests: longer than a pass waits."""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RequestTracker]:
    """Provide one RT for all tests of this module. Each test has its own ticket."""
    with request_tracker(tmp_path_factory.mktemp("rt")) as found:
        yield found


@pytest.fixture(autouse=True)
def _quick_mail(system: RequestTracker) -> None:
    system.post_office(0)


@pytest.fixture
def ticket(system: RequestTracker) -> int:
    return system.open_ticket()


@pytest.fixture
def desk(cli: Cli, application: Application, tmp_path: Path, system: RequestTracker) -> Desk:
    """Provide the command with the agent's credentials."""
    made = Desk(cli.having(application.variables(system.url)), application, tmp_path)
    return made.having(preset="request-tracker", token=system.tokens[AGENT], attachments_dir=tmp_path)


@pytest.fixture
def api(system: RequestTracker) -> Iterator[httpx.Client]:
    """Provide RT's own API, as the agent sees it."""
    with system.as_user(AGENT) as client:
        yield client


def text_of(system: RequestTracker, said: dict[str, Any]) -> str:
    """Return the text of a reply or note, without the line that may identify it."""
    return re.sub(r"\n\nRef\. [0-9a-f-]{36}\n$", "\n", full_text(system, said)).removesuffix("\n")


def full_text(system: RequestTracker, said: dict[str, Any]) -> str:
    parts = [
        attachment
        for attachment in system.content(said["id"])
        if attachment["Content"] and not attachment.get("Filename")
    ]
    return content_of(parts[0]).decode() if parts else ""


def all_texts(system: RequestTracker, tickets: list[int], kind: str) -> list[str]:
    """Return the texts of all replies, or all notes, of tickets."""
    return [text_of(system, entry) for ticket in tickets for entry in system.said(ticket) if entry["Type"] == kind]


def content_of(part: dict[str, Any]) -> bytes:
    return base64.b64decode(part["Content"])


def mails_to(system: RequestTracker, address: str, ticket: int) -> list[EmailMessage]:
    about_it = [mail for mail in system.mails if mail["X-RT-Ticket"] == f"rt.test #{ticket}"]
    return [entry for entry in about_it if address in f"{entry['To']} {entry['Cc']} {entry['Bcc']}"]


def mailed_to(system: RequestTracker, address: str, ticket: int) -> str:
    """Return the texts of the mails about a ticket to a recipient. RT adds line breaks and quotations."""
    bodies = (mail.get_body(("plain",)) for mail in mails_to(system, address, ticket))
    return "\n".join(body.get_content() for body in bodies if body is not None)


def reply(api: httpx.Client, ticket: int, kind: str = "correspond", **content: object) -> int:
    return api.post(f"/ticket/{ticket}/{kind}", json=content).status_code


def found_by_key(api: httpx.Client, key: str) -> int:
    query = f"CF.{{DeliveryKey}} = '{key}'"
    return int(api.get("/transactions", params={"query": query}).json()["count"])


def test_messages_to_customers_and_suppliers_become_mailed_replies_unchanged(
    desk: Desk, system: RequestTracker, ticket: int
) -> None:
    desk.fail(ticket, subject='Re: Größe 日本 "x"')
    desk.fail(ticket, "supplier", body="To the supplier: <i>ß</i>")
    assert desk.run_once()["sent"] == 2
    said = system.said(ticket)
    assert [entry["Type"] for entry in said] == ["Correspond"] * 2
    assert sorted(text_of(system, entry) for entry in said) == sorted([BODY, "To the supplier: <i>ß</i>"])
    assert 'Re: Größe 日本 "x"' in [system.content(entry["id"])[0]["Subject"] for entry in said]
    assert all(desk.in_short(message_id) == ("sent", 0) for message_id in desk.numbers)
    assert FIRST_LINE in mailed_to(system, CUSTOMER, ticket)


def test_an_internal_message_becomes_a_comment_hidden_from_the_customer(
    desk: Desk, system: RequestTracker, ticket: int
) -> None:
    desk.fail(ticket, "internal", body=SECRET)
    assert desk.run_once()["sent"] == 1
    [note] = system.said(ticket)
    assert (note["Type"], text_of(system, note)) == ("Comment", SECRET)
    assert system.said(ticket, REPLYONLY) == []
    assert SECRET in mailed_to(system, "agents@rt.test", ticket)  # mails are sent before the answer
    assert SECRET not in mailed_to(system, CUSTOMER, ticket)


@pytest.mark.parametrize("message_type", ["customer", "internal"])
def test_attachments_arrive_byte_for_byte_under_their_names(
    message_type: str, desk: Desk, system: RequestTracker, ticket: int
) -> None:
    desk.fail(ticket, message_type, attachments=desk.attach())
    assert desk.run_once()["sent"] == 1
    [said] = system.said(ticket)
    attached = [attachment for attachment in system.content(said["id"]) if attachment.get("Filename")]
    assert {attachment["Filename"]: content_of(attachment) for attachment in attached} == FILES
    assert sorted(attachment["ContentType"] for attachment in attached) == ["application/pdf", "text/plain"]
    assert text_of(system, said) == BODY


def test_attachments_are_in_the_mails_too(desk: Desk, system: RequestTracker, ticket: int) -> None:
    desk.fail(ticket, attachments=desk.attach())
    desk.run_once()
    files = [part for mail in mails_to(system, CUSTOMER, ticket) for part in mail.walk() if part.get_filename()]
    assert {path.get_filename(): path.get_payload(decode=True) for path in files} == FILES


def test_sent_content_is_read_back_if_configured(desk: Desk, ticket: int) -> None:
    desk.fail(ticket)
    desk.fail(ticket, "internal", body=SECRET)
    assert desk.having(verify=True).run_once()["sent"] == 2
    assert texts([*desk.attempts(1), *desk.attempts(2)]) == "None None"


def test_a_reply_of_only_0_is_not_empty(desk: Desk, system: RequestTracker, ticket: int) -> None:
    """The key is in the custom field, so the only text is "0", which Perl treats as false."""
    desk.fail(ticket)
    desk.run_once()
    desk.fail(ticket, body="0")
    desk.run_once()
    assert full_text(system, system.said(ticket)[-1]) == "0\n"


@pytest.mark.parametrize("column", ["cc_emails", "bcc_emails"])
def test_a_message_with_other_recipients_is_escalated(
    column: str, desk: Desk, system: RequestTracker, ticket: int
) -> None:
    desk.fail(ticket, **{column: '["ben@example.com"]'})
    desk.run_once()
    reason, error = desk.why_escalated(1)
    assert reason == "invalid"
    assert f"can't send {column}" in error
    assert system.said(ticket) == []


@pytest.mark.parametrize("body", ["", " \n\t"])
def test_an_empty_message_that_rt_would_mail_as_an_empty_reply_is_escalated(
    body: str, desk: Desk, system: RequestTracker, api: httpx.Client, ticket: int
) -> None:
    assert reply(api, ticket, Content="", ContentType="text/plain") == 201
    assert reply(api, ticket, Contend="misspelt", ContentType="text/plain") == 201
    assert [(entry["Type"], full_text(system, entry)) for entry in system.said(ticket)] == [("Correspond", "")] * 2
    assert mailed_to(system, CUSTOMER, ticket).count("This transaction appears to have no content") >= 2

    ours = system.open_ticket()
    desk.fail(ours, body=body)
    desk.run_once()
    why = ("invalid", "Can't be sent: body is empty, but the preset request-tracker needs it")
    assert desk.why_escalated(1) == why
    assert system.said(ours) == []


def test_an_unknown_ticket_and_a_missing_permission_are_escalated(
    desk: Desk, system: RequestTracker, ticket: int
) -> None:
    desk.fail(UNKNOWN_TICKET)
    desk.fail(ticket, "internal")
    desk.fail(ticket)
    done = desk.having(token=system.tokens[REPLYONLY]).run_once()
    assert (done["sent"], done["escalated"]) == (1, 2)
    denied = ("permanent", "HTTP 400: Permission Denied")
    assert [desk.why_escalated(1), desk.why_escalated(2)] == [denied] * 2
    assert [entry["Type"] for entry in system.said(ticket)] == ["Correspond"]


@pytest.mark.parametrize("credentials", ["wrong", "disabled"])
def test_refused_credentials_stop_the_pass_and_cost_no_retry(
    credentials: str, desk: Desk, system: RequestTracker, ticket: int
) -> None:
    for _ in range(3):
        desk.fail(ticket)
    tokens = {"wrong": "1-99-" + "0" * 32, "disabled": system.tokens[DISABLED]}
    done = desk.having(token=tokens[credentials]).run_once(code=REFUSED)
    assert (done["result"], done["reason"]) == ("stopped", "credentials_refused")
    assert all(desk.in_short(message_id) == ("failed", 0) for message_id in desk.numbers)
    assert all(desk.application.state(message_id) == "waiting" for message_id in desk.numbers)
    assert system.said(ticket) == []
    assert desk.run_once()["sent"] == 3


def test_doctor_and_config_check_tell_good_credentials_from_bad(desk: Desk, system: RequestTracker) -> None:
    assert desk.cli("config", "check").returncode == 0
    assert desk.ask_doctor("api") == ("ok", f"{system.url} responds and accepts the credentials")
    refused = f"{system.url} refuses the credentials: HTTP 401"
    assert desk.having(token=system.tokens[DISABLED]).ask_doctor("api") == ("failure", refused)


@pytest.mark.parametrize(("queue", "user"), [(WITH_FIELD, AGENT), (WITHOUT_FIELD, AGENT), (WITH_FIELD, BLIND)])
def test_messages_whose_answers_were_lost_are_found_and_exist_once(
    queue: str, user: str, desk: Desk, system: RequestTracker
) -> None:
    """The look-up uses the custom field if our user may write it, and otherwise the line at the end of a message.

    The earlier messages have other keys, which must not be mistaken for those of the lost messages.
    """
    earlier, ticket = system.open_ticket(WITH_FIELD), system.open_ticket(queue)
    desk.fail(earlier)
    desk.fail(earlier, "internal")
    desk.run_once()
    desk.fail(ticket)
    desk.fail(ticket, "internal")
    desk = desk.having(token=system.tokens[user])
    with forgetful(system.url, "POST") as between:
        done = desk.having(base_url=between.url).run_once()
    assert (done["sent"], done["unknown"]) == (0, 2)
    wait_until(lambda: len(system.said(ticket)) == 2)
    desk.let_time_pass()
    assert desk.run_once()["sent"] == 2
    assert [desk.attempts(message_id)[-1] for message_id in (3, 4)] == [("delivered", "found by look-up")] * 2
    said = system.said(ticket)
    assert len(said) == 2
    by_the_field = (queue, user) == (WITH_FIELD, AGENT)
    assert ["Ref. " in full_text(system, article) for article in said] == [not by_the_field] * 2


def test_a_message_that_rt_stores_after_our_timeout_waits_and_exists_once(
    desk: Desk, system: RequestTracker, ticket: int
) -> None:
    """RT stores the message, sends its mails, and only then answers."""
    system.post_office(STALLS)
    desk.fail(ticket)
    assert desk.having(request_timeout_seconds=IMPATIENT).run_once()["unknown"] == 1
    system.post_office(0)
    wait_until(lambda: FIRST_LINE in mailed_to(system, CUSTOMER, ticket))
    desk.let_time_pass()
    assert desk.run_once()["sent"] == 1
    assert desk.attempts(1)[-1] == ("delivered", "found by look-up")
    assert len(system.said(ticket)) == 1
    assert mailed_to(system, CUSTOMER, ticket).count(FIRST_LINE) == 1


def test_a_message_refused_only_by_a_proxy_is_found_and_exists_once(
    desk: Desk, system: RequestTracker, ticket: int
) -> None:
    desk.fail(ticket)
    with forgetful(system.url, "POST", status=504) as between:
        assert desk.having(base_url=between.url).run_once()["unknown"] == 1
    desk.let_time_pass()
    assert desk.run_once()["sent"] == 1
    assert desk.attempts(1)[-1] == ("delivered", "found by look-up")
    assert len(system.said(ticket)) == 1


def test_a_message_that_never_arrived_is_sent_again_after_the_settling_time(
    desk: Desk, system: RequestTracker, ticket: int, tmp_path: Path
) -> None:
    desk.fail(ticket)
    with forgetful(system.url, "POST", also_the_request=True) as between:
        assert desk.having(base_url=between.url).run_once()["unknown"] == 1
    desk.let_time_pass()
    assert desk.run_once()["sent"] == 0
    [(outcome, error)] = desk.attempts(1)[-1:]
    assert (outcome, error.startswith("message not found yet, but it may still appear within the next 5")) == (
        "refused",
        True,
    )
    desk.let_time_pass()
    at_once = shipped("request-tracker", tmp_path, settle_seconds=0)
    assert desk.having(preset=at_once).run_once()["sent"] == 1
    assert [text_of(system, article) for article in system.said(ticket)] == [BODY]


@pytest.mark.parametrize(
    "fire", [Fire(40, kills=4, stalls=2), pytest.param(Fire(200, kills=20, stalls=10), marks=pytest.mark.long)]
)
def test_each_message_arrives_exactly_once_though_passes_die_and_mail_stalls(
    fire: Fire, desk: Desk, system: RequestTracker, tmp_path: Path
) -> None:
    rng = Random(fire.messages)

    def stall(process: subprocess.Popen[str]) -> None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(*KILLED_AFTER))
        system.post_office(PATIENCE)
        process.wait()
        system.post_office(0)

    tickets = [system.open_ticket() for _ in range(4)]
    hasty = under_fire(desk, "request-tracker", tmp_path)
    texts = fail_many(hasty, tickets, fire.messages)
    happened = deliver_all(hasty, fire, rng, stall)
    print(fire, dict(happened))
    assert Counter(all_texts(system, tickets, "Correspond")) == Counter(t for t, k in texts.items() if k != "internal")
    assert Counter(all_texts(system, tickets, "Comment")) == Counter(t for t, k in texts.items() if k == "internal")
    mailed = "\n".join(mailed_to(system, CUSTOMER, ticket) for ticket in tickets)
    assert [mailed.count(f"{text}\n") for text in texts] == [kind != "internal" for kind in texts.values()]
    assert happened["kill"] > 0
    assert happened["found by look-up"] > 0


def test_a_mail_server_that_refuses_does_not_affect_the_message_in_rt(
    desk: Desk, system: RequestTracker, ticket: int
) -> None:
    system.post_office("refuses")
    desk.fail(ticket)
    assert desk.run_once()["sent"] == 1
    assert [text_of(system, article) for article in system.said(ticket)] == [BODY]
    assert FIRST_LINE not in mailed_to(system, CUSTOMER, ticket)


def test_the_look_up_uses_the_custom_field_and_a_missing_field_finds_nothing(api: httpx.Client, ticket: int) -> None:
    fields = {"DeliveryKey": f"key-{ticket}"}
    assert reply(api, ticket, Content="x", ContentType="text/plain", TxnCustomFields=fields) == 201
    assert found_by_key(api, f"key-{ticket}") == 1
    assert found_by_key(api, f"key-{ticket}0") == 0
    nowhere = api.get("/transactions", params={"query": "CF.{NoSuchField} = 'x'"})
    assert (nowhere.status_code, nowhere.json()["count"], nowhere.json()["total"]) == (200, 0, None)


def test_rt_itself_accepts_the_same_message_twice_with_any_key(
    system: RequestTracker, api: httpx.Client, ticket: int
) -> None:
    for _ in range(2):
        content = {"Content": "Once?", "ContentType": "text/plain", "TxnCustomFields": {"DeliveryKey": "one"}}
        headers = {"Idempotency-Key": "one", "Message-ID": "<one@rt.test>"}
        assert api.post(f"/ticket/{ticket}/correspond", json=content, headers=headers).status_code == 201
    assert [full_text(system, article) for article in system.said(ticket)] == ["Once?"] * 2


def test_rts_answers_to_invalid_requests(system: RequestTracker, api: httpx.Client, ticket: int) -> None:
    """The preset's outcomes depend on these answers."""
    path, good = f"/ticket/{ticket}/correspond", {"Content": "Hello", "ContentType": "text/plain"}
    denied = (400, {"message": "Permission Denied"})

    def answer(content: bytes, media_type: str) -> int:
        return api.post(path, content=content, headers={"Content-Type": media_type}).status_code

    for credentials in ("token 1-99-" + "0" * 32, "", f"token {system.tokens[DISABLED]}"):
        assert api.post(path, json=good, headers={"Authorization": credentials}).status_code == 401
    unknown = api.post(f"/ticket/{UNKNOWN_TICKET}/correspond", json=good)
    assert (unknown.status_code, unknown.json()) == denied
    with system.as_user(REPLYONLY) as client:
        refused = client.post(f"/ticket/{ticket}/comment", json=good)
    assert (refused.status_code, refused.json()) == denied
    malformed = api.post(path, content=b'{"Content": ', headers={"Content-Type": "application/json"})
    assert (malformed.status_code, malformed.content) == (500, b"")
    assert reply(api, ticket, Content="Hello") == 400  # no ContentType
    assert answer(b"Hello", "application/x-unknown") == 415
    assert system.said(ticket) == []


def test_how_rt_treats_names_and_texts_that_are_not_ascii(
    system: RequestTracker, api: httpx.Client, ticket: int
) -> None:
    """Because of these answers, the preset sends text as JSON, and file names encoded as in RFC 2047."""
    file = {"FileType": "application/pdf", "FileContent": "AAAA"}
    content = {"Content": "x", "ContentType": "text/plain"}
    assert reply(api, ticket, **content, Attachments=[{**file, "FileName": "日.pdf"}]) == 500
    assert system.said(ticket) == []
    assert reply(api, ticket, **content, Attachments=[{**file, "FileName": "ü.pdf"}]) == 201
    [said] = system.said(ticket)
    assert system.content(said["id"])[-1]["Filename"] == "\N{REPLACEMENT CHARACTER}.pdf"
    assert reply(api, ticket, Content=BODY, ContentType="text/plain") == 201
    assert full_text(system, system.said(ticket)[-1]) == BODY
