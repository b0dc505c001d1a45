"""The application's table: how its rows are read, and the one place that writes them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Integer,
    String,
    Text,
    and_,
    bindparam,
    case,
    cast,
    exc,
    func,
    literal,
    literal_column,
    select,
    true,
    update,
)
from sqlalchemy.types import NULLTYPE

from retrycli.acts import Standing
from retrycli.errors import InvalidMessage, SchemaMismatch
from retrycli.message import Message, MessageType, QueuedMessage, State, Status, UnusableMessage
from retrycli.policy import Settled, TransitionKind
from retrycli.schema import queue
from retrycli.store.connecting import UNREAD, read_at_the_end
from retrycli.store.for_each import ForEach, Values
from retrycli.store.remedies import in_words, is_refused

if TYPE_CHECKING:
    from sqlalchemy import Connection, Result, TableClause, Update
    from sqlalchemy.types import TypeEngine

    from retrycli.store.database import Database


OF_THE_QUEUE = ("delivery_key", "first_failed_at", "unknown_count", "attempt_number", "unsettled_since")


def rows_of(result: Result[Any]) -> Iterator[dict[str, Any]]:
    """Rows as plain dictionaries: SQLAlchemy's own mappings look each name up afresh, and every value is read."""
    names = list(result.keys())
    return (dict(zip(names, row, strict=True)) for row in result.all())


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
    own = {name: fields.pop(f"retrycli_{name}") for name in OF_THE_QUEUE}
    delivered_to = frozenset(addresses(fields.pop("retrycli_delivered_to")))
    message = message_of(fields)
    if isinstance(message, UnusableMessage):
        return message
    return QueuedMessage(message, delivered_to=delivered_to, **own)


def addresses(value: str | None) -> list[str]:
    """Who has a message already, as the queue's ``delivered_to`` says: a JSON list, or null for nobody."""
    return [] if value is None else list(json.loads(value))


def word(value: Status | MessageType) -> ColumnElement[str]:
    """A word to compare a column of the application's with. It has no type: that column may have one of its own.

    PostgreSQL compares an enumeration with no text, only with what it can take for one of its words. It stands in the
    statement as it is, for an index of some words' rows is used for no word that is yet to come.
    """
    return literal_column(f"'{value.value}'")


def status_of(database: Database) -> ColumnElement[str]:
    """A message's status: ``failed`` wherever SQL takes it for that.

    Python would not: a column may be one that is compared in any case, or that fills its words up with blanks.
    """
    status = database.messages.c.status
    return case((status == word(Status.FAILED), word(Status.FAILED)), else_=status).label("status")


def row_by_row(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Conditions that lead no planner to an index: for rows that are looked up by their ids, a few hundred at a time.

    A planner that knows no figures of a table takes a state for something that few rows are in, and then goes through
    the million that are in it for each few hundred.
    """
    return case((and_(true(), *conditions), 1), else_=0) == 1


def all_but_the_body(database: Database) -> list[ColumnElement[Any]]:
    """All columns of the application's, with an empty text for the body. One that is no text is there as it is."""
    m = database.messages.c
    # Only SQLite has others than texts; what kind a value is of stands before it, so it is not read for that.
    is_text = func.typeof(m.body) == "text" if database.is_sqlite else m.body.is_not(None)
    body = case((is_text, literal("")), else_=m.body if database.is_sqlite else None).label("body")
    return [body if each.name == "body" else each for each in m]


def standings(database: Database, connection: Connection, ids: Collection[int]) -> dict[int, Standing]:
    """Where messages are, by id; those that have no row are left out."""
    m = database.messages.c
    own = (queue.c.state, queue.c.claimed_by, queue.c.claim_expires_at, queue.c.acknowledged_by)
    statement = (
        select(m.id, status_of(database), *own)
        .join_from(database.messages, queue, queue.c.message_id == m.id, isouter=True)
        .where(m.id.in_(ids))
    )
    return {
        each["id"]: Standing(
            each["id"],
            each["status"],
            each["state"] and State(each["state"]),
            each["claimed_by"],
            each["claim_expires_at"],
            each["acknowledged_by"],
        )
        for each in rows_of(connection.execute(statement))
    }


# What follows is all that changes the application's rows. Each change expects them to be failed.


def write_messages(database: Database, connection: Connection, settled: Sequence[Settled]) -> dict[int, str]:
    """Write what came of messages into their rows.

    Returns:
        Of which rows the table takes no change, as by a constraint or a trigger of the application's, and why, by id.
        They stay as they are, and keep no other from being written.
    """
    changing = [each for each in settled if each.transition.changes_row]
    if not changing:
        return {}
    try:
        with unless_refused(connection):
            _write(database, connection, changing)
    except exc.DBAPIError as error:
        if not is_refused(error):
            raise
        if len(changing) == 1:
            return {changing[0].message_id: in_words(error)}
        return {each: why for one in changing for each, why in write_messages(database, connection, [one]).items()}
    return {}


@contextmanager
def unless_refused(connection: Connection) -> Iterator[None]:
    """Write a part of a transaction; where the table refuses it, that alone is undone.

    Raises:
        DBAPIError: it was refused (`is_refused`), or the whole transaction has failed.
    """
    try:
        with read_at_the_end(connection):
            connection.exec_driver_sql("SAVEPOINT part", execution_options=UNREAD)
            yield
            connection.exec_driver_sql("RELEASE SAVEPOINT part", execution_options=UNREAD)
    except exc.DBAPIError as error:
        if is_refused(error):
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT part")
        raise


def _write(database: Database, connection: Connection, settled: Sequence[Settled]) -> None:
    delivered = [
        {"id": each.message_id, "sent_at": _sent_at(database, each.finished_at)}
        for each in settled
        if each.transition.kind is TransitionKind.DELIVERED
    ]
    no_error = None if database.takes_null("last_error") else ""
    _mark_sent(database.messages, _type_of_sent_at(database), no_error).execute(connection, delivered)
    failed = [
        {"id": each.message_id, "last_error": each.transition.last_error, "retry_count": each.transition.retry_count}
        for each in settled
        if each.transition.kind is not TransitionKind.DELIVERED
    ]
    _note_failures(database.messages, database.room_in("last_error")).execute(connection, failed)


def reject_messages(database: Database, connection: Connection, errors: Mapping[int, str | None]) -> None:
    """Mark messages as rejected, each with its last error."""
    rows = [{"id": each, "last_error": error} for each, error in errors.items()]
    _reject(database.messages, database.room_in("last_error")).execute(connection, rows)


def give_all_tries_back(database: Database, connection: Connection, ids: Collection[int]) -> None:
    """Set messages' tries to zero."""
    connection.execute(_no_tries(database.messages), {"ids": list(ids)})


def write_text(database: Database, connection: Connection, message_id: int, changes: Mapping[str, str]) -> None:
    """Give a message another subject, body or recipient."""
    connection.execute(_failed_one(database.messages, message_id).values(dict(changes)))


def _failed_one(messages: TableClause, message_id: int | ColumnElement[int]) -> Update:
    m = messages.c
    return update(messages).where(m.id == message_id, m.status == word(Status.FAILED))


@lru_cache
def _no_tries(messages: TableClause) -> Update:
    m = messages.c
    these_failed = (m.id.in_(bindparam("ids", expanding=True)), m.status == word(Status.FAILED))
    return update(messages).where(*these_failed).values(retry_count=0)


@lru_cache
def _reject(messages: TableClause, room: int | None) -> ForEach:
    def reject(of: Values) -> Update:
        error = _cut(of["last_error"], room)
        return _failed_one(messages, of["id"]).values(status=Status.REJECTED.value, last_error=error)

    return ForEach(reject, id=BigInteger(), last_error=Text())


@lru_cache
def _mark_sent(messages: TableClause, sent_at: TypeEngine[Any] | None, no_error: str | None) -> ForEach:
    when = {} if sent_at is None else {"sent_at": sent_at}

    def mark(of: Values) -> Update:
        values = {"status": Status.SENT.value, "last_error": no_error} | {name: of[name] for name in when}
        return _failed_one(messages, of["id"]).values(values)

    return ForEach(mark, id=BigInteger(), **when)


@lru_cache
def _note_failures(messages: TableClause, room: int | None) -> ForEach:
    """A message's error and its tries; what there is nothing new of stays as it is."""
    m = messages.c

    def note(of: Values) -> Update:
        error = func.coalesce(_cut(of["last_error"], room), m.last_error)
        tries = func.coalesce(of["retry_count"], m.retry_count)
        return _failed_one(messages, of["id"]).values(last_error=error, retry_count=tries)

    return ForEach(note, id=BigInteger(), last_error=Text(), retry_count=Integer())


def _cut(text: ColumnElement[str], room: int | None) -> ColumnElement[str]:
    """A text that a column has room for: a server cuts what is cast to its length, and refuses what is longer."""
    return text if room is None else cast(text, String(room))


def _type_of_sent_at(database: Database) -> TypeEngine[Any] | None:
    if "sent_at" not in database.messages.c:
        return None
    return NULLTYPE if database.is_sqlite else database.type_of("sent_at")  # a file's columns take anything


def _sent_at(database: Database, time: datetime | None) -> object:
    """A time as the application's column holds its own."""
    if time is None or "sent_at" not in database.messages.c:
        return None
    kind = database.type_of("sent_at")
    naive = time.astimezone(UTC).replace(tzinfo=None)
    if isinstance(kind, DateTime) and not database.is_sqlite:
        return time if kind.timezone else naive
    return naive.isoformat(sep=" ", timespec="microseconds")
