"""Mails with random texts: none of them adds an unintended header."""

from __future__ import annotations

import re
from email.header import decode_header, make_header

from hypothesis import strategies as st

from retrycli.domain.email_address import CONTROL, Address
from retrycli.domain.outcome import OutcomeKind
from retrycli.gateway.smtp.mime import compose
from retrycli.gateway.smtp.session import SmtpReply
from tests.gateway.deliveries import NOON, queued
from tests.unit.test_fuzz import law

HEADERS = ["To", "From", "Date", "Message-ID", "Subject", "MIME-Version", "Content-Type", "Content-Transfer-Encoding"]
TEXTS = st.text(max_size=200) | st.text('=?utf-8qb_ \r\n\0\x85\u2028:.<>@"\\', max_size=80)
NAMES = TEXTS.filter(lambda name: not CONTROL.search(name))


@law(subject=TEXTS, body=TEXTS, name=NAMES)
def test_any_subject_text_and_name_are_safe(subject: str, body: str, name: str) -> None:
    quoted = '"' + re.sub(r'(["\\])', r"\\\1", name) + '" <anna@example.com>'
    message = queued(subject=subject, body=body, recipient_email=quoted, cc_emails=None)
    support = Address("support", "example.com", "Support")
    mail = compose(message, [], sender=support, fixed=None, subject="{subject}", now=NOON)
    raw = b"".join(mail.chunks(utf8=False)).replace(b"\r\n..", b"\r\n.")
    assert len(raw) == mail.size(utf8=False)
    lines = raw.decode("ascii").split("\r\n")
    assert max(map(len, lines)) <= 998
    assert not {"\r", "\n"} & set("".join(lines))
    head = lines[: lines.index("")]
    assert [line.partition(":")[0] for line in head if not line.startswith(" ")] == HEADERS
    unfolded = "\n".join(head).replace("\n ", " ").split("\n")
    shown = str(make_header(decode_header(unfolded[4].partition(":")[2].strip())))
    assert shown == re.sub(f"(?:{CONTROL.pattern})+", " ", subject).strip()


@law(code=st.integers(200, 599), text=TEXTS | st.from_regex(r"[2-6]\.\d{1,4}\.\d{1,4} ?x?", fullmatch=True))
def test_any_reply_has_an_outcome(code: int, text: str) -> None:
    reply = SmtpReply.of(code, text.encode())
    assert reply.good == (code < 300)
    assert reply.kind in {OutcomeKind.TRANSIENT, OutcomeKind.PERMANENT, OutcomeKind.UNAUTHORIZED}
    assert "\n" not in str(reply)
