"""Choose the gateway of each message type. Import only the modules that the configured gateways need."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from retrycli.config.gateway import GatewaySettings, RoutedGatewaySettings
from retrycli.domain.errors import InvalidMessage
from retrycli.domain.message import Message, MessageType, QueuedMessage
from retrycli.domain.outcome import LookUp, Outcome

if TYPE_CHECKING:
    from retrycli.domain.transition import Overdue
    from retrycli.gateway.delivery import BaseGateway
    from retrycli.gateway.http.client import Watch


@dataclass(frozen=True, slots=True)
class _GatewayRouter:
    """Pass each call to the open gateway of the message's type. Several types may share one gateway."""

    gateways: Mapping[MessageType, BaseGateway]

    @property
    def overdue(self) -> list[Overdue]:
        return [attempt for gateway in set(self.gateways.values()) for attempt in gateway.overdue]

    async def deliver(self, queued: QueuedMessage) -> Outcome:
        return await self.gateways[queued.message.message_type].deliver(queued)

    async def problem(self, queued: QueuedMessage) -> str | None:
        return await self.gateways[queued.message.message_type].problem(queued)

    async def look_up(self, queued: QueuedMessage) -> LookUp:
        return await self.gateways[queued.message.message_type].look_up(queued)


@asynccontextmanager
async def open_router(
    settings: RoutedGatewaySettings, *, columns: Collection[str], connections: int, now: Callable[[], datetime]
) -> AsyncIterator[_GatewayRouter]:
    """Open the gateways of all message types. Close them at the end of the context.

    Raises:
        ConfigurationError: a gateway can't be used. The gateways that were already open have been closed.
    """
    sections = settings.all
    async with AsyncExitStack() as opened:
        gateways = {
            name: await opened.enter_async_context(
                gateway_of(section, columns=columns, connections=connections, now=now, section=name)
            )
            for name, section in sections.items()
        }
        names = {of: name if (name := f"gateway.{of}") in sections else "gateway" for of in MessageType}
        yield _GatewayRouter({of: gateways[name] for of, name in names.items()})


def gateway_of(
    settings: GatewaySettings,
    *,
    columns: Collection[str] | None,
    connections: int,
    now: Callable[[], datetime],
    watch: Watch | None = None,
    section: str = "gateway",
) -> BaseGateway:
    """Return the gateway that a section of the settings describes. Use it as an asynchronous context manager. Without a
    table there are no columns. Every HTTP request and its answer is passed to ``watch``.

    Raises:
        ConfigurationError: the settings can't be used.
    """
    match settings.kind:
        case "http":
            from retrycli.gateway.http.gateway import HttpGateway

            return HttpGateway(
                settings, columns=columns, connections=connections, now=now, watch=watch, section=section
            )
        case "smtp":
            from retrycli.gateway.smtp.gateway import SmtpGateway

            return SmtpGateway(settings, columns=columns, connections=connections, now=now)
        case "python":
            from retrycli.gateway.python.gateway import PythonGateway

            return PythonGateway(settings, connections=connections, section=section)


def findable_requests(settings: GatewaySettings, message_type: MessageType) -> str | None:
    """Return a hash of the requests that a look-up finds; None if a message that may have arrived is not looked up.

    Raises:
        ConfigurationError: the preset is invalid.
    """
    if settings.kind != "http":
        return None
    from retrycli.gateway.presets.loader import load_preset

    preset = load_preset(settings.preset)
    if (rule := preset.messages.get(message_type)) is None or not preset.look_up:
        return None
    request = rule.model_dump_json(include={"method", "path", "query", "headers", "body", "marker"})
    return hashlib.sha256(request.encode()).hexdigest()[:16]


def example_url(settings: GatewaySettings, message: Message) -> str | None:
    """Return the URL to which a message would be sent, without the query; None for a mail, or if it can't be known.

    Raises:
        ConfigurationError: the preset is invalid.
    """
    if settings.kind != "http" or settings.base_url is None:
        return None
    from retrycli.gateway.presets.loader import load_preset
    from retrycli.gateway.presets.template import fill_path

    rule = load_preset(settings.preset).messages.get(message.message_type)
    try:
        return None if rule is None else settings.base_url + fill_path(rule.path, message.fields)
    except (InvalidMessage, KeyError):  # the path needs a value that only a delivery has
        return None


def preset_columns(settings: GatewaySettings) -> set[str]:
    """Return the columns to which the preset or the subject's template refers.

    Raises:
        ConfigurationError: the preset is invalid.
    """
    match settings.kind:
        case "http":
            from retrycli.gateway.presets.loader import load_preset

            return load_preset(settings.preset).columns
        case "smtp":
            from retrycli.gateway.presets.template import places

            return {place.name for place in places(settings.subject)}
        case "python":  # a function gets the whole message
            return set()


def check_columns(settings: GatewaySettings, columns: Collection[str]) -> None:
    """Check that the table has every column to which the preset or the subject's template refers.

    Raises:
        ConfigurationError: a column is missing, or the preset is invalid.
    """
    match settings.kind:
        case "http":
            from retrycli.gateway.presets.loader import load_preset

            load_preset(settings.preset).check_columns(columns)
        case "smtp":
            from retrycli.gateway.smtp.gateway import check_subject

            check_subject(settings, columns)
        case "python":  # a function gets every column, and says nothing about those that it needs
            pass
