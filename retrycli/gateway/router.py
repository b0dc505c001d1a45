"""Which gateway delivers: by the message's type, and by ``gateway.kind``. Each loads what it needs and nothing else."""

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
    """Delivers each message through the gateway of its type. Use it as an asynchronous context manager.

    Args:
        gateways: by message type; several types may share one.
    """

    def __init__(self, gateways: Mapping[MessageType, HttpGateway | SmtpGateway]) -> None:
        self._gateways = gateways
        self._until_the_end = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Open every gateway.

        Raises:
            ConfigurationError: one of them can't be used; none stays open.
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
        """Return why a message can't be sent as it is, if so. Nothing is asked or sent."""
        return await self._gateways[queued.message.message_type].problem(queued)

    async def look_up(self, queued: QueuedMessage) -> LookUp:
        """Ask whether a message has arrived, and send nothing."""
        return await self._gateways[queued.message.message_type].look_up(queued)


def router_of(
    settings: RoutedGatewaySettings, *, columns: Collection[str], connections: int, now: Callable[[], datetime]
) -> GatewayRouter:
    """The gateways of all message types.

    Raises:
        ConfigurationError: one of them can't be used as it is set.
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
    """The gateway of a section of the settings, to be used as an asynchronous context manager.

    Args:
        settings: the section.
        columns: the columns of the application's table; None where there is none.
        connections: how many messages may be under way.
        now: the clock.
        watch: is shown each HTTP request with its answer.
        section: its name, for errors.

    Raises:
        ConfigurationError: it can't be used as it is set.
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
    """Whether it asks for a message that may have arrived before it sends it again.

    Raises:
        ConfigurationError: the preset is wrong.
    """
    if settings.kind == "smtp":
        return False
    from retrycli.gateway.presets.loader import load_preset

    preset = load_preset(settings.preset)
    return message_type in preset.messages and bool(preset.look_up)


def check_columns(settings: GatewaySettings, columns: Collection[str]) -> None:
    """Check that the table has every column that the preset, or the subject, names.

    Raises:
        ConfigurationError: one is missing, or the preset is wrong.
    """
    match settings.kind:
        case "http":
            from retrycli.gateway.presets.loader import load_preset

            load_preset(settings.preset).check_columns(columns)
        case "smtp":
            from retrycli.gateway.smtp.gateway import check_subject

            check_subject(settings, columns)
