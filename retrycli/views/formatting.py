"""Format values: times, counts, charts, cells of a table, JSON."""

import json
from collections.abc import Sequence
from datetime import datetime
from math import isfinite

from retrycli.domain.duration import in_zone, utc_text
from retrycli.domain.sanitize import printable

Cell = str | int | float | bool | datetime | None
STEPS = " ▁▂▃▄▅▆▇█"

ENDS = "▏▎▍▌▋▊▉█"

BAR = 24  # length of the longest bar, in characters


def local_time(time: datetime) -> str:
    """Format a time for an operator: local, with its offset."""
    return in_zone(time).isoformat(sep=" ", timespec="minutes")


def utc_time(time: datetime | None) -> str | None:
    """Format a time for a program: RFC 3339 in UTC, to the second."""
    return None if time is None else utc_text(time)


def curve(numbers: Sequence[int]) -> str:
    """Draw a chart of numbers, one character per number; 0 is a blank."""
    most = max(numbers, default=0)
    return "".join(STEPS[-(-number * (len(STEPS) - 1) // most)] if number else " " for number in numbers)


def bar(part: int, most: int) -> str:
    """Draw a number as a bar, relative to the highest number. Every number except 0 has a bar."""
    eighths = -(-part * BAR * len(ENDS) // most)
    return ENDS[-1] * (eighths // len(ENDS)) + ENDS[: eighths % len(ENDS)][-1:]


def ago(time: datetime, now: datetime) -> str:
    """Format how long ago a time was, in one unit."""
    seconds = max((now - time).total_seconds(), 0)
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{count(int(seconds // length), unit)} ago"
    return "just now"


def ahead(time: datetime, now: datetime) -> str:
    """Format how far ahead a time is, in one unit."""
    seconds = (time - now).total_seconds()
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"in {count(int(seconds // length), unit)}"
    return "in less than a minute"


def count(number: int, thing: str) -> str:
    """Format a number with its noun."""
    ending = "" if number == 1 else "es" if thing.endswith("s") else "s"
    return f"{number:,} {thing}{ending}"


def plain(cell: Cell) -> str:
    """Format a cell for a program: times in UTC, and an empty string for None."""
    match cell:
        case None:
            return ""
        case datetime():
            return str(utc_time(cell))
        case bool():
            return str(cell).lower()
        case _:
            return printable(str(cell))


def local(cell: Cell) -> str:
    """Format a cell for an operator: times in local time, and a dash for None."""
    match cell:
        case None:
            return "–"
        case datetime():
            return local_time(cell)
        case bool():
            return "yes" if cell else "no"
        case _:
            return printable(str(cell))


def as_json(value: object) -> str:
    """Format a value as JSON in ASCII: times in UTC, bytes as text, NaN and Infinity as strings."""
    try:
        return json.dumps(value, default=_json_value, allow_nan=False)
    except ValueError:
        return json.dumps(_with_finite_numbers(value), default=_json_value)


def _with_finite_numbers(value: object) -> object:
    """Replace NaN and Infinity, which databases may store, by strings, because JSON has no such numbers (RFC 8259,
    section 6).
    """
    match value:
        case dict():
            return {name: _with_finite_numbers(item) for name, item in value.items()}
        case list() | tuple():
            return [_with_finite_numbers(item) for item in value]
        case float() if not isfinite(value):
            return json.dumps(value)
        case _:
            return value


def _json_value(value: object) -> object:
    if isinstance(value, datetime):
        return utc_time(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)
