"""Send a test message through a gateway."""

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from httpx import Request

from retrycli.config.settings import Settings
from retrycli.domain.message import Message, MessageType, QueuedMessage
from retrycli.domain.outcome import Outcome, OutcomeKind, Presence
from retrycli.gateway.http.gateway import HttpGateway
from retrycli.gateway.http.request import Content
from retrycli.gateway.http.response import Answer
from retrycli.gateway.router import gateway_of
from retrycli.operations.wiring import utc_now

SHOWN = 4000  # maximum number of characters to show of each request and response


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of a test delivery."""

    outcome: Outcome
    exchanges: tuple[tuple[str, str], ...]  # requests and their responses, without secrets
    # Whether a look-up finds the message; None if no look-up was made, or if its result is unknown.
    found_again: bool | None

    @property
    def delivered(self) -> bool:
        """Return whether the destination accepted the test message."""
        return self.outcome.kind is OutcomeKind.DELIVERED


def deliver_test(
    settings: Settings,
    *,
    ticket: str,
    message_type: MessageType,
    recipient: str | None,
    lists: Mapping[str, Sequence[str]],
    by: str,
) -> Trial:
    """Send one message that is marked as a test and belongs to no row of the application's table. It states the
    operator's name. Only a message to a customer or supplier has a recipient. ``lists`` has the values of the list
    columns.

    Raises:
        ConfigurationError: the gateway's settings or the preset are wrong.
    """
    row: dict[str, object] = {
        "id": 0,
        "ticket_id": int(ticket) if ticket.isascii() and ticket.isdecimal() else ticket,
        "message_type": message_type.value,
        "subject": "A test of retrycli",
        "body": f'This is a test of retrycli by {by}. No action is needed.\nÄ, ß, 🎫, "quoted", <b>.',
        "status": "failed",
        "retry_count": 0,
        "last_error": None,
        "recipient_email": recipient,
        **{column: json.dumps(list(values)) for column, values in lists.items()},
    }
    queued = QueuedMessage(Message.from_row(row), str(uuid.uuid4()), utc_now())
    return asyncio.run(_deliver(settings, queued))


async def _deliver(settings: Settings, queued: QueuedMessage) -> Trial:
    exchanges: list[tuple[str, str]] = []

    def watch(request: Request, content: Content | None, answer: Answer) -> None:
        target = request.url.raw_path.decode("ascii", "replace")
        headers = [f"{name}: {value}" for name, value in request.headers.items()]
        asked = [f"{request.method} {target}", *headers, "", *([content.shown()] if content else [])]
        said = f"HTTP {answer.status}\n{answer.text.strip()}".strip()
        exchanges.append(("\n".join(asked), said))

    found_again: bool | None = None
    section = settings.gateway.of(queued.message.message_type)
    async with gateway_of(section, columns=None, connections=1, now=utc_now, watch=watch) as gateway:
        outcome = await gateway.deliver(queued)
        if not isinstance(gateway, HttpGateway):
            return Trial(outcome, (), None)
        if outcome.kind is OutcomeKind.DELIVERED:
            result = (await gateway.look_up(queued)).result
            found_again = None if result is Presence.UNKNOWN else result is Presence.ARRIVED
        shown = tuple(
            (_cut(gateway.redact_secrets(asked)), _cut(gateway.redact_secrets(said))) for asked, said in exchanges
        )
        return Trial(outcome, shown, found_again)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
