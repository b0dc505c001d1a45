"""Lengths of time and times as values of options."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    pass


def length_of_time(text: str, option: str) -> timedelta:
    """A length of time as an option's value.

    Raises:
        typer.BadParameter: it is none.
    """
    from retrycli.domain.duration import duration

    try:
        return duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def moment(text: str, option: str) -> datetime:
    """A time to come as an option's value: a length of time from now, a time of day, or a date and time.

    What has no offset is local time.

    Raises:
        typer.BadParameter: it is none, or past.
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
        raise typer.BadParameter(f"{text!r} is no time; write {words}", param_hint=option) from None
    away = given.replace(tzinfo=None) - now.replace(tzinfo=None)
    # Roughly first: at the calendar's ends there is no working out a local time.
    if abs(away) <= 2 * LONGEST and now <= (found := _local(given)) <= now + LONGEST:
        return found
    raise typer.BadParameter(f"{text!r} is {'past' if away < LONGEST / 2 else 'too far off'}", param_hint=option)


def _local(time: datetime) -> datetime:
    """A time in the machine's zone; where that is none that Python takes, as ``TZ=UTC-24``, in UTC or its own."""
    try:
        return time.astimezone()
    except ValueError:
        return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
