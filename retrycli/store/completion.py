"""What a shell offers: failed messages whose ids begin as typed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sqlalchemy import select

from retrycli.domain.message import MessageStatus
from retrycli.store.failed_index import FailedIndex, IndexState
from retrycli.store.messages import status_text

if TYPE_CHECKING:
    from retrycli.store.database import Database

LOOKED_AT = 10_000
"""So many rows of each range of ids are looked at where no index has the failed ones: nobody waits for a key."""
LARGEST_ID = 2**63 - 1


def failed_beginning(database: Database, digits: str, *, limit: int) -> list[tuple[int, object, object]]:
    """The newest failed messages whose ids begin with some digits: id, ticket, last error.

    It reads the application's table alone, so retrycli's own need not be there.
    """
    m, failed = database.messages.c, status_text(MessageStatus.FAILED)
    indexed = FailedIndex(database).state() is IndexState.THERE
    found: list[tuple[int, object, object]] = []
    for first, last in _beginning(digits):
        rows = select(m.id, m.ticket_id, m.last_error).where(m.id.between(first, last)).order_by(m.id.desc())
        if indexed:
            rows = rows.where(m.status == failed)
        else:
            newest = rows.add_columns(m.status).limit(LOOKED_AT).subquery().c
            rows = select(newest.id, newest.ticket_id, newest.last_error).where(newest.status == failed)
            rows = rows.order_by(newest.id.desc())
        with database.read() as connection:
            found += [(each[0], each[1], each[2]) for each in connection.execute(rows.limit(limit - len(found)))]
        if len(found) == limit:
            break
    return found


def _beginning(digits: str) -> Iterator[tuple[int, int]]:
    """The ranges of the ids that begin with some digits, the highest first."""
    if not digits:
        yield -LARGEST_ID, LARGEST_ID
    elif digits == "0":
        yield 0, 0
    elif digits.isascii() and digits.isdecimal() and digits[0] != "0":
        for power in range(len(str(LARGEST_ID)) - len(digits), -1, -1):
            if (first := int(digits) * 10**power) <= LARGEST_ID:
                yield first, min(first + 10**power - 1, LARGEST_ID)
