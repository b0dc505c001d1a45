"""Choose the gateway by message type and ``gateway.kind``. Only the modules of configured gateways are loaded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Self

from retrycli.config.gateway import GatewaySettings, RoutedGatewaySettings
from retrycli.domain.message import MessageType, QueuedMessage
from retrycli.domain.outcome import LookUp, Outcome

if TYPE_CHECKING:
    from types import TracebackType

    from retrycli.gateway.http.client import Watch
    from retrycli.gateway.http.gateway import HttpGateway
    from retrycli.gateway.smtp.gateway import SmtpGateway


class GatewayRouter:
    """Deliver messages through the gateway of their type. Use it as an asynchronous context manager.

    Args:
        gateways: by message type; types may share a gateway.
    """

    def __init__(self, gateways: Mapping[MessageType, HttpGateway | SmtpGateway]) -> None:
        self._gateways = gateways
        self._until_the_end = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Open every gateway.

        Raises:
            ConfigurationError: a gateway can't be used; none stays open.
        """
        async with AsyncExitStack() as opened:
            for gateway in set(self._gateways.values()):
                await opened.enter_async_context(gateway)
            self._until_the_end = opened.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._until_the_end.aclose()

    async def deliver(self, queued: QueuedMessage) -> Outcome:
        """Send one message."""
        return await self._gateways[queued.message.message_type].deliver(queued)

    async def problem(self, queued: QueuedMessage) -> str | None:
        """Return why a message can't be sent, or None. Send nothing."""
        return await self._gateways[queued.message.message_type].problem(queued)

    async def look_up(self, queued: QueuedMessage) -> LookUp:
        """Ask if a message has arrived. Send nothing."""
        return await self._gateways[queued.message.message_type].look_up(queued)


def router_of(
    settings: RoutedGatewaySettings, *, columns: Collection[str], connections: int, now: Callable[[], datetime]
) -> GatewayRouter:
    """Return the router to the gateways of all message types.

    Raises:
        ConfigurationError: a gateway's settings can't be used.
    """
    made = [
        (section, gateway_of(section, columns=columns, connections=connections, now=now, section=name))
        for name, section in settings.all.items()
    ]
    return GatewayRouter(
        {
            message_type: next(gateway for section, gateway in made if section is settings.of(message_type))
            for message_type in MessageType
        }
    )


def gateway_of(
    settings: GatewaySettings,
    *,
    columns: Collection[str] | None,
    connections: int,
    now: Callable[[], datetime],
    watch: Watch | None = None,
    section: str = "gateway",
) -> HttpGateway | SmtpGateway:
    """Return the gateway of a section of the settings. Use it as an asynchronous context manager.

    Args:
        settings: the section.
        columns: the columns of the application's table; None without a table.
        connections: the maximum number of concurrent deliveries.
        now: the clock.
        watch: called with every HTTP request and its answer.
        section: the section's name, for errors.

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


def looks_up(settings: GatewaySettings, message_type: MessageType) -> bool:
    """Return if the gateway looks up a message that may have arrived before it sends it again.

    Raises:
        ConfigurationError: the preset is invalid.
    """
    if settings.kind == "smtp":
        return False
    from retrycli.gateway.presets.loader import load_preset

    preset = load_preset(settings.preset)
    return message_type in preset.messages and bool(preset.look_up)


def check_columns(settings: GatewaySettings, columns: Collection[str]) -> None:
    """Check that the table has every column that the preset or the subject names.

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
