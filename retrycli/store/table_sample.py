"""Count values in some rows of a table, in read-only transactions whose effort is limited.

A table may have millions of rows, and a view may read any number of rows for each row that it returns. No text leaves
the database except the beginnings of the values in the columns that are counted.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
from retrycli.domain.known_table import KnownTable, Sample, TableColumn, ValueKind
from retrycli.domain.status_values import LONGEST, MOST_VALUES
from retrycli.store.database import Database

ROWS = 5_000  # maximum number of rows that are read
OLDER_ROWS = 1_000  # maximum number of rows with one value that are counted by an index

# The limits of one transaction: milliseconds for each statement of a server, and the number of SQLite's instructions,
# which take about two seconds.
STATEMENT_MS = 5_000
STEPS, INSTRUCTIONS = 100, 1_000_000


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

    Each method raises `DatabaseUnavailable` if the table can't be read, or only with too much effort.

    Args:
        database: the database.
        known: the table.
        newest_by: columns in whose order rows were added. The first one with an index is used.
    """

    def __init__(self, database: Database, known: KnownTable, newest_by: Iterable[TableColumn]) -> None:
        self._database, self._known = database, known
        self._table = table(known.relation, schema=known.schema)
        columns: Iterator[ColumnElement[Any]] = (column(each.name) for each in newest_by if each.name in known.indexed)
        self._order = literal_column("rowid") if known.has_row_numbers else next(columns, None)

    def count_values(self, columns: Sequence[TableColumn]) -> Sample:
        """Count the values of columns. If an index lists the values of a column, count its values in older rows too.

        Of a column with more than `MOST_VALUES` values, only the most frequent are counted.
        """
        rows, values, older = self.count_if(true()), {each.name: self._count(each) for each in columns}, {}
        for each in columns:
            if rows == ROWS and each.name in self._known.indexed and each.kind in {ValueKind.INTEGER, ValueKind.TEXT}:
                with suppress(DatabaseUnavailable):  # the planner may prefer to read the whole table
                    older[each.name] = self._count_older(each.name, {value for value, _ in values[each.name]})
        return Sample(rows, rows < ROWS, self._order is not None, values, older)

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

    def _count(self, wanted: TableColumn) -> tuple[tuple[object, int], ...]:
        [value] = self._some(_shortened(wanted)).c
        counts = select(value, func.count()).group_by(value).order_by(func.count().desc())
        return tuple((each, rows) for each, rows in self._read(counts.limit(MOST_VALUES + 1)))

    def _count_older(self, name: str, known: Collection[object]) -> tuple[tuple[object, int], ...]:
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
