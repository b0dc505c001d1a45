"""Statements that change rows of the application's table."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnClause,
    ColumnElement,
    DateTime,
    Integer,
    Text,
    Update,
    func,
    update,
)
from sqlalchemy.types import NULLTYPE, TypeEngine

from retrycli.domain.message import MessageStatus
from retrycli.store.bulk import BulkStatement, Values
from retrycli.store.database import Database
from retrycli.store.reflection import MessageTable


def failed_one(table: MessageTable, message_id: int | ColumnElement[int]) -> Update:
    """Build an update of one row that is still failed."""
    return update(table.written).where(table.has_id(message_id), table.has_status(MessageStatus.FAILED))


@lru_cache
def status_update(table: MessageTable, before: MessageStatus, after: MessageStatus, room: int | None) -> BulkStatement:
    """Build the statement that changes the status and the last errors of rows. Rows that become failed get a retry
    count of zero.
    """

    def change(of: Values) -> Update:
        values: dict[ColumnClause[Any], Any] = {table.column("status"): table.literal(after)}
        if "last_error" in table.names:
            values[table.column("last_error")] = _cut(of["last_error"], room)
        if after is MessageStatus.FAILED and "retry_count" in table.names:
            values[table.column("retry_count")] = 0
        return update(table.written).where(table.has_id(of["id"]), table.has_status(before)).values(values)

    return BulkStatement(change, {"id": BigInteger(), "last_error": Text()})


@lru_cache
def mark_sent(table: MessageTable, sent_at: TypeEngine[Any] | None, no_error: str | None) -> BulkStatement:
    """Build the statement that marks failed rows as sent."""
    when = {} if sent_at is None else {"sent_at": sent_at}

    def mark(of: Values) -> Update:
        values: dict[ColumnClause[Any], Any] = {table.column(name): of[name] for name in when}
        if "last_error" in table.names:
            values[table.column("last_error")] = no_error
        return failed_one(table, of["id"]).values({table.column("status"): table.literal(MessageStatus.SENT), **values})

    return BulkStatement(mark, {"id": BigInteger(), **when})


@lru_cache
def note_failures(table: MessageTable, room: int | None) -> BulkStatement:
    """Build the statement that stores the retry counts and the errors of failed rows."""

    def note(of: Values) -> Update:
        # None leaves the row's value unchanged.
        new = {"last_error": _cut(of["last_error"], room), "retry_count": of["retry_count"]}
        columns = {role: table.column(role) for role in new if role in table.names}
        return failed_one(table, of["id"]).values(
            {column: func.coalesce(new[role], column) for role, column in columns.items()}
        )

    return BulkStatement(note, {"id": BigInteger(), "last_error": Text(), "retry_count": Integer()})


def _cut(text: ColumnElement[str], room: int | None) -> ColumnElement[str]:
    return text if room is None else func.substr(text, 1, room)


def type_of_sent_at(database: Database) -> TypeEngine[Any] | None:
    """Return the type with which ``sent_at`` is written; None if the table has no such column."""
    if (column := database.column_of("sent_at")) is None:
        return None
    # For a SQLite file, `sent_at_value` returns the time as text, whatever the column's type.
    return NULLTYPE if database.is_sqlite else column["type"]


def sent_at_value(database: Database, time: datetime | None) -> object:
    """Return a time in the form of the column ``sent_at``."""
    if time is None or (column := database.column_of("sent_at")) is None:
        return None
    kind = column["type"]
    naive = time.astimezone(UTC).replace(tzinfo=None)
    if isinstance(kind, DateTime) and not database.is_sqlite:
        return time if kind.timezone else naive
    return naive.isoformat(sep=" ", timespec="microseconds")
