"""Format values: times, counts, cells of a table, JSON."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta, tzinfo
from functools import cache
from math import isfinite

from retrycli.domain.duration import in_words, in_zone, utc_text
from retrycli.domain.sanitize import printable

Cell = str | int | float | bool | datetime | None
UTC_TIME = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


def local_time(time: datetime, zone: tzinfo | None = None) -> str:
    """Format a time for an operator, with its offset: in a zone, by default the machine's."""
    return in_zone(time, zone).isoformat(sep=" ", timespec="minutes")


def with_times(sentence: str, form: Callable[[datetime], str]) -> str:
    """Format the times in a sentence of retrycli with a function. Sentences have them as `utc_text` formats them."""

    def formatted(found: re.Match[str]) -> str:
        try:
            return form(datetime.fromisoformat(found[0]))
        except ValueError:  # an operator's reason may have anything that looks like a time
            return found[0]

    return UTC_TIME.sub(formatted, sentence)


def ago(time: datetime, now: datetime) -> str:
    """Format how long ago a time was, in one unit."""
    length = _in_one_unit(now - time)
    return f"{length} ago" if length else "just now"


def age(since: datetime | None, now: datetime) -> str | None:
    """Format how long a time was ago, in the largest unit: ``9 h``."""
    return None if since is None else " ".join(in_words(now - since).split()[:2])


def ahead(time: datetime, now: datetime) -> str:
    """Format how far ahead a time is, in one unit."""
    return f"in {_in_one_unit(time - now) or 'less than a minute'}"


def _in_one_unit(length: timedelta) -> str:
    for unit, size in (("day", timedelta(days=1)), ("hour", timedelta(hours=1)), ("minute", timedelta(minutes=1))):
        if length >= size:
            return count(length // size, unit)
    return ""


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
            return utc_text(cell)
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
    # Databases may store NaN and Infinity, but JSON has no such numbers (RFC 8259, section 6).
    match value:
        case dict():
            return {name: _with_finite_numbers(item) for name, item in value.items()}
        case list() | tuple():
            return [_with_finite_numbers(item) for item in value]
        case _ if is_dataclass(value):
            return _with_finite_numbers(_json_value(value))
        case float() if not isfinite(value):
            return json.dumps(value)
        case _:
            return value


@cache
def _field_names(record: type) -> Sequence[str]:
    return [field.name for field in fields(record)]


def _json_value(value: object) -> object:
    if isinstance(value, datetime):
        return utc_text(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if is_dataclass(value):  # `asdict` would also copy each value, which takes ten times as long
        record: type = type(value)
        return {name: getattr(value, name) for name in _field_names(record)}
    return str(value)
