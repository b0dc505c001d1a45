"""Send one marked test message through a gateway, and return its exchanges so that an operator can see them."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from retrycli.config.settings import Settings
from retrycli.domain.message import Message, MessageType, QueuedMessage
from retrycli.domain.outcome import Outcome, OutcomeKind, Presence
from retrycli.operations.wiring import DEFAULT_RUNTIME, Runtime

if TYPE_CHECKING:
    import httpx

    from retrycli.gateway.http.request import Content
    from retrycli.gateway.http.response import Answer

SHOWN = 4000  # maximum number of characters shown of a request or a response


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of a test delivery."""

    outcome: Outcome
    exchanges: tuple[tuple[str, str], ...]  # requests and their responses, without secrets
    # True if a look-up finds the message; None if the preset has no look-up, or if it gives no answer.
    found_again: bool | None

    @property
    def delivered(self) -> bool:
        """Return whether the message arrived."""
        return self.outcome.kind is OutcomeKind.DELIVERED


def deliver_test(
    settings: Settings,
    *,
    ticket: str,
    message_type: MessageType,
    recipient: str | None,
    lists: Mapping[str, Sequence[str]],
    by: str,
    runtime: Runtime = DEFAULT_RUNTIME,
) -> Trial:
    """Send one message that is marked as a test and belongs to no row of the application's table.

    Args:
        settings: the settings of the gateway.
        ticket: the target ticket.
        message_type: the type of the message.
        recipient: the recipient of a message to a customer or supplier.
        lists: the values of the list columns (copies, attachments).
        by: the operator, whose name the message states.
        runtime: the clock.

    Raises:
        ConfigurationError: the gateway's settings or the preset are wrong.
    """
    queued = _message(ticket, message_type, recipient, lists, by, runtime.now())
    return asyncio.run(_deliver(settings, queued, runtime))


async def _deliver(settings: Settings, queued: QueuedMessage, runtime: Runtime) -> Trial:
    from retrycli.gateway.http.gateway import HttpGateway
    from retrycli.gateway.router import gateway_of

    exchanges: list[tuple[str, str]] = []

    def watch(request: httpx.Request, content: Content | None, answer: Answer) -> None:
        exchanges.append((_request(request, content), _answer(answer)))

    found_again: bool | None = None
    section = settings.gateway.of(queued.message.message_type)
    async with gateway_of(section, columns=None, connections=1, now=runtime.now, watch=watch) as gateway:
        outcome = await gateway.deliver(queued)
        if not isinstance(gateway, HttpGateway):
            return Trial(outcome, (), None)
        if outcome.kind is OutcomeKind.DELIVERED:
            result = (await gateway.look_up(queued)).result
            found_again = None if result is Presence.UNKNOWN else result is Presence.ARRIVED
        redact = gateway.redact_secrets
        return Trial(outcome, tuple((redact(asked), redact(said)) for asked, said in exchanges), found_again)


def _message(
    ticket: str,
    message_type: MessageType,
    recipient: str | None,
    lists: Mapping[str, Sequence[str]],
    by: str,
    now: datetime,
) -> QueuedMessage:
    row: dict[str, object] = {
        "id": 0,
        "ticket_id": int(ticket) if ticket.isascii() and ticket.isdecimal() else ticket,
        "message_type": message_type.value,
        "subject": "A test of retrycli",
        "body": f'This is a test of retrycli by {by}. You need not do anything.\nÄ, ß, 🎫, "quoted", <b>.',
        "status": "failed",
        "retry_count": 0,
        "last_error": None,
        "recipient_email": recipient,
        **{column: json.dumps(list(values)) for column, values in lists.items()},
    }
    return QueuedMessage(Message.from_row(row), str(uuid.uuid4()), now)


def _request(request: httpx.Request, content: Content | None) -> str:
    target = request.url.raw_path.decode("ascii", "replace")
    headers = [f"{name}: {value}" for name, value in request.headers.items()]
    return _cut("\n".join([f"{request.method} {target}", *headers, "", *([content.shown()] if content else [])]))


def _answer(answer: Answer) -> str:
    return _cut(f"HTTP {answer.status}\n{answer.text.strip()}".strip())


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
