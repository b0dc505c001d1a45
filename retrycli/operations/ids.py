"""Find messages by the ids that an operator, a program or a page gives."""

import re
from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise

from retrycli.domain.message import LARGEST_ID, SMALLEST_ID, MessageId
from retrycli.domain.operator_action import no_such
from retrycli.store.database import Database
from retrycli.store.keys import Keys

LONGEST_INTEGER = len(str(SMALLEST_ID))
LONGEST_ID = 255  # maximum number of characters of a key in an error
INTEGER = re.compile(r"0|-?[1-9][0-9]*")


def resolve(database: Database, ids: Iterable[int | str]) -> Sequence[int]:
    """Return messages without duplicates, in the given order. If the ids are text in the application's table, accept
    their prefixes too, and return `MessageId` objects, which stand for no message if no row has the id.

    Raises:
        NoSuchMessage: a text is not an integer, as the ids of the table are.
        InvalidArgument: a prefix is ambiguous.
    """
    if database.table.key is None:
        return _unique(each if isinstance(each, int) else as_integer(each) for each in ids)
    given = list(dict.fromkeys(ids))
    found = Keys(database).find([str(each) for each in given if not isinstance(each, MessageId)])
    unknown = (MessageId(number, "") for number in range(-1, -len(given) - 1, -1))
    named = (
        each
        if isinstance(each, MessageId)
        else found.get(str(each)) or MessageId(next(unknown), str(each)[:LONGEST_ID])
        for each in given
    )
    return list(dict.fromkeys(named))


def resolve_one(database: Database, message_id: int | str) -> int:
    """Return one message as `resolve` does."""
    return resolve(database, [message_id])[0]


def _unique(ids: Iterable[int]) -> "array[int]":
    packed = array("q", ids)
    rising = all(one < next_one for one, next_one in pairwise(packed))
    return packed if rising else array("q", dict.fromkeys(packed))


def as_integer(text: str) -> int:
    """Return the integer that a text denotes, such as a part of a URL. No two texts denote one id.

    Raises:
        NoSuchMessage: no message can have this id.
    """
    if len(text) <= LONGEST_INTEGER and INTEGER.fullmatch(text) and SMALLEST_ID <= int(text) <= LARGEST_ID:
        return int(text)
    raise no_such(text if len(text) <= LONGEST_INTEGER else f"{text[:LONGEST_INTEGER]}…")
