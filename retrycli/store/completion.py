"""Find the messages that shell completion offers."""

from collections.abc import Iterator

from sqlalchemy import case, select

from retrycli.domain.message import KEY, LARGEST_ID, MessageStatus
from retrycli.store.application_table import FailedIndex, IndexState
from retrycli.store.database import Database
from retrycli.store.messages import has_status

# Maximum number of rows to examine in each range of ids if there is no index on failed rows, because shell completion
# must be fast.
COMPLETION_ROWS = 10_000


def failed_beginning(database: Database, digits: str, *, limit: int) -> list[tuple[int, object, object]]:
    """Return the id, ticket and last error of the newest failed messages whose ids begin with the given digits.

    Only the application's table is read, so retrycli's own tables need not exist.
    """
    if database.table.key is not None:
        return _keys_beginning(database, digits, limit)
    m = database.messages.c
    indexed = FailedIndex(database).state() is IndexState.THERE
    found: list[tuple[int, object, object]] = []
    for first, last in _beginning(digits):
        rows = select(m.id, m.ticket_id, m.last_error).where(m.id.between(first, last)).order_by(m.id.desc())
        if indexed:
            rows = rows.where(has_status(m, MessageStatus.FAILED))
        else:
            is_failed = case((has_status(m, MessageStatus.FAILED), 1), else_=0).label("is_failed")
            newest = rows.add_columns(is_failed).limit(COMPLETION_ROWS).subquery().c
            rows = select(newest.id, newest.ticket_id, newest.last_error).where(newest.is_failed == 1)
            rows = rows.order_by(newest.id.desc())
        with database.read() as connection:
            found += [(row[0], row[1], row[2]) for row in connection.execute(rows.limit(limit - len(found)))]
        if len(found) == limit:
            break
    return found


def _keys_beginning(database: Database, text: str, limit: int) -> list[tuple[int, object, object]]:
    from retrycli.domain.message_id import MessageId

    m = database.messages.c
    newest = (
        select(m.id, m[KEY], m.ticket_id, m.last_error)
        .where(has_status(m, MessageStatus.FAILED), m[KEY].startswith(text, autoescape=True))
        .order_by(m.id.desc())
        .limit(limit)
    )
    return [(MessageId(row[0], row[1]), row[2], row[3]) for row in database.rows(newest)]


def _beginning(digits: str) -> Iterator[tuple[int, int]]:
    # Yield the highest range first, because the newest messages have the highest ids.
    if not digits:
        yield -LARGEST_ID, LARGEST_ID
    elif digits == "0":
        yield 0, 0
    elif digits.isascii() and digits.isdecimal() and digits[0] != "0":
        for power in range(len(str(LARGEST_ID)) - len(digits), -1, -1):
            if (first := int(digits) * 10**power) <= LARGEST_ID:
                yield first, min(first + 10**power - 1, LARGEST_ID)
