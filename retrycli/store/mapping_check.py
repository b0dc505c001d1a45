"""Check the settings of an application's table against the database: expressions, and the values of statuses.

An expression belongs to the operator, and the columns in it belong to the application. Either may change, so each
process tries the expressions once, in a transaction that may only read.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    String,
    case,
    cast,
    exc,
    func,
    inspect,
    literal_column,
    null,
    or_,
    select,
    true,
)
from sqlalchemy.types import Boolean, NullType, TypeEngine

from retrycli.domain.errors import DatabaseUnavailable, SchemaMismatch
from retrycli.domain.identity import TEXT_COLUMNS
from retrycli.domain.message import MessageStatus, UnusableMessage
from retrycli.domain.table_mapping import AS_IT_IS, Expression, Scalar, query_of
from retrycli.store.database import Database
from retrycli.store.error_messages import sqlstate
from retrycli.store.mapped_table import expression
from retrycli.store.messages import message_of, rows_of, without_body
from retrycli.store.reflection import MessageTable
from retrycli.store.table_sample import ROWS, read_only

SAMPLED = 500  # maximum number of failed rows in which each expression is evaluated
READ = 20  # maximum number of rows of each status that are read as a pass reads them

# What is wrong with an expression, by the beginning of PostgreSQL's error code. Except for the codes in `QUOTABLE`, the
# server's own text may quote a row.
REASONS = {
    "21": "it returns several rows for one message",
    "22": "it can't be evaluated for a value in the table",
    "25006": "it would write, but it may only read",
    "P0": "a function in it raises an error",
}
QUOTABLE = ("0A", "42")

COLUMNS, WHERE, STATUS = "database.columns", "database.where", "database.status"


def check_expressions(database: Database) -> None:
    """Try the expressions, the condition and the values of statuses in one statement that reads one row.

    Raises:
        SchemaMismatch: one of them can't be used. The error names its setting.
        DatabaseUnavailable: the database can't be read.
    """
    parts = dict(_parts(database))
    if _try(database, parts.values()) is None:
        return
    for name, value in parts.items():
        if (why := _try(database, [value], is_status=name.startswith(STATUS))) is not None:
            raise _unusable(database, name, why)
    raise SchemaMismatch(f"{database.place}: the SQL in {COLUMNS} can't be used in one statement; correct it")


def check_values(database: Database) -> None:
    """Evaluate each expression for the newest failed rows, and check that it returns one value for each.

    Raises:
        SchemaMismatch: an expression fails for a row, or returns several rows. The error names its setting.
    """
    mapping = database.mapping or AS_IT_IS
    for role, source in mapping.columns:
        if not isinstance(source, Expression):
            continue
        if (why := _try_sample(database, source.sql)) is not None:
            raise _unusable(database, f"{COLUMNS}.{role}", why)


def unreadable(database: Database) -> tuple[int, Counter[str]]:
    """Read the newest rows of each status as a pass reads them. Return the number of rows, and why a pass could not use
    some of them, without values, each with the number of rows.
    """
    number = 0
    problems: Counter[str] = Counter()
    table = database.table
    rows = _unnumbered(database)
    rows = rows.with_only_columns(*(without_body(database, each) for each in rows.selected_columns))
    for status, _ in _statuses(database):
        with suppress(DatabaseUnavailable), read_only(database) as connection:  # it may take too long
            try:
                found = [*rows_of(connection.execute(_newest(rows, table, status, READ)))]
            except exc.DBAPIError as error:
                if (why := _reason(error)) is None:
                    raise
                found = []
                number += 1
                problems[why] += 1
            number += len(found)
            messages = map(message_of, found)
            problems.update(each.problem.partition(":")[0] for each in messages if isinstance(each, UnusableMessage))
    return number, problems


def check_stable(database: Database, *, is_view: bool, wait: Callable[[], None]) -> None:
    """Read twice what identifies the newest failed rows, and check that it has not changed in between.

    A difference counts only if the next read differs as well, because the application may change a row. A plain column
    of a table is not read, because only an expression or a view can give another value to each read.

    Between two reads, ``wait`` waits longer than the resolution of any clock.

    Raises:
        SchemaMismatch: a value changes from read to read.
    """
    sources = dict((database.mapping or AS_IT_IS).columns)
    roles = [each for each in ("created_at", "ticket_id", *TEXT_COLUMNS) if each in database.messages.c]
    unsure = [
        each for each in roles if isinstance(sources.get(each), Expression) or (is_view and each != "body")
    ]  # a body is only read where it may be computed
    changing, before = set(unsure), _identifying(database, unsure) if unsure else {}
    for _ in range(2):
        if not changing:
            return
        wait()
        now = _identifying(database, unsure)
        rows = [(before[key], now[key]) for key in now.keys() & before.keys()]
        changing = {role for role in changing if any(then[role] != values[role] for then, values in rows)}
        before = now
    if changing:
        raise SchemaMismatch(
            f"{min(changing)} in {database.table.written.fullname} has another value at each read, so retrycli can't "
            f"tell whether a row is still the same message; correct {COLUMNS}.{min(changing)}, or the view"
        )


def _identifying(database: Database, roles: Sequence[str]) -> Mapping[object, Mapping[str, object]]:
    rows = _unnumbered(database)
    key = database.table.column("id").label("retrycli_row")
    wanted = [each for each in rows.selected_columns if each.key in roles]
    newest = _newest(rows.with_only_columns(key, *wanted), database.table, MessageStatus.FAILED, READ)
    with suppress(DatabaseUnavailable), read_only(database) as connection:  # it may take too long
        return {row["retrycli_row"]: dict(row) for row in connection.execute(newest).mappings()}
    return {}


def _unnumbered(database: Database) -> Select[Any]:
    table = database.table
    return select(*table.rows.c) if table.unnumbered is None else table.unnumbered


def check_statuses(database: Database) -> None:
    """Check that the status column can hold the values of statuses.

    Raises:
        SchemaMismatch: a value does not fit the column's type or length, or violates a CHECK constraint.
    """
    name = database.table.names["status"]
    constraints = list(_constraints_of(database, name))
    for status, value in _statuses(database):
        why = _misfit(value, database.columns[name]["type"]) if database.is_sqlite else None
        if isinstance(value, str) and len(value) > (database.max_length("status") or len(value)):
            why = f"the column {name} holds at most {database.max_length('status')} characters"
        for constraint in constraints:
            why = _why_forbidden(database, constraint, database.table.literals[status], name) or why
        if why is not None:
            raise _unusable(database, f"{STATUS}.{status}", why)


def check_count(database: Database, largest: int) -> None:
    """Check that the column of the retry count can hold the largest count that a pass may write.

    Raises:
        SchemaMismatch: a CHECK constraint forbids it.
    """
    if (name := database.table.names.get("retry_count")) is None:
        return
    for constraint in _constraints_of(database, name):
        if (why := _why_forbidden(database, constraint, str(largest), name)) is not None:
            raise SchemaMismatch(
                f"a pass can't write the retry count {largest} into {database.table.written.fullname}: {why}; lower "
                "schedule.max_retries, or let retrycli keep the count: retry_count = { own = true }"
            )


def count_left_out(database: Database) -> int:
    """Count the failed rows, among at most `ROWS` rows, that do not meet ``database.where``."""
    where = "" if database.mapping is None else database.mapping.where
    if not where:
        return 0
    table = database.table
    meets = case((expression(where), null()), else_=literal_column("1"))
    is_left_out = case((table.has_status(MessageStatus.FAILED), meets))
    newest = select(is_left_out.label("left_out")).select_from(table.written)
    # Only integer keys are sure to have an index with the order of the rows.
    ordered = newest.order_by(table.column("id").desc()) if table.key is None else newest
    rows = ordered.limit(ROWS).subquery()
    return database.scalar(select(func.count(rows.c.left_out))) or 0


def _unusable(database: Database, setting: str, why: str) -> SchemaMismatch:
    return SchemaMismatch(f"{setting} can't be used with {database.table.written.fullname}: {why}; correct {setting}")


def _parts(database: Database) -> Iterator[tuple[str, ColumnElement[Any]]]:
    """Yield the settings that are SQL, each with its value for a row."""
    mapping = database.mapping or AS_IT_IS
    for role, source in mapping.columns:
        if isinstance(source, Expression):
            yield f"{COLUMNS}.{role}", expression(source.sql)
    if mapping.where:
        yield WHERE, case((expression(mapping.where), 1))
    for status, _ in _statuses(database):
        equal = database.table.column("status") == literal_column(database.table.literals[status])
        yield f"{STATUS}.{status}", case((equal, 1))


def _statuses(database: Database) -> Sequence[tuple[str, Scalar]]:
    """Return the statuses that the table must be able to hold, with their values."""
    used = (database.mapping or AS_IT_IS).status
    needed = {MessageStatus.FAILED, MessageStatus.SENT}  # the default statuses that retrycli writes in any case
    return used if database.mapping is not None else [each for each in reversed(used) if each[0] in needed]


def _try(database: Database, values: Iterable[ColumnElement[Any]], *, is_status: bool = False) -> str | None:
    """Evaluate values for one row, or for a row of nulls if there is none. Return why they can't be evaluated."""
    labelled = [value.label(f"retrycli_{number}") for number, value in enumerate(values)]
    one = select(literal_column("1").label("retrycli_one")).subquery("retrycli_row")
    statement = select(*labelled).select_from(one.join(database.table.written, true(), isouter=True)).limit(1)
    with database.read() as connection:
        try:
            if not database.is_sqlite:
                connection.exec_driver_sql("SET TRANSACTION READ ONLY")
            connection.execute(statement).all()
        except exc.DBAPIError as error:
            if (why := _reason(error, is_status=is_status)) is None:
                raise
            return why
    return None


def _reason(error: exc.DBAPIError, *, is_status: bool = False) -> str | None:
    """Return what is wrong with an expression; None if the error has another cause, such as a lost connection."""
    state, text = sqlstate(error), " ".join(str(error.orig).partition("\n")[0].split())
    if state is None:
        is_of_sql = getattr(error.orig, "sqlite_errorname", "") == "SQLITE_ERROR"
        return text if isinstance(error, exc.OperationalError) and is_of_sql else None
    # The value of a status is the operator's own.
    if state.startswith(QUOTABLE) or (is_status and state.startswith("22")):
        return text
    return next((words for start, words in REASONS.items() if state.startswith(start)), None)


def _newest(rows: Select[Any], table: MessageTable, status: str, limit: int) -> Select[Any]:
    """Select the newest rows with a status, among the newest rows of the table. An expression may name the table, so it
    can't be evaluated for a sub-select.
    """
    others = table.written.alias("retrycli_newest").c[table.newest_by.name]
    oldest = select(others).order_by(others.desc()).offset(ROWS - 1).limit(1).scalar_subquery()
    among_newest = or_(oldest.is_(None), table.newest_by >= oldest)
    of_status = table.column("status") == literal_column(table.literals[status])
    return rows.where(of_status, among_newest).order_by(table.newest_by.desc()).limit(limit)


def _try_sample(database: Database, sql: str) -> str | None:
    """Evaluate an expression for the newest failed rows. Return why it can't be evaluated, or has several values."""
    query = query_of(sql) if database.is_sqlite else None  # a server reports several rows itself
    number: ColumnElement[Any] = literal_column("1")
    if query is not None:
        count = f"SELECT count(*) FROM (\n{query}\n) AS retrycli_rows"  # noqa: S608  the operator's own SQL
        number = expression(count)
    rows = select(expression(sql).label("value"), number.label("number")).select_from(database.table.written)
    if database.mapping is not None and database.mapping.where:
        rows = rows.where(expression(database.mapping.where))
    found = _newest(rows, database.table, MessageStatus.FAILED, SAMPLED).subquery()
    statement = select(func.count(found.c.value), func.max(found.c.number))
    with suppress(DatabaseUnavailable), read_only(database) as connection:  # it may take too long
        try:
            _, most = connection.execute(statement).one()
        except exc.DBAPIError as error:
            if (why := _reason(error)) is None:
                raise
            return why
        return REASONS["21"] if most is not None and most > 1 else None
    return None


def _misfit(value: Scalar, kind: TypeEngine[Any]) -> str | None:
    """Return why a SQLite column should not hold a value. SQLite would store it, whatever the column's type."""
    if isinstance(value, str) and isinstance(kind, Integer | Boolean) and not re.fullmatch(r"-?[0-9]+", value):
        return f"the column holds numbers, not text such as {value!r}"
    if isinstance(value, bool) and isinstance(kind, String):
        return f"the column holds text, but SQLite stores {str(value).lower()} as the number {int(value)}"
    return None


def _constraints_of(database: Database, name: str) -> Iterator[str]:
    """Yield the CHECK constraints that concern only one column."""
    others = {other.lower() for other in database.columns} - {name.lower()}
    with database.read() as connection:
        try:
            found = inspect(connection).get_check_constraints(database.table_name, database.schema_name)
        except exc.NoSuchTableError:  # a view, which has none
            return
    for constraint in found:
        words = {word.lower() for word in re.findall(r"\w+", constraint["sqltext"])}
        if name.lower() in words and not words & others:
            yield constraint["sqltext"]


def _why_forbidden(database: Database, constraint: str, value: str, name: str) -> str | None:
    typed: ColumnElement[Any] = literal_column(value)
    kind = database.columns[name]["type"]
    row = select((typed if isinstance(kind, NullType) else cast(typed, kind)).label(name)).subquery(database.table_name)
    with suppress(SchemaMismatch, DatabaseUnavailable), read_only(database) as connection:
        is_met = connection.execute(select(expression(constraint)).select_from(row)).scalar()
        if is_met is not None and not is_met:  # a constraint that yields null is met
            return f"the CHECK constraint of the column {name} forbids it: {' '.join(constraint.split())}"
    return None
