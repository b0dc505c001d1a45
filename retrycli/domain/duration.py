"""How a person writes a length of time, ``200ms``, ``2s``, ``15m``, ``2h``, ``7d``, and reads one."""

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

MINUTE, HOUR, DAY = 60, 3600, 86_400
"""Seconds."""

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


def in_words(length: timedelta) -> str:
    """A length of time for a person, in its two largest units: ``9 h 15 min``, ``2 d``, ``40 s``."""
    seconds = max(round(length.total_seconds()), 0)
    if seconds < MINUTE:
        return f"{seconds} s"
    unit, small, (name, small_name) = next(
        (size, part, names)
        for size, part, names in ((DAY, HOUR, ("d", "h")), (HOUR, MINUTE, ("h", "min")), (MINUTE, 1, ("min", "s")))
        if seconds >= size
    )
    whole, rest = divmod(round(seconds / small), unit // small)
    return f"{whole} {name}" + (f" {rest} {small_name}" if rest else "")
