"""Describe presets, and check that one fits the application's table."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from retrycli.config.settings import Settings
from retrycli.domain.errors import RetrycliError
from retrycli.domain.message import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, MessageType
from retrycli.gateway.presets.loader import Preset, known_presets, load_preset, preset_text
from retrycli.store.database import Database


@dataclass(frozen=True, slots=True)
class MessageSummary:
    """The way a preset sends messages of one type."""

    method: str
    path: str
    format: str
    capabilities: tuple[str, ...]
    """The optional columns of the application's table that it sends."""


@dataclass(frozen=True, slots=True)
class PresetSummary:
    """The abilities of a preset."""

    name: str
    title: str
    """The ticketing system; empty if the preset does not name it."""
    checked: str | None
    """The version of that system that the preset was tested with."""
    credentials: tuple[str, ...]
    """The settings of ``gateway`` that it needs."""
    looks_up: bool
    messages: Mapping[MessageType, MessageSummary]


def bundled() -> list[PresetSummary]:
    """Return the bundled presets."""
    return [_summary(name, load_preset(name)) for name in known_presets()]


def source(name: str) -> str:
    """Return the text of a preset.

    Args:
        name: of a bundled preset, or the path of a file.

    Raises:
        ConfigurationError: it can't be read.
    """
    return preset_text(name)


def check(settings: Settings, name: str) -> tuple[PresetSummary, str]:
    """Check a preset, and compare it with the application's table if that can be read. Nothing is sent.

    Args:
        settings: which table.
        name: of a bundled preset, or the path of a file.

    Returns:
        Its abilities, and the result of the comparison.

    Raises:
        ConfigurationError: it is not valid, or refers to a column that the table does not have.
    """
    preset = load_preset(name)
    return _summary(name, preset), _compared(settings, preset)


def _compared(settings: Settings, preset: Preset) -> str:
    try:
        with closing(Database(settings.database.url, settings.database.table)) as database:
            columns = list(database.messages.c.keys())
    except RetrycliError as error:  # a preset is often written before the rest is set up
        others = ", ".join(sorted(preset.columns - {*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS}))
        return f"not looked at: {error}" + (f". It has to have the columns {others}" if others else "")
    preset.check_columns({*columns, *OPTIONAL_COLUMNS})
    return f"{settings.database.table} has every column that it names"


def _summary(name: str, preset: Preset) -> PresetSummary:
    return PresetSummary(
        name=name,
        title="" if preset.about is None else preset.about.title,
        checked=None if preset.about is None else preset.about.checked,
        credentials=() if preset.auth is None else preset.auth.needs,
        looks_up=bool(preset.look_up),
        messages={
            message_type: MessageSummary(rule.method, rule.path, rule.format, tuple(rule.capabilities))
            for message_type, rule in preset.messages.items()
        },
    )
