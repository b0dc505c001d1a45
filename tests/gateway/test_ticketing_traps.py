"""The peculiarities of Znuny, GLPI, django-helpdesk and FreeScout: sessions that expire, and unexpected refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from retrycli.domain.errors import ConfigurationError
from retrycli.domain.outcome import Outcome, OutcomeKind
from tests.gateway.deliveries import KEY, NOON, deliver, deliver_in_turn, gateway_settings, queued
from tests.gateway.test_ticketing import one
from tests.gateway.ticketing.fake import Refusing
from tests.gateway.ticketing.freescout import Freescout
from tests.gateway.ticketing.glpi import Glpi
from tests.gateway.ticketing.helpdesk import Helpdesk
from tests.gateway.ticketing.znuny import Znuny

LONG_AGO = NOON - timedelta(days=1)
MESSAGE = queued(ticket_id=7, cc_emails=None)
NOTE = queued(ticket_id=7, cc_emails=None, message_type="internal")
ACCOUNTS: dict[type, dict[str, object]] = {
    Znuny: {"preset": "znuny", "username": "agent", "password": "secret"},
    Glpi: {"preset": "glpi", "token": "secret", "password": "app"},
    Helpdesk: {"preset": "helpdesk", "token": "secret"},
    Freescout: {"preset": "freescout", "token": "secret", "username": "3"},
}
Played = Znuny | Glpi | Helpdesk | Freescout


znuny, glpi, helpdesk, freescout = map(one, (Znuny, Glpi, Helpdesk, Freescout))


def sent(fake: Played, message: object = None, /, **changes: object) -> Outcome:
    """Deliver a message, by default `MESSAGE`, with these changes of settings."""
    settings = gateway_settings(fake.url, **(ACCOUNTS[type(fake)] | changes))
    return deliver(settings, message or MESSAGE)  # type: ignore[arg-type]


@pytest.fixture(params=[Znuny, Glpi])
def with_session(request: pytest.FixtureRequest) -> Iterator[Znuny | Glpi]:
    with request.param() as played:
        yield played


def log_ins(fake: Played) -> int:
    return sum(request.path.endswith(("/Session", "/initSession")) for request in fake.asked)


def test_one_session_serves_many_messages(with_session: Znuny | Glpi) -> None:
    settings = gateway_settings(with_session.url, verify=True, **ACCOUNTS[type(with_session)])
    outcomes = deliver_in_turn(settings, MESSAGE, NOTE, MESSAGE._replace(unsettled_since=LONG_AGO))
    assert [(outcome.kind, outcome.error) for outcome in outcomes] == [
        (OutcomeKind.DELIVERED, None),
        (OutcomeKind.DELIVERED, None),
        (OutcomeKind.DELIVERED, "found by look-up"),
    ]
    assert (len(with_session.arrived), log_ins(with_session)) == (2, 1)


@pytest.mark.parametrize("message", [MESSAGE, NOTE._replace(unsettled_since=LONG_AGO)], ids=["message", "look-up"])
def test_an_expired_session_is_renewed_once(with_session: Znuny | Glpi, message: object) -> None:
    class Expired(set[str]):
        """A set that discards the first session."""

        def add(self, session: str, /) -> None:
            if log_ins(with_session) > 1:
                super().add(session)

    with_session.sessions = Expired()
    assert sent(with_session, message).kind is OutcomeKind.DELIVERED
    assert (len(with_session.arrived), log_ins(with_session)) == (1, 2)


def test_a_session_that_is_never_accepted_ends_after_two(with_session: Znuny | Glpi) -> None:
    class Nothing(set[str]):
        def add(self, session: str, /) -> None:
            """Discard the session."""

    with_session.sessions = Nothing()
    assert sent(with_session).kind is OutcomeKind.UNAUTHORIZED
    assert (with_session.arrived, log_ins(with_session)) == ([], 2)


def test_znuny_mails_the_recipient_with_copies(znuny: Znuny) -> None:
    copies = {"cc_emails": '["b@example.com", "c@example.com"]', "bcc_emails": '["d@example.com"]'}
    assert sent(znuny, queued(ticket_id=7, **copies)).kind is OutcomeKind.DELIVERED
    (arrived,) = znuny.arrived
    assert (arrived.mailed, arrived.to) == (True, ("anna@example.com",))
    assert (arrived.cc, arrived.bcc) == (("b@example.com", "c@example.com"), ("d@example.com",))
    assert (arrived.text, arrived.marks) == ("It is on its way.", {"DeliveryKey": KEY})


@pytest.mark.parametrize("column", ["subject", "recipient_email"])
def test_znuny_receives_nothing_without_required_data(znuny: Znuny, column: str) -> None:
    assert sent(znuny, queued(ticket_id=7, **{column: " "})).kind is OutcomeKind.INVALID
    assert znuny.asked == []


def test_znuny_requires_its_dynamic_field(znuny: Znuny) -> None:
    znuny.article_fields = set()
    outcome = sent(znuny)
    assert (outcome.kind, znuny.arrived) == (OutcomeKind.PERMANENT, [])
    assert outcome.error == "HTTP 200: TicketUpdate: DynamicField->Name parameter is invalid!"


@pytest.mark.parametrize("column", ["cc_emails", "bcc_emails"])
def test_znuny_storing_an_article_without_queueing_its_mail_gets_no_second_one(znuny: Znuny, column: str) -> None:
    outcome = sent(znuny, queued(ticket_id=7, **{column: '["ben@example.com", "nobody"]'}))
    assert outcome.kind is OutcomeKind.PERMANENT
    assert outcome.error is not None
    assert outcome.error.startswith("HTTP 500: Article could not be created, please contact the system administrator")
    assert outcome.error.endswith(
        "; the article may already be on the ticket without its mail having been sent; check the ticket first"
    )
    assert [message.marks for message in znuny.arrived] == [{}]
    znuny.arrived, znuny.fields_fail = [], True  # Znuny stores the article, and fails to set the key
    assert sent(znuny).kind is OutcomeKind.PERMANENT
    assert [message.marks for message in znuny.arrived] == [{}]


@pytest.mark.parametrize("message", [MESSAGE, NOTE], ids=["message", "note"])
def test_znuny_receives_nothing_for_a_merged_ticket(znuny: Znuny, message: object) -> None:
    znuny.merged = {"7"}
    outcome = sent(znuny, message)
    assert (outcome.kind, znuny.arrived) == (OutcomeKind.INVALID, [])
    assert "must not be merged" in (outcome.error or "")


def test_znuny_with_the_key_in_a_ticket_field_gets_no_second_copy(znuny: Znuny) -> None:
    znuny.article_fields, znuny.ticket_fields = {"Other"}, {"DeliveryKey"}
    assert sent(znuny).kind is OutcomeKind.DELIVERED
    again = sent(znuny, MESSAGE._replace(unsettled_since=LONG_AGO))
    assert (again.kind, len(znuny.arrived)) == (OutcomeKind.INVALID, 1)
    assert "belong to the object Article" in (again.error or "")


def test_znuny_gives_its_own_reason_for_refusing_a_login(znuny: Znuny) -> None:
    outcome = sent(znuny, password="wrong")
    assert (outcome.kind, outcome.status_code, znuny.arrived) == (OutcomeKind.UNAUTHORIZED, 200, [])
    words = "log-in: HTTP 200, no valid SessionID: SessionCreate: Authorization failing!"
    assert (outcome.error or "").endswith(words)


@pytest.mark.parametrize("column", ["subject", "body"])
def test_znuny_treats_a_text_of_only_0_as_empty(znuny: Znuny, column: str) -> None:
    outcome = sent(znuny, queued(ticket_id=7, cc_emails=None, **{column: "0"}))
    assert (outcome.kind, znuny.arrived) == (OutcomeKind.PERMANENT, [])


@pytest.mark.parametrize("message", [MESSAGE, NOTE], ids=["message", "note"])
def test_znuny_may_return_numbers_as_texts(znuny: Znuny, message: object) -> None:
    znuny.text_numbers = True
    assert sent(znuny, message, verify=True) == Outcome(OutcomeKind.DELIVERED, 200, external_id="1")


@pytest.mark.parametrize(
    "body",
    ['it said ".AuthFail"', '{"Error":{"ErrorCode":"TicketUpdate.AuthFail"}}', "x.AuthFail", "TicketGet.AuthFail"],
)
def test_text_in_a_ticket_does_not_mislead_the_znuny_preset(znuny: Znuny, body: str) -> None:
    sent(znuny, queued("other", ticket_id=7, cc_emails=None, body=body))
    assert sent(znuny, MESSAGE._replace(unsettled_since=LONG_AGO)).kind is OutcomeKind.DELIVERED
    assert (len(znuny.arrived), log_ins(znuny)) == (2, 2)


@pytest.mark.parametrize("password", ["wrong", None])
def test_glpi_requires_its_app_token(glpi: Glpi, password: str | None) -> None:
    assert sent(glpi, password=password).kind is OutcomeKind.UNAUTHORIZED
    assert glpi.arrived == []


def test_glpi_may_require_no_app_token_and_reports_errors(glpi: Glpi) -> None:
    glpi.app_token = ""
    assert sent(glpi, password=None) == Outcome(OutcomeKind.DELIVERED, 201, external_id="1")
    outcome = sent(glpi, queued(ticket_id=99, cc_emails=None), password=None)
    assert outcome.error == "HTTP 400: ERROR_GLPI_ADD; You don't have permission to perform this action."


def test_glpi_may_not_allow_our_address() -> None:
    with Refusing(400, ["ERROR_NOT_ALLOWED_IP", "There isn't an active API client matching your IP address"]) as fake:
        assert deliver(gateway_settings(fake.url, **ACCOUNTS[Glpi]), MESSAGE).kind is OutcomeKind.UNAUTHORIZED


def test_glpi_look_up_reads_more_than_one_page(glpi: Glpi) -> None:
    sent(glpi)
    for number in range(20):
        glpi.arrived.append(replace(glpi.arrived[0], id=number + 2, text="something else"))
    assert sent(glpi, MESSAGE._replace(unsettled_since=LONG_AGO)).error == "found by look-up"


@pytest.mark.parametrize("text", ["{{ ticket.title }}", "{{ }}", "a {# b #} c", "{% now %}", "50 %} {{{", "}}{{'{'}}"])
def test_helpdesk_renders_no_template_in_a_text(helpdesk: Helpdesk, text: str) -> None:
    assert sent(helpdesk, queued(ticket_id=7, cc_emails=None, body=text)).kind is OutcomeKind.DELIVERED
    assert helpdesk.arrived[0].text == f"{text}\n\nRef. {KEY}"


def test_helpdesk_receives_no_file_that_it_would_not_mail(helpdesk: Helpdesk, tmp_path: Path) -> None:
    (tmp_path / "prices.xlsx").write_bytes(b"PK")
    message = queued(ticket_id=7, cc_emails=None, attachments=json.dumps(["prices.xlsx"]))
    assert sent(helpdesk, message, attachments_dir=tmp_path).kind is OutcomeKind.INVALID
    assert helpdesk.asked == []


@pytest.mark.parametrize("said", [b"<html>Forbidden</html>", b"", b'{"message":"blocked: {\\"detail\\":\\"x\\"}"}'])
def test_a_firewall_in_front_of_helpdesk_is_not_taken_for_helpdesk(said: bytes) -> None:
    with Refusing(403, said) as firewall:
        outcome = deliver(gateway_settings(firewall.url, **ACCOUNTS[Helpdesk]), MESSAGE)
    assert outcome.kind is OutcomeKind.PERMANENT


def test_helpdesk_keeps_the_tickets_title_requires_a_staff_user_and_reports_errors(helpdesk: Helpdesk) -> None:
    sent(helpdesk)
    assert helpdesk.titles == {7: "Broken printer"}
    assert sent(helpdesk, token="customer").kind is OutcomeKind.UNAUTHORIZED
    outcome = sent(helpdesk, queued(ticket_id=99, cc_emails=None))
    assert outcome.error == 'HTTP 400: Invalid pk "99" - object does not exist.'


def test_freescout_writes_to_the_customer_as_the_user_with_copies(freescout: Freescout) -> None:
    copies = {"cc_emails": '["b@example.com"]', "bcc_emails": '["d@example.com"]'}
    assert sent(freescout, queued(ticket_id=7, **copies)).kind is OutcomeKind.DELIVERED
    (arrived,) = freescout.arrived
    assert (arrived.mailed, arrived.to) == (True, ("customer@example.org",))
    assert (arrived.cc, arrived.bcc) == (("b@example.com",), ("d@example.com",))
    assert freescout.threads[0]["type"] == "message"


def test_freescout_rejects_an_unknown_user(freescout: Freescout) -> None:
    outcome = sent(freescout, username="4")
    assert (outcome.kind, freescout.arrived) == (OutcomeKind.UNAUTHORIZED, [])
    assert outcome.error == "HTTP 400: `user` parameter is required"


@pytest.mark.parametrize("username", [None, "agent@example.org"])
def test_freescout_requires_the_users_id(freescout: Freescout, username: str | None) -> None:
    with pytest.raises(ConfigurationError, match=r"gateway\.username"):
        sent(freescout, username=username)


def test_what_a_customer_writes_into_a_freescout_conversation_proves_no_delivery(freescout: Freescout) -> None:
    """Who knows the row of an expected message can compute its key."""
    assert sent(freescout).error is None
    freescout.threads[0]["type"] = "customer"
    outcome = sent(freescout, MESSAGE._replace(unsettled_since=LONG_AGO))
    assert (outcome.kind, outcome.error, len(freescout.arrived)) == (OutcomeKind.DELIVERED, None, 2)
