"""The application's table: how its rows are read, and the one place that writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, DateTime, Integer, Text, bindparam, func, literal, update
from sqlalchemy.types import NullType

from retrycli.errors import InvalidMessage, SchemaMismatch
from retrycli.message import Message, MessageType, QueuedMessage, Status, UnusableMessage
from retrycli.policy import Settled, TransitionKind

if TYPE_CHECKING:
    from sqlalchemy import Connection, Result, TableClause, Update

    from retrycli.store.database import Database


def rows_of(result: Result[Any]) -> Iterator[dict[str, Any]]:
    """Rows as plain dictionaries: SQLAlchemy's own mappings look each name up afresh, and every value is read."""
    names = list(result.keys())
    return (dict(zip(names, row, strict=True)) for row in result)


def message_of(row: Mapping[str, Any]) -> Message | UnusableMessage:
    """A row of the application's table, checked."""
    if not isinstance(row["id"], int):
        raise SchemaMismatch(f"the application's table has an id that is no whole number: {row['id']!r}")
    try:
        return Message.from_row(row)
    except InvalidMessage as error:
        return UnusableMessage.from_row(row, str(error))


def queued_of(row: Mapping[str, Any]) -> QueuedMessage | UnusableMessage:
    """A row joined with its queue row, whose columns bear the prefix ``retrycli_``."""
    fields = dict(row)
    own = {name: fields.pop(f"retrycli_{name}") for name in ("delivery_key", "first_failed_at", "unknown_count")}
    number = fields.pop("retrycli_number")
    message = message_of(fields)
    if isinstance(message, UnusableMessage):
        return message
    return QueuedMessage(message, attempt_number=number, **own)


def word(value: Status | MessageType) -> ColumnElement[str]:
    """A word to compare a column of the application's with. It has no type: that column may have one of its own.

    PostgreSQL compares an enumeration with no text, only with what it can take for one of its words.
    """
    return literal(value.value, NullType())


def write_messages(database: Database, connection: Connection, settled: Sequence[Settled]) -> None:
    """Change the application's rows: the only place that does."""
    m = database.messages.c
    delivered = [
        {"of_id": each.message_id, "at": _sent_at(database, each.finished_at)}
        for each in settled
        if each.transition.kind is TransitionKind.DELIVERED
    ]
    if delivered:
        connection.execute(_mark_sent(database.messages), delivered)
    failed = [
        {
            "of_id": each.message_id,
            "error": each.transition.last_error,
            "tries": each.transition.retry_count,
        }
        for each in settled
        if each.transition.last_error is not None or each.transition.retry_count is not None
    ]
    if failed:
        tries: ColumnElement[int] = func.coalesce(bindparam("tries", type_=Integer), m.retry_count)
        error: ColumnElement[str] = func.coalesce(bindparam("error", type_=Text), m.last_error)
        connection.execute(_failed_one(database.messages).values(last_error=error, retry_count=tries), failed)


def _failed_one(messages: TableClause) -> Update:
    m = messages.c
    return update(messages).where(m.id == bindparam("of_id"), m.status == word(Status.FAILED))


@lru_cache
def _mark_sent(messages: TableClause) -> Update:
    values: dict[str, object] = {"status": Status.SENT.value, "last_error": None}
    if "sent_at" in messages.c:
        values["sent_at"] = bindparam("at")
    return _failed_one(messages).values(values)


def _sent_at(database: Database, time: datetime | None) -> object:
    """A time as the application's column holds its own."""
    if time is None or "sent_at" not in database.messages.c:
        return None
    kind = database.type_of("sent_at")
    naive = time.astimezone(UTC).replace(tzinfo=None)
    if isinstance(kind, DateTime) and not database.is_sqlite:
        return time if kind.timezone else naive
    return naive.isoformat(sep=" ", timespec="microseconds")
