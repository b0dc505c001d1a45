"""Parse durations and times of options."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, time, timedelta

import typer


def length_of_time(text: str, option: str) -> timedelta:
    """Parse a duration, such as 2h.

    Args:
        text: the option's value.
        option: its name, for the error.

    Raises:
        typer.BadParameter: the text is not a duration.
    """
    from retrycli.domain.duration import duration

    try:
        return duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def moment(text: str, option: str) -> datetime:
    """Parse a future time: a duration from now, a time of day, or a date and time. Without an offset it is local.

    Args:
        text: the option's value.
        option: its name, for the error.

    Raises:
        typer.BadParameter: the text is not a time, or the time is past or too far off.
    """
    from retrycli.domain.duration import LONGEST, duration

    now = _local(datetime.now(UTC))
    with suppress(ValueError):
        return now + duration(text)
    try:
        if ":" in text and len(text) <= len("08:00:00"):
            given = datetime.combine(now, time.fromisoformat(text))
            given += timedelta(days=_local(given) <= now)
        else:
            given = datetime.fromisoformat(text)
    except ValueError:
        words = "a length of time from now (2h), a time of day (08:00) or a date and time (2026-01-02 08:00)"
        raise typer.BadParameter(f"{text!r} is not a valid time; write {words}", param_hint=option) from None
    away = given.replace(tzinfo=None) - now.replace(tzinfo=None)
    # Compare roughly first: near the calendar's ends a local time can't be computed.
    if abs(away) <= 2 * LONGEST and now <= (found := _local(given)) <= now + LONGEST:
        return found
    raise typer.BadParameter(f"{text!r} is {'past' if away < LONGEST / 2 else 'too far off'}", param_hint=option)


def _local(time: datetime) -> datetime:
    """Convert to the machine's zone. If Python rejects the zone, as ``TZ=UTC-24``, keep the time's own, or UTC."""
    try:
        return time.astimezone()
    except ValueError:
        return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
