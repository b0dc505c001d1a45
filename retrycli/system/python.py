"""Extras: what not everybody needs, and pip installs where it is asked for."""

from __future__ import annotations

import sys


def install(extra: str) -> str:
    """What to type for one that is not installed: for the Python that lacks it, and not for that of whichever `pip`."""
    return f"{sys.executable} -m pip install 'retrycli[{extra}]'"
