"""Keep the retry counts and errors of messages whose table has no columns for them."""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Text,
    Update,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.types import TypeEngine

from retrycli.domain.identity import are_of_two_kinds, birth_of
from retrycli.domain.message import MessageStatus, QueuedMessage
from retrycli.store.bulk import BulkStatement, Values, id_in
from retrycli.store.reflection import MessageTable
from retrycli.store.schema import own_values

TYPES: Mapping[str, TypeEngine[Any]] = {"retry_count": Integer(), "last_error": Text()}


def keep(
    table: MessageTable, connection: Connection, rows: Sequence[Mapping[str, Any]], *, status: MessageStatus
) -> None:
    """Store the values of the roles that retrycli keeps itself. None leaves a value unchanged. Leave out messages whose
    rows have another status, such as those whose change a trigger has ignored.
    """
    ids = [row["id"] for row in rows]
    if not ids:
        return
    known = set(connection.execute(KNOWN, {"ids": ids}).scalars())
    if fresh := [{"message_id": message_id, "retry_count": 0} for message_id in ids if message_id not in known]:
        connection.execute(insert(own_values), fresh)
    _update(table, status).execute(connection, rows)


def forget_errors(table: MessageTable, connection: Connection, ids: Collection[int]) -> None:
    """Delete the errors of delivered messages, if retrycli keeps the errors itself."""
    if ids and "last_error" in table.own:
        connection.execute(_no_error(table), {"ids": list(ids)})


def keep_counts(table: MessageTable, connection: Connection, messages: Sequence[QueuedMessage]) -> None:
    """Store the retry counts of the texts that are attempted now, if retrycli keeps the counts itself."""
    if "retry_count" in table.own:
        counts = [{"message_id": one.message_id, "retry_count": one.message.retry_count} for one in messages]
        KEEP_COUNTS.execute(connection, counts)


KEEP_COUNTS = BulkStatement(
    lambda of: (
        update(own_values)
        .where(own_values.c.message_id == of["message_id"], own_values.c.retry_count != of["retry_count"])
        .values(retry_count=of["retry_count"])
    ),
    {"message_id": BigInteger(), "retry_count": Integer()},
)
KNOWN = select(own_values.c.message_id).where(id_in(own_values.c.message_id))


@lru_cache
def _update(table: MessageTable, status: MessageStatus) -> BulkStatement:
    roles = sorted(table.own)

    def keep_them(of: Values) -> Update:
        values = {role: func.coalesce(of[role], own_values.c[role]) for role in roles}
        return update(own_values).where(own_values.c.message_id == of["id"], _has_status(table, status)).values(values)

    return BulkStatement(keep_them, {"id": BigInteger(), **{role: TYPES[role] for role in roles}})


@lru_cache
def _no_error(table: MessageTable) -> Update:
    is_sent = _has_status(table, MessageStatus.SENT)
    return update(own_values).where(id_in(own_values.c.message_id), is_sent).values(last_error=None)


def _has_status(table: MessageTable, status: MessageStatus) -> ColumnElement[bool]:
    return exists().where(table.has_id(own_values.c.message_id), table.has_status(status))


BIRTHS = select(own_values.c.message_id, own_values.c.birth).where(id_in(own_values.c.message_id))


def forget_others(connection: Connection, births: Mapping[int, str]) -> None:
    """Begin anew for messages whose ids belonged to others. The births are as the database writes them, by id."""
    known = dict(connection.execute(BIRTHS, {"ids": list(births)}).all())
    same = {each for each, birth in known.items() if birth is not None and _is_same(birth_of(birth), births[each])}
    if others := [message_id for message_id in known if message_id not in same]:
        connection.execute(delete(own_values).where(id_in(own_values.c.message_id)), {"ids": others})
    if fresh := [message_id for message_id in births if message_id not in same]:
        rows = [{"message_id": message_id, "birth": births[message_id], "retry_count": 0} for message_id in fresh]
        connection.execute(insert(own_values), rows)


def _is_same(known: str, birth: str) -> bool:
    # The ticket of a birth that is a time is unknown. If the row has another ticket, its message is new to the queue.
    return known == birth_of(birth) or are_of_two_kinds(known, birth)
