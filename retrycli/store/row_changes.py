"""All that changes the application's rows. Each change expects them to be failed, and each is read back.

A table may refuse a change of one row: with an error (a constraint, a trigger), or silently (`RAISE(IGNORE)`, a trigger
that returns null, a rule, a row-level policy). Such a row is named and stays as it is, and the others are written. So
the rows that were changed are counted, or read back in the same transaction: a server would have to be asked for the
count, and no database counts the rows that a trigger changes in place of a view.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Integer,
    Select,
    Text,
    case,
    cast,
    exc,
    func,
    null,
    select,
    update,
)
from sqlalchemy.types import NULLTYPE

from retrycli.domain.errors import TransactionLost
from retrycli.domain.message import MessageStatus, QueuedMessage
from retrycli.domain.retry_policy import Decision, TransitionKind
from retrycli.store.bulk import BulkStatement, Values, id_in
from retrycli.store.connection import NO_RESULT, errors_of_a_pipeline
from retrycli.store.error_messages import RowError, in_words, trouble_of, without_details
from retrycli.store.messages import status_text

if TYPE_CHECKING:
    from sqlalchemy import Connection, TableClause, Update
    from sqlalchemy.types import TypeEngine

    from retrycli.store.database import Database

Wanted = TypeVar("Wanted")
"""What is to be written into one row."""

IGNORED = "its row did not change; a trigger, a rule or a row-level policy of {} ignores the update"
LENGTHS = (255, 127, 63, 31)
"""To so many characters an error is shortened if its column refuses it, one after the other."""
WAITED_MS, MOST_WAITED_FOR = 10, 8
"""If another transaction holds some of many rows, so long each row is waited for, and so many of them at most. Others
are taken for held too then, and are tried the next time."""
REMEMBERED = 1_000
"""How many characters of an error are remembered, to see whether the application writes another."""


class RowState(NamedTuple):
    """What retrycli last saw of a row. If the row differs, the application has written it."""

    failed: bool
    retry_count: object
    last_error: object
    updated_at: str | None


class Written(NamedTuple):
    """What became of a change of some rows."""

    rows: Mapping[int, RowState]
    """As they were read back, by id; none if there was no need to."""
    refused: Mapping[int, str]
    """Rows that stay as they were because the table does not take the change, and why."""
    held: Collection[int] = ()
    """Rows that stay as they were because another transaction is in the way. They can be tried again."""

    @property
    def unchanged(self) -> AbstractSet[int]:
        """Return all rows that stay as they were."""
        return self.refused.keys() | set(self.held)


AS_WANTED = Written({}, {})
"""All rows took what was wanted."""


def write_messages(database: Database, connection: Connection, settled: Sequence[Decision]) -> Written:
    """Write what became of messages into their rows. An error that its column refuses is shortened."""
    changing = {each.message_id: each for each in settled if each.transition.changes_row}
    return _Change(partial(_write, database), _took).make(database, connection, changing)


def reject_messages(database: Database, connection: Connection, errors: Mapping[int, str | None]) -> Written:
    """Mark messages as rejected, each with its last error."""

    def write(connection: Connection, errors: Mapping[int, str | None], room: int | None) -> int | None:
        rows = [{"id": each, "last_error": error} for each, error in errors.items()]
        return _reject(database.messages, room).execute(connection, rows)

    return _Change(write, lambda _error, row, _room: not row.failed).make(database, connection, errors)


def restore_messages(database: Database, connection: Connection, errors: Mapping[int, str]) -> Written:
    """Mark rejected messages as failed without any retry, each with its last error."""

    def write(connection: Connection, errors: Mapping[int, str], room: int | None) -> int | None:
        rows = [{"id": each, "last_error": error} for each, error in errors.items()]
        return _restore(database.messages, room).execute(connection, rows)

    change = _Change(write, lambda _error, row, _room: row.failed and row.retry_count == 0)
    return change.make(database, connection, errors)


def reset_retry_counts(database: Database, connection: Connection, ids: Collection[int]) -> Written:
    """Set the retry counts of messages to zero."""

    def write(connection: Connection, wanted: Mapping[int, None], _room: int | None) -> None:
        connection.execute(_no_tries(database.messages), {"ids": list(wanted)}, execution_options=NO_RESULT)

    change = _Change(write, lambda _, row, _room: row.retry_count == 0)
    return change.make(database, connection, dict.fromkeys(ids))


def write_text(database: Database, connection: Connection, message_id: int, changes: Mapping[str, str]) -> Written:
    """Give a message another subject, body or recipient."""
    m = database.messages.c

    def write(connection: Connection, wanted: Mapping[int, Mapping[str, str]], _room: int | None) -> None:
        statement = _failed_one(database.messages, message_id).values(dict(wanted[message_id]))
        connection.execute(statement, execution_options=NO_RESULT)

    def took(wanted: Mapping[str, str], _row: RowState, _room: int | None) -> bool:
        there = connection.execute(select(*(m[name] for name in wanted)).where(m.id == message_id)).mappings().one()
        return dict(there) == dict(wanted)

    return _Change(write, took).make(database, connection, {message_id: changes})


def read_rows(database: Database, connection: Connection, ids: Collection[int]) -> Mapping[int, RowState]:
    """Read what retrycli remembers of rows, by id."""
    found = connection.execute(_row_states(database.messages), {"ids": list(ids)}).all() if ids else ()
    return {each: RowState(bool(failed), *values) for each, failed, *values in found}


def shown_error(error: object) -> str | None:
    """Return as much of an error as is remembered, in a form that every database can keep."""
    if error is None:
        return None
    return str(error)[:REMEMBERED].replace("\0", " ").encode(errors="backslashreplace").decode()


@lru_cache
def updated_at_text(messages: TableClause) -> ColumnElement[Any]:
    """When the application says that it changed a row, as the database writes it; null in a table without it."""
    return cast(messages.c.updated_at, Text) if "updated_at" in messages.c else cast(null(), Text)


@lru_cache
def _row_states(messages: TableClause) -> Select[Any]:
    m = messages.c
    failed = case((m.status == status_text(MessageStatus.FAILED), 1), else_=0)
    return select(m.id, failed, m.retry_count, m.last_error, updated_at_text(messages)).where(id_in(m.id))


# -- writing, and reading back --------------------------------------------------------------------------------


class _Change(Generic[Wanted]):
    """A change of rows.

    Args:
        write: writes what is wanted of rows, and returns how many it changed, if that is known; an error has room for
            that many characters.
        took: tells from a row, as it was read back, if it took what was wanted.
    """

    def __init__(
        self,
        write: Callable[[Connection, Mapping[int, Wanted], int | None], int | None],
        took: Callable[[Wanted, RowState, int | None], bool],
    ) -> None:
        self._write = write
        self._took = took

    def make(self, database: Database, connection: Connection, wanted: Mapping[int, Wanted]) -> Written:
        """Write rows: all together, or one by one if any of them can't be written.

        Raises:
            DBAPIError: no row can be written, for a reason that none of them is to blame for.
            TransactionLost: a row has rolled back the transaction. It is left out the next time.
        """
        if not wanted:
            return AS_WANTED
        if not database.row_by_row:
            try:
                return self._try(database, connection, wanted, database.error_room)
            except exc.DBAPIError:
                if _is_over(database, connection):
                    raise
        with _waiting_little(database, connection):
            return self._one_by_one(database, connection, wanted)

    def _one_by_one(self, database: Database, connection: Connection, wanted: Mapping[int, Wanted]) -> Written:
        rows: dict[int, RowState] = {}
        refused: dict[int, str] = {}
        held: set[int] = set()
        of_all: dict[int, exc.DBAPIError] = {}
        for each, what in wanted.items():
            if len(held) >= MOST_WAITED_FOR:
                held.add(each)
                continue
            try:
                written = self._write_one(database, connection, each, what)
            except exc.DBAPIError as error:
                if _is_over(database, connection):
                    raise
                of_all[each] = error
            else:
                rows |= written.rows
                refused |= written.refused
                held |= {*written.held}
        if of_all and len(of_all) + len(refused) + len(held) == len(wanted):
            raise next(iter(of_all.values()))
        # Another row was taken. So it is not the fault of the table, the role or the server.
        return Written(rows, refused | {each: in_words(error) for each, error in of_all.items()}, held)

    def _write_one(self, database: Database, connection: Connection, message_id: int, what: Wanted) -> Written:
        """Write a row, with a shorter error if the table refuses it.

        Raises:
            DBAPIError: it can't be written for a reason that is not its own.
        """
        wanted = {message_id: what}
        if message_id in database.ends_transactions:
            why = database.ends_transactions[message_id]
            return Written(read_rows(database, connection, wanted), {message_id: why})
        refusal = ""
        for room in (database.error_room, *LENGTHS):
            if refusal and database.error_room is not None and room is not None and room >= database.error_room:
                continue
            try:
                written = self._try(database, connection, wanted, room)
            except exc.DBAPIError as error:
                trouble = trouble_of(error)
                if trouble is RowError.HELD:
                    return Written({}, {}, [message_id])
                if trouble is RowError.OF_ALL:
                    raise
                refusal = refusal or in_words(error)
            else:
                database.error_room = room
                return written
        return Written(read_rows(database, connection, wanted), {message_id: refusal})

    def _try(
        self, database: Database, connection: Connection, wanted: Mapping[int, Wanted], room: int | None
    ) -> Written:
        """Write rows, and read them back unless the database says that all of them were changed.

        Raises:
            DBAPIError: one can't be written (`trouble_of` tells why), and none was; or the connection is lost.
            TransactionLost: one has rolled back the transaction.
        """
        try:
            with errors_of_a_pipeline(connection):
                connection.exec_driver_sql("SAVEPOINT part", execution_options=NO_RESULT)
                changed = self._write(connection, wanted, room)
                connection.exec_driver_sql("RELEASE SAVEPOINT part", execution_options=NO_RESULT)
                rows = {} if changed == len(wanted) else read_rows(database, connection, wanted)
        except exc.DBAPIError as error:
            if not _is_over(database, connection):
                connection.exec_driver_sql("ROLLBACK TO SAVEPOINT part")
            elif database.is_sqlite and trouble_of(error) is RowError.REFUSED:
                database.row_by_row = True
                if len(wanted) == 1:
                    database.ends_transactions |= dict.fromkeys(wanted, in_words(error))
                raise TransactionLost(f"{database.place}: {in_words(error)}; try again") from without_details(error)
            raise
        if changed == len(wanted):
            return AS_WANTED
        ignored = [each for each, what in wanted.items() if each not in rows or not self._took(what, rows[each], room)]
        return Written(rows, dict.fromkeys(ignored, IGNORED.format(database.messages.fullname)))


def _is_over(database: Database, connection: Connection) -> bool:
    """Tell if the transaction is gone: the connection is lost, or a file's row or disk has rolled it back."""
    if connection.invalidated:  # then it can't be asked for its driver's connection
        return True
    driver = connection.connection.driver_connection
    return driver is None or (not driver.in_transaction if database.is_sqlite else bool(driver.closed))


@contextmanager
def _waiting_little(database: Database, connection: Connection) -> Iterator[None]:
    """Wait for locks of a server for a moment only: too short for a deadlock."""
    if database.is_sqlite:
        yield
        return
    before = connection.exec_driver_sql("SELECT pg_catalog.current_setting('lock_timeout')").scalar_one()
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {WAITED_MS}", execution_options=NO_RESULT)
    yield
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{before}'", execution_options=NO_RESULT)


def _took(settled: Decision, row: RowState, room: int | None) -> bool:
    """Tell if a row shows what became of its message."""
    change = settled.transition
    if change.kind is TransitionKind.DELIVERED:
        return not row.failed
    if change.retry_count is not None and row.retry_count != change.retry_count:
        return False
    if change.last_error is None or row.last_error == change.last_error[:room]:
        return True
    before = settled.message.message.last_error if isinstance(settled.message, QueuedMessage) else None
    return row.last_error != before


def _write(database: Database, connection: Connection, settled: Mapping[int, Decision], room: int | None) -> int | None:
    delivered = [
        {"id": each.message_id, "sent_at": _sent_at(database, each.finished_at)}
        for each in settled.values()
        if each.transition.kind is TransitionKind.DELIVERED
    ]
    no_error = None if database.takes_null("last_error") else ""
    sent = _mark_sent(database.messages, _type_of_sent_at(database), no_error).execute(connection, delivered)
    failed = [
        {"id": each.message_id, "last_error": each.transition.last_error, "retry_count": each.transition.retry_count}
        for each in settled.values()
        if each.transition.kind is not TransitionKind.DELIVERED
    ]
    noted = _note_failures(database.messages, room).execute(connection, failed)
    return None if sent is None or noted is None else sent + noted


def _failed_one(messages: TableClause, message_id: int | ColumnElement[int]) -> Update:
    m = messages.c
    return update(messages).where(m.id == message_id, m.status == status_text(MessageStatus.FAILED))


@lru_cache
def _no_tries(messages: TableClause) -> Update:
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
    """A message's error and its retry count; None leaves the row's own."""
    m = messages.c

    def note(of: Values) -> Update:
        error = func.coalesce(_cut(of["last_error"], room), m.last_error)
        tries = func.coalesce(of["retry_count"], m.retry_count)
        return _failed_one(messages, of["id"]).values(last_error=error, retry_count=tries)

    return BulkStatement(note, {"id": BigInteger(), "last_error": Text(), "retry_count": Integer()})


def _cut(text: ColumnElement[str], room: int | None) -> ColumnElement[str]:
    """As much of a text as its column takes."""
    return text if room is None else func.substr(text, 1, room)


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
