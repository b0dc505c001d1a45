"""The outcomes of the SMTP gateway, with a mail server that gives valid and invalid answers at each step."""

from __future__ import annotations

import asyncio
import base64
import ssl
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from retrycli.domain.errors import ConfigurationError
from retrycli.domain.message import QueuedMessage
from retrycli.domain.outcome import Outcome, OutcomeKind
from tests.cli.command import wait_until
from tests.gateway.deliveries import queued
from tests.gateway.hostile import at_the_limit
from tests.gateway.mail_server import (
    EXTENSIONS,
    LOOPBACK,
    Answer,
    MailServer,
    Peer,
    drip,
    hang_up,
    reset,
    stall,
    without_end,
)
from tests.gateway.mails import mail, mail_settings, open_smtp, three

ANNA, BEN, CY = "anna@example.com", "ben@example.com", "cy@example.com"
PASSWORD = "geheim-ß"


def at(step: str, answer: Answer) -> dict[str, Any]:
    """Return the arguments that make a `MailServer` give an answer at a step."""
    return {step: answer}


def mail_within(server: MailServer, seconds: float, *messages: QueuedMessage, **settings: Any) -> Outcome:  # noqa: ANN401
    """Mail a message with a time limit and without immediate retries."""
    return mail(mail_settings(server.url, request_timeout_seconds=seconds, immediate_retries=0, **settings), *messages)


def outcome_of(**answers: Any) -> Outcome:  # noqa: ANN401
    """Return the outcome of a mail to a server with these answers."""
    with MailServer(**answers) as server:
        outcome = mail(mail_settings(server.url, immediate_retries=0))
    if outcome.kind is not OutcomeKind.UNKNOWN:
        assert len(server.mails) == (outcome.kind is OutcomeKind.DELIVERED)
    return outcome


REPLIES: list[tuple[str, str, OutcomeKind]] = [
    ("greeting", "421 4.3.2 not now", OutcomeKind.TRANSIENT),
    ("greeting", "554 5.7.1 no service for you", OutcomeKind.TRANSIENT),
    ("MAIL", "451 4.3.0 try later", OutcomeKind.TRANSIENT),
    ("MAIL", "550 5.7.1 not from you", OutcomeKind.PERMANENT),
    ("MAIL", "530 5.7.0 log in first", OutcomeKind.UNAUTHORIZED),
    ("MAIL", "550 5.7.0 log in first", OutcomeKind.UNAUTHORIZED),
    ("RCPT", "450 4.2.0 mailbox busy", OutcomeKind.TRANSIENT),
    ("RCPT", "421 4.7.0 too fast", OutcomeKind.TRANSIENT),
    ("RCPT", "550 5.1.1 no such user", OutcomeKind.PERMANENT),
    ("RCPT", "550 no such user", OutcomeKind.PERMANENT),
    ("RCPT", "550 4.2.2 the mailbox is full", OutcomeKind.TRANSIENT),
    ("RCPT", "450 5.1.1 no such user", OutcomeKind.PERMANENT),
    ("RCPT", "550 5.7.8 who are you", OutcomeKind.UNAUTHORIZED),
    ("DATA", "554 5.5.1 no valid recipients", OutcomeKind.PERMANENT),
    ("DATA", "250 you need not", OutcomeKind.TRANSIENT),
    ("end", "250 kept", OutcomeKind.DELIVERED),
    ("end", "250-2.0.0 kept\r\n250 2.0.0 indeed", OutcomeKind.DELIVERED),
    ("end", "451 4.7.1 greylisted", OutcomeKind.TRANSIENT),
    ("end", "554 5.7.1 spam", OutcomeKind.PERMANENT),
    ("end", "552 5.7.0 a virus", OutcomeKind.PERMANENT),
    ("end", "354 go on", OutcomeKind.UNKNOWN),
    ("QUIT", "500 no", OutcomeKind.DELIVERED),
]


@pytest.mark.parametrize(("step", "reply", "kind"), REPLIES)
def test_a_reply_leads_to_its_outcome(step: str, reply: str, kind: OutcomeKind) -> None:
    outcome = outcome_of(**at(step, reply))
    assert outcome.kind is kind
    assert outcome.in_doubt is (kind is OutcomeKind.PERMANENT), "it may concern all mails"
    code = 250 if step == "QUIT" else int(reply[:3])
    # The mail was not sent, so nothing may say that it may have arrived, as after an HTTP 500.
    assert outcome.status_code == (None if kind is OutcomeKind.TRANSIENT and code >= 500 else code)
    if kind is not OutcomeKind.DELIVERED:
        assert f"SMTP {reply}" in (outcome.error or "")
        assert outcome.delivered_to == ()


def named(misbehaviour: Answer) -> str:
    return misbehaviour.__name__ if callable(misbehaviour) else repr(misbehaviour[:20])


def half_a_reply(peer: Peer) -> None:
    peer.send(b"25")
    hang_up(peer)


BEFORE_THE_MAIL = ("greeting", "EHLO")
IN_THE_MAIL = ("MAIL", "RCPT", "DATA")


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        *((step, OutcomeKind.UNREACHABLE) for step in BEFORE_THE_MAIL),
        *((step, OutcomeKind.TRANSIENT) for step in IN_THE_MAIL),
        ("end", OutcomeKind.UNKNOWN),
        ("QUIT", OutcomeKind.DELIVERED),
    ],
)
@pytest.mark.parametrize(
    "misbehaviour",
    [
        hang_up,
        reset,
        without_end,
        b"what do you want?\r\n",
        b"250-" + b"x" * 5000 + b"\r\n",
        b"999 ok\r\n",
        half_a_reply,
        b"\xff\xfe\r\n",
        b"\r\n",
        b"2500 ok\r\n",
    ],
    ids=named,
)
def test_an_invalid_reply_leads_to_its_outcome(step: str, kind: OutcomeKind, misbehaviour: Answer) -> None:
    """Before the final dot, the mail was certainly not sent. After it, the outcome is unknown without a valid reply."""
    outcome = outcome_of(**at(step, misbehaviour))
    assert outcome.kind is kind
    assert step == "QUIT" or outcome.status_code is None


@pytest.mark.parametrize("misbehaviour", [stall, drip], ids=named)
@pytest.mark.parametrize(
    ("step", "kind", "words"),
    [
        ("greeting", OutcomeKind.TRANSIENT, "not sent within {:g} s; the last step was greeting"),
        ("RCPT", OutcomeKind.TRANSIENT, "not sent within {:g} s; the last step was RCPT"),
        ("end", OutcomeKind.UNKNOWN, "the end of the mail: no response within {:g} s"),
        ("QUIT", OutcomeKind.DELIVERED, None),
    ],
)
def test_a_silent_server_is_abandoned_in_time_without_a_leftover_thread(
    step: str, kind: OutcomeKind, words: str | None, misbehaviour: Callable[[Peer], None]
) -> None:
    reached = threading.Event()

    def answer(peer: Peer) -> None:
        reached.set()
        misbehaviour(peer)

    with MailServer(**at(step, answer)) as server:
        outcome, limit = at_the_limit(partial(mail_within, server), reached.is_set)
        assert (outcome.kind, outcome.error) == (kind, words and words.format(limit))
        wait_until(lambda: not any(thread.name.startswith("SmtpSession") for thread in threading.enumerate()))


def test_a_mail_that_is_not_read_is_abandoned_in_time(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(20_000_000))

    reached = threading.Event()

    def read_nothing(peer: Peer) -> None:
        reached.set()
        assert peer.closing.wait(60)

    message = queued(attachments='["a.bin"]')
    with MailServer(upto=1, middle=read_nothing) as server:
        outcome, limit = at_the_limit(
            lambda seconds: mail_within(server, seconds, message, attachments_dir=tmp_path), reached.is_set
        )
    said = f"not sent within {limit:g} s; the last step was the mail"
    assert outcome == Outcome(OutcomeKind.TRANSIENT, error=said)


@pytest.mark.parametrize(
    ("middle", "kind"),
    [
        (hang_up, OutcomeKind.TRANSIENT),
        (reset, OutcomeKind.TRANSIENT),
        ("552 5.3.4 that is enough", OutcomeKind.PERMANENT),
        ("452 4.3.1 no room", OutcomeKind.TRANSIENT),
    ],
    ids=["hang_up", "reset", "552", "452"],
)
def test_a_server_that_disconnects_during_a_mail(middle: Answer, kind: OutcomeKind, tmp_path: Path) -> None:
    """A reply before the disconnection decides the outcome. Without a reply, the incomplete mail was not accepted."""
    (tmp_path / "a.bin").write_bytes(bytes(20_000_000))
    with MailServer(upto=1, middle=middle) as server:
        outcome = mail(mail_settings(server.url, attachments_dir=tmp_path), queued(attachments='["a.bin"]'))
    assert outcome.kind is kind
    assert server.mails == []


def test_a_shrinking_attachment_ends_the_mail_without_its_dot(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(bytes(100))

    def shorten(peer: Peer) -> None:
        file.write_bytes(b"")
        peer.send(b"354 go on\r\n")
        assert peer.mail(1 << 20) is None

    with MailServer(DATA=shorten) as server:
        outcome = mail(mail_settings(server.url, attachments_dir=tmp_path), queued(attachments='["a.bin"]'))
    assert outcome == Outcome(
        OutcomeKind.TRANSIENT, error="the mail: an attachment became shorter while it was being sent"
    )
    assert "QUIT" not in server.said


def test_a_closed_port_sends_nothing_and_is_tried_once_more() -> None:
    with MailServer() as server:
        closed = server.url
    outcome = mail(mail_settings(closed))
    assert outcome.kind is OutcomeKind.UNREACHABLE
    assert "Connect call failed" in (outcome.error or "")


@pytest.mark.parametrize(("retries", "conversations"), [(0, 1), (3, 4)])
def test_a_certainly_unsent_mail_is_repeated_at_once(retries: int, conversations: int) -> None:
    with MailServer(greeting=hang_up) as server:
        assert mail(mail_settings(server.url, immediate_retries=retries)).kind is OutcomeKind.UNREACHABLE
    assert len(server.peers) == conversations


def test_a_refusal_is_not_repeated_at_once() -> None:
    with MailServer(RCPT="450 4.2.0 busy") as server:
        mail(mail_settings(server.url, immediate_retries=5))
    assert len(server.peers) == 1


def test_a_cancelled_delivery_leaves_no_thread() -> None:
    async def cancelled() -> None:
        async with open_smtp(mail_settings(server.url)) as gateway:
            task = asyncio.create_task(gateway.deliver(queued()))
            while not server.said:  # noqa: ASYNC110  the server runs in another thread
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with MailServer(EHLO=stall) as server:
        asyncio.run(cancelled())
        wait_until(lambda: not any(thread.name.startswith("SmtpSession") for thread in threading.enumerate()))


def test_many_mails_are_sent_concurrently() -> None:
    async def all_of_them() -> list[Outcome]:
        async with open_smtp(mail_settings(server.url)) as gateway:
            return await asyncio.gather(*(gateway.deliver(queued(f"key-{number}")) for number in range(20)))

    with MailServer() as server:
        outcomes = asyncio.run(all_of_them())
    assert {outcome.kind for outcome in outcomes} == {OutcomeKind.DELIVERED}
    assert {mail.parsed["Message-ID"] for mail in server.mails} == {
        f"<key-{number}@example.com>" for number in range(20)
    }


def test_an_ipv6_address_in_the_greeting_is_marked_as_such() -> None:
    with MailServer(host="::1") as server:
        assert mail(mail_settings(server.url)).kind is OutcomeKind.DELIVERED
    assert server.said[0] == "ehlo [IPv6:::1]"


@pytest.mark.parametrize("from_the_start", [False, True])
def test_a_mail_is_encrypted_for_a_server_trusted_by_the_ca_file(
    tls: ssl.SSLContext, certificate: Path, *, from_the_start: bool
) -> None:
    with MailServer(tls=tls, from_the_start=from_the_start) as server:
        outcome = mail(mail_settings(server.url, starttls=True, ca_file=certificate))
    assert outcome.kind is OutcomeKind.DELIVERED
    [peer] = server.peers
    assert peer.encrypted
    assert peer.said[:2] == (["ehlo [127.0.0.1]", "STARTTLS"] if not from_the_start else peer.said[:2])


@pytest.mark.parametrize("from_the_start", [False, True])
def test_an_untrusted_certificate_receives_nothing(tls: ssl.SSLContext, *, from_the_start: bool) -> None:
    with MailServer(tls=tls, from_the_start=from_the_start) as server:
        outcome = mail(mail_settings(server.url, starttls=True, username="agent", password=PASSWORD))
    assert (outcome.kind, outcome.status_code) == (OutcomeKind.UNAUTHORIZED, None)
    assert "certificate verify failed" in (outcome.error or "")
    assert [line for line in server.said if line.startswith(("MAIL", "AUTH"))] == []


@pytest.mark.parametrize("answers", [{}, {"EHLO": "502 no such command"}])
def test_a_server_without_starttls_receives_nothing(answers: dict[str, Any]) -> None:
    with MailServer(**answers) as server:
        outcome = mail(mail_settings(server.url, starttls=True))
    assert outcome.kind is OutcomeKind.UNAUTHORIZED
    assert (outcome.error or "").startswith(
        "STARTTLS: the server does not offer STARTTLS, so the mail would be sent unencrypted"
    )
    assert not [line for line in server.said if line.startswith("MAIL")]


@pytest.mark.parametrize(
    ("reply", "kind"), [("454 4.7.0 not now", OutcomeKind.TRANSIENT), ("501 no", OutcomeKind.UNAUTHORIZED)]
)
def test_starttls_that_is_refused(tls: ssl.SSLContext, reply: str, kind: OutcomeKind) -> None:
    with MailServer(tls=tls, STARTTLS=reply) as server:
        assert mail(mail_settings(server.url, starttls=True)).kind is kind
    assert not [line for line in server.said if line.startswith("MAIL")]


def test_data_received_before_tls_is_discarded(tls: ssl.SSLContext, certificate: Path) -> None:
    """An attacker on the network could add data to the answer to STARTTLS (RFC 3207, section 6)."""
    with MailServer(tls=tls, STARTTLS=b"220 go ahead\r\n250-evil.test\r\n250 AUTH PLAIN\r\n") as server:
        outcome = mail(mail_settings(server.url, starttls=True, ca_file=certificate))
    assert outcome.kind is OutcomeKind.DELIVERED
    assert server.said.count("ehlo [127.0.0.1]") == 2


LOG_INS: list[tuple[str, OutcomeKind]] = [
    ("235 2.7.0 welcome", OutcomeKind.DELIVERED),
    ("535 5.7.8 wrong", OutcomeKind.UNAUTHORIZED),
    ("534 5.7.9 too weak", OutcomeKind.UNAUTHORIZED),
    ("530 5.7.0 first STARTTLS", OutcomeKind.UNAUTHORIZED),
    ("454 4.7.0 the directory is down", OutcomeKind.TRANSIENT),
]


@pytest.mark.parametrize(("reply", "kind"), LOG_INS)
def test_a_login(reply: str, kind: OutcomeKind) -> None:
    with MailServer(extensions=[*EXTENSIONS, "AUTH PLAIN LOGIN"], AUTH=reply) as server:
        outcome = mail(mail_settings(server.url, username="agent", password=PASSWORD))
    assert outcome.kind is kind
    [said] = [line for line in server.said if line.startswith("AUTH")]
    assert base64.b64decode(said.removeprefix("AUTH PLAIN ")).decode() == f"\0agent\0{PASSWORD}"


@pytest.mark.parametrize(
    ("extensions", "error"),
    [
        (EXTENSIONS, "the server does not offer authentication"),
        (["AUTH LOGIN"], "can't log in with any mechanism that the server offers: LOGIN"),  # it takes only ASCII
        (["AUTH GSSAPI"], "can't log in with any mechanism that the server offers: GSSAPI"),
    ],
)
def test_a_server_without_a_login_that_takes_the_password(extensions: list[str], error: str) -> None:
    with MailServer(extensions=extensions, AUTH="334 VXNlcm5hbWU6") as server:
        outcome = mail(mail_settings(server.url, username="agent", password=PASSWORD))
    assert outcome.kind is OutcomeKind.UNAUTHORIZED
    assert (outcome.error or "").startswith(f"AUTH: {error}")


@pytest.mark.parametrize("password", [PASSWORD, "pa  ss\tword 1"])
def test_a_password_echoed_by_the_server_is_masked(password: str) -> None:
    words = base64.b64encode(f"\0agent\0{password}".encode()).decode()
    with MailServer(extensions=["AUTH PLAIN"], AUTH=f"535 5.7.8 {words} is no {password}") as server:
        outcome = mail(mail_settings(server.url, username="agent", password=password))
    assert outcome.error == "AUTH: SMTP 535 5.7.8 *** is no ***"


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("550 5.1.1 no such user", OutcomeKind.PERMANENT),
        ("450 4.2.0 busy", OutcomeKind.TRANSIENT),
        ("530 5.7.0 log in first", OutcomeKind.PERMANENT),
    ],
)
def test_a_refused_recipient_does_not_stop_the_others(reply: str, kind: OutcomeKind) -> None:
    with MailServer(RCPT={BEN: reply}) as server:
        outcome = mail(mail_settings(server.url), three())
    assert (outcome.kind, outcome.status_code) == (kind, int(reply[:3]))
    assert outcome.error == f"RCPT {BEN}: SMTP {reply}; delivered to all other recipients"
    assert outcome.delivered_to == (ANNA, CY)
    assert [received.recipients for received in server.mails] == [(ANNA, CY)]


@pytest.mark.parametrize("reply", ["550 5.1.1 no such user", "530 5.7.0 log in first"])
def test_the_mail_is_retried_while_a_recipient_may_still_be_accepted(reply: str) -> None:
    with MailServer(RCPT={ANNA: reply, BEN: "450 4.2.0 busy"}) as server:
        outcome = mail(mail_settings(server.url), three())
    assert (outcome.kind, outcome.status_code, outcome.delivered_to) == (OutcomeKind.TRANSIENT, 450, (CY,))
    assert f"RCPT {ANNA}: SMTP {reply}" in (outcome.error or "")


def test_a_recipient_who_has_the_mail_never_gets_it_again() -> None:
    with MailServer() as server:
        outcome = mail(mail_settings(server.url), three("ANNA@example.com", CY))
    assert (outcome.kind, outcome.delivered_to) == (OutcomeKind.DELIVERED, (BEN,))
    [taken] = server.mails
    assert taken.recipients == (BEN,)
    assert (taken.parsed["To"], taken.parsed["Cc"]) == (ANNA, BEN)


def test_a_mail_that_everyone_has_is_not_sent() -> None:
    with MailServer() as server:
        outcome = mail(mail_settings(server.url), three(ANNA, BEN, CY))
    assert outcome == Outcome(OutcomeKind.DELIVERED, found=True)
    assert server.peers == []


def test_a_mail_refused_at_the_end_or_unknown_has_no_recipients() -> None:
    with MailServer(RCPT={BEN: "550 no"}, end="554 5.7.1 spam") as server:
        refused = mail(mail_settings(server.url), three())
    with MailServer(RCPT={BEN: "550 no"}, end=hang_up) as server:
        in_doubt = mail(mail_settings(server.url), three())
    assert (refused.kind, refused.delivered_to) == (OutcomeKind.PERMANENT, ())
    assert (in_doubt.kind, in_doubt.delivered_to) == (OutcomeKind.UNKNOWN, ())
    # Otherwise nobody would learn that this recipient can't have the mail.
    assert (in_doubt.error or "").endswith(f"; RCPT {BEN}: SMTP 550 no, not accepted")


@pytest.mark.parametrize("offered", [True, False])
def test_a_local_part_beyond_ascii_requires_smtputf8(*, offered: bool) -> None:
    extensions = EXTENSIONS if offered else ["SIZE 1000000"]
    with MailServer(extensions=extensions) as server:
        outcome = mail(mail_settings(server.url), queued(recipient_email="Zoë <zoë@bücher.example>"))
    [taken] = server.mails
    if offered:
        assert outcome.kind is OutcomeKind.DELIVERED
        assert taken.recipients == ("zoë@xn--bcher-kva.example", BEN)
        assert "SMTPUTF8 BODY=8BITMIME" in server.said[1]
        assert "<zoë@xn--bcher-kva.example>" in taken.raw.decode()
    else:
        assert (outcome.kind, outcome.delivered_to) == (OutcomeKind.PERMANENT, (BEN,))
        assert "SMTP 553 5.6.7 the server does not accept non-ASCII addresses" in (outcome.error or "")
        assert taken.raw.isascii()
        assert taken.parsed["To"] is None


@pytest.mark.parametrize(("most", "kind"), [("300", "permanent"), ("0", "delivered"), ("", "delivered")])
def test_a_mail_that_is_too_large_is_not_started(most: str, kind: str) -> None:
    with MailServer(extensions=[f"SIZE {most}".strip()]) as server:
        outcome = mail(mail_settings(server.url))
    assert outcome.kind == kind
    assert bool(server.mails) == (kind == "delivered")


def test_the_announced_size_is_that_of_the_mail(tmp_path: Path) -> None:
    for name, size in (("a", 0), ("b", 56), ("c", 57), ("d", 58), ("e", 57 * 1024 + 1)):
        (tmp_path / name).write_bytes(b"x" * size)
    with MailServer() as server:
        mail(mail_settings(server.url, attachments_dir=tmp_path), queued(attachments='["a","b","c","d","e"]'))
    [said] = [line for line in server.said if line.startswith("MAIL")]
    assert said.endswith(f"SIZE={len(server.mails[0].raw)}")


@pytest.mark.parametrize(
    ("reply", "name"),
    [
        ("250 2.0.0 Ok: queued as 4XyZ12", "4XyZ12"),
        ("250 OK id=1abcDE-0001gH-2x", "1abcDE-0001gH-2x"),
        ("250 2.6.0 <a@b> [InternalId=8589934] Queued mail for delivery", "8589934"),
        ("250 2.0.0 OK  1700000000 gsmtp", None),
    ],
)
def test_the_servers_id_of_a_mail_is_stored(reply: str, name: str | None) -> None:
    assert outcome_of(end=reply).external_id == name


def test_an_unknown_column_or_an_unresolvable_host_is_refused_at_the_start() -> None:
    settings = mail_settings(f"smtp://{LOOPBACK}:1", subject="[{priority}] {subject}")
    with pytest.raises(ConfigurationError, match=r"gateway\.subject refers to column priority"):
        open_smtp(settings)
    with pytest.raises(ConfigurationError, match=r"gateway\.base_url"):
        open_smtp(mail_settings(f"smtp://{'a' * 64}.example"))


def test_an_error_quotes_nothing_of_the_message() -> None:
    outcome = outcome_of(end="554 5.7.1 I don't like: It is on its way.")
    assert outcome.error == "the end of the mail: SMTP 554 5.7.1 I don't like: …"


@pytest.mark.parametrize(
    ("reply", "kind"), [("235 welcome", OutcomeKind.DELIVERED), ("535 no", OutcomeKind.UNAUTHORIZED)]
)
def test_a_probe_goes_as_far_as_the_login_and_sends_nothing(reply: str, kind: OutcomeKind) -> None:
    with MailServer(extensions=["AUTH PLAIN"], AUTH=reply) as server:
        settings = mail_settings(server.url, username="agent", password=PASSWORD)
        outcome = asyncio.run(open_smtp(settings).probe())
    assert outcome.kind is kind
    assert [line.partition(" ")[0] for line in server.said] == ["ehlo", "AUTH", "QUIT"]
