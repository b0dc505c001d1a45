"""Read presets, and check them against the application's table."""

from contextlib import closing

from retrycli.config.settings import Settings
from retrycli.domain.errors import InvalidMessage, RetrycliError
from retrycli.domain.message import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, Message
from retrycli.gateway.presets import loader
from retrycli.gateway.presets.loader import Preset, known_presets, load_preset, preset_text
from retrycli.operations.wiring import connect
from retrycli.store.messages import column_names

__all__ = ["Preset", "bundled", "check", "example_url", "preset_text"]


def bundled() -> dict[str, Preset]:
    """Return the bundled presets by name."""
    return {name: load_preset(name) for name in known_presets()}


def check(settings: Settings, name: str) -> tuple[Preset, str]:
    """Check a preset, which a name or the path of a file gives, and compare it with the application's table if the
    table can be read. Send nothing. Return the preset, and the result of the comparison.

    Raises:
        ConfigurationError: the preset is not valid, or requires a column that the table does not have.
    """
    preset = load_preset(name)
    try:
        with closing(connect(settings)) as database:
            columns = column_names(database)
    except RetrycliError as error:  # a preset is often written before the database is set up
        others = ", ".join(sorted(preset.columns - {*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS}))
        besides = f". Besides retrycli's required columns, the preset needs {others}" if others else ""
        return preset, f"not checked: {error}{besides}"
    preset.check_columns({*columns, *OPTIONAL_COLUMNS})
    return preset, f"{settings.database.table} has every column that the preset requires"


def example_url(settings: Settings, ticket: int | str, message_type: str) -> str | None:
    """Return the URL to which a message of a ticket would be sent; None for a mail, or if there is no such URL.

    Raises:
        ConfigurationError: the preset is invalid.
    """
    row: dict[str, object] = dict.fromkeys((*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS))
    try:
        message = Message.from_row({**row, "id": 0, "ticket_id": ticket, "message_type": message_type, "body": ""})
    except InvalidMessage:
        return None
    return loader.example_url(settings.gateway.of(message.message_type), message)
