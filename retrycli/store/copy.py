"""retrycli's own tables made alike in two databases, whichever of the two kinds each is.

It goes by ranges of keys: what the target lacks in a range is added, what differs is changed, what the source does not
have is removed. What is alike is not written, so that a copy that was cut short goes on where it was, and one that is
made again follows what the source has done since.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Integer,
    String,
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
from retrycli.domain.sanitize import encodable
from retrycli.store.schema import metadata, selection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sqlalchemy import BindParameter, Column, ColumnElement, Select, Table

    from retrycli.store.database import Database

    Row = tuple[Any, ...]
    Key = tuple[Any, ...]

COPIED = [table for table in metadata.sorted_tables if table is not selection]
"""All but the name of the application's table, which may be another in the target: it has its own."""
BATCH = 2_000
"""So many rows of either side are looked at together, and so many are written in one transaction at most."""


@dataclass(frozen=True, slots=True)
class CopiedTable:
    """What became of a table."""

    table: str
    source_rows: int
    target_rows: int
    added: int
    changed: int
    removed: int

    @property
    def verified(self) -> bool:
        """Whether both sides have as many rows."""
        return self.source_rows == self.target_rows


def copy_tables(
    source: Database, target: Database, *, batch: int = BATCH, listen: Callable[[str, int], None] = lambda *_: None
) -> list[CopiedTable]:
    """Make every table of ours in the target what it is in the source.

    Args:
        source: where the rows are.
        target: where they are to be.
        batch: how many rows to look at together.
        listen: told, as the copy goes on, the table's name and how many rows of it are done.

    Returns:
        Each table, counted on both sides when all are done.

    Raises:
        ConfigurationError: a row that the target can't hold, by table and key.
        DatabaseUnavailable: either side, in words.
    """
    written = {table: _copy(source, target, table, batch, listen) for table in COPIED}
    return [
        CopiedTable(table.name, _count(source, table), _count(target, table), *numbers)
        for table, numbers in written.items()
    ]


# -- one table ---------------------------------------------------------------------------------------------------------


def _copy(
    source: Database, target: Database, table: Table, batch: int, listen: Callable[[str, int], None]
) -> tuple[int, int, int]:
    """Make one table what it is in the source; how many rows were added, changed and removed."""
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
    """The rows of both sides by key, one range of keys after the other, at most so many of either side in each."""
    after: Key | None = None
    while True:
        theirs, ours = (_rows_after(side, table, after, batch) for side in (source, target))
        # A side that gave all it was asked for may have more, and is known no further than to its last row.
        upto = min((max(rows) for rows in (theirs, ours) if len(rows) == batch), default=None)
        yield _within(theirs, upto), _within(ours, upto)
        if upto is None:
            return
        after = upto


def _rows_after(database: Database, table: Table, after: Key | None, batch: int) -> dict[Key, Row]:
    columns = list(table.c)
    places = [columns.index(column) for column in table.primary_key]
    with database.read() as connection:
        try:
            found = connection.execute(_after(database, table, after).limit(batch)).all()
        except (TypeError, ValueError) as error:  # a time that is none, as only SQLite can hold
            place = f"{table.name} in {database.place}" + ("" if after is None else f", after {after}")
            raise ConfigurationError(f"{place}: a row can't be read: {error}; mend it there") from error
    return {tuple(row[place] for place in places): tuple(row) for row in found}


def _after(database: Database, table: Table, after: Key | None) -> Select[Any]:
    """Rows in the order of their keys, which is the same on both sides and in Python."""
    key = [_by_code_point(database, column) for column in table.primary_key]
    statement = select(table).order_by(*key)
    if after is None:
        return statement
    values = [literal(value, column.type) for value, column in zip(after, table.primary_key, strict=True)]
    return statement.where(_beyond(key, values))


def _beyond(key: Sequence[ColumnElement[Any]], values: Sequence[BindParameter[Any]]) -> ColumnElement[bool]:
    """Return that a key comes after another. A server would look the operators of two tuples up: see `catalogue`."""
    first, *others = key
    if not others:
        return first > values[0]
    return and_(first >= values[0], or_(first > values[0], _beyond(others, values[1:])))


def _by_code_point(database: Database, column: Column[Any]) -> ColumnElement[Any]:
    """A part of a key to order by: SQLite orders text so by itself, PostgreSQL by the rules of some language."""
    return collate(column, "C") if isinstance(column.type, String) and not database.is_sqlite else column


def _within(rows: dict[Key, Row], upto: Key | None) -> dict[Key, Row]:
    return rows if upto is None else {key: row for key, row in rows.items() if key <= upto}


def _write(database: Database, table: Table, fresh: Sequence[Row], other: Sequence[Row], stale: Sequence[Key]) -> None:
    """Add, change and remove rows in one transaction."""
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
    parameters = [f"its_{name}" for name in names]
    return [dict(zip(parameters, row, strict=True)) for row in rows]


def _unfit(database: Database, table: Table, row: Row) -> str | None:
    """What of a row the database can't hold, and what to do about it; None where nothing is known to be wrong."""
    values = dict(zip(table.c.keys(), row, strict=True))
    for column in table.c:
        if (why := _objection(database, column, values[column.name])) is not None:
            where = " AND ".join(f'"{key.name}" = {_literal(values[key.name])}' for key in table.primary_key)
            change = f"UPDATE {table.name} SET \"{column.name}\" = '…' WHERE {where}"  # noqa: S608  to be read by people
            return (
                f"{table.name} has a row that {database.place} can't hold: {column.name} {why}, where {where}. Give it "
                f"another value in the database that is copied, as in {change}; and run this again"
            )
    return None


def _literal(value: object) -> str:
    return str(value) if isinstance(value, int) else f"'{value}'"


def _objection(database: Database, column: Column[Any], value: object) -> str | None:
    """Why a column can't hold a value. SQLite takes anything into any column, if only it is Unicode."""
    kind = column.type
    if isinstance(value, str) and not encodable(value):
        return "is no valid Unicode"
    if value is None or database.is_sqlite:
        return None
    if isinstance(kind, String) and isinstance(value, str):
        if "\0" in value:
            return "has a NUL character in it"
        return f"has more than {kind.length} characters" if len(value) > (kind.length or len(value)) else None
    if isinstance(kind, Integer):
        largest = 2 ** (63 if isinstance(kind, BigInteger) else 31)
        return None if isinstance(value, int) and -largest <= value < largest else "is no whole number of that size"
    return None


def _move_sequence_on(database: Database, table: Table) -> None:
    """Have PostgreSQL number what comes next after what was copied; SQLite does so by itself.

    Raises:
        ConfigurationError: nothing numbers the rows, as in a table that another program has brought along.
    """
    column = table.autoincrement_column
    if database.is_sqlite or column is None:
        return
    with database.write() as connection:
        name = connection.execute(select(func.pg_get_serial_sequence(table.name, column.name))).scalar()
        if name is None:
            raise ConfigurationError(
                f"{table.name} in {database.place} was not made by retrycli: nothing numbers its rows. Drop the tables "
                "whose names begin with retrycli_ there, and run this again"
            )
        sequence = cast(name, REGCLASS)
        newest = select(func.max(column)).scalar_subquery()
        used = func.coalesce(func.pg_sequence_last_value(sequence), 0)
        connection.execute(select(func.setval(sequence, newest)).where(newest > used))


def _count(database: Database, table: Table) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()
