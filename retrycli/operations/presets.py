"""Read presets, and check that a preset fits the application's table."""

from contextlib import closing

from retrycli.config.settings import Settings
from retrycli.domain.errors import RetrycliError
from retrycli.domain.message import OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from retrycli.gateway.presets.loader import Preset, known_presets, load_preset, preset_text
from retrycli.store.database import Database

__all__ = ["Preset", "bundled", "check", "preset_text"]


def bundled() -> dict[str, Preset]:
    """Return the bundled presets by name."""
    return {name: load_preset(name) for name in known_presets()}


def check(settings: Settings, name: str) -> tuple[Preset, str]:
    """Check a preset, and compare it with the application's table if the table can be read. Send nothing.

    Args:
        settings: the settings of the table.
        name: the name of a bundled preset, or the path of a file.

    Returns:
        The preset, and the result of the comparison.

    Raises:
        ConfigurationError: the preset is not valid, or refers to a column that the table does not have.
    """
    preset = load_preset(name)
    try:
        with closing(Database(settings.database.url, settings.database.table)) as database:
            columns = list(database.messages.c.keys())
    except RetrycliError as error:  # a preset is often written before the rest is set up
        others = ", ".join(sorted(preset.columns - {*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS}))
        return preset, f"not checked: {error}" + (f". The table must have the columns {others}" if others else "")
    preset.check_columns({*columns, *OPTIONAL_COLUMNS})
    return preset, f"{settings.database.table} has every column that the preset names"
