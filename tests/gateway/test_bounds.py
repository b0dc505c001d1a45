"""What a destination answers and what a message contains take a bounded amount of memory."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from typing import TYPE_CHECKING, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.gateway.http.client import KEPT_SESSIONS, Credentials
from retrycli.gateway.http.response import LOOK_UP_LIMIT, Answer
from retrycli.gateway.presets.loader import load_preset
from retrycli.gateway.presets.template import fill_text
from retrycli.gateway.redaction import safe_line
from retrycli.gateway.smtp.mime import LARGE
from retrycli.gateway.smtp.session import LONGEST_REPLY, SmtpReply
from tests.gateway.deliveries import NOON, gateway_settings, open_gateway, preset_file, queued
from tests.gateway.mail_server import MailServer
from tests.gateway.mails import mail, mail_settings, open_smtp, three
from tests.gateway.ticketing.fake import Answered, Asked, Fake

if TYPE_CHECKING:
    from pathlib import Path

MEBIBYTE = 1024 * 1024
BEN = "ben@example.com"
ACCOUNT = {"auth": "login", "username": "agent", "password": "geheim"}


def log_in(tokens: list[str]) -> tuple[Credentials, list[object]]:
    """Log in once with each token; return the credentials, and each result."""
    credentials = Credentials(gateway_settings("http://127.0.0.1:9", **ACCOUNT), load_preset("generic"))
    answers = iter(tokens)

    async def exchange(_: httpx.Request) -> Answer:
        return Answer(200, None, json.dumps({"access_token": next(answers)}), whole=True)

    return credentials, [asyncio.run(credentials.log_in(credentials.session, exchange, lambda: NOON)) for _ in tokens]


def test_the_newest_session_tokens_are_masked() -> None:
    tokens = [f"token-{number}" for number in range(20)]
    credentials, _ = log_in(tokens)
    assert [secret for secret in credentials.secrets if secret in tokens] == tokens[-KEPT_SESSIONS:]


def test_a_token_may_have_8192_characters() -> None:
    _, (fits, too_long) = log_in(["x" * 8192, "x" * 8193])
    assert fits is None
    assert getattr(too_long, "kind", None) is OutcomeKind.UNAUTHORIZED


ROLES = """
[messages.customer]
path = "/notes"
ignores = ["cc_emails"]
preflight = "right"

[preflight.right]
remedy = "give it the right"
[[preflight.right.steps]]
path = "/roles/{ticket_id}"
holds = { path = "may" }
"""


class Verbose(Fake):
    """A fake system whose answers to questions are as long as retrycli reads them."""

    def answer(self, asked: Asked) -> Answered:
        return Answered(200, {"may": True, "x": "x" * (LOOK_UP_LIMIT // 2)} if asked.method == "GET" else {})


def test_the_cached_answers_to_preflights_have_one_limit_together(tmp_path: Path) -> None:
    async def deliver_many(url: str) -> int:
        async with open_gateway(gateway_settings(url, preset=preset_file(tmp_path, ROLES))) as gateway:
            for ticket in range(6):
                assert (await gateway.deliver(queued(ticket_id=ticket))).kind is OutcomeKind.DELIVERED
            return sum(len(answer.text) for answer in gateway._lookups.answers.values())

    with Verbose() as system:
        assert 0 < asyncio.run(deliver_many(system.url)) <= LOOK_UP_LIMIT


def test_an_outcome_is_kept_if_its_text_can_not_be_cleaned(caplog: pytest.LogCaptureFixture) -> None:
    async def one(server: MailServer) -> Outcome:
        async with open_smtp(mail_settings(server.url)) as gateway:
            gateway._secrets = [cast("str", 5)]  # a defect
            return await gateway.deliver(three())

    with MailServer(RCPT={BEN: "550 5.1.1 no such user"}) as server:
        outcome = asyncio.run(one(server))
    assert (outcome.kind, outcome.status_code) == (OutcomeKind.PERMANENT, 550)
    assert outcome.delivered_to == ("anna@example.com", "cy@example.com")
    assert str(outcome.error).startswith("an internal error: TypeError at retrycli.gateway.redaction:")
    assert "message 7" in caplog.text


def test_a_long_error_still_says_that_others_have_the_mail() -> None:
    with MailServer(RCPT={BEN: f"550 {'x' * 900}"}) as server:
        outcome = mail(mail_settings(server.url), three("anna@example.com", "cy@example.com"))
    assert str(outcome.error).endswith("…; earlier delivered to all other recipients")


def test_only_the_start_of_a_long_error_is_searched() -> None:
    long = "%252541" * (LOOK_UP_LIMIT // 7)
    tracemalloc.start()
    try:
        assert safe_line(long, ["a secret"]).endswith("…")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEBIBYTE


def test_a_long_refusal_is_cut() -> None:
    reply = SmtpReply.of(550, b"5.1.1 " + b"x" * MEBIBYTE)
    assert (len(reply.text), reply.kind) == (LONGEST_REPLY, OutcomeKind.PERMANENT)


@pytest.mark.parametrize("body", ["\n" * LARGE + "ü", "x" * LARGE + "\r\ny\rz\n"], ids=["lines", "one line"])
def test_a_large_mail_is_encoded_as_a_whole(body: str) -> None:
    with MailServer() as server:
        tracemalloc.start()
        try:
            assert mail(mail_settings(server.url), queued(body=body)).kind is OutcomeKind.DELIVERED
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    [taken] = server.mails
    one = taken.parsed.get_content().replace("\r\n", "\n")
    assert one == body.replace("\r\n", "\n").replace("\r", "\n")
    assert peak < 30 * LARGE


@given(st.text("{%} a", max_size=12))
def test_the_filter_django_escapes_all_that_opens_or_closes_a_tag(text: str) -> None:
    django = pytest.importorskip("django.template")
    escaped = str(fill_text("{body|django}", {"body": text}))
    assert "{%" not in escaped
    assert django.Engine().from_string(escaped).render(django.Context()) == text


def test_the_filter_django_takes_memory_for_the_result_alone() -> None:
    tracemalloc.start()
    try:
        escaped = str(fill_text("{body|django}", {"body": "{" * MEBIBYTE}))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(escaped)
