"""Which gateway delivers, by ``gateway.kind``. Each loads what it needs and nothing of the other's."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from typing import TYPE_CHECKING

from retrycli.message import MessageType
from retrycli.settings import Gateway as GatewaySettings

if TYPE_CHECKING:
    from retrycli.gateway.http import HttpGateway
    from retrycli.gateway.smtp import SmtpGateway


def gateway_of(
    settings: GatewaySettings, *, columns: Collection[str], connections: int, now: Callable[[], datetime]
) -> HttpGateway | SmtpGateway:
    """The gateway of the settings, to be used as an asynchronous context manager.

    Raises:
        ConfigurationError: it can't be used as it is set.
    """
    match settings.kind:
        case "http":
            from retrycli.gateway.http import HttpGateway

            return HttpGateway(settings, columns=columns, connections=connections, now=now)
        case "smtp":
            from retrycli.gateway.smtp import SmtpGateway

            return SmtpGateway(settings, columns=columns, connections=connections, now=now)


def looks_up(settings: GatewaySettings, message_type: MessageType) -> bool:
    """Whether it asks for a message that may have arrived before it sends it again.

    Raises:
        ConfigurationError: the preset is wrong.
    """
    if settings.kind == "smtp":
        return False
    from retrycli.gateway.preset import load_preset

    preset = load_preset(settings.preset)
    return message_type in preset.messages and bool(preset.look_up)


def check_columns(settings: GatewaySettings, columns: Collection[str]) -> None:
    """Check that the table has every column that the preset, or the subject, names.

    Raises:
        ConfigurationError: one is missing, or the preset is wrong.
    """
    match settings.kind:
        case "http":
            from retrycli.gateway.preset import load_preset

            load_preset(settings.preset).check_columns(columns)
        case "smtp":
            from retrycli.gateway.smtp import check_subject

            check_subject(settings, columns)
