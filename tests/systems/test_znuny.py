"""The shipped preset ``znuny`` with a real Znuny, and the behaviour of Znuny that the preset depends on."""

from __future__ import annotations

import base64
import json
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from retrycli.domain.outcome import OutcomeKind
from tests.gateway.deliveries import deliver_in_turn, gateway_settings, queued
from tests.systems.desk import BODY, FILES, REFUSED, Desk, shipped, texts
from tests.systems.fire import Fire, deliver_all, under_fire
from tests.systems.servers import forgetful
from tests.systems.znuny import AGENT, READER, SERVICE, Znuny, znuny

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long_except("test_messages_whose_answers_were_lost_are_found_and_exist_once[504]"),
]

TYPES = ("customer", "supplier", "internal")
CUSTOMER, SUPPLIER = "customer@customer.test", "stock@supplier.test"
SECRET = "Nobody but us may read this."
UNKNOWN_TICKET = 999_999
SIGNATURE = "\nYour Ticket-Team\n"
"""The beginning of the signature that a new Znuny has in every queue."""
NO_ACCESS = ("permanent", "HTTP 200: TicketUpdate: User does not have access to the ticket!")
NOT_CREATED = (
    "HTTP 500: Article could not be created, please contact the system administrator; the article may already be "
    "on the ticket without its mail having been sent; check the ticket first"
)
NOT_PROVEN = (
    "invalid",
    "Can't be sent: not sent, because preflight ticket failed: the ticket must not be merged into another, and Znuny's "
    "dynamic field DeliveryKey must belong to the object Article",
)
LOG_IN_REFUSED = "log-in: HTTP 200, no valid SessionID: SessionCreate: Authorization failing!"


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Znuny]:
    """Share one Znuny among all tests and workers. Each test has its own ticket."""
    own = tmp_path_factory.getbasetemp()
    with znuny(own if worker_id == "master" else own.parent) as found:
        yield found


@pytest.fixture
def ticket(system: Znuny) -> int:
    return system.open_ticket()


@pytest.fixture
def desk(cli: Cli, application: Application, tmp_path: Path, system: Znuny) -> Desk:
    """Configure the command with the agent's credentials."""
    made = Desk(cli.having(application.variables(system.url)), application, tmp_path)
    return as_user(made.having(preset="znuny", attachments_dir=tmp_path), AGENT)


def as_user(desk: Desk, name: str) -> Desk:
    return desk.having(username=name, password=f"{name}-password")


def fail(desk: Desk, ticket: int, message_type: str = "customer", **columns: object) -> int:
    """Add a failed message. Messages to customers and suppliers get a recipient, which Znuny requires."""
    to = {"customer": CUSTOMER, "supplier": SUPPLIER, "internal": None}[message_type]
    return desk.fail(ticket, message_type, **{"recipient_email": to, **columns})


def fail_each_type(desk: Desk, ticket: int, **columns: object) -> list[int]:
    """Add one message of each type; return their ids."""
    return [fail(desk, ticket, kind, **columns) for kind in TYPES]


def words(article: Mapping[str, Any]) -> str:
    """Return the text of an article, without the queue's signature."""
    return str(article["Body"]).partition(SIGNATURE)[0]


def files_of(article: Mapping[str, Any]) -> dict[str, bytes]:
    return {entry["Filename"]: base64.b64decode(entry["Content"]) for entry in article.get("Attachment", [])}


def key_of(article: Mapping[str, Any]) -> str | None:
    [field] = article["DynamicField"]
    assert field["Name"] == "DeliveryKey"
    found: str | None = field["Value"]
    return found


def with_a_tickets_field(folder: Path) -> Path:
    """Copy the preset, with the key in a ticket's dynamic field instead of an article's."""
    copy = shipped("znuny", folder, settle_seconds=0)
    copy.write_text(copy.read_text().replace("DeliveryKey", "TicketKey"))
    return copy


def test_a_message_to_a_customer_becomes_an_article_seen_by_and_mailed_to_them(
    desk: Desk, system: Znuny, ticket: int
) -> None:
    copies = {"cc_emails": '["ben@customer.test", "cy@customer.test"]', "bcc_emails": '["dee@desk.test"]'}
    message_id = fail(desk, ticket, subject='Größe 日本 "x"', **copies)
    assert desk.run_once()["sent"] == 1
    [article] = system.said(ticket)
    assert words(article) == BODY
    assert SIGNATURE in article["Body"]
    assert article["Subject"].startswith("[Ticket#")
    assert article["Subject"].endswith('] Größe 日本 "x"')
    assert (article["To"], article["Cc"]) == (CUSTOMER, "ben@customer.test, cy@customer.test")
    assert str(article["IsVisibleForCustomer"]) == "1"
    assert system.queued_for(ticket) == {CUSTOMER, "ben@customer.test", "cy@customer.test", "dee@desk.test"}
    assert desk.in_short(message_id) == ("sent", 0)


def test_a_message_to_a_supplier_is_mailed_and_hidden_from_the_customer(desk: Desk, system: Znuny, ticket: int) -> None:
    fail(desk, ticket, "supplier", body=SECRET)
    assert desk.run_once()["sent"] == 1
    [article] = system.said(ticket)
    assert (words(article), str(article["IsVisibleForCustomer"])) == (SECRET, "0")
    assert system.queued_for(ticket) == {SUPPLIER}


def test_an_internal_message_becomes_an_unmailed_article_hidden_from_the_customer(
    desk: Desk, system: Znuny, ticket: int
) -> None:
    fail(desk, ticket, "internal", body=SECRET, recipient_email=CUSTOMER, cc_emails=f'["{SUPPLIER}"]')
    assert desk.run_once()["sent"] == 1
    [article] = system.said(ticket)
    assert (article["Body"], str(article["IsVisibleForCustomer"])) == (SECRET, "0")
    assert system.queued_for(ticket) == set()


def test_attachments_arrive_byte_for_byte_under_their_names(desk: Desk, system: Znuny, ticket: int) -> None:
    fail_each_type(desk, ticket, attachments=desk.attach())
    assert desk.run_once()["sent"] == 3
    articles = system.said(ticket)
    assert [files_of(article) for article in articles] == [FILES] * 3
    assert [words(article) for article in articles] == [BODY] * 3
    for article in articles:
        assert sorted(file["ContentType"] for file in article["Attachment"]) == ["application/pdf", "text/plain"]


def test_an_empty_attachment_arrives_empty(desk: Desk, system: Znuny, ticket: int) -> None:
    files = {"empty.txt": b"", "one.bin": b"\x00"}
    fail_each_type(desk, ticket, attachments=desk.attach(files))
    assert desk.run_once()["sent"] == 3
    assert [files_of(article) for article in system.said(ticket)] == [files] * 3


def test_sent_content_is_read_back_if_configured(desk: Desk, ticket: int) -> None:
    numbers = fail_each_type(desk, ticket)
    assert desk.having(verify=True).run_once()["sent"] == 3
    assert [desk.attempts(message_id) for message_id in numbers] == [[("delivered", None)]] * 3


def test_znuny_trims_blanks_at_both_ends_and_keeps_inner_ones(desk: Desk, system: Znuny, ticket: int) -> None:
    fail(desk, ticket, "internal", body="  indented\n    further\n\n")
    assert desk.run_once()["sent"] == 1
    [article] = system.said(ticket)
    assert article["Body"] == "indented\n    further"


def test_deliver_test_finds_its_message(desk: Desk, system: Znuny, ticket: int) -> None:
    shown = desk.cli.json("deliver-test", "--ticket", str(ticket))
    assert (shown["outcome"], shown["found_again"]) == ("delivered", True)
    assert len(system.said(ticket)) == 1


def test_deliver_test_reports_that_a_key_in_a_ticket_field_is_not_found(
    desk: Desk, ticket: int, tmp_path: Path
) -> None:
    wrong = desk.having(preset=with_a_tickets_field(tmp_path))
    shown = wrong.cli.json("deliver-test", "--ticket", str(ticket))
    assert (shown["outcome"], shown["found_again"]) == ("delivered", False)


def test_a_malformed_copy_is_final_because_the_article_is_stored_without_its_key(
    desk: Desk, system: Znuny, ticket: int
) -> None:
    numbers = [
        fail(desk, ticket, kind, **{column: '["nobody"]'})
        for kind in ("customer", "supplier")
        for column in ("cc_emails", "bcc_emails")
    ]
    for _ in range(3):
        desk.run_once()
        desk.let_time_pass()
    assert [desk.why_escalated(message_id) for message_id in numbers] == [("permanent", NOT_CREATED)] * 4
    assert [key_of(article) for article in system.said(ticket)] == [None] * 4
    assert system.queued_for(ticket) == set()


def test_a_queue_with_a_malformed_address_of_its_own_gets_one_copy_of_a_message(desk: Desk, system: Znuny) -> None:
    ticket = system.open_ticket("Nowhere")
    message_id = fail(desk, ticket)
    for _ in range(3):
        desk.run_once()
        desk.let_time_pass()
    assert desk.why_escalated(message_id) == ("permanent", NOT_CREATED)
    assert len(system.said(ticket)) == 1


def test_a_text_of_only_0_which_znuny_treats_as_empty_is_escalated(desk: Desk, system: Znuny, ticket: int) -> None:
    bodies, subjects = fail_each_type(desk, ticket, body="0"), fail_each_type(desk, ticket, subject="0")
    assert desk.run_once()["escalated"] == 6
    for name, numbers in (("Body", bodies), ("Subject", subjects)):
        said = f"HTTP 200: TicketUpdate: Article->{name} parameter is missing!"
        assert [desk.why_escalated(message_id) for message_id in numbers] == [("permanent", said)] * 3
    assert system.said(ticket) == []


def test_a_message_without_required_data_is_not_sent(desk: Desk, system: Znuny, ticket: int) -> None:
    missing = {"body": " \n\t", "subject": "", "recipient_email": None}
    numbers = {name: fail(desk, ticket, "customer", **{name: value}) for name, value in missing.items()}
    assert desk.run_once()["escalated"] == 3
    for name, message_id in numbers.items():
        why = ("invalid", f"Can't be sent: {name} is empty, but the preset znuny needs it")
        assert desk.why_escalated(message_id) == why
    assert system.said(ticket) == []


def test_an_unknown_ticket_is_escalated_and_others_are_delivered(desk: Desk, system: Znuny, ticket: int) -> None:
    numbers = [fail(desk, UNKNOWN_TICKET), fail(desk, UNKNOWN_TICKET, "internal"), fail(desk, ticket)]
    done = desk.run_once()
    assert (done["sent"], done["escalated"]) == (1, 2)
    reasons, errors = zip(*(desk.why_escalated(message_id) for message_id in numbers[:2]), strict=True)
    assert reasons == ("permanent", "permanent")
    assert all("User does not have access to the ticket!" in error for error in errors)
    assert len(system.said(ticket)) == 1


def test_an_agent_with_read_only_permission_sends_nothing(desk: Desk, system: Znuny, ticket: int) -> None:
    numbers = fail_each_type(desk, ticket)
    assert as_user(desk, READER).run_once()["escalated"] == 3
    assert [desk.why_escalated(message_id) for message_id in numbers] == [NO_ACCESS] * 3
    assert system.said(ticket) == []


def test_a_wrong_password_stops_the_pass_and_costs_no_retry(desk: Desk, system: Znuny, ticket: int) -> None:
    numbers = fail_each_type(desk, ticket)
    done = desk.having(password="wrong").run_once(code=REFUSED)
    assert (done["result"], done["reason"]) == ("stopped", "credentials_refused")
    assert all(desk.in_short(message_id) == ("failed", 0) for message_id in numbers)
    assert all(desk.application.state(message_id) == "waiting" for message_id in numbers)
    assert LOG_IN_REFUSED in texts(desk.attempts(numbers[0]))
    assert system.said(ticket) == []
    assert desk.run_once()["sent"] == 3


def test_a_session_deleted_by_znuny_is_renewed_and_the_message_exists_once(system: Znuny, ticket: int) -> None:
    settings = gateway_settings(system.url, preset="znuny", username=AGENT, password=f"{AGENT}-password")
    to = {"ticket_id": ticket, "recipient_email": CUSTOMER, "cc_emails": None}
    messages = [queued(f"key-{subject}", body=subject, **to) for subject in ("one", "two")]
    outcomes = deliver_in_turn(settings, *messages, after_each=system.forget_sessions)
    assert [(outcome.kind, outcome.error) for outcome in outcomes] == [(OutcomeKind.DELIVERED, None)] * 2
    assert [words(article) for article in system.said(ticket)] == ["one", "two"]


def test_doctor_tells_good_credentials_from_bad_with_znunys_message(desk: Desk, system: Znuny) -> None:
    assert desk.cli("config", "check").returncode == 0
    assert desk.ask_doctor("api") == ("ok", f"{system.url} responds and accepts the credentials")
    how, why = desk.having(password="wrong").ask_doctor("api")
    assert (how, why) == ("failure", f"{system.url} refuses the credentials: {LOG_IN_REFUSED}")


def test_a_merged_ticket_receives_nothing_though_znuny_would_accept_it(desk: Desk, system: Znuny) -> None:
    before = len(system.said(system.merged))
    numbers = fail_each_type(desk, system.merged)
    assert desk.run_once()["escalated"] == 3
    assert [desk.why_escalated(message_id) for message_id in numbers] == [NOT_PROVEN] * 3
    assert len(system.said(system.merged)) == before


def test_a_useless_ticket_field_for_the_key_is_noticed_before_a_second_copy(
    desk: Desk, system: Znuny, ticket: int, tmp_path: Path
) -> None:
    message_id = fail(desk, ticket)
    wrong = with_a_tickets_field(tmp_path)
    with forgetful(system.root, "PATCH") as between:
        assert desk.having(preset=wrong, base_url=between.url + SERVICE).run_once()["unknown"] == 1
    for _ in range(3):
        desk.let_time_pass()
        desk.having(preset=wrong).run_once()
    assert desk.why_escalated(message_id) == (NOT_PROVEN[0], NOT_PROVEN[1].replace("DeliveryKey", "TicketKey"))
    assert len(system.said(ticket)) == 1


@pytest.mark.parametrize("status", [None, 502, 504])
def test_messages_whose_answers_were_lost_are_found_and_exist_once(
    status: int | None, desk: Desk, system: Znuny, ticket: int
) -> None:
    numbers = fail_each_type(desk, ticket, attachments=desk.attach())
    with forgetful(system.root, "PATCH", status=status) as between:
        assert desk.having(base_url=between.url + SERVICE).run_once()["sent"] == 0
    desk.let_time_pass()
    assert desk.run_once()["sent"] == 3
    assert [desk.attempts(message_id)[-1] for message_id in numbers] == [("delivered", "found by look-up")] * 3
    assert len(system.said(ticket)) == 3


def test_a_message_that_never_arrived_is_sent_again_after_the_settling_time(
    desk: Desk, system: Znuny, ticket: int, tmp_path: Path
) -> None:
    message_id = fail(desk, ticket)
    with forgetful(system.root, "PATCH", also_the_request=True) as between:
        assert desk.having(base_url=between.url + SERVICE).run_once()["unknown"] == 1
    desk.let_time_pass()
    assert desk.run_once()["sent"] == 0
    assert "not found yet" in texts(desk.attempts(message_id)[-1:])
    desk.let_time_pass()
    assert desk.having(preset=shipped("znuny", tmp_path, settle_seconds=0)).run_once()["sent"] == 1
    assert [words(article) for article in system.said(ticket)] == [BODY]


@pytest.mark.parametrize("arrived", [True, False])
def test_a_pass_killed_during_its_request_sends_nothing_twice(
    arrived: bool,  # noqa: FBT001
    desk: Desk,
    system: Znuny,
    ticket: int,
    tmp_path: Path,
) -> None:
    message_id = fail(desk, ticket, attachments=desk.attach())
    with forgetful(system.root, "PATCH", also_the_request=not arrived, silent=True) as between:
        process = desk.having(base_url=between.url + SERVICE).cli.start("run-once")
        assert between.happened.wait(60)
        process.kill()
        process.communicate()
    desk.let_time_pass()
    preset = "znuny" if arrived else shipped("znuny", tmp_path, settle_seconds=0)
    desk.having(preset=preset).run_once()
    desk.let_time_pass()
    desk.having(preset=preset).run_once()
    assert desk.in_short(message_id)[0] == "sent"
    assert desk.attempts(message_id)[0][0] == "unknown"
    assert [words(article) for article in system.said(ticket)] == [BODY]


@pytest.mark.long
def test_each_message_arrives_exactly_once_however_passes_are_killed(desk: Desk, system: Znuny, tmp_path: Path) -> None:
    tickets = [system.open_ticket() for _ in range(4)]
    hasty = under_fire(desk, "znuny", tmp_path)
    kinds = {f"Message {number}: ü 😀": TYPES[number % 3] for number in range(60)}
    for number, (text, kind) in enumerate(kinds.items()):
        fail(hasty, tickets[number % 4], kind, body=text)
    fire = Fire(len(kinds), kills=12, stalls=0)
    happened = deliver_all(hasty, fire, Random(60), lambda _: None)
    print(fire, dict(happened))
    said = [article for ticket in tickets for article in system.said(ticket)]
    assert Counter(map(words, said)) == Counter(kinds.keys())
    visible = {words(entry) for entry in said if str(entry["IsVisibleForCustomer"]) == "1"}
    assert visible == {text for text, kind in kinds.items() if kind == "customer"}
    assert happened["kill"] > 0
    assert happened["found by look-up"] > 0


def article(channel: str = "Email", **changes: object) -> dict[str, Any]:
    """Return an article as the preset writes it for a customer's message, with these changes."""
    kind = {"ArticleSend": 1, "To": CUSTOMER} if channel == "Email" else {}
    text = {"Subject": "Hello", "Body": "Hello", "ContentType": "text/plain; charset=utf-8"}
    return {"CommunicationChannel": channel, "IsVisibleForCustomer": 1, **kind, **text, **changes}


def write(system: Znuny, ticket: int, **content: object) -> tuple[int, dict[str, Any]]:
    answer = system.as_user().answer("PATCH", f"/Ticket/{ticket}", **content)
    return answer.status_code, json.loads(answer.content)


def test_znunys_answers_to_invalid_requests(system: Znuny, ticket: int) -> None:
    """The preset's outcomes depend on these answers, and the fake gives the same ones."""

    def refused(code: str, message: str) -> tuple[int, dict[str, Any]]:
        return 200, {"Error": {"ErrorCode": code, "ErrorMessage": message}}

    no_access = refused("TicketUpdate.AccessDenied", "TicketUpdate: User does not have access to the ticket!")
    assert write(system, UNKNOWN_TICKET, Article=article()) == no_access
    assert write(system, ticket, Article=article(), Attachment=[]) == refused(
        "TicketUpdate.MissingParameter", "TicketUpdate: Attachment parameter is missing or not valid!"
    )
    assert write(system, ticket, Article=article(), DynamicField=[{"Name": "NoSuch", "Value": "x"}]) == refused(
        "TicketUpdate.InvalidParameter", "TicketUpdate: DynamicField->Name parameter is invalid!"
    )
    assert write(system, ticket, Article=article(To="nobody")) == refused(
        "TicketCreate.InvalidParameter",
        "TicketCreate: Article->To parameter must be a valid email address when Article->ArticleSend is set!",
    )
    assert system.said(ticket) == []


def test_znuny_itself_stores_an_article_that_it_reports_as_failed(system: Znuny, ticket: int) -> None:
    fault = {
        "faultcode": "Server",
        "faultstring": "Article could not be created, please contact the system administrator",
    }
    key = [{"Name": "DeliveryKey", "Value": "k"}]
    assert write(system, ticket, Article=article(Cc="nobody"), DynamicField=key) == (500, fault)
    assert [key_of(each) for each in system.said(ticket)] == [None]


def test_znuny_itself_accepts_articles_for_a_merged_ticket_and_hides_their_keys(system: Znuny, ticket: int) -> None:
    status, answer = write(system, system.merged, Article=article())
    assert (status, answer["TicketID"]) == (200, str(system.merged))
    status, answer = write(system, ticket, Article=article(), DynamicField=[{"Name": "TicketKey", "Value": "k"}])
    assert (status, "ArticleID" in answer) == (200, True)
    assert [key_of(each) for each in system.said(ticket)] == [None]


def test_znuny_itself_accepts_the_same_message_twice_with_any_key(system: Znuny, ticket: int) -> None:
    for _ in range(2):
        write(system, ticket, Article=article(), DynamicField=[{"Name": "DeliveryKey", "Value": "one"}])
    assert [key_of(each) for each in system.said(ticket)] == ["one", "one"]
