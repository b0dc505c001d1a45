"""Messages to deliver, and short functions that deliver them with the HTTP gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import httpx

from retrycli.config.gateway import RoutedGatewaySettings
from retrycli.domain.message import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, Message, QueuedMessage
from retrycli.domain.outcome import Outcome
from retrycli.gateway.http.gateway import HttpGateway
from retrycli.gateway.http.transport import open_transport

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
KEY = "message-7-20250303T1200"
PATH = "/tickets/12345/messages"
"""The path to which the generic preset sends `queued()`."""

COLUMNS = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)


def queued(key: str = KEY, /, **changes: object) -> QueuedMessage:
    """Return a message to a customer, with the given changes of its row."""
    row: dict[str, object] = {
        "id": 7,
        "ticket_id": 12345,
        "message_type": "customer",
        "subject": "Your delivery",
        "body": "It is on its way.",
        "status": "failed",
        "retry_count": 3,
        "last_error": "HTTP 503",
        "recipient_email": "anna@example.com",
        "cc_emails": '["ben@example.com"]',
        "bcc_emails": None,
    }
    return QueuedMessage(Message.from_row(row | changes), key, NOON)


def gateway_settings(url: str, **changes: object) -> RoutedGatewaySettings:
    """Return settings for a server, with a long deadline unless a test sets a shorter one."""
    return RoutedGatewaySettings.model_validate({"base_url": url, "request_timeout_seconds": 10} | changes)


async def no_wait(_seconds: float) -> None:
    """Replace the gateway's sleep, so that retries do not slow the tests down."""


def open_gateway(
    settings: RoutedGatewaySettings,
    *,
    columns: Sequence[str] = COLUMNS,
    sleep: Callable[[float], Awaitable[None]] = no_wait,
    connect: Callable[..., httpx.AsyncBaseTransport] = open_transport,
) -> HttpGateway:
    """Open a gateway whose clock is fixed at noon."""
    return HttpGateway(settings, columns=columns, connections=16, now=lambda: NOON, sleep=sleep, connect=connect)


def deliver(
    settings: RoutedGatewaySettings,
    message: QueuedMessage | None = None,
    *,
    sleep: Callable[[float], Awaitable[None]] = no_wait,
) -> Outcome:
    """Deliver one message, by default `queued()`."""

    async def one() -> Outcome:
        async with open_gateway(settings, sleep=sleep) as gateway:
            return await gateway.deliver(message or queued())

    return asyncio.run(one())


def deliver_in_turn(
    settings: RoutedGatewaySettings, *messages: QueuedMessage, after_each: Callable[[], object] = lambda: None
) -> list[Outcome]:
    """Deliver messages one after the other through one gateway, which can reuse its connection."""

    async def all_of_them() -> list[Outcome]:
        outcomes = []
        async with open_gateway(settings) as gateway:
            for message in messages:
                outcomes.append(await gateway.deliver(message))
                after_each()
        return outcomes

    return asyncio.run(all_of_them())


def deliver_together(settings: RoutedGatewaySettings, *messages: QueuedMessage) -> list[Outcome]:
    """Deliver messages at the same time through one gateway."""

    async def all_of_them() -> list[Outcome]:
        async with open_gateway(settings) as gateway:
            return await asyncio.gather(*(gateway.deliver(message) for message in messages))

    return asyncio.run(all_of_them())


def preset_file(folder: Path, text: str) -> str:
    """Write a preset; return its path for ``gateway.preset``."""
    file = folder / "own.toml"
    file.write_text(text, encoding="utf-8")
    return str(file)


PUT_PRESET = """
[messages.customer]
method = "PUT"
path = "/tickets/{ticket_id}/messages"
ignores = ["cc_emails"]
body = { body = "{body}" }
"""
