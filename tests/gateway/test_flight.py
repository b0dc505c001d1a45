"""An internal error during a delivery is logged and becomes the message's outcome, so that the pass can continue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import pytest

from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.gateway.delivery import DeliveryProgress, guard, logger
from retrycli.gateway.http.client import Watch
from retrycli.gateway.http.gateway import HttpGateway
from retrycli.gateway.smtp.gateway import SmtpGateway
from retrycli.gateway.smtp.session import SmtpReply
from tests.gateway.deliveries import COLUMNS, NOON, PUT_PRESET, gateway_settings, no_wait, preset_file, queued
from tests.gateway.hostile import SUCCEEDED, Hostile, answer
from tests.gateway.mail_server import MailServer
from tests.gateway.mails import mail_settings

WORDS = "It is on its way."
NOWHERE = "http://127.0.0.1:1"


def fault(*_: object) -> NoReturn:
    raise KeyError(WORDS)


def noon() -> datetime:
    return NOON


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Capture the logged errors."""
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.ERROR)
    return caplog


def by_http(
    url: str,
    *,
    now: Callable[[], datetime] = noon,
    sleep: Callable[[float], Awaitable[None]] = no_wait,
    watch: Watch | None = None,
    **changes: object,
) -> Outcome:
    async def one() -> Outcome:
        settings = gateway_settings(url, **changes)
        async with HttpGateway(settings, columns=COLUMNS, connections=1, now=now, sleep=sleep, watch=watch) as gateway:
            return await gateway.deliver(queued())

    return asyncio.run(one())


def by_smtp(url: str, now: Callable[[], datetime] = noon) -> Outcome:
    async def one() -> Outcome:
        async with SmtpGateway(mail_settings(url), columns=COLUMNS, connections=1, now=now, sleep=no_wait) as gateway:
            return await gateway.deliver(queued())

    return asyncio.run(one())


def assert_told(told: pytest.LogCaptureFixture, outcome: Outcome, kind: OutcomeKind) -> None:
    (record,) = told.records
    assert record.levelname == "ERROR"
    assert record.getMessage().startswith("Message 7 caused an internal error: KeyError at retrycli.gateway.")
    assert outcome.kind is kind
    assert "an internal error: KeyError at retrycli.gateway." in str(outcome.error)
    assert WORDS not in told.text + str(outcome.error)


def test_an_internal_error_before_a_message_is_sent(told: pytest.LogCaptureFixture) -> None:
    assert_told(told, by_http(NOWHERE, sleep=fault), OutcomeKind.TRANSIENT)


def test_an_internal_error_while_an_answer_is_read_or_after_it(told: pytest.LogCaptureFixture) -> None:
    with Hostile(answer(200, SUCCEEDED)) as server:
        times = iter([NOON, NOON])
        assert_told(told, by_http(server.url, now=lambda: next(times, None) or fault()), OutcomeKind.UNKNOWN)
        told.clear()
        assert_told(told, by_http(server.url, watch=fault), OutcomeKind.UNKNOWN)


def test_an_internal_error_after_the_delivery(told: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    read_back = '[messages.customer.verify]\npath = "/tickets/1"\nholds = { path = "public" }\n'
    times = iter([NOON] * 3)
    with Hostile(answer(200, SUCCEEDED), answer(200, b"{}")) as server:
        outcome = by_http(
            server.url,
            now=lambda: next(times, None) or fault(),
            preset=preset_file(tmp_path, PUT_PRESET + read_back),
            verify=True,
        )
    assert_told(told, outcome, OutcomeKind.DELIVERED)


def test_an_internal_error_before_a_mail_is_sent(told: pytest.LogCaptureFixture) -> None:
    with MailServer() as server:
        assert_told(told, by_smtp(server.url, now=fault), OutcomeKind.TRANSIENT)
        assert server.mails == []


def test_an_internal_error_after_a_mail_was_sent(
    told: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SmtpReply, "queued_as", property(fault))
    with MailServer() as server:
        assert_told(told, by_smtp(server.url), OutcomeKind.UNKNOWN)


@pytest.mark.parametrize("end", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
def test_cancelling_a_delivery_ends_it(end: type[BaseException], told: pytest.LogCaptureFixture) -> None:
    async def ended() -> NoReturn:
        raise end

    with pytest.raises(end):
        guard(ended(), 7, DeliveryProgress()).send(None)
    assert told.records == []
