"""Ids of messages whose table has keys that are not integers."""

from typing import Any, Self

from retrycli.domain.sanitize import as_utf8


class MessageId(int):
    """The number that retrycli has given to a message, written as the key that the message has in its table.

    The number identifies the message in retrycli's own tables, where it is smaller and faster than a key. Operators and
    other programs know only the key, so every text shows it.
    """

    key: str

    def __new__(cls, number: int, key: str) -> Self:
        """Return the number with its key."""
        made = super().__new__(cls, number)
        made.key = as_utf8(key)
        return made

    def __str__(self) -> str:
        return self.key

    def __format__(self, how: str) -> str:
        return format(self.key, how)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (int(self), self.key)


def shown_id(message_id: int) -> int | str:
    """Return an id as the application's table has it, for JSON and for templates."""
    return message_id.key if isinstance(message_id, MessageId) else message_id
