"""What the settings of a gateway say about its requests: columns, URLs, and what a look-up finds."""

import hashlib
from collections.abc import Collection

from retrycli.config.gateway import GatewaySettings
from retrycli.domain.errors import InvalidMessage
from retrycli.domain.message import Message, MessageType
from retrycli.gateway.presets.loader import load_preset
from retrycli.gateway.presets.template import check_subject, fill_path, places


def findable_requests(settings: GatewaySettings, message_type: MessageType) -> str | None:
    """Return a hash of the requests that a look-up finds; None if a message that may have arrived is not looked up.

    Raises:
        ConfigurationError: the preset is invalid.
    """
    if settings.kind != "http":
        return None
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
            return load_preset(settings.preset).columns
        case "smtp":
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
            load_preset(settings.preset).check_columns(columns)
        case "smtp":
            check_subject(settings, columns)
        case "python":  # a function gets every column, and says nothing about those that it needs
            pass
