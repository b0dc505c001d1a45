"""Every change of the application's rows. Each expects them to be failed or, to restore one, rejected."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, ColumnElement, DateTime, Integer, Text, func, select, update
from sqlalchemy.types import NULLTYPE

from retrycli.domain.message import MessageStatus, QueuedMessage
from retrycli.domain.transition import Decision, TransitionKind
from retrycli.store.bulk import BulkStatement, Values, id_in
from retrycli.store.connection import NO_RESULT
from retrycli.store.messages import status_text
from retrycli.store.row_states import RowState
from retrycli.store.row_writer import RowChange, Written

if TYPE_CHECKING:
    from sqlalchemy import Connection, TableClause, Update
    from sqlalchemy.types import TypeEngine

    from retrycli.store.database import Database


def write_messages(database: Database, connection: Connection, decisions: Sequence[Decision]) -> Written:
    """Write decisions into the rows of their messages. An error that its column refuses is shortened."""
    changing = {decision.message_id: decision for decision in decisions if decision.transition.changes_row}
    return RowChange(partial(_write, database), _has_taken).make(database, connection, changing)


def reject_messages(database: Database, connection: Connection, errors: Mapping[int, str | None]) -> Written:
    """Mark messages as rejected, with their last errors."""

    def write(connection: Connection, errors: Mapping[int, str | None], room: int | None) -> int | None:
        rows = [{"id": message_id, "last_error": error} for message_id, error in errors.items()]
        return _reject(database.messages, room).execute(connection, rows)

    return RowChange(write, lambda _error, row, _room: not row.failed).make(database, connection, errors)


def restore_messages(database: Database, connection: Connection, errors: Mapping[int, str]) -> Written:
    """Mark rejected messages as failed with a retry count of zero, with their last errors."""

    def write(connection: Connection, errors: Mapping[int, str], room: int | None) -> int | None:
        rows = [{"id": message_id, "last_error": error} for message_id, error in errors.items()]
        return _restore(database.messages, room).execute(connection, rows)

    change = RowChange(write, lambda _error, row, _room: row.failed and row.retry_count == 0)
    return change.make(database, connection, errors)


def reset_retry_counts(database: Database, connection: Connection, ids: Collection[int]) -> Written:
    """Set the retry counts of messages to zero."""

    def write(connection: Connection, wanted: Mapping[int, None], _room: int | None) -> None:
        connection.execute(_reset_counts(database.messages), {"ids": list(wanted)}, execution_options=NO_RESULT)

    change = RowChange(write, lambda _, row, _room: row.retry_count == 0)
    return change.make(database, connection, dict.fromkeys(ids))


def write_text(database: Database, connection: Connection, message_id: int, changes: Mapping[str, str]) -> Written:
    """Write another subject, body or recipient into a message's row."""
    m = database.messages.c

    def write(connection: Connection, wanted: Mapping[int, Mapping[str, str]], _room: int | None) -> None:
        statement = _failed_one(database.messages, message_id).values(dict(wanted[message_id]))
        connection.execute(statement, execution_options=NO_RESULT)

    def took(wanted: Mapping[str, str], _row: RowState, _room: int | None) -> bool:
        there = connection.execute(select(*(m[name] for name in wanted)).where(m.id == message_id)).mappings().one()
        return dict(there) == dict(wanted)

    return RowChange(write, took).make(database, connection, {message_id: changes})


def _has_taken(decision: Decision, row: RowState, room: int | None) -> bool:
    """Tell if a row took its message's decision."""
    change = decision.transition
    if change.kind is TransitionKind.DELIVERED:
        return not row.failed
    if change.retry_count is not None and row.retry_count != change.retry_count:
        return False
    if change.last_error is None or row.last_error == change.last_error[:room]:
        return True
    before = decision.message.message.last_error if isinstance(decision.message, QueuedMessage) else None
    return row.last_error != before


def _write(
    database: Database, connection: Connection, decisions: Mapping[int, Decision], room: int | None
) -> int | None:
    delivered = [
        {"id": decision.message_id, "sent_at": _sent_at(database, decision.finished_at)}
        for decision in decisions.values()
        if decision.transition.kind is TransitionKind.DELIVERED
    ]
    no_error = None if database.takes_null("last_error") else ""
    sent = _mark_sent(database.messages, _type_of_sent_at(database), no_error).execute(connection, delivered)
    failed = [
        {
            "id": decision.message_id,
            "last_error": decision.transition.last_error,
            "retry_count": decision.transition.retry_count,
        }
        for decision in decisions.values()
        if decision.transition.kind is not TransitionKind.DELIVERED
    ]
    noted = _note_failures(database.messages, room).execute(connection, failed)
    return None if sent is None or noted is None else sent + noted


def _failed_one(messages: TableClause, message_id: int | ColumnElement[int]) -> Update:
    m = messages.c
    return update(messages).where(m.id == message_id, m.status == status_text(MessageStatus.FAILED))


@lru_cache
def _reset_counts(messages: TableClause) -> Update:
    m = messages.c
    return update(messages).where(id_in(m.id), m.status == status_text(MessageStatus.FAILED)).values(retry_count=0)


@lru_cache
def _reject(messages: TableClause, room: int | None) -> BulkStatement:
    def reject(of: Values) -> Update:
        error = _cut(of["last_error"], room)
        return _failed_one(messages, of["id"]).values(status=MessageStatus.REJECTED.value, last_error=error)

    return BulkStatement(reject, {"id": BigInteger(), "last_error": Text()})


@lru_cache
def _restore(messages: TableClause, room: int | None) -> BulkStatement:
    m = messages.c

    def restore(of: Values) -> Update:
        rejected = update(messages).where(m.id == of["id"], m.status == status_text(MessageStatus.REJECTED))
        return rejected.values(
            status=MessageStatus.FAILED.value, retry_count=0, last_error=_cut(of["last_error"], room)
        )

    return BulkStatement(restore, {"id": BigInteger(), "last_error": Text()})


@lru_cache
def _mark_sent(messages: TableClause, sent_at: TypeEngine[Any] | None, no_error: str | None) -> BulkStatement:
    when = {} if sent_at is None else {"sent_at": sent_at}

    def mark(of: Values) -> Update:
        values = {"status": MessageStatus.SENT.value, "last_error": no_error} | {name: of[name] for name in when}
        return _failed_one(messages, of["id"]).values(values)

    return BulkStatement(mark, {"id": BigInteger(), **when})


@lru_cache
def _note_failures(messages: TableClause, room: int | None) -> BulkStatement:
    """Write errors and retry counts; None leaves the row's own."""
    m = messages.c

    def note(of: Values) -> Update:
        error = func.coalesce(_cut(of["last_error"], room), m.last_error)
        tries = func.coalesce(of["retry_count"], m.retry_count)
        return _failed_one(messages, of["id"]).values(last_error=error, retry_count=tries)

    return BulkStatement(note, {"id": BigInteger(), "last_error": Text(), "retry_count": Integer()})


def _cut(text: ColumnElement[str], room: int | None) -> ColumnElement[str]:
    """Cut a text to a number of characters."""
    return text if room is None else func.substr(text, 1, room)


def _type_of_sent_at(database: Database) -> TypeEngine[Any] | None:
    if "sent_at" not in database.messages.c:
        return None
    return NULLTYPE if database.is_sqlite else database.type_of("sent_at")  # a file's columns take anything


def _sent_at(database: Database, time: datetime | None) -> object:
    """Return a time in the form of the application's column."""
    if time is None or "sent_at" not in database.messages.c:
        return None
    kind = database.type_of("sent_at")
    naive = time.astimezone(UTC).replace(tzinfo=None)
    if isinstance(kind, DateTime) and not database.is_sqlite:
        return time if kind.timezone else naive
    return naive.isoformat(sep=" ", timespec="microseconds")
