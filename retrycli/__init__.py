"""Delivers failed ticket messages after all: one safe pass per call.

    import retrycli

    settings = retrycli.load_settings()
    summary = retrycli.run_once(settings)     # one pass; takes the same lock as the command
    retrycli.status(settings)                 # what is happening
    retrycli.retry(settings, 17)              # one message, now

Everything here is imported when it is first used, so that ``import retrycli`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retrycli.app import retry, run_once
    from retrycli.config import load_settings
    from retrycli.desk import Status, status
    from retrycli.errors import RetrycliError
    from retrycli.events import PassSummary
    from retrycli.outcome import Outcome
    from retrycli.settings import Settings

__all__ = [
    "Outcome",
    "PassSummary",
    "RetrycliError",
    "Settings",
    "Status",
    "load_settings",
    "retry",
    "run_once",
    "status",
]

_HOMES = {
    "Outcome": "outcome",
    "PassSummary": "events",
    "RetrycliError": "errors",
    "Settings": "settings",
    "Status": "desk",
    "load_settings": "config",
    "retry": "app",
    "run_once": "app",
    "status": "desk",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return version("retrycli")
    if name not in _HOMES:
        raise AttributeError(f"module 'retrycli' has no attribute {name!r}")
    return getattr(import_module(f"retrycli.{_HOMES[name]}"), name)
