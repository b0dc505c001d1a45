"""The mail of a message, parsed by an independent library: its recipients, texts and attachments."""

from __future__ import annotations

import json
import re
import tracemalloc
from datetime import UTC, datetime
from email import message_from_bytes
from email.header import decode_header, make_header
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from retrycli.domain.email_address import Address
from retrycli.domain.message import ADDRESS_SEPARATOR
from retrycli.domain.outcome import OutcomeKind
from retrycli.gateway.attachments import Attachment
from retrycli.gateway.smtp.mime import Mail, compose
from tests.gateway.deliveries import NOON, queued
from tests.gateway.mail_server import MailServer, Taken
from tests.gateway.mails import mail, mail_settings, three

TEAM = "team@example.com"


def sent(settings: dict[str, Any] | None = None, key: str = "key-7", /, **columns: object) -> Taken:
    """Return the mail of a message with these columns."""
    with MailServer() as server:
        outcome = mail(mail_settings(server.url, **settings or {}), queued(key, **columns))
    assert outcome.kind is OutcomeKind.DELIVERED, outcome.error
    [taken] = server.mails
    return taken


def problem(settings: dict[str, Any] | None = None, /, **columns: object) -> str:
    """Return why a message with these columns cannot be sent; no connection is made."""
    with MailServer() as server:
        outcome = mail(mail_settings(server.url, **settings or {}), queued(**columns))
    assert outcome.kind is OutcomeKind.INVALID
    assert server.peers == []
    return str(outcome.error)


@pytest.mark.parametrize("kind", ["customer", "supplier"])
def test_a_mail_names_all_recipients_except_bcc(kind: str) -> None:
    taken = sent(
        message_type=kind,
        recipient_email="Anna Ö <anna@example.com>",
        cc_emails='["ben@example.com", "BEN@example.com", "Dr. Cy <cy@example.com>"]',
        bcc_emails='["eve@example.com", "anna@example.com"]',
    )
    assert taken.sender == "support@example.com"
    assert taken.recipients == ("anna@example.com", "ben@example.com", "cy@example.com", "eve@example.com")
    assert taken.parsed["From"] == "Support <support@example.com>"
    assert taken.parsed["To"] == "Anna Ö <anna@example.com>"
    assert [address.addr_spec for address in taken.parsed["Cc"].addresses] == [
        "ben@example.com",
        "BEN@example.com",
        "cy@example.com",
    ]
    assert b"eve@" not in taken.raw


def test_an_internal_message_ignores_the_rows_recipients() -> None:
    columns = {"message_type": "internal", "recipient_email": "anna@example.com", "bcc_emails": '["eve@example.com"]'}
    taken = sent({"recipient": f"Team <{TEAM}>"}, **columns)
    assert taken.recipients == (TEAM,)
    assert (taken.parsed["To"], taken.parsed["Cc"]) == (f"Team <{TEAM}>", None)
    assert "anna@" not in taken.raw.decode()


def test_an_internal_message_without_a_fixed_recipient_is_not_sent() -> None:
    assert problem(message_type="internal") == (
        "an internal message goes only to gateway.recipient, which is not set; set it to the team's address"
    )


@pytest.mark.parametrize("nobody", [None, ""])
def test_the_fixed_recipient_replaces_a_missing_one(nobody: str | None) -> None:
    taken = sent({"recipient": TEAM}, recipient_email=nobody)
    assert taken.recipients == (TEAM, "ben@example.com")
    assert problem(recipient_email=nobody) == (
        "recipient_email is missing, and gateway.recipient is not set; set one of them"
    )


@pytest.mark.parametrize("nobody", [None, ""])
def test_with_settings_for_the_table_no_message_goes_to_the_fixed_recipient_instead(nobody: str | None) -> None:
    columns = {"recipient_email": nobody, ADDRESS_SEPARATOR: ""}
    assert problem({"recipient": TEAM}, **columns).startswith("recipient_email is missing; with [database.columns]")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"recipient_email": "a@b.example, c@d.example"}, "recipient_email is not a valid e-mail address"),
        ({"recipient_email": "Anna asks for her HIV result"}, "recipient_email is not a valid e-mail address: write"),
        (
            {"recipient_email": "a@b.example\r\nBcc: eve@evil.example"},
            "the address must not contain line breaks or control characters",
        ),
        ({"recipient_email": 7}, "recipient_email must be text"),
        ({"cc_emails": '["ben@example.com", "x"]'}, "cc_emails (address 2) is not a valid e-mail address"),
        ({"cc_emails": "[null]"}, "cc_emails (address 1) must be text"),
        ({"bcc_emails": '["a@b\\nc"]'}, "bcc_emails (address 1) is not a valid e-mail address"),
        ({"subject": "x" * 901}, "subject must have at most 900 characters; it has 901"),
        ({"in_reply_to": "a1@example.com"}, "in_reply_to must contain only message ids such as <a1@example.com>"),
        ({"in_reply_to": "<a@b>\r\nBcc: <eve@evil.example>"}, "in_reply_to must contain only message ids"),
        ({"references": "<a@b> <c>"}, "references must contain only message ids"),
    ],
)
def test_names_values_that_are_invalid_in_a_mail(columns: dict[str, object], said: str) -> None:
    assert said in problem(**columns)


SUBJECTS = {
    "Your delivery": "Your delivery",
    "": "",
    "Rückgabe — „wie?“ 日本 🎉": "Rückgabe — „wie?“ 日本 🎉",
    "one\r\nBcc: eve@evil.example": "one Bcc: eve@evil.example",
    "one\n\n two\t\x00three\x85four\u2028five": "one  two three four five",
    "=?utf-8?q?one=0D=0ABcc:_eve@evil.example?=": "=?utf-8?q?one=0D=0ABcc:_eve@evil.example?=",
    "a" * 900: "a" * 900,
    "word " * 170: ("word " * 170).strip(),
    "ß" * 900: "ß" * 900,
    "  Re: 7  ": "Re: 7",
}


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda each: ascii(each[:20]))
def test_a_subject_is_one_header_line(subject: str) -> None:
    taken = sent(subject=subject)
    assert str(taken.parsed["Subject"]) == SUBJECTS[subject]
    assert taken.parsed["Bcc"] is None
    assert taken.raw.isascii()
    assert max(map(len, taken.raw.split(b"\r\n"))) <= 78
    assert b"\n" not in taken.raw.replace(b"\r\n", b"")
    assert b"\r" not in taken.raw.replace(b"\r\n", b"")


def test_a_subject_can_contain_columns() -> None:
    template = {"subject": "[example.com #{ticket_id}] {subject} {sent_at}{cc_emails}"}
    taken = sent(template, subject="{body}")
    assert taken.parsed["Subject"] == "[example.com #12345] {body} ben@example.com"


def test_a_name_cannot_become_another_address() -> None:
    names = ['"Eve <eve@evil.example>, \\"" <anna@example.com>', '"=?utf-8?q?a=0D=0AX:_y?=" <anna@example.com>']
    for name in names:
        taken = sent(recipient_email=name)
        assert [address.addr_spec for address in taken.parsed["To"].addresses] == ["anna@example.com"]
        assert taken.parsed["X"] is None


@pytest.mark.parametrize("name", ["A" * 960, "Anna " * 190 + "A"])
def test_a_name_may_be_longer_than_a_line(name: str) -> None:
    taken = sent(recipient_email=f"{name} <anna@example.com>")
    assert max(map(len, taken.raw.split(b"\r\n"))) <= 100
    header = message_from_bytes(taken.raw)["To"]
    assert str(make_header(decode_header(header))) == f"{name} <anna@example.com>"


def test_the_same_message_always_makes_the_same_mail() -> None:
    """A recipient of two copies can recognise the duplicate."""
    made = "2025-03-03 09:15:00"
    first, second = (sent(created_at=made) for _ in range(2))
    assert first.raw == second.raw
    assert first.parsed["Message-ID"] == "<key-7@example.com>"
    assert first.parsed["Date"].datetime == datetime(2025, 3, 3, 9, 15, tzinfo=UTC)


@pytest.mark.parametrize(("made", "dated"), [(None, NOON), ("2031-01-01 00:00:00", NOON)])
def test_a_mail_never_has_a_date_in_the_future(made: str | None, dated: datetime) -> None:
    assert sent(created_at=made).parsed["Date"].datetime == dated


@pytest.mark.parametrize(
    ("columns", "reply_to", "references"),
    [
        ({}, None, None),
        ({"in_reply_to": None, "references": ""}, None, None),
        ({"in_reply_to": "<a1@example.com>"}, "<a1@example.com>", "<a1@example.com>"),
        ({"in_reply_to": "<b@x>", "references": "<a@x>\r\n <b@x>"}, "<b@x>", "<a@x> <b@x>"),
        ({"references": ["<a@x>", "<b@x>"]}, None, "<a@x> <b@x>"),
    ],
)
def test_a_mail_belongs_to_its_thread(columns: dict[str, object], reply_to: str | None, references: str | None) -> None:
    parsed = sent(**columns).parsed
    assert (parsed["In-Reply-To"], parsed["References"]) == (reply_to, references)


BODIES = [
    "It is on its way.",
    "",
    ".",
    "a\n.\nb\n..\n.c",
    "Grüße aus 日本 🎉\n.\n",
    "a\r\nb\rc\nd",
    "=2E\n=?utf-8?q?x?=",
    "x" * 5000,
    "ß" * 5000,
    "From here\n-- \nsig  \n\n\n",
    "\x00\x1b[31m\x0b\x0c\x7f",
    "--=_key-7\n\n--=_key-7--",
]


@pytest.mark.parametrize("body", BODIES, ids=lambda each: ascii(each[:16]))
@pytest.mark.parametrize("carrying", [False, True])
def test_a_text_arrives_unchanged(body: str, tmp_path: Path, *, carrying: bool) -> None:
    (tmp_path / "a.txt").write_bytes(b".\r\n..\r\n")
    files = '["a.txt"]' if carrying else None
    taken = sent({"attachments_dir": tmp_path}, body=body, attachments=files)
    text = taken.parsed.get_body(("plain",))
    assert text is not None
    lines = re.split(r"\r\n|\r|\n", body)
    assert (
        re.split(r"\r?\n", re.sub(r"\r?\n\Z", "", text.get_content()))
        == lines[: -1 if len(lines) > 1 and not lines[-1] else None]
    )
    assert text.get_content_charset() == "utf-8"
    assert taken.raw.isascii()
    assert max(map(len, taken.raw.split(b"\r\n"))) <= 998
    assert [part.get_content() for part in taken.parsed.iter_attachments()] == [".\r\n..\r\n"] * carrying


@pytest.mark.parametrize(
    "name",
    [
        "invoice.pdf",
        "Rechnung № 1; x=\"y\" 'z' %41.pdf",
        "=?utf-8?q?x?=.pdf",
        "日本" * 60 + ".pdf",
        "a b, (c) + d.pdf",
        'quo"te\\d.pdf'.replace("\\", "_"),
    ],
    ids=lambda each: ascii(each[:16]),
)
def test_a_file_arrives_under_its_name(name: str, tmp_path: Path) -> None:
    content = bytes(range(256)) * 300
    (tmp_path / "stored").write_bytes(content)
    entry = {"path": "stored", "filename": name, "content_type": "application/pdf"}
    taken = sent({"attachments_dir": tmp_path}, attachments=json.dumps([entry, entry]))
    for part in taken.parsed.iter_attachments():
        assert part.get_filename() == name
        assert part.get_content_type() == "application/pdf"
        assert part.get_content() == content
    assert len(list(taken.parsed.iter_attachments())) == 2
    assert taken.raw.count(b" filename*") <= 2 * (1 + len(quote(name)) // 40), "as few pieces as necessary"
    assert max(map(len, taken.raw.split(b"\r\n"))) <= 78


def test_an_attached_mail_arrives_as_a_file(tmp_path: Path) -> None:
    """An encoded attachment must not have the type of a mail (RFC 2046, section 5.2.1)."""
    (tmp_path / "old.eml").write_bytes(b"Subject: x\n\nText\n")
    [part] = sent({"attachments_dir": tmp_path}, attachments='["old.eml"]').parsed.iter_attachments()
    assert (part.get_content_type(), part.get_content()) == ("application/octet-stream", b"Subject: x\n\nText\n")


def test_a_configured_limit_is_enforced(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(1001))
    said = problem({"attachments_dir": tmp_path, "attachments_limit_mb": 0.001}, attachments='["a.bin"]')
    assert said.startswith("attachments total 0.001 MB, more than gateway.attachments_limit_mb")


def made(attachment: Attachment) -> Mail:
    return compose(
        three(), [attachment], sender=Address("support", "example.com"), fixed=None, subject="{subject}", now=NOON
    )


def test_a_large_file_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "big.bin"
    with file.open("wb") as written:
        written.truncate(20_000_000)
    composed = made(Attachment("big.bin", "application/octet-stream", file, 20_000_000))
    tracemalloc.start()
    try:
        length = sum(map(len, composed.chunks(utf8=False)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert length == composed.size(utf8=False) > 27_000_000
    assert peak < 1_000_000
