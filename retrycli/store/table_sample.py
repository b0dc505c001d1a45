"""Count values in some rows of a table, in read-only transactions whose effort is limited.

A table may have millions of rows, and a view may read any number of rows for each row that it returns. No text leaves
the database except the beginnings of the values in the columns that are counted.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Subquery,
    Text,
    cast,
    column,
    func,
    literal,
    literal_column,
    select,
    table,
    true,
)

from retrycli.domain.errors import DatabaseUnavailable
from retrycli.domain.known_table import LONGEST, MOST_VALUES, KnownTable, Sample, TableColumn, ValueKind
from retrycli.store.database import Database

ROWS = 5_000  # maximum number of rows that are read
OLDER_ROWS = 1_000  # maximum number of rows with one value that are counted by an index

# The limits of one transaction: milliseconds for each statement of a server, and the number of SQLite's instructions,
# which take about two seconds.
STATEMENT_MS = 5_000
STEPS, INSTRUCTIONS = 100, 1_000_000

Counts = tuple[tuple[object, int], ...]  # values, with the numbers of their rows


@contextmanager
def read_only(database: Database) -> Iterator[Connection]:
    """Open a read-only transaction, and limit its effort.

    Raises:
        DatabaseUnavailable: the database can't be read, or a statement exceeds the limit.
    """
    with database.read() as connection:
        if not database.is_sqlite:
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {STATEMENT_MS}")
            yield connection
            return
        driver: Any = connection.connection.driver_connection
        steps = iter(range(STEPS))
        connection.exec_driver_sql("PRAGMA query_only = ON")
        driver.set_progress_handler(lambda: next(steps, None) is None, INSTRUCTIONS)
        try:
            yield connection
        finally:
            driver.set_progress_handler(None, 0)
            connection.exec_driver_sql("PRAGMA query_only = OFF")


class TableSample:
    """The newest rows of a table or, if nothing shows their order, any rows.

    SQLite's row numbers show it, or the first column in ``newest_by`` that has an index. Each method raises
    `DatabaseUnavailable` if the table can't be read, or only with too much effort.
    """

    def __init__(self, database: Database, known: KnownTable, newest_by: Iterable[TableColumn]) -> None:
        self._database, self._known = database, known
        self._table = table(known.relation, schema=known.schema)
        columns: Iterator[ColumnElement[Any]] = (column(each.name) for each in newest_by if each.name in known.indexed)
        self._order = literal_column("rowid") if known.has_row_numbers else next(columns, None)

    @cached_property
    def sample(self) -> Sample:
        """Count the rows, up to `ROWS`."""
        rows = self.count_if(true())
        return Sample(rows, rows < ROWS, self._order is not None)

    def count_values(self, wanted: TableColumn) -> tuple[Counts, Counts]:
        """Count the values of a column, of more than `MOST_VALUES` only the most frequent. If an index lists them, also
        count values that only older rows have.
        """
        [value] = self._some(_shortened(wanted)).c
        counts = select(value, func.count()).group_by(value).order_by(func.count().desc()).limit(MOST_VALUES + 1)
        newest = tuple((each, number) for each, number in self._read(counts))
        is_listed = wanted.name in self._known.indexed and wanted.kind in {ValueKind.INTEGER, ValueKind.TEXT}
        if is_listed and not self.sample.is_whole:
            with suppress(DatabaseUnavailable):  # the planner may prefer to read the whole table
                return newest, self._count_older(wanted.name, {each for each, _ in newest})
        return newest, ()

    def count_distinct(self, columns: Sequence[TableColumn]) -> dict[str, int]:
        """Count the different values of columns, except null, by the column's name."""
        found = self._some(*map(_shortened, columns), literal(1)).c
        [numbers] = self._read(select(*(func.count(value.distinct()) for value in found)))
        return {each.name: number for each, number in zip(columns, numbers, strict=False)}

    def newest_times(self, wanted: TableColumn, time: TableColumn) -> dict[object, object]:
        """Return the newest time of the rows with each value of a column that has few values."""
        value, newest = self._some(_shortened(wanted), column(time.name)).c
        rows = self._read(select(value, func.max(newest)).group_by(value).limit(MOST_VALUES + 1))
        return dict(map(tuple, rows))

    def values_if(self, wanted: TableColumn, condition: ColumnElement[bool]) -> set[object]:
        """Return different values of a column in the rows that meet a condition, at most `MOST_VALUES`."""
        value, met = self._some(_shortened(wanted), condition).c
        return {each for [each] in self._read(select(value).where(met).distinct().limit(MOST_VALUES))}

    def find(self, wanted: TableColumn, literal: ColumnElement[Any]) -> object:
        """Return a value of an indexed column, in any row, that the database finds equal to a literal; None without."""
        value: ColumnElement[Any] = column(wanted.name)
        found = self._read(select(value).select_from(self._table).where(value == literal).limit(1))
        return next((each for [each] in found), None)

    def count_if(self, condition: ColumnElement[bool]) -> int:
        """Count the rows that meet a condition."""
        found = self._some(condition)
        [[number]] = self._read(select(func.count()).select_from(found).where(found.c[0]))
        return int(number)

    def _some(self, *values: ColumnElement[Any]) -> Subquery:
        labelled = [value.label(f"value_{number}") for number, value in enumerate(values)]
        statement = select(*labelled).select_from(self._table).limit(ROWS)
        return (statement if self._order is None else statement.order_by(self._order.desc())).subquery()

    def _read(self, statement: Select[*tuple[Any, ...]]) -> Sequence[Row[*tuple[Any, ...]]]:
        with read_only(self._database) as connection:
            return connection.execute(statement).all()

    def _count_older(self, name: str, known: Collection[object]) -> Counts:
        """Go from value to value by the index, and count those that the newest rows do not have."""
        value: ColumnElement[Any] = column(name)
        following = select(func.min(value)).select_from(self._table)
        found: list[tuple[object, int]] = []
        with read_only(self._database) as connection:
            last = connection.execute(following).scalar()
            for _ in range(MOST_VALUES):
                if last is None:
                    break
                if last not in known:
                    rows = select(literal(1)).select_from(self._table).where(value == last).limit(OLDER_ROWS).subquery()
                    found.append((last, connection.execute(select(func.count()).select_from(rows)).scalar_one()))
                last = connection.execute(following.where(value > last)).scalar()
        return tuple(found)


def _shortened(wanted: TableColumn) -> ColumnElement[Any]:
    value: ColumnElement[Any] = column(wanted.name)
    if wanted.kind is ValueKind.TEXT:
        return func.substr(cast(value, Text), 1, LONGEST + 1)  # enough to see that a text is too long
    return value
