"""The presets with fake ticketing systems: tests of all systems, and then tests of single systems.

A new system needs an entry in `SYSTEMS`, and separate tests only for its peculiarities.
"""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from retrycli.config.gateway import RoutedGatewaySettings
from retrycli.domain.message import MessageType, QueuedMessage
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.gateway.http.lookup import probe
from retrycli.gateway.presets.loader import load_preset, preset_text
from tests.gateway.deliveries import KEY, NOON, deliver, gateway_settings, preset_file, queued
from tests.gateway.ticketing.arrived import Arrived
from tests.gateway.ticketing.fake import Fake, Refusing
from tests.gateway.ticketing.freescout import Freescout
from tests.gateway.ticketing.freshdesk import Freshdesk
from tests.gateway.ticketing.glpi import Glpi
from tests.gateway.ticketing.helpdesk import Helpdesk
from tests.gateway.ticketing.jira_service_management import JiraServiceManagement
from tests.gateway.ticketing.zammad import Zammad
from tests.gateway.ticketing.zendesk import Zendesk
from tests.gateway.ticketing.znuny import Znuny

TYPES = ("customer", "supplier", "internal")
TEXT = 'Grüße 🎫, "so" it\'s & <b>not bold</b>.\n\nTwo lines\nfurther on: 100 % {braces} #1 *stars*'
SUPPLIER, CC, BCC = "lager@supplier.example", "ben@example.com", "boss@example.com"
FILES = {"Prüfbericht Nº 1.txt": "Grüße\r\n".encode(), "photo.png": bytes(range(256)) * 40}
LONG_AGO = NOON - timedelta(days=1)


@dataclass(frozen=True)
class System:
    """A ticketing system under test.

    Args:
        preset: the name of the preset.
        fake: creates the fake system.
        account: the settings that the preset needs.
        wrong: these settings with wrong credentials.
        public: the part of the preset that makes a note internal, and a replacement that makes it public.
        ticket, unknown, forbidden: an existing ticket, a missing one, and one without access.
        cc, bcc, attachments: whether the preset supports them.
        to: whether a supplier is addressed by ``recipient_email``.
        supplier_internal: whether messages to suppliers are hidden from the customer.
        confirms: whether an answer shows without ``gateway.verify`` that a note is public.
        limit: makes the fake answer with a rate limit.
        wait: the wait that the fake then requests.
    """

    preset: str
    fake: Callable[[], Fake]
    account: Mapping[str, str]
    wrong: Mapping[str, str]
    public: tuple[str, str]
    ticket: int | str = 1
    unknown: int | str = 99
    forbidden: int | str | None = 3
    cc: bool = False
    bcc: bool = False
    attachments: bool = True
    to: bool = False
    supplier_internal: bool = False
    confirms: bool = True
    limit: Callable[[Any], None] | None = None
    wait: timedelta | None = None
    changes: Mapping[str, object] = field(default_factory=dict)
    """Changes to the messages that tests send to this system."""


def limited(fake: Any) -> None:  # noqa: ANN401  any fake that has this switch
    fake.limited = True


SYSTEMS = [
    System(
        "zammad",
        Zammad,
        {"token": "zammad-token"},
        {"token": "wrong"},
        ("internal = true", "internl = true"),
        cc=True,
        to=True,
        supplier_internal=True,
        limit=limited,
    ),
    System(
        "zendesk",
        Zendesk,
        {"username": "agent@example.com", "token": "zendesk-token"},
        {"token": "wrong"},
        ("public = false", "pubic = false"),
        cc=True,
        limit=lambda fake: setattr(fake, "limited", "account"),
        wait=timedelta(seconds=93),
    ),
    System(
        "freshdesk",
        Freshdesk,
        {"token": "freshdesk-key"},
        {"token": "wrong"},
        ('private = "true"', 'private = "false"'),
        cc=True,
        bcc=True,
        to=True,
        supplier_internal=True,
        limit=limited,
        wait=timedelta(seconds=42),
    ),
    System(
        "jira-service-management",
        JiraServiceManagement,
        {"username": "agent@example.com", "token": "jira-token"},
        {"token": "wrong"},
        ('"sd.public.comment", value = { internal = true }', '"sd.public.coment", value = { internal = true }'),
        ticket="SUP-1",
        unknown="SUP-99",
        forbidden="SUP-3",
        attachments=False,
        confirms=False,
        limit=limited,
        wait=timedelta(seconds=5),
    ),
    System(
        "znuny",
        Znuny,
        {"username": "agent", "password": "secret"},
        {"username": "agent", "password": "wrong"},
        ("IsVisibleForCustomer = 0", "IsVisibleForCustomer = 1"),
        ticket=7,
        forbidden=8,
        cc=True,
        bcc=True,
        to=True,
        supplier_internal=True,
        confirms=False,
    ),
    System(
        "glpi",
        Glpi,
        {"token": "secret", "password": "app"},
        {"token": "wrong", "password": "app"},
        ("is_private = 1", "is_privat = 1"),
        ticket=7,
        forbidden=8,
        attachments=False,
        confirms=False,
    ),
    System(
        "helpdesk",
        Helpdesk,
        {"token": "secret"},
        {"token": "wrong"},
        ('public = "false"', 'public = "true"'),
        ticket=7,
        forbidden=None,
    ),
    System(
        "freescout",
        Freescout,
        {"token": "secret", "username": "3"},
        {"token": "wrong", "username": "3"},
        ('type = "note"', 'type = "notes"'),
        ticket=7,
        forbidden=None,
        cc=True,
        bcc=True,
        confirms=False,
    ),
]


@pytest.fixture(params=SYSTEMS, ids=[candidate.preset for candidate in SYSTEMS])
def system(request: pytest.FixtureRequest) -> System:
    found: System = request.param
    return found


@pytest.fixture
def fake(system: System) -> Iterator[Fake]:
    with system.fake() as played:
        yield played


def settings(system: System, fake: Fake, **changes: object) -> RoutedGatewaySettings:
    return gateway_settings(fake.url, **({"preset": system.preset, **system.account} | changes))


def message(system: System, message_type: str = "customer", **changes: object) -> QueuedMessage:
    """Return a message that every system supports, with the given changes of its row."""
    if message_type not in load_preset(system.preset).messages:
        pytest.skip(f"{system.preset} has no place for {message_type} messages")
    usual = {"ticket_id": system.ticket, "message_type": message_type, "cc_emails": None, "body": TEXT}
    to = {"recipient_email": SUPPLIER} if message_type == "supplier" else {}
    return queued(**{**usual, **to, **system.changes, **changes})


def unsettled(system: System, message_type: str = "customer") -> QueuedMessage:
    """Return a message that may have arrived, long enough ago to be visible."""
    return message(system, message_type)._replace(unsettled_since=LONG_AGO)


def said(arrived: Arrived) -> str:
    """Return the visible text before the line that identifies the message."""
    text = arrived.text
    if arrived.html:
        text = html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<br ?/?>\n?|</p>\s*<p>", "\n", text)))
    return re.sub(rf"\n\nRef\. {KEY}.*", "", text, flags=re.DOTALL)


def with_files(folder: Path) -> tuple[dict[str, object], dict[str, object]]:
    """Return the columns of a message with `FILES`, and the settings for it."""
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return {"attachments": json.dumps(list(FILES))}, {"attachments_dir": folder}


def made_public(system: System, folder: Path, *, confirmed: bool) -> str:
    """Return the preset with a mistake that makes notes public. Keep its check of answers only if ``confirmed``."""
    text = preset_text(system.preset)
    assert system.public[0] in text
    wrong = text.replace(*system.public)
    return preset_file(folder, wrong if confirmed else re.sub(r"^confirmed = .*", "", wrong, flags=re.MULTILINE))


def refused(preset: str, status: int, body: object) -> OutcomeKind:
    """Return the outcome of a message if the server gives this answer to every request."""
    with Refusing(status, body) as fake:
        return deliver(settings(playing(preset), fake), message(playing(preset))).kind


def check_waits(system: System, fake: Fake, switch: str, missing: str) -> None:
    """Check that a message waits while the system hides the delivery key, because a missing key proves nothing."""
    deliver(settings(system, fake), message(system))
    setattr(fake, switch, False)
    outcome = deliver(settings(system, fake), unsettled(system))
    assert (outcome.kind, len(fake.arrived)) == (OutcomeKind.REFUSED, 1)
    assert missing in (outcome.error or "")
    setattr(fake, switch, True)
    assert deliver(settings(system, fake), unsettled(system)).error == "found by look-up"


def test_a_note_that_cannot_be_kept_internal_is_not_sent() -> None:
    """django-helpdesk mails notes to people in CC unless it is configured otherwise, and no request shows its
    configuration.
    """
    system = next(candidate for candidate in SYSTEMS if candidate.preset == "helpdesk")
    with system.fake() as fake:
        note = queued(ticket_id=system.ticket, message_type="internal", cc_emails=None)
        outcome = deliver(settings(system, fake), note)
        assert (outcome.kind, fake.asked) == (OutcomeKind.INVALID, [])
    assert outcome.error is not None
    assert "[gateway.internal]" in outcome.error


def test_optional_parts_of_a_preset_can_be_enabled(tmp_path: Path) -> None:
    """The preset's file explains how to enable notes at a site that keeps notes internal."""
    system = next(candidate for candidate in SYSTEMS if candidate.preset == "helpdesk")
    text = re.sub(
        r"(?m)^# (?=\[|like|ignores|confirmed|ticket =|comment|public|path|holds)", "", preset_text("helpdesk")
    )
    with system.fake() as fake:
        note = queued(ticket_id=system.ticket, message_type="internal", cc_emails=None, body=TEXT)
        own = settings(system, fake, preset=preset_file(tmp_path, text.replace("\n#\n", "\n\n")), verify=True)
        assert deliver(own, note).kind is OutcomeKind.DELIVERED
        assert [message.internal for message in fake.arrived] == [True]


@pytest.mark.parametrize("message_type", TYPES)
def test_a_message_arrives_as_its_type_with_its_text_unchanged(system: System, fake: Fake, message_type: str) -> None:
    """An answer may repeat a long text in several forms."""
    text = (f"{TEXT}\n" * 300).strip()
    copies = {"cc_emails": json.dumps([CC]), "bcc_emails": json.dumps([BCC])} if message_type == "internal" else {}
    outcome = deliver(settings(system, fake), message(system, message_type, body=text, **copies))
    (arrived,) = fake.arrived
    assert (outcome.kind, outcome.external_id) == (OutcomeKind.DELIVERED, str(arrived.id))
    internal = {"customer": False, "supplier": system.supplier_internal, "internal": True}[message_type]
    assert (arrived.ticket, arrived.internal, said(arrived)) == (str(system.ticket), internal, text)
    if message_type == "internal":
        assert not arrived.mailed
        assert not {SUPPLIER, CC, BCC} & {*arrived.to, *arrived.cc, *arrived.bcc}
    elif message_type == "supplier" and system.to:
        assert (arrived.to, arrived.mailed) == ((SUPPLIER,), True)


@pytest.mark.parametrize("column", ["cc", "bcc"])
@pytest.mark.parametrize("message_type", ["customer", "supplier"])
def test_copies_arrive_or_the_message_is_not_sent(system: System, fake: Fake, message_type: str, column: str) -> None:
    copies = {f"{column}_emails": json.dumps(["one@example.com", "two@example.com"])}
    outcome = deliver(settings(system, fake), message(system, message_type, **copies))
    if getattr(system, column):
        assert outcome.kind is OutcomeKind.DELIVERED
        assert getattr(fake.arrived[0], column) == ("one@example.com", "two@example.com")
    else:
        assert (outcome.kind, fake.asked) == (OutcomeKind.INVALID, [])


@pytest.mark.parametrize("message_type", TYPES)
def test_attachments_arrive_byte_for_byte_or_the_message_is_not_sent(
    system: System, fake: Fake, message_type: str, tmp_path: Path
) -> None:
    columns, folder = with_files(tmp_path)
    outcome = deliver(settings(system, fake, **folder), message(system, message_type, **columns))
    if system.attachments:
        assert outcome.kind is OutcomeKind.DELIVERED
        (arrived,) = fake.arrived
        assert {name: content for name, _, content in arrived.attachments} == FILES
        assert [kind for _, kind, _ in arrived.attachments] == ["text/plain", "image/png"]
        assert arrived.internal is (message_type == "internal" or (message_type == "supplier" and arrived.internal))
    else:
        assert (outcome.kind, fake.asked) == (OutcomeKind.INVALID, [])


@pytest.mark.parametrize("message_type", TYPES)
def test_a_message_that_the_system_does_not_accept_is_not_delivered(
    system: System, fake: Fake, message_type: str
) -> None:
    def outcome(settings_: Mapping[str, str] | None = None, **changes: object) -> Outcome:
        found = deliver(settings(system, fake, **settings_ or {}), message(system, message_type, **changes))
        assert fake.arrived == []
        return found

    for body in ("", " \n\t "):
        empty = outcome(body=body).kind
        assert empty in {OutcomeKind.INVALID, OutcomeKind.PERMANENT, OutcomeKind.REFUSED}
    assert outcome(system.wrong).kind is OutcomeKind.UNAUTHORIZED
    assert outcome(ticket_id=system.unknown).kind is OutcomeKind.PERMANENT
    if system.forbidden is not None:
        forbidden = outcome(ticket_id=system.forbidden)
        assert forbidden.kind is OutcomeKind.PERMANENT
        assert re.search(r"HTTP \d+: \w+|refused: \w+", forbidden.error or "")  # in the system's own words


def test_the_check_detects_wrong_credentials(system: System, fake: Fake) -> None:
    def checked(**changes: str) -> OutcomeKind:
        found = asyncio.run(probe(settings(system, fake, **changes), now=lambda: NOON))
        assert found.proves_credentials
        return found.outcome.kind

    assert checked() is OutcomeKind.DELIVERED
    assert checked(**system.wrong) is OutcomeKind.UNAUTHORIZED
    assert fake.arrived == []


@pytest.mark.parametrize("message_type", TYPES)
def test_a_rate_limit_is_throttled_for_the_requested_time(system: System, fake: Fake, message_type: str) -> None:
    if system.limit is None:
        pytest.skip("the fake has no rate limit")
    system.limit(fake)
    outcome = deliver(settings(system, fake), message(system, message_type))
    assert (outcome.kind, outcome.retry_after, fake.arrived) == (OutcomeKind.THROTTLED, system.wait, [])


@pytest.mark.parametrize("message_type", TYPES)
def test_an_unsettled_message_is_sent_if_it_is_absent_and_found_if_not(
    system: System, fake: Fake, message_type: str
) -> None:
    deliver(settings(system, fake), message(system, message_type)._replace(delivery_key=KEY[:-1] + "1"))
    lost = unsettled(system, message_type)
    sent = deliver(settings(system, fake), lost)
    assert (sent.kind, sent.error, len(fake.arrived)) == (OutcomeKind.DELIVERED, None, 2)
    found = deliver(settings(system, fake), lost)
    assert found == Outcome(OutcomeKind.DELIVERED, error="found by look-up", found=True)
    assert len(fake.arrived) == 2


def test_a_look_up_that_proves_nothing_sends_nothing(system: System, fake: Fake) -> None:
    early = deliver(settings(system, fake), message(system)._replace(unsettled_since=NOON))
    wrong = deliver(settings(system, fake, **system.wrong), unsettled(system))
    hidden = message(system, ticket_id=system.unknown)._replace(unsettled_since=LONG_AGO)
    assert deliver(settings(system, fake), hidden).kind is not OutcomeKind.DELIVERED
    fake.failing = frozenset({"GET"})
    failed = deliver(settings(system, fake), unsettled(system))
    assert (early.kind, wrong.kind) == (OutcomeKind.REFUSED, OutcomeKind.UNAUTHORIZED)
    assert failed.kind in {OutcomeKind.TRANSIENT, OutcomeKind.UNREACHABLE}
    assert fake.arrived == []


@pytest.mark.parametrize("message_type", TYPES)
def test_reading_back_accepts_a_correct_entry(system: System, fake: Fake, message_type: str) -> None:
    outcome = deliver(settings(system, fake, verify=True), message(system, message_type))
    assert (outcome.kind, outcome.error) == (OutcomeKind.DELIVERED, None)
    asks = load_preset(system.preset).messages[MessageType(message_type)].verify is not None
    assert asks or message_type != "internal"
    assert (fake.asked[-1].method == "GET") is asks


@pytest.mark.parametrize("verify", [True, False])
def test_a_public_note_is_noticed(system: System, fake: Fake, verify: bool, tmp_path: Path) -> None:  # noqa: FBT001
    if not (verify or system.confirms):
        pytest.skip("its answers don't say")
    preset = made_public(system, tmp_path, confirmed=not verify)
    outcome = deliver(settings(system, fake, preset=preset, verify=verify), message(system, "internal"))
    assert [message.internal for message in fake.arrived] == [False]
    assert outcome.kind is OutcomeKind.PERMANENT
    assert "is not as intended" in (outcome.error or "")


@pytest.mark.parametrize("message_type", TYPES)
def test_a_missing_answer_is_never_taken_for_a_delivery(system: System, fake: Fake, message_type: str) -> None:
    fake.failing = frozenset({"POST", "PUT", "PATCH"})
    outcome = deliver(settings(system, fake), message(system, message_type))
    assert outcome.kind in {OutcomeKind.TRANSIENT, OutcomeKind.UNKNOWN}
    assert fake.arrived == []


@pytest.mark.parametrize("message_type", TYPES)
def test_another_servers_page_is_not_a_delivery(system: System, message_type: str) -> None:
    with Refusing(200, b"<!DOCTYPE html><title>Back soon</title>") as stranger:
        outcome = deliver(settings(system, stranger), message(system, message_type))
    assert outcome.kind is not OutcomeKind.DELIVERED


def playing(preset: str) -> System:
    (found,) = [candidate for candidate in SYSTEMS if candidate.preset == preset]
    return found


def send(fake: Fake, message_type: str = "customer", **changes: object) -> Outcome:
    """Deliver a message to a single system."""
    (system,) = [candidate for candidate in SYSTEMS if candidate.fake is type(fake)]
    return deliver(settings(system, fake), message(system, message_type, **changes))


def one(fake: Callable[[], Fake]) -> Callable[[], Iterator[Fake]]:
    """Return a fixture of one fake system."""

    @pytest.fixture
    def fixture() -> Iterator[Fake]:
        with fake() as played:
            yield played

    return fixture


zammad, zendesk, freshdesk, jira = map(one, (Zammad, Zendesk, Freshdesk, JiraServiceManagement))


@pytest.mark.parametrize("message_type", TYPES)
def test_zammad_receives_nothing_if_the_user_is_not_an_agent(zammad: Zammad, message_type: str) -> None:
    zammad.agent = False  # Zammad would turn each message into a public note
    outcome = send(zammad, message_type)
    assert (outcome.kind, zammad.arrived) == (OutcomeKind.PERMANENT, [])
    assert outcome.error == "preflight ticket_agent: HTTP 403: Not authorized"


def test_zammad_mails_plain_text_with_its_subject(zammad: Zammad) -> None:
    for message_type in TYPES:
        send(zammad, message_type)
    reply = zammad.arrived[0]
    assert (reply.mailed, reply.to, reply.html) == (True, ("anna@example.com",), False)
    posts = [request.json for request in zammad.asked if request.method == "POST"]
    assert [(post["subject"], post["content_type"]) for post in posts] == [("Your delivery", "text/plain")] * 3
    assert [(post["type"], post["internal"]) for post in posts] == [("email", False), ("email", True), ("note", True)]


@pytest.mark.parametrize(
    ("preset", "mark"), [("zammad", KEY), ("zendesk", KEY), ("jira-service-management", {"key": KEY})]
)
def test_the_key_is_stored_hidden_from_customers(preset: str, mark: object) -> None:
    with playing(preset).fake() as fake:
        send(fake)
        assert (said(fake.arrived[0]), fake.arrived[0].marks["retrycli"]) == (TEXT, mark)
        assert KEY not in fake.arrived[0].text


@pytest.mark.parametrize(
    ("preset", "message_type"), [("zammad", "customer"), ("zammad", "supplier"), ("freshdesk", "supplier")]
)
def test_nothing_is_mailed_without_a_recipient(preset: str, message_type: str) -> None:
    with playing(preset).fake() as fake:
        assert (send(fake, message_type, recipient_email=None).kind, fake.asked) == (OutcomeKind.INVALID, [])


def test_zammad_mailing_no_reply_is_noticed(zammad: Zammad, tmp_path: Path) -> None:
    zammad.agent = False
    system = playing("zammad")
    preset = preset_file(tmp_path, preset_text("zammad").replace('preflight = "ticket_agent"', ""))
    outcome = deliver(settings(system, zammad, preset=preset), message(system))
    assert (outcome.kind, [message.mailed for message in zammad.arrived]) == (OutcomeKind.PERMANENT, [False])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Token authorization failed.", OutcomeKind.UNAUTHORIZED),
        ("Authentication required", OutcomeKind.UNAUTHORIZED),
        ("API token access disabled!", OutcomeKind.UNAUTHORIZED),
        ("API password access disabled!", OutcomeKind.UNAUTHORIZED),
        ("Not authorized", OutcomeKind.PERMANENT),
    ],
)
def test_zammad_answers_403_for_credentials_and_for_tickets(text: str, kind: OutcomeKind) -> None:
    assert refused("zammad", 403, {"error": text, "error_human": text}) is kind


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Error ID 6nSs2TCF: Please contact your administrator.", OutcomeKind.UNKNOWN),
        ("PG::TRDeadlockDetected: ERROR:  deadlock detected\nDETAIL: Process 17 waits", OutcomeKind.UNKNOWN),
        ("Mysql2::Error: Deadlock found when trying to get lock; try restarting transaction", OutcomeKind.UNKNOWN),
        ("Need at least an 'article body' field.", OutcomeKind.PERMANENT),
        ("No lookup value found for 'type': \"Error ID \"", OutcomeKind.PERMANENT),
    ],
)
def test_zammad_answers_422_for_its_database_and_for_messages(zammad: Zammad, said: str, kind: OutcomeKind) -> None:
    """A deadlock is not the message's fault: the next attempt looks for the message, and sends it if it is absent."""
    zammad.broken = said
    assert (send(zammad).kind, zammad.arrived) == (kind, [])
    zammad.broken = ""
    assert deliver(settings(playing("zammad"), zammad), unsettled(playing("zammad"))).kind is OutcomeKind.DELIVERED
    assert len(zammad.arrived) == 1


def test_zendesk_without_a_new_comment_has_not_accepted_the_message(zendesk: Zendesk, tmp_path: Path) -> None:
    system = playing("zendesk")
    preset = preset_file(tmp_path, preset_text("zendesk").replace("html_body", "htm_body"))
    outcome = deliver(settings(system, zendesk, preset=preset), message(system))
    assert (outcome.kind, outcome.status_code, zendesk.arrived) == (OutcomeKind.REFUSED, 200, [])


def test_zendesk_keeping_a_light_agents_reply_internal_is_noticed(zendesk: Zendesk) -> None:
    zendesk.light = True
    outcome = send(zendesk)
    assert zendesk.arrived[0].internal
    assert (outcome.kind, outcome.status_code) == (OutcomeKind.PERMANENT, 200)
    assert send(zendesk, "internal").kind is OutcomeKind.DELIVERED


def test_zendesk_refuses_or_limits_updates_of_one_ticket(zendesk: Zendesk) -> None:
    outcome = send(zendesk, ticket_id=4)
    assert (outcome.kind, zendesk.arrived) == (OutcomeKind.PERMANENT, [])
    assert "Status: closed prevents ticket update" in (outcome.error or "")
    zendesk.limited = "ticket"
    outcome = send(zendesk)
    assert (outcome.kind, outcome.retry_after) == (OutcomeKind.THROTTLED, timedelta(seconds=93))


def test_zendesk_shows_a_reply_to_the_customer_and_copies_no_note(zendesk: Zendesk) -> None:
    send(zendesk, "internal", cc_emails=json.dumps([CC]))
    send(zendesk, ticket_id=2)  # it has only internal comments
    assert ([each.mailed for each in zendesk.arrived], zendesk.ccs) == ([False, True], {})


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (
            403,
            {"error": "Forbidden", "description": "You are missing the following required scopes: write"},
            "unauthorized",
        ),
        (403, {"error": {"title": "Forbidden", "message": "You do not have access to this page."}}, "permanent"),
        (409, {"error": "Conflict"}, "transient"),
    ],
)
def test_zendesk_reports_errors_by_status_and_text(status: int, body: object, kind: str) -> None:
    assert refused("zendesk", status, body) == kind


def test_zendesk_accepts_an_oauth_token_without_a_user(zendesk: Zendesk) -> None:
    account = {"preset": "zendesk", "auth": "bearer", "token": "oauth"}
    outcome = deliver(gateway_settings(zendesk.url, **account), message(playing("zendesk")))
    assert outcome.kind is OutcomeKind.DELIVERED


@pytest.mark.parametrize("message_type", ["customer", "internal"])
def test_zendesk_look_up_reads_all_updates_of_a_ticket(zendesk: Zendesk, message_type: str) -> None:
    def others(count: int) -> None:
        for _ in range(count):
            zendesk._audit(1, {"body": "Another one.", "public": True}, {}, ())

    system = playing("zendesk")
    others(150)
    outcome = deliver(settings(system, zendesk), unsettled(system, message_type))
    assert (outcome.error, len(zendesk.arrived)) == (None, 151)
    others(150)
    outcome = deliver(settings(system, zendesk), unsettled(system, message_type))
    assert (outcome.error, len(zendesk.arrived)) == ("found by look-up", 301)


def test_zendesk_without_metadata_gets_no_second_copy(zendesk: Zendesk) -> None:
    check_waits(playing("zendesk"), zendesk, "shows_metadata", "metadata")


def test_zendesk_without_a_page_count_gets_no_second_copy(zendesk: Zendesk) -> None:
    """The key may be on a page that was never read."""
    zendesk.by_cursor_only = True
    outcome = deliver(settings(playing("zendesk"), zendesk), unsettled(playing("zendesk")))
    assert (outcome.kind, zendesk.arrived) == (OutcomeKind.REFUSED, [])
    assert "next_page" in (outcome.error or "")


@pytest.mark.parametrize(("message_type", "others"), [("customer", 99), ("internal", 100), ("customer", 250)])
def test_freshdesk_look_up_reads_the_whole_conversation(freshdesk: Freshdesk, message_type: str, others: int) -> None:
    system = playing("freshdesk")
    for _ in range(others):
        freshdesk._said.append({"id": 1, "ticket_id": 1, "body_text": "Another one.", "private": False})
    sent = deliver(settings(system, freshdesk, verify=True), unsettled(system, message_type))
    assert (sent.kind, sent.error) == (OutcomeKind.DELIVERED, None)
    found = deliver(settings(system, freshdesk), unsettled(system, message_type))
    assert (found.error, len(freshdesk.arrived)) == ("found by look-up", 1)


def test_what_a_customer_writes_into_a_freshdesk_ticket_proves_no_delivery(freshdesk: Freshdesk) -> None:
    """Who knows the row of an expected message can compute its key."""
    system = playing("freshdesk")
    theirs = f"Thanks. Ref. {unsettled(system).delivery_key}"
    freshdesk._said.append({"id": 1, "ticket_id": 1, "body_text": theirs, "incoming": True})
    sent = deliver(settings(system, freshdesk), unsettled(system))
    assert (sent.kind, sent.error, len(freshdesk.arrived)) == (OutcomeKind.DELIVERED, None, 1)


def test_freshdesk_forwards_only_the_message_and_a_forward_shown_to_the_customer_is_noticed(
    freshdesk: Freshdesk,
) -> None:
    send(freshdesk, "supplier")
    assert (len(freshdesk.arrived), freshdesk.quoted) == (1, set())
    freshdesk.forwards_are_private = False
    outcome = send(freshdesk, "supplier")
    assert (outcome.kind, freshdesk.arrived[-1].internal) == (OutcomeKind.PERMANENT, False)
    assert "is not as intended" in (outcome.error or "")


@pytest.mark.parametrize("message_type", TYPES)
def test_jira_receives_nothing_for_an_issue_that_is_not_a_request(
    jira: JiraServiceManagement, message_type: str
) -> None:
    outcome = send(jira, message_type, ticket_id="SUP-4")  # an internal comment would be public on this issue
    assert (outcome.kind, jira.arrived) == (OutcomeKind.PERMANENT, [])


def test_jira_data_center_accepts_a_personal_access_token(jira: JiraServiceManagement) -> None:
    account = {"preset": "jira-service-management", "auth": "bearer", "token": "jira-pat"}
    outcome = deliver(gateway_settings(jira.url, **account), message(playing("jira-service-management")))
    assert outcome.kind is OutcomeKind.DELIVERED


def test_jira_without_properties_gets_no_second_copy(jira: JiraServiceManagement) -> None:
    check_waits(playing("jira-service-management"), jira, "shows_properties", "properties")
