"""Execute statements for many rows: updates with different values for each row, and selections by id."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import repeat
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Dialect,
    String,
    Text,
    TypeDecorator,
    UpdateBase,
    any_,
    bindparam,
    cast,
    column,
    func,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType, TypeEngine

from retrycli.store.connection import NO_RESULT

PREFIX = "of_"  # prefix of parameter names, because SQLAlchemy reserves the names of columns

# A list is sent as one string, with this separator between the values and this mark for null. The driver would format
# an array in Python, value by value, which takes longer than all other steps.
SEPARATOR, NULL = "\x1f", "\x1e"

IDS = {"id", "message_id"}  # the names of values that are ids of messages

Values = Mapping[str, ColumnElement[Any]]  # the SQL expressions of a row's values, by name


class BulkStatement:
    """A statement to execute for each of many rows.

    SQLite prepares the statement once and runs it for each row. On a server, retrycli uses no prepared statements, so
    the server would plan the statement for each row, which takes longer than executing it. A server therefore gets one
    statement for all rows, with one list of values for each column. It gets one statement per row if a type is unknown,
    or if a list can't be sent as one string.
    """

    def __init__(self, make: Callable[[Values], UpdateBase], types: Mapping[str, TypeEngine[Any]]) -> None:
        self._make = make
        self._types = types
        self._prepared: _Prepared | None = None
        # An id may be shown as the key of its row (see `retrycli.domain.message`). The drivers get the number alone.
        self._ids = IDS & types.keys()
        self._all_are_known = not any(isinstance(kind, NullType) for kind in types.values())

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]], **shared: object) -> int | None:
        """Execute the statement for each row, with parameters that all rows share. Return the number of changed rows;
        None on a server, where no results are read.
        """
        if not rows:
            return 0
        if connection.dialect.name == "sqlite":
            # For each row, SQLAlchemy would look up every parameter by name, which takes longer than writing the row.
            if self._prepared is None:
                self._prepared = _Prepared(self._row_by_row, connection.dialect)
            values_of_rows = self._prepared.values_of(rows, shared)
            return connection.exec_driver_sql(self._prepared.sql, values_of_rows, execution_options=NO_RESULT).rowcount
        columns = {name: [row[name] for row in rows] for name in self._types}
        for name in self._ids:
            columns[name] = list(map(int, columns[name]))
        lists = {PREFIX + name: _joined(values) for name, values in columns.items()}
        if self._all_are_known and None not in lists.values():
            connection.execute(self._for_all_rows, lists | shared, execution_options=NO_RESULT)
        else:
            parameters = [{PREFIX + name: row[name] for name in self._types} | shared for row in rows]
            connection.execute(self._row_by_row, parameters, execution_options=NO_RESULT)
        return None

    @cached_property
    def _row_by_row(self) -> UpdateBase:
        return self._make({name: bindparam(PREFIX + name, type_=kind) for name, kind in self._types.items()})

    @cached_property
    def _for_all_rows(self) -> UpdateBase:
        arrays = [
            cast(func.string_to_array(bindparam(PREFIX + name, type_=Text()), SEPARATOR, NULL), ARRAY(kind))
            for name, kind in self._types.items()
        ]
        columns = [column(name, kind) for name, kind in self._types.items()]
        rows = func.unnest(*arrays).table_valued(*columns, name="given").render_derived()
        return self._make(dict(rows.c.items()))


def _joined(values: Sequence[object]) -> str | None:
    """Join a list into one string. Return None if the server would not read the same values from the string."""
    joined = SEPARATOR.join([NULL if value is None else str(value) for value in values])
    is_plain = joined.count(SEPARATOR) == len(values) - 1 and joined.count(NULL) == values.count(None)
    return joined if joined and is_plain else None  # the server reads an empty string as an empty list


class _Prepared:
    """A compiled statement, for a driver that accepts positional parameters."""

    def __init__(self, statement: UpdateBase, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)  # noqa: S101  for the type checker
        self.sql = str(compiled)
        self._names = tuple(compiled.positiontup or ())
        # Not `params`, whose names are escaped: a column's name may have spaces or brackets.
        self._constants = {name: compiled.binds[name].effective_value for name in self._names}
        self._write = {
            name: compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect) for name in self._names
        }

    def values_of(self, rows: Sequence[Mapping[str, Any]], shared: Mapping[str, object]) -> list[tuple[object, ...]]:
        columns: list[Iterable[object]] = []
        for name in self._names:
            write = self._write[name]
            if name.startswith(PREFIX):
                key = name.removeprefix(PREFIX)
                convert = int if key in IDS else write
                columns.append([row[key] if convert is None else convert(row[key]) for row in rows])
            else:
                value = shared[name] if name in shared else self._constants[name]
                columns.append(repeat(value if write is None else write(value), len(rows)))
        return list(zip(*columns, strict=True))


class id_in(FunctionElement[bool]):  # noqa: N801  SQLAlchemy names its functions in lower case
    """The condition that a column's value is in the parameter ``ids``. SQLite gets one parameter for each id, which is
    fastest there. A server gets one array: otherwise each number of ids would need a statement of its own.
    """

    inherit_cache = True
    name = "among_ids"  # no Boolean `type`: SQLAlchemy would add `= 1`, and SQLite would then use no index


@compiles(id_in)
def _one_by_one(element: id_in, compiler: SQLCompiler, **how: Any) -> str:  # noqa: ANN401  SQLAlchemy's options
    [its_column] = element.clauses
    return compiler.process(its_column.in_(bindparam("ids", expanding=True)), **how)


@compiles(id_in, "postgresql")
def _as_an_array(element: id_in, compiler: SQLCompiler, **how: Any) -> str:  # noqa: ANN401
    [its_column] = element.clauses
    kind = its_column.type
    # Other ids are sent as integers: the type of an application's column is unknown, or is used only for reading.
    array = bindparam("ids", type_=ARRAY(kind) if isinstance(kind, String) else _Numbers())
    return compiler.process(its_column == any_(array), **how)


class _Numbers(TypeDecorator[Iterable[int]]):
    """An array of integers that is sent as one string. The driver would format the array number by number in Python,
    which is slow.
    """

    impl = ARRAY(BigInteger())
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], str]:
        return lambda numbers: f"{{{','.join(map(int.__repr__, numbers))}}}"
