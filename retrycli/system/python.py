"""Installation of extras."""

from __future__ import annotations

import sys


def install(extra: str) -> str:
    """Return the command that installs an extra into the Python that lacks it, which the first `pip` may not be."""
    return f"{sys.executable} -m pip install 'retrycli[{extra}]'"
