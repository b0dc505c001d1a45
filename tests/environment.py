"""No test depends on what is configured on the machine."""

from __future__ import annotations

import os
from pathlib import Path

NO_SETTINGS = {"XDG_CONFIG_HOME": str(Path(__file__).with_name("no_settings"))}
"""Leads to a configuration file without settings, which is found before one in /etc."""
SETTINGS = ("RETRYCLI_", "TICKETING_")


def forget_settings() -> None:
    """Take the settings of whoever runs the tests out of the environment."""
    for name in [each for each in os.environ if each.startswith(SETTINGS)]:
        del os.environ[name]
    os.environ.update(NO_SETTINGS)
