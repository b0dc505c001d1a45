"""Short functions that deliver messages with the SMTP gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from retrycli.config.gateway import RoutedGatewaySettings
from retrycli.domain.message import QueuedMessage
from retrycli.domain.outcome import Outcome
from retrycli.gateway.smtp.gateway import SmtpGateway
from tests.gateway.deliveries import COLUMNS, NOON, no_wait, queued

SENDER = "Support <support@example.com>"


def mail_settings(url: str, **changes: object) -> RoutedGatewaySettings:
    """Return settings for a server without encryption, with a long deadline unless a test sets a shorter one."""
    usual = {"kind": "smtp", "base_url": url, "sender": SENDER, "starttls": False, "request_timeout_seconds": 10}
    return RoutedGatewaySettings.model_validate(usual | changes)


def open_smtp(settings: RoutedGatewaySettings, *, columns: Sequence[str] = COLUMNS) -> SmtpGateway:
    """Open a gateway whose clock is fixed at noon."""
    return SmtpGateway(settings, columns=columns, connections=4, now=lambda: NOON, sleep=no_wait)


def mail(settings: RoutedGatewaySettings, message: QueuedMessage | None = None) -> Outcome:
    """Deliver one message, by default `queued()`."""

    async def one() -> Outcome:
        async with open_smtp(settings) as gateway:
            return await gateway.deliver(message or queued())

    return asyncio.run(one())


def three(*had: str, **changes: object) -> QueuedMessage:
    """Return a message to Anna, Ben and Cy. Those in ``had`` have already received it."""
    message = queued(cc_emails='["ben@example.com"]', bcc_emails='["cy@example.com"]', **changes)
    return message._replace(delivered_to=frozenset(had))
