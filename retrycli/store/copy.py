"""Copy retrycli's own tables between two databases of either kind.

Tables are compared by ranges of keys: missing rows are added, different rows are changed, and surplus rows are removed.
Equal rows are not written, so an interrupted copy can be resumed, and a repeated copy writes only changes.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Column,
    ColumnElement,
    Integer,
    Select,
    String,
    Table,
    and_,
    bindparam,
    cast,
    collate,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import REGCLASS

from retrycli.domain.errors import ConfigurationError, DatabaseUnavailable
from retrycli.domain.message import State
from retrycli.domain.sanitize import encodable
from retrycli.store.database import Database
from retrycli.store.schema import acts, attempts, metadata, passes, queue, selection

Key = tuple[Any, ...]
Row = tuple[Any, ...]

# The tables to copy. The table that stores the name of the application's table is left out, because the application's
# table may have another name in the target.
COPIED = [table for table in metadata.sorted_tables if table is not selection]

# Maximum number of rows to read from each side in one step. Each step writes its changes in one transaction.
BATCH = 2_000


@dataclass(frozen=True, slots=True)
class CopiedTable:
    """The result of copying a table. The numbers of rows are those after the copy."""

    table: str
    source_rows: int
    target_rows: int
    added: int
    changed: int
    removed: int

    @property
    def verified(self) -> bool:
        """Return whether both sides have the same number of rows."""
        return self.source_rows == self.target_rows


def copy_tables(
    source: Database, target: Database, *, batch: int = BATCH, listen: Callable[[str, int], None] = lambda *_: None
) -> list[CopiedTable]:
    """Make each copied table in the target equal to the same table in the source.

    Args:
        source: the database to copy from.
        target: the database to copy to.
        batch: the maximum number of rows to read from each side in one step.
        listen: called after each step with the name of a table and the number of its source rows compared so far.

    Returns:
        The tables, with the row counts of both sides after the copy.

    Raises:
        ConfigurationError: a row can't be read, or the target can't store it; the error names the table. Or a table in
            the target does not generate its ids, so it was not created by retrycli.
        DatabaseUnavailable: either database reports an error.
    """
    written = {table: _copy(source, target, table, batch, listen) for table in COPIED}
    return [
        CopiedTable(table.name, _count(source, table), _count(target, table), *numbers)
        for table, numbers in written.items()
    ]


def _copy(
    source: Database, target: Database, table: Table, batch: int, listen: Callable[[str, int], None]
) -> tuple[int, int, int]:
    added = changed = removed = done = 0
    for theirs, ours in _side_by_side(source, target, table, batch):
        fresh = [row for key, row in theirs.items() if key not in ours]
        other = [row for key, row in theirs.items() if ours.get(key, row) != row]
        stale = [key for key in ours if key not in theirs]
        if fresh or other or stale:
            _write(target, table, fresh, other, stale)
        added, changed, removed = added + len(fresh), changed + len(other), removed + len(stale)
        done += len(theirs)
        listen(table.name, done)
    _move_sequence_on(target, table)
    return added, changed, removed


def _side_by_side(
    source: Database, target: Database, table: Table, batch: int
) -> Iterator[tuple[dict[Key, Row], dict[Key, Row]]]:
    after: Key | None = None
    while True:
        theirs, ours = (_rows_after(side, table, after, batch) for side in (source, target))
        # If a side returned a full batch, it may have more rows. Rows of the other side beyond the last key of that
        # batch are therefore compared in the next step.
        upto = min((max(rows) for rows in (theirs, ours) if len(rows) == batch), default=None)
        yield _within(theirs, upto), _within(ours, upto)
        if upto is None:
            return
        after = upto


def _rows_after(database: Database, table: Table, after: Key | None, batch: int) -> dict[Key, Row]:
    places = [list(table.c).index(column) for column in table.primary_key]
    with database.read() as connection:
        try:
            found = connection.execute(_after(database, table, after).limit(batch)).all()
        except (TypeError, ValueError) as error:  # an invalid time, which only SQLite can store
            place = f"a row of {table.name} in {database.place}" + ("" if after is None else f" after the key {after}")
            raise ConfigurationError(f"{place} can't be read: {error}; correct the row") from error
    return {tuple(row[place] for place in places): tuple(row) for row in found}


def _after(database: Database, table: Table, after: Key | None) -> Select[Any]:
    # Sort the keys on both sides in Python's order, because `_side_by_side` compares them in Python.
    key = [
        # SQLite orders strings by code point by default; PostgreSQL does so with the collation "C".
        collate(column, "C") if isinstance(column.type, String) and not database.is_sqlite else column
        for column in table.primary_key
    ]
    statement = select(table).order_by(*key)
    if after is None:
        return statement
    values = [literal(value, column.type) for value, column in zip(after, table.primary_key, strict=True)]
    return statement.where(_follows(key, values))


def _follows(key: Sequence[ColumnElement[Any]], values: Sequence[BindParameter[Any]]) -> ColumnElement[bool]:
    # Compare column by column. For tuples, a server would look up the operators in the search path: see `postgresql`.
    first, *others = key
    if not others:
        return first > values[0]
    return and_(first >= values[0], or_(first > values[0], _follows(others, values[1:])))


def _within(rows: dict[Key, Row], upto: Key | None) -> dict[Key, Row]:
    return rows if upto is None else {key: row for key, row in rows.items() if key <= upto}


def _write(database: Database, table: Table, fresh: Sequence[Row], other: Sequence[Row], stale: Sequence[Key]) -> None:
    its: dict[str, BindParameter[Any]] = {column.name: bindparam(f"its_{column.name}") for column in table.c}
    key = [column.name for column in table.primary_key]
    this = [column == its[column.name] for column in table.primary_key]
    rest = {name: value for name, value in its.items() if name not in key}
    try:
        with database.write() as connection:
            if stale:
                connection.execute(delete(table).where(*this), _bound(key, stale))
            if other:
                connection.execute(update(table).where(*this).values(rest), _bound(its, other))
            if fresh:
                connection.execute(insert(table).values(its), _bound(its, fresh))
    except (DatabaseUnavailable, UnicodeEncodeError) as error:
        reasons = (_unfit(database, table, row) for row in (*fresh, *other))
        if (reason := next(filter(None, reasons), None)) is not None:
            raise ConfigurationError(reason) from error
        raise


def _bound(names: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> list[dict[str, Any]]:
    return [dict(zip((f"its_{name}" for name in names), row, strict=True)) for row in rows]


def _unfit(database: Database, table: Table, row: Row) -> str | None:
    values = dict(zip(table.c.keys(), row, strict=True))
    for column in table.c:
        if (why := _objection(database, column, values[column.name])) is not None:
            where = " AND ".join(f'"{key.name}" = {_literal(values[key.name])}' for key in table.primary_key)
            change = f"UPDATE {table.name} SET \"{column.name}\" = '…' WHERE {where}"  # noqa: S608  never executed
            return (
                f"{table.name} has a row that {database.place} can't hold: {column.name} {why}, where {where}. Set "
                f"another value in the source database, for example with {change}, and run this again"
            )
    return None


def _literal(value: object) -> str:
    return str(value) if isinstance(value, int) else f"'{value}'"


def _objection(database: Database, column: Column[Any], value: object) -> str | None:
    # A SQLite column accepts any value except a string that is not valid Unicode.
    kind = column.type
    if isinstance(value, str) and not encodable(value):
        return "is not valid Unicode"
    if value is None or database.is_sqlite:
        return None
    if isinstance(kind, String) and isinstance(value, str):
        if "\0" in value:
            return "contains a NUL character"
        return f"has more than {kind.length} characters" if len(value) > (kind.length or len(value)) else None
    if isinstance(kind, Integer):
        largest = 2 ** (63 if isinstance(kind, BigInteger) else 31)
        return (
            None if isinstance(value, int) and -largest <= value < largest else "is not an integer that fits the column"
        )
    return None


def _move_sequence_on(database: Database, table: Table) -> None:
    column = table.autoincrement_column
    if database.is_sqlite or column is None:
        return
    with database.write() as connection:
        name = connection.execute(select(func.pg_get_serial_sequence(table.name, column.name))).scalar()
        if name is None:
            raise ConfigurationError(
                f"{table.name} in {database.place} was not created by retrycli: its ids are not generated. Drop "
                "the tables there whose names begin with retrycli_, and run this again"
            )
        sequence = cast(name, REGCLASS)
        newest = select(func.max(column)).scalar_subquery()
        used = func.coalesce(func.pg_sequence_last_value(sequence), 0)
        connection.execute(select(func.setval(sequence, newest)).where(newest > used))


def _count(database: Database, table: Table) -> int:
    return database.scalar(select(func.count()).select_from(table)) or 0


TELLING_APART = 0x72657472  # first key of the advisory lock that shows whether two databases are the same


def is_same(one: Database, other: Database) -> bool:
    """Return whether two objects refer to the same database."""
    if one.is_sqlite or other.is_sqlite:
        return one.is_sqlite and other.is_sqlite and _file(one).samefile(_file(other))
    # An advisory lock belongs to one database. While the first connection holds the lock, a second connection to the
    # same database can't acquire it. No other process uses this lock, because its key contains the pid of the backend.
    with one.read() as holding, other.read() as asking:
        number: int = holding.execute(select(func.pg_backend_pid())).scalar_one()
        holding.execute(select(func.pg_advisory_xact_lock(TELLING_APART, number)))
        return not asking.execute(select(func.pg_try_advisory_xact_lock(TELLING_APART, number))).scalar_one()


def _file(database: Database) -> Path:
    with database.read() as connection:
        first, *_ = connection.exec_driver_sql("PRAGMA database_list")  # a second row is for temporary tables
        return Path(first.file)


def claimed_until(database: Database, now: datetime) -> datetime | None:
    """Return when the last live claim expires; None if there is no live claim."""
    expiry = queue.c.claim_expires_at
    last = select(func.max(expiry, type_=expiry.type)).where(queue.c.state == State.SENDING.value, expiry > now)
    return database.scalar(last)


def last_used(database: Database) -> datetime | None:
    """Return the time of the newest pass, attempt or action; None for an empty history."""
    newest = (
        select(passes.c.started_at).order_by(passes.c.started_at.desc()).limit(1),
        select(attempts.c.started_at).order_by(attempts.c.id.desc()).limit(1),
        select(acts.c.at).order_by(acts.c.id.desc()).limit(1),
    )
    return max((at for at in map(database.scalar, newest) if at is not None), default=None)


def left_behind(source: Database, target: Database, *, batch: int = BATCH) -> tuple[int, int | None]:
    """Return the number of queued messages that are missing from the target's application table, and the lowest of
    their ids; None if no message is missing.

    Do not count messages that are also missing from the source's table, because the next pass drops them.
    """
    source_knows = source.has_messages()
    number, first = 0, None
    after: Key | None = None
    while rows := _rows_after(source, queue, after, batch):
        after = max(rows)
        ids = {message_id for (message_id,) in rows}
        lacking = ids - _known(target, ids)
        if lacking and source_knows:
            lacking &= _known(source, lacking)
        if lacking:
            number, first = number + len(lacking), min(lacking) if first is None else first
    return number, first


def _known(database: Database, ids: Collection[int]) -> set[int]:
    m = database.messages.c
    return {message_id for (message_id,) in database.rows(select(m.id).where(m.id.in_(ids)))}
