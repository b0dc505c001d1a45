"""Name a place in a sorted list, so that the next page begins there even if the list has changed."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, Literal, TypeAlias, TypeVar, get_args

from retrycli.domain.errors import InvalidArgument
from retrycli.domain.message import LARGEST_ID, SMALLEST_ID

SortValue: TypeAlias = int | datetime | None
Value = TypeVar("Value", bound=SortValue)
Key = TypeVar("Key", bound=int | str)
Sort: TypeAlias = Literal["next", "id", "tries", "age"]  # the orders of a list of messages
SORTS: tuple[Sort, ...] = get_args(Sort)

LONGEST = 300  # maximum number of characters of a cursor
PASSES = "passes"  # the order of the list of passes


def pack(values: Sequence[object]) -> str:
    """Encode JSON values as opaque text, which needs no quoting in a shell or a URL."""
    packed = json.dumps(values, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def unpack(text: str) -> list[object]:
    """Decode values that `pack` encoded. They may have been forged.

    Raises:
        ValueError: the text does not contain a list.
    """
    if len(text) > LONGEST or not text.isascii():
        raise ValueError("not packed values")
    padded = text + "=" * (-len(text) % 4)
    try:
        found = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, list):
        raise ValueError("not a list")  # noqa: TRY004  callers expect one error
    return found


@dataclass(frozen=True, slots=True)
class Cursor(Generic[Value, Key]):
    """The last row of a page: the next page begins after it.

    Attributes:
        order: the list and its order; a cursor is only valid for the order in which it was made.
        value: the row's value of the sort column; None if it has no value, or if the list is sorted by key.
        key: the row's key, which decides between equal values.
    """

    order: str
    value: Value
    key: Key

    def __str__(self) -> str:
        """Return the cursor as opaque text, which needs no quoting in a shell or a URL."""
        value = self.value.astimezone(UTC).isoformat() if isinstance(self.value, datetime) else self.value
        return pack([self.order, value, self.key])


def parse_cursor(
    text: str, order: str, value: Callable[[object], Value], key: Callable[[object], Key]
) -> Cursor[Value, Key]:
    """Parse a cursor.

    Args:
        text: the cursor, as an earlier page returned it.
        order: the list and its order.
        value: checks the value of the sort column, and converts it; raises `ValueError`.
        key: checks the key; raises `ValueError`.

    Raises:
        InvalidArgument: the text is not a cursor, or belongs to another list or order.
    """
    with suppress(ValueError):
        found_order, found_value, found_key = unpack(text)
        if found_order == order:
            return Cursor(order, value(found_value), key(found_key))
    raise InvalidArgument(
        f"not a valid cursor for this list and its order: {text[:LONGEST]!r}. Take it from the previous page"
    )


MessageCursor: TypeAlias = Cursor[SortValue, int]
PassCursor: TypeAlias = Cursor[datetime, str]


def message_cursor(text: str, sort: Sort) -> MessageCursor:
    """Parse a cursor of a list of messages.

    Raises:
        InvalidArgument: the text is not a cursor, or belongs to another list or order.
    """
    return parse_cursor(text, sort, VALUES[sort], number)


def pass_cursor(text: str) -> PassCursor:
    """Parse a cursor of the list of passes.

    Raises:
        InvalidArgument: the text is not a cursor, or belongs to another list.
    """
    return parse_cursor(text, PASSES, time, name)


def name(value: object) -> str:
    """Check that a value can be the id of a pass.

    Raises:
        ValueError: it can't.
    """
    if isinstance(value, str) and value.isascii() and value.isprintable():
        return value
    raise ValueError("not the id of a pass")


def number(value: object) -> int:
    """Check that a value is an integer that both databases can store.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, int) and not isinstance(value, bool) and SMALLEST_ID <= value <= LARGEST_ID:
        return value
    raise ValueError("not an integer of 64 bits")


def time(value: object) -> datetime:
    """Parse a time of a cursor.

    Raises:
        ValueError: the value is not a time with an offset.
    """
    found = datetime.fromisoformat(value) if isinstance(value, str) else None
    if found is None or found.tzinfo is None:
        raise ValueError("not a time with an offset")
    try:
        return found.astimezone(UTC)
    except OverflowError:
        raise ValueError("not a time of the calendar") from None


def _time_or_none(value: object) -> datetime | None:
    return None if value is None else time(value)


def _nothing(value: object) -> None:
    if value is not None:
        raise ValueError("a list sorted by key has no sort column")


VALUES: Mapping[Sort, Callable[[object], SortValue]] = {
    "next": _time_or_none,
    "id": _nothing,
    "tries": number,
    "age": _time_or_none,
}
