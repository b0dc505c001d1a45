"""Change the application's rows: failed rows, and rejected rows that an operator requeues."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import (
    BigInteger,
    ColumnClause,
    ColumnElement,
    Connection,
    DateTime,
    Integer,
    Text,
    Update,
    exc,
    func,
    select,
    update,
)
from sqlalchemy.types import NULLTYPE, TypeEngine

from retrycli.domain.errors import TransactionLost
from retrycli.domain.message import MessageStatus, QueuedMessage
from retrycli.domain.transition import Decision, TransitionKind
from retrycli.store.bulk import BulkStatement, Values
from retrycli.store.connection import NO_RESULT, pipeline_errors
from retrycli.store.database import Database
from retrycli.store.error_messages import RowError, in_words, row_error_of, without_details
from retrycli.store.messages import RowState, read_rows
from retrycli.store.own_values import forget_errors, keep
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


def write_messages(database: Database, connection: Connection, decisions: Sequence[Decision]) -> "Written":
    """Write decisions into the rows of their messages. Shorten an error text if its column rejects it."""
    changing = {decision.message_id: decision for decision in decisions if decision.transition.changes_row}
    return _change_of_messages(database, connection).make(changing)


def note_refusals(database: Database, connection: Connection, decisions: Sequence[Decision]) -> None:
    """Write the errors of decisions into rows that have rejected to be marked as sent. A row may reject this, too, and
    whatever its error, it is the cause.
    """
    change = _change_of_messages(database, connection)
    for decision in decisions:
        try:
            change.make({decision.message_id: decision})
        except exc.DBAPIError:
            if change.is_over():
                raise


def _change_of_messages(database: Database, connection: Connection) -> "_RowChange[Decision]":
    took = partial(_has_taken, partial(database.as_stored, connection))
    return _RowChange(database, connection, partial(_write, database, connection), took)


def set_status(
    database: Database,
    connection: Connection,
    errors: Mapping[int, str | None],
    *,
    before: MessageStatus,
    after: MessageStatus,
) -> "Written":
    """Change the status and the last errors of messages. Messages that become failed get a retry count of zero."""

    def write(errors: Mapping[int, str | None], room: int | None) -> int | None:
        rows = [{"id": message_id, "last_error": error} for message_id, error in errors.items()]
        changed = status_update(database.table, before, after, room).execute(connection, rows)
        if database.table.own:
            count = 0 if after is MessageStatus.FAILED else None
            keep(database.table, connection, [{**row, "retry_count": count} for row in rows], status=after)
        return changed

    def took(_error: str | None, row: RowState | None, _room: int | None) -> bool:
        if after is MessageStatus.FAILED:
            return row is not None and row.failed and row.retry_count == 0
        return row is None or not row.failed

    return _RowChange(database, connection, write, took).make(errors)


def reset_retry_counts(database: Database, connection: Connection, ids: Collection[int]) -> "Written":
    """Set the retry counts of messages to zero, if their rows are still failed."""
    table = database.table

    def write(wanted: Mapping[int, None], _room: int | None) -> None:
        if "retry_count" in table.own:
            rows = [{"id": message_id, "retry_count": 0, "last_error": None} for message_id in wanted]
            keep(table, connection, rows, status=MessageStatus.FAILED)
            return
        failed = update(table.written).where(table.has_id_in(), table.has_status(MessageStatus.FAILED))
        no_tries = failed.values({table.column("retry_count"): 0})
        connection.execute(no_tries, {"ids": list(wanted)}, execution_options=NO_RESULT)

    def took(_wanted: None, row: RowState | None, _room: int | None) -> bool:
        return row is not None and row.retry_count == 0

    return _RowChange(database, connection, write, took).make(dict.fromkeys(ids))


def write_text(database: Database, connection: Connection, message_id: int, changes: Mapping[str, str]) -> "Written":
    """Write a new subject, body or recipient into a message's row."""
    m = database.messages.c

    def write(wanted: Mapping[int, Mapping[str, str]], _room: int | None) -> None:
        values = {database.table.column(role): text for role, text in wanted[message_id].items()}
        statement = failed_one(database.table, message_id).values(values)
        connection.execute(statement, execution_options=NO_RESULT)

    def took(wanted: Mapping[str, str], _row: RowState | None, _room: int | None) -> bool:
        found = connection.execute(select(*(m[name] for name in wanted)).where(m.id == message_id)).mappings()
        return [dict(row) for row in found] == [dict(wanted)]

    return _RowChange(database, connection, write, took).make({message_id: changes})


def _has_taken(as_stored: Callable[[str], str], decision: Decision, row: RowState | None, room: int | None) -> bool:
    change = decision.transition
    if change.kind is TransitionKind.DELIVERED:
        return row is None or not row.failed
    if row is None:
        return False
    if change.retry_count is not None and row.retry_count != change.retry_count:
        return False
    if change.last_error is None or row.last_error == as_stored(change.last_error)[:room]:
        return True
    before = decision.message.message.last_error if isinstance(decision.message, QueuedMessage) else None
    return row.last_error != before


def _write(
    database: Database, connection: Connection, decisions: Mapping[int, Decision], room: int | None
) -> int | None:
    delivered: list[dict[str, Any]] = [
        {"id": decision.message_id, "sent_at": sent_at_value(database, decision.finished_at)}
        for decision in decisions.values()
        if decision.transition.kind is TransitionKind.DELIVERED
    ]
    table = database.table
    error_column = database.column_of("last_error")
    no_error = None if error_column is None or error_column["nullable"] else ""
    sent = mark_sent(table, type_of_sent_at(database), no_error).execute(connection, delivered)
    failed = [
        {
            "id": decision.message_id,
            "last_error": decision.transition.last_error,
            "retry_count": decision.transition.retry_count,
        }
        for decision in decisions.values()
        if decision.transition.kind is not TransitionKind.DELIVERED
    ]
    noted: int | None = len(failed)
    if table.own:
        keep(table, connection, failed, status=MessageStatus.FAILED)
        forget_errors(table, connection, [row["id"] for row in delivered])
    if table.own != {"retry_count", "last_error"}:
        noted = note_failures(table, room).execute(connection, failed)
    return None if sent is None or noted is None else sent + noted


Wanted = TypeVar("Wanted")

IGNORED = "the update had no effect; check the triggers, rules and row-level policies on {}"

# Lengths, in characters, to try one after another if the column rejects an error text.
LENGTHS = (255, 127, 63, 31)

# Lock wait for one row, in milliseconds, and the maximum number of locked rows to wait for. Further rows count as
# locked, and are tried again later.
LOCK_WAIT_MS, MAX_LOCK_WAITS = 10, 8


class Written(NamedTuple):
    """The result of a change to some rows."""

    rows: Mapping[int, RowState]  # states of the rows that were read after the change, by id
    refused: Mapping[int, str]  # the reasons why rows rejected the change, by id
    locked: Collection[int] = ()  # ids of rows that are, or may be, locked; they can be tried again

    @property
    def unchanged(self) -> AbstractSet[int]:
        """Return the ids of the rows that rejected the change or are locked."""
        return self.refused.keys() | set(self.locked)


ALL_WRITTEN = Written({}, {})


@dataclass
class _RowChange(Generic[Wanted]):
    database: Database
    connection: Connection

    # Writes values, with errors cut to the given length, if any; returns the number of changed rows, if known.
    write: Callable[[Mapping[int, Wanted], int | None], int | None]
    # Returns whether a row accepted the change, given its state afterwards; None if it is gone. Many tables of queues
    # drop a row that is marked as done. Nobody else can have dropped it, because its transaction locks it.
    took: Callable[[Wanted, RowState | None, int | None], bool]

    def make(self, wanted: Mapping[int, Wanted]) -> Written:
        """Write all rows in one step, or one by one if any row can't be written.

        Raises:
            DBAPIError: no row can be written, and no single row is the cause.
            TransactionLost: the change of a row rolled back the transaction. Repeat the transaction until it succeeds:
                the repetitions identify the row and leave it out.
        """
        if not wanted:
            return ALL_WRITTEN
        if not self.database.row_by_row:
            try:
                return self._try(wanted, self.database.error_max_length)
            except exc.DBAPIError:
                if self.is_over():
                    raise
        with self._short_lock_wait():
            return self._one_by_one(wanted)

    def _one_by_one(self, wanted: Mapping[int, Wanted]) -> Written:
        rows: dict[int, RowState] = {}
        refused: dict[int, str] = {}
        locked: set[int] = set()
        general: dict[int, exc.DBAPIError] = {}
        for message_id, values in wanted.items():
            if len(locked) >= MAX_LOCK_WAITS:
                locked.add(message_id)
                continue
            try:
                written = self._write_one(message_id, values)
            except exc.DBAPIError as error:
                if self.is_over():
                    raise
                general[message_id] = error
            else:
                rows |= written.rows
                refused |= written.refused
                locked |= {*written.locked}
        if general and len(general) + len(refused) + len(locked) == len(wanted):
            raise next(iter(general.values()))
        # If `general` has errors, at least one other row was written. The table, the role and the server are therefore
        # not the cause.
        return Written(rows, refused | {message_id: in_words(error) for message_id, error in general.items()}, locked)

    def _write_one(self, message_id: int, values: Wanted) -> Written:
        wanted = {message_id: values}
        if message_id in self.database.ends_transactions:
            refusals = {message_id: self.database.ends_transactions[message_id]}
            return Written(read_rows(self.database, self.connection, wanted), refusals)
        longest, refusal = self.database.error_max_length, ""
        for room in (longest, *(length for length in LENGTHS if longest is None or length < longest)):
            try:
                written = self._try(wanted, room)
            except exc.DBAPIError as error:
                row_error = row_error_of(error)
                if row_error is RowError.LOCKED:
                    return Written({}, {}, [message_id])
                if row_error is RowError.EVERY_ROW:
                    raise
                refusal = refusal or in_words(error)
            else:
                self.database.error_max_length = room
                return written
        return Written(read_rows(self.database, self.connection, wanted), {message_id: refusal})

    def _try(self, wanted: Mapping[int, Wanted], room: int | None) -> Written:
        try:
            with pipeline_errors(self.connection):
                self.connection.exec_driver_sql("SAVEPOINT part", execution_options=NO_RESULT)
                changed = self.write(wanted, room)
                self.connection.exec_driver_sql("RELEASE SAVEPOINT part", execution_options=NO_RESULT)
                rows = {} if changed == len(wanted) else read_rows(self.database, self.connection, wanted)
        except exc.DBAPIError as error:
            if not self.is_over():
                self.connection.exec_driver_sql("ROLLBACK TO SAVEPOINT part")
            elif self.database.is_sqlite and row_error_of(error) is RowError.REFUSED:
                self.database.row_by_row = True
                why = in_words(error)
                if len(wanted) == 1:
                    self.database.ends_transactions |= dict.fromkeys(wanted, why)
                raise TransactionLost(f"{self.database.place}: {why}; try again") from without_details(error)
            raise
        if changed == len(wanted):
            return ALL_WRITTEN
        ignored = [
            message_id for message_id, values in wanted.items() if not self.took(values, rows.get(message_id), room)
        ]
        return Written(rows, dict.fromkeys(ignored, IGNORED.format(self.database.table.written.fullname)))

    def is_over(self) -> bool:
        """Return whether the connection is lost, or SQLite has rolled back the transaction, as on a full disk."""
        if self.connection.invalidated:
            return True  # an invalidated connection has no driver connection
        driver = self.connection.connection.driver_connection
        return driver is None or (not driver.in_transaction if self.database.is_sqlite else bool(driver.closed))

    @contextmanager
    def _short_lock_wait(self) -> Iterator[None]:
        # The short lock wait resolves a deadlock before the server detects it and aborts a transaction.
        if self.database.is_sqlite:
            yield
            return
        before = self.connection.exec_driver_sql("SELECT pg_catalog.current_setting('lock_timeout')").scalar_one()
        self.connection.exec_driver_sql(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}", execution_options=NO_RESULT)
        yield
        self.connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{before}'", execution_options=NO_RESULT)
