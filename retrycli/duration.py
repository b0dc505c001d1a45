"""How a person writes a length of time: ``200ms``, ``2s``, ``15m``, ``2h``, ``7d``."""

from __future__ import annotations

import re
from datetime import timedelta

UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}

LONGEST = timedelta(days=36_500)
"""Nobody means more, and any time of today plus or minus this is still one that Python can hold."""


def duration(text: str) -> timedelta:
    """Read a length of time.

    Args:
        text: a number, with decimals if need be, and a unit of `UNITS`; spaces around either are allowed.

    Raises:
        ValueError: it is none, or longer than `LONGEST`; the error's text says how to write one.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|[smhd])", text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no length of time; write a number and a unit: 200ms, 2s, 15m, 2h or 7d")
    number, unit = float(found[1]), UNITS[found[2]]
    # Compared before it is multiplied: a timedelta overflows long before a float does.
    if number > LONGEST / unit:
        raise ValueError(f"{text!r} is too long; the longest is {LONGEST.days}d")
    return number * unit
