"""Count values in some rows of a table, in read-only transactions whose effort is limited.

A table may have millions of rows, and a view may read any number of rows for each row that it returns. No text leaves
the database except the beginnings of the values in the columns that are counted.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Subquery,
    Text,
    cast,
    column,
    func,
    literal,
    literal_column,
    select,
    table,
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

    Args:
        database: the database.
        known: the table.
        newest_by: the name of an indexed column in whose order rows were added; None if there is none.
    """

    def __init__(self, database: Database, known: KnownTable, newest_by: str | None) -> None:
        self._database, self._known = database, known
        self._table = table(known.relation, schema=known.schema)
        self._order: ColumnElement[Any] | None = None
        if known.has_row_numbers:
            self._order = literal_column("rowid")
        elif newest_by is not None:
            self._order = column(newest_by)

    def count_values(self, columns: Sequence[TableColumn]) -> Sample:
        """Count the values of columns. If an index lists the values of a column, count its values in older rows too.

        Of a column with more than `MOST_VALUES` values, only the most frequent are counted.

        Raises:
            DatabaseUnavailable: the table can't be read, or only with too much effort.
        """
        with read_only(self._database) as connection:
            rows = connection.execute(select(func.count()).select_from(self._some(literal(1)))).scalar_one()
            values = {each.name: self._count(connection, each) for each in columns}
        sample = Sample(rows, rows < ROWS, self._order is not None, values)
        if not sample.is_whole:
            for each in columns:
                if each.name in self._known.indexed and each.kind in {ValueKind.INTEGER, ValueKind.TEXT}:
                    with suppress(DatabaseUnavailable):  # the planner may prefer to read the whole table
                        sample = replace(sample, older={**sample.older, each.name: self._count_older(each, values)})
        return sample

    def count_distinct(self, columns: Sequence[TableColumn]) -> dict[str, int]:
        """Count the different values of columns, except null, by the column's name.

        Raises:
            DatabaseUnavailable: the table can't be read, or only with too much effort.
        """
        found = self._some(*map(_shortened, columns), literal(1)).c
        counts = [func.count(value.distinct()) for value in found]
        with read_only(self._database) as connection:
            *numbers, _ = connection.execute(select(*counts)).one()
        return dict(zip((each.name for each in columns), numbers, strict=True))

    def newest_times(self, wanted: TableColumn, time: TableColumn) -> dict[object, object]:
        """Return the newest time of the rows with each value of a column that has few values.

        Raises:
            DatabaseUnavailable: the table can't be read, or only with too much effort.
        """
        value, newest = self._some(_shortened(wanted), column(time.name)).c
        with read_only(self._database) as connection:
            rows = connection.execute(select(value, func.max(newest)).group_by(value).limit(MOST_VALUES + 1))
            return {row[0]: row[1] for row in rows}

    def _some(self, *values: ColumnElement[Any]) -> Subquery:
        labelled = [value.label(f"value_{number}") for number, value in enumerate(values)]
        statement = select(*labelled).select_from(self._table).limit(ROWS)
        return (statement if self._order is None else statement.order_by(self._order.desc())).subquery()

    def count_if(self, condition: ColumnElement[bool]) -> int:
        """Count the rows that meet a condition.

        Raises:
            DatabaseUnavailable: the table can't be read, or only with too much effort.
        """
        found = self._some(condition)
        with read_only(self._database) as connection:
            rows = connection.execute(select(func.count()).select_from(found).where(found.c[0]))
            return rows.scalar_one()

    def _count(self, connection: Connection, wanted: TableColumn) -> tuple[tuple[object, int], ...]:
        [value] = self._some(_shortened(wanted)).c
        statement = select(value, func.count()).group_by(value).order_by(func.count().desc())
        return tuple((each, rows) for each, rows in connection.execute(statement.limit(MOST_VALUES + 1)))

    def _count_older(
        self, wanted: TableColumn, seen: dict[str, tuple[tuple[object, int], ...]]
    ) -> tuple[tuple[object, int], ...]:
        """Go from value to value by the index, and count those that the newest rows do not have."""
        value: ColumnElement[Any] = column(wanted.name)
        known = {each for each, _ in seen[wanted.name]}
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
