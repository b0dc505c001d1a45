"""Quotations of a message are removed from the stored error; other text is kept."""

from __future__ import annotations

import html
import json
import re
from functools import reduce
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.domain.outcome import one_line
from retrycli.gateway.redaction import LONGEST_ERROR, LOOKED_AT, QUOTED, redact_secrets, safe_line, without_quotations
from tests.gateway.deliveries import deliver, gateway_settings, queued
from tests.gateway.hostile import Hostile, answer
from tests.gateway.mail_server import MailServer
from tests.gateway.mails import mail, mail_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.gateway.hostile import Connection

BODY = 'Dear Ms Oyelaran,\n\nyour "Rückgabe" is on its way.'


def cleaned(error: str, **texts: object) -> str:
    return without_quotations(one_line(error), queued(**{"subject": None, "body": BODY, **texts}).message)


@pytest.mark.parametrize(
    "quotation",
    [
        BODY,
        BODY[:30],
        BODY[5:40],
        json.dumps(BODY)[1:-1],
        json.dumps(BODY, ensure_ascii=False)[1:-1],
        BODY.replace("\n", "  "),
        html.escape(BODY),
        html.escape(BODY, quote=False),
        quote(BODY),
        quote_plus(BODY),
    ],
    ids=[
        "whole",
        "beginning",
        "middle",
        "JSON",
        "JSON with its umlauts",
        "one line",
        "HTML",
        "HTML text",
        "URL",
        "form",
    ],
)
def test_a_quotation_is_removed_in_every_encoding(quotation: str) -> None:
    assert cleaned(f"HTTP 422: <{quotation}> is not text") == "HTTP 422: <…> is not text"


def test_the_subject_is_removed_too() -> None:
    assert cleaned("HTTP 422: no ticket for Re: Invoice 2026-118!", subject="Re: Invoice 2026-118") == (
        "HTTP 422: no ticket for …!"
    )


def test_accidental_matches_are_kept() -> None:
    error = "HTTP 422: your message is too long"
    assert cleaned(error) == error
    assert cleaned("x" * QUOTED, body="x" * (QUOTED - 1)) == "x" * QUOTED
    assert cleaned("x" * QUOTED, body="x" * QUOTED) == "…"


def test_the_end_of_a_long_text_and_the_names_of_files_are_removed_too() -> None:
    long = "x" * 100_000 + " and a rare word at its end"
    assert cleaned("HTTP 413: a rare word at its end", body=long) == "HTTP 413:…"
    files = [{"path": "files/Termination of Maria.pdf", "name": "Termination of Maria.pdf"}]
    assert cleaned("HTTP 422: Termination of Maria.pdf is too large", attachments=files) == "HTTP 422: … is too large"
    beyond = "x" * LOOKED_AT + " and a rare word at its end"
    assert cleaned("HTTP 413: a rare word at its end", body=beyond) == "HTTP 413: a rare word at its end"


SECRET = "dG9r+/W4<&'\"s ü€😀"
WRITERS = (
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    lambda text: "".join(f"\\u{ord(c):04X}" if c in "<>&+'/" else c for c in text),
    lambda text: repr(text.encode())[2:-1],
    lambda text: text.encode("unicode_escape").decode(),
    lambda text: text.encode("ascii", "backslashreplace").decode(),
    html.escape,
    lambda text: "".join(f"&#x{ord(c):X};" if c in "/+" else c for c in html.escape(text)),
    lambda text: quote(text, safe=""),
    lambda text: re.sub("%..", lambda found: found[0].lower(), quote(text, safe="")),
    quote_plus,
)


@given(st.lists(st.sampled_from(WRITERS), max_size=3), st.sampled_from([SECRET, "abc\\ndef", "a%41b+", "****"]))
def test_a_secret_is_masked_however_it_is_escaped(writers: list[Callable[[str], str]], secret: str) -> None:
    echoed = reduce(lambda text, write: write(text), writers, secret)
    assert redact_secrets(f"no user with [{echoed}] here", [secret]) == "no user with [***] here"


@pytest.mark.parametrize("part", [slice(-1), slice(12), slice(4, -1), slice(9, None)])
def test_a_long_part_of_a_secret_is_masked(part: slice) -> None:
    """A firewall may shorten the header that it quotes."""
    secret = "rt_9f8e7d6c5b4a39281706"
    assert redact_secrets(f'blocked by rule 9: "{secret[part]}..."', [secret]) == 'blocked by rule 9: "***..."'
    assert redact_secrets(secret[:11], [secret]) == secret[:11]


@given(st.text("\\%xuUd&#;08aA\u0663\uff10", max_size=40))
def test_any_text_can_be_cleaned(text: str) -> None:
    """A customer's text or an answer that could not be cleaned would lose the outcome of its attempt."""
    assert cleaned(text, body=text, subject=text) is not None
    assert redact_secrets(text, [text, "abcdef"]) is not None


def test_the_texts_of_one_message_are_compared_up_to_one_limit() -> None:
    many = ["the first of all these files", *["x" * 1_000] * 1_000, "another name that nobody compares"]
    assert cleaned(f"HTTP 422: {many[0]}", attachments=many) == "HTTP 422: …"
    assert cleaned(f"HTTP 422: {many[-1]}", attachments=many) == f"HTTP 422: {many[-1]}"


@given(before=st.text(), body=st.text(min_size=QUOTED), after=st.text())
def test_no_sixteen_characters_of_a_body_remain(before: str, body: str, after: str) -> None:
    line = one_line(body)
    left = cleaned(before + body + after, body=body)
    runs = {line[at : at + QUOTED] for at in range(len(line) - QUOTED + 1)}
    assert not any(run in piece for run in runs for piece in left.split("…"))


@pytest.mark.parametrize("status", [200, 400, 503])
def test_an_answer_that_echoes_a_message_keeps_no_word_of_it(status: int) -> None:
    message = queued(body=BODY)
    with Hostile(answer(status, json.dumps({"succeeded": False, "errors": [{"sent": BODY}]}).encode())) as server:
        outcome = deliver(gateway_settings(server.url), message)
    assert (outcome.error or "").endswith(': {"sent": "…"}')


SECRET = "rt_live_0123456789"
LINES = "Max {a} Muster\nHauptstr. 5\n3011 Bern\nTel 079 12 34\nPIN 4711-22\n{b} IBAN\n" * 3


@pytest.mark.parametrize("preset", ["freshdesk", "helpdesk", "request-tracker", "zendesk"])
def test_an_answer_that_echoes_a_request_keeps_no_word_of_it(preset: str) -> None:
    """No line has sixteen characters, and most presets write them in another form."""

    def echo(connection: Connection) -> None:
        assert connection.asked is not None
        answer(400, json.dumps(dict.fromkeys(("message", "detail"), connection.asked.body.decode())).encode())(
            connection
        )

    with Hostile(echo) as server:
        settings = gateway_settings(server.url, preset=preset, username="agent", password="secret", token="token")
        error = deliver(settings, queued(body=LINES, cc_emails=None)).error or ""
    assert (error.startswith("HTTP 400"), "…" in error) == (True, True), error
    assert [line for line in LINES.split() if len(line) > 4 and line in error] == []


@pytest.mark.parametrize("columns", [{"subject": "Kündigung von Anna Müller, Diagnose Krebs"}, {"body": LINES + "é"}])
def test_a_mail_server_that_quotes_a_mail_keeps_no_word_of_it(columns: dict[str, str]) -> None:
    message = queued(**columns)
    with MailServer() as server:
        mail(mail_settings(server.url), message)
        [taken] = server.mails
    head, _, body = taken.raw.decode().partition("\r\n\r\n")
    quoted = " ".join((body if "body" in columns else head.partition("Subject: ")[2].partition("MIME")[0]).split())
    with MailServer(end=f"550 5.6.0 refused: {quoted[:400]}") as server:
        error = mail(mail_settings(server.url), message).error or ""
    assert error.replace(" ", "").rstrip("…") == "theendofthemail:SMTP5505.6.0refused:"


@pytest.mark.parametrize("left", range(len(SECRET) + 1))
def test_no_start_of_a_secret_remains_where_a_long_error_is_cut(left: int) -> None:
    """Spaces are removed after the cut, so the end of what was looked at may be shown."""
    line = safe_line("HTTP 400:" + " " * (LONGEST_ERROR - 9 - left) + SECRET + " and so on", [SECRET])
    assert line in {"HTTP 400:", "HTTP 400: ***"}
