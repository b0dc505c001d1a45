"""Change rows of the application's table, and tell which rows took the change.

A table may refuse a change of one row: with an error (a constraint, a trigger), or silently (`RAISE(IGNORE)`, a trigger
that returns null, a rule, a row-level policy). Such a row is reported and stays as it is; the others are written. To
find silent refusals, changed rows are counted on SQLite, and read back in the same transaction on a server: its count
would take a round trip. No database counts rows that a trigger changes in place of a view.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from sqlalchemy import exc

from retrycli.domain.errors import TransactionLost
from retrycli.store.connection import NO_RESULT, pipeline_errors
from retrycli.store.error_messages import RowError, in_words, row_error_of, without_details
from retrycli.store.row_states import RowState, read_rows

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from retrycli.store.database import Database

Wanted = TypeVar("Wanted")
"""The values to write into one row."""

IGNORED = "its row did not change; a trigger, a rule or a row-level policy of {} ignores the update"
LENGTHS = (255, 127, 63, 31)
"""Lengths, in characters, that an error is shortened to, one after the other, if its column refuses it."""
LOCK_WAIT_MS, MAX_LOCK_WAITS = 10, 8
"""Lock wait for one row, in milliseconds, and the maximum number of locked rows to wait for. Further rows count as
locked, and are tried the next time."""


class Written(NamedTuple):
    """Result of changing some rows."""

    rows: Mapping[int, RowState]
    """Rows as they were read back, by id; empty if that was not necessary."""
    refused: Mapping[int, str]
    """Reasons of the rows that refused the change, by id. They are unchanged."""
    locked: Collection[int] = ()
    """Rows that another transaction has locked. They are unchanged, and can be tried again."""

    @property
    def unchanged(self) -> AbstractSet[int]:
        """Return the ids of all rows that are unchanged."""
        return self.refused.keys() | set(self.locked)


ALL_WRITTEN = Written({}, {})
"""All rows took the change."""


class RowChange(Generic[Wanted]):
    """Change rows in savepoints.

    Args:
        write: writes values into rows, with errors cut to a number of characters, and returns how many rows it
            changed, if that is known.
        took: tells from a row that was read back if it took the change.
    """

    def __init__(
        self,
        write: Callable[[Connection, Mapping[int, Wanted], int | None], int | None],
        took: Callable[[Wanted, RowState, int | None], bool],
    ) -> None:
        self._write = write
        self._has_taken = took

    def make(self, database: Database, connection: Connection, wanted: Mapping[int, Wanted]) -> Written:
        """Write rows: all together, or one by one if any of them can't be written.

        Raises:
            DBAPIError: no row can be written, and no single row is the cause.
            TransactionLost: a row has rolled back the transaction. The next call leaves it out.
        """
        if not wanted:
            return ALL_WRITTEN
        if not database.row_by_row:
            try:
                return self._try(database, connection, wanted, database.error_max_length)
            except exc.DBAPIError:
                if _is_over(database, connection):
                    raise
        with _short_lock_wait(database, connection):
            return self._one_by_one(database, connection, wanted)

    def _one_by_one(self, database: Database, connection: Connection, wanted: Mapping[int, Wanted]) -> Written:
        rows: dict[int, RowState] = {}
        refused: dict[int, str] = {}
        locked: set[int] = set()
        general: dict[int, exc.DBAPIError] = {}
        for message_id, values in wanted.items():
            if len(locked) >= MAX_LOCK_WAITS:
                locked.add(message_id)
                continue
            try:
                written = self._write_one(database, connection, message_id, values)
            except exc.DBAPIError as error:
                if _is_over(database, connection):
                    raise
                general[message_id] = error
            else:
                rows |= written.rows
                refused |= written.refused
                locked |= {*written.locked}
        if general and len(general) + len(refused) + len(locked) == len(wanted):
            raise next(iter(general.values()))
        # Another row was written. So neither the table nor the role nor the server is the cause.
        return Written(rows, refused | {message_id: in_words(error) for message_id, error in general.items()}, locked)

    def _write_one(self, database: Database, connection: Connection, message_id: int, values: Wanted) -> Written:
        """Write a row, with a shorter error if the table refuses it.

        Raises:
            DBAPIError: it can't be written, and the row is not the cause.
        """
        wanted = {message_id: values}
        if message_id in database.ends_transactions:
            why = database.ends_transactions[message_id]
            return Written(read_rows(database, connection, wanted), {message_id: why})
        refusal = ""
        for room in (database.error_max_length, *LENGTHS):
            if (
                refusal
                and database.error_max_length is not None
                and room is not None
                and room >= database.error_max_length
            ):
                continue
            try:
                written = self._try(database, connection, wanted, room)
            except exc.DBAPIError as error:
                row_error = row_error_of(error)
                if row_error is RowError.LOCKED:
                    return Written({}, {}, [message_id])
                if row_error is RowError.EVERY_ROW:
                    raise
                refusal = refusal or in_words(error)
            else:
                database.error_max_length = room
                return written
        return Written(read_rows(database, connection, wanted), {message_id: refusal})

    def _try(
        self, database: Database, connection: Connection, wanted: Mapping[int, Wanted], room: int | None
    ) -> Written:
        """Write rows in a savepoint, and read them back unless the database reports all of them as changed.

        Raises:
            DBAPIError: a row can't be written (see `row_error_of`), so none was; or the connection is lost.
            TransactionLost: a row has rolled back the transaction.
        """
        try:
            with pipeline_errors(connection):
                connection.exec_driver_sql("SAVEPOINT part", execution_options=NO_RESULT)
                changed = self._write(connection, wanted, room)
                connection.exec_driver_sql("RELEASE SAVEPOINT part", execution_options=NO_RESULT)
                rows = {} if changed == len(wanted) else read_rows(database, connection, wanted)
        except exc.DBAPIError as error:
            if not _is_over(database, connection):
                connection.exec_driver_sql("ROLLBACK TO SAVEPOINT part")
            elif database.is_sqlite and row_error_of(error) is RowError.REFUSED:
                database.row_by_row = True
                if len(wanted) == 1:
                    database.ends_transactions |= dict.fromkeys(wanted, in_words(error))
                raise TransactionLost(f"{database.place}: {in_words(error)}; try again") from without_details(error)
            raise
        if changed == len(wanted):
            return ALL_WRITTEN
        ignored = [
            message_id
            for message_id, values in wanted.items()
            if message_id not in rows or not self._has_taken(values, rows[message_id], room)
        ]
        return Written(rows, dict.fromkeys(ignored, IGNORED.format(database.messages.fullname)))


def _is_over(database: Database, connection: Connection) -> bool:
    """Tell if the transaction is over: the connection is lost, or a file's row or disk has rolled it back."""
    if connection.invalidated:  # it has no driver connection then
        return True
    driver = connection.connection.driver_connection
    return driver is None or (not driver.in_transaction if database.is_sqlite else bool(driver.closed))


@contextmanager
def _short_lock_wait(database: Database, connection: Connection) -> Iterator[None]:
    """Wait for a server's locks only briefly: too short for a deadlock."""
    if database.is_sqlite:
        yield
        return
    before = connection.exec_driver_sql("SELECT pg_catalog.current_setting('lock_timeout')").scalar_one()
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}", execution_options=NO_RESULT)
    yield
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{before}'", execution_options=NO_RESULT)
