"""Choose the gateway of each message type. Import only the modules that the configured gateways need."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from retrycli.config.gateway import GatewaySettings, RoutedGatewaySettings
from retrycli.domain.message import MessageType, QueuedMessage
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

            return PythonGateway(settings, connections=connections, now=now, section=section)
