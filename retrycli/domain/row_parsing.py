"""Checks of a row's columns: ids, counts, tickets, times and lists."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

from retrycli.domain.errors import InvalidMessage


def retry_count(value: object) -> int:
    """Return the number of retries made so far; null counts as 0.

    Raises:
        InvalidMessage: it is not an integer, or negative.
    """
    count = 0 if value is None else whole_number("retry_count", value)
    if count < 0:
        raise InvalidMessage(f"retry_count is {count}, and can't be below 0")
    return count


def ticket_text(ticket_id: object) -> str:
    """Return a ticket as retrycli's own tables store it, also one that makes its message unusable."""
    text = str(ticket_id if isinstance(ticket_id, int | str) else "")
    return text.encode(errors="backslashreplace").decode()[:TICKET_LENGTH]


TICKET_LENGTH = 255
"""The maximum length of ``ticket_id`` in characters: PostgreSQL's index on tickets limits it."""

LEAP_SECOND = re.compile(r"(?<=\d:\d\d):60(?!\d)")


def utc_time(column: str, value: object) -> datetime | None:
    """Read a column's time as aware UTC; naive times are UTC, and null is None.

    Raises:
        InvalidMessage: the value is not a time.
    """
    if value is None:
        return None
    if not isinstance(value, str | date):
        raise InvalidMessage(f"{column} is not a valid date: {quoted_value(value)}")
    try:
        if isinstance(value, datetime):
            time = value
        else:  # a leap second, which Python rejects, becomes the next second, as in PostgreSQL
            text, leaps = str(value), 0
            if ":60" in text:
                text, leaps = LEAP_SECOND.subn(":59", text)
            time = datetime.fromisoformat(text)
            if leaps:
                time += timedelta(seconds=leaps)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidMessage(f"{column} is not a valid date: {quoted_value(value)}") from error


def whole_number(column: str, value: object) -> int:
    """Return a column's value if it is an integer.

    Raises:
        InvalidMessage: the value is anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise InvalidMessage(f"{column} must be an integer: {quoted_value(value)}")


def checked_ticket(value: object) -> int | str:
    """Return a ``ticket_id`` if it is an integer or a text that is neither blank nor too long.

    Raises:
        InvalidMessage: the value is anything else.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        raise InvalidMessage("ticket_id is missing")
    if isinstance(value, str) and len(value) > TICKET_LENGTH:
        raise InvalidMessage(f"ticket_id has {len(value):,} characters, and can't have more than {TICKET_LENGTH}")
    if isinstance(value, int | str) and not isinstance(value, bool):
        return value
    raise InvalidMessage("ticket_id must be a number or text")


def json_list(column: str, value: object) -> list[object]:
    """Read a column that holds a JSON list; null and the empty text are an empty list.

    Raises:
        InvalidMessage: the value is anything else.
    """
    if value in (None, "", "[]"):
        return []
    if isinstance(value, str):
        try:
            value = json.loads(value, parse_constant=_reject_constant)
        except (ValueError, RecursionError):
            raise InvalidMessage(f"{column} is not valid JSON") from None
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidMessage(f"{column} must be a JSON list")
    return value


def _reject_constant(name: str) -> None:
    """Reject NaN and Infinity, which Python reads and JSON does not have (RFC 8259, section 6)."""
    raise ValueError(name)


def reject_undecodable(fields: Mapping[str, object]) -> None:
    """Reject text that is not valid UTF-8 in the database: it can be neither sent nor shown."""
    for column, value in fields.items():
        if isinstance(value, str):
            text = value
        elif isinstance(value, list) and value:
            text = _as_text(column, value)
        else:
            continue
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise InvalidMessage(f"{column} is not valid UTF-8") from None


def _as_text(column: str, value: list[object]) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:
        raise InvalidMessage(f"{column} is nested too deeply") from None


def quoted_value(value: object) -> str:
    """Quote a value for an error, short enough for one line."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…" + text[-1]  # noqa: PLR2004  a line's worth
