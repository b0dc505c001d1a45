"""Durations as text, such as ``200ms``, ``2s``, ``15m``, ``2h`` or ``7d``, and times in a zone."""

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta, tzinfo

from retrycli.domain.sanitize import shortened

UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}

MINUTE, HOUR, DAY = 60, 3600, 86_400  # seconds

# The longest duration that settings and options may contain. Python can still represent the current time plus or minus
# this duration.
LONGEST = timedelta(days=36_500)
SHOWN = 40  # maximum number of characters of a text in an error


def duration(text: str) -> timedelta:
    """Parse a duration.

    Args:
        text: a number, with optional decimals, and a unit from `UNITS`; spaces around both are allowed.

    Raises:
        ValueError: the text is not a duration (the error says how to write one), or is longer than `LONGEST`.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|[smhd])", text.strip())
    if found is None:
        raise ValueError(
            f"{shortened(text, SHOWN)!r} is not a valid duration; write a number and a unit, such as 200ms, 2s, 15m, "
            "2h or 7d"
        )
    number, unit = float(found[1]), UNITS[found[2]]
    # Compare before multiplying, because a timedelta overflows long before a float does.
    if number > LONGEST / unit:
        raise ValueError(f"{shortened(text, SHOWN)!r} is too long; the maximum is {LONGEST.days}d")
    return number * unit


def time_near(text: str, now: datetime, zoned: Callable[[datetime], datetime], *, past: bool = False) -> datetime:
    """Parse a time: a duration from now or ago, the next or the last time of day, or a date and time.

    Args:
        text: such as ``2h``, ``08:00`` or ``2026-01-02 08:00``, possibly with an offset.
        now: the current time, in the zone of times without an offset.
        zoned: returns a time in that zone; a naive time is one of the zone.
        past: whether a duration or a time of day is past.

    Raises:
        ValueError: the text is not a time, or the time is further away than about `LONGEST`.
    """
    with suppress(ValueError):
        return now - duration(text) if past else now + duration(text)
    try:
        if ":" in text and len(text) <= len("08:00:00"):
            given = datetime.combine(now, time.fromisoformat(text))
            given += timedelta(days=-(zoned(given) > now) if past else zoned(given) <= now)
        else:
            given = datetime.fromisoformat(text)
    except ValueError:
        forms = f"a duration {'ago' if past else 'from now'} (2h), a time of day (08:00), or a date and time"
        shown = shortened(text, SHOWN)
        raise ValueError(f"{shown!r} is not a valid time; write {forms} (2026-01-02 08:00)") from None
    away = given.replace(tzinfo=None) - now.replace(tzinfo=None)
    # Checked first, because a local time can't be computed near the ends of the calendar.
    if abs(away) > LONGEST + timedelta(days=2):
        too_late = away > timedelta(0)
        where = "too far in the future; give an earlier" if too_late else "too far in the past; give a later"
        raise ValueError(f"{shortened(text, SHOWN)!r} is {where} time")
    return zoned(given)


def in_words(length: timedelta) -> str:
    """Format a duration in its two largest units: ``9 h 15 min``, ``2 d``, ``40 s``."""
    seconds = max(round(length.total_seconds()), 0)
    for unit, small, name, small_name in ((DAY, HOUR, "d", "h"), (HOUR, MINUTE, "h", "min"), (MINUTE, 1, "min", "s")):
        whole, rest = divmod(round(seconds / small), unit // small)
        if whole:
            return f"{whole} {name}" + (f" {rest} {small_name}" if rest else "")
    return f"{seconds} s"


def in_zone(time: datetime, zone: tzinfo | None = None) -> datetime:
    """Return a time in a zone, by default the machine's zone. A naive time counts as UTC.

    Return the time unchanged if Python can't represent it in the zone, or if the machine's zone, such as ``TZ=UTC-24``,
    differs from UTC by a day or more.
    """
    aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    try:
        return aware.astimezone(zone)
    except (OverflowError, ValueError):
        return aware


def utc_text(time: datetime) -> str:
    """Format a time for a program: RFC 3339 in UTC, to the second."""
    return in_zone(time, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
