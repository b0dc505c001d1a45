"""Generate safe SQL for PostgreSQL servers, and convert values that the driver would reject.

A server looks up functions and operators in each schema of the search path. An exact match of parameter types takes
precedence over the catalogue (PostgreSQL, "Function Type Resolution"). So any role with CREATE in such a schema could
plant ``replace(text, varchar, varchar)`` or ``varchar = varchar``, because the catalogue has both only for ``text``.
retrycli would run the planted code with its own privileges. Therefore the generated SQL uses only the functions and
operators of the server's own catalogue. The search path must not be changed, because triggers of the application's
table find their tables through it.

A value that Python can't represent is read as a string, so that errors can name its row. A character that the
database's encoding can't represent is escaped, so that a response with such a character can be recorded.
"""

from functools import lru_cache
from typing import Any

from psycopg import Connection, DataError
from psycopg.abc import AdaptContext, Buffer, Loader
from psycopg.pq import Format
from psycopg.types.string import StrDumperUnknown
from sqlalchemy import (
    BinaryExpression,
    BindParameter,
    Cast,
    CollectionAggregate,
    ColumnClause,
    ColumnElement,
    Function,
    Grouping,
    Null,
    ScalarSelect,
    Select,
    SelectBase,
    Text,
    UnaryExpression,
    and_,
    any_,
    cast,
    func,
    not_,
    select,
    types,
)
from sqlalchemy.dialects.postgresql import ARRAY, OID, REGCLASS
from sqlalchemy.dialects.postgresql.psycopg import PGCompiler_psycopg, PGDialect_psycopg
from sqlalchemy.engine import Connection as SqlConnection
from sqlalchemy.sql import operators

from retrycli.domain.errors import ConfigurationError
from retrycli.store.dialects import SharesStatements

# Syntax that looks like a function but can't be schema-qualified. `unnest` with several arrays is also such syntax.
#
# `nullif` is missing on purpose, so that its use fails. A server would look up the `=` of `nullif` in the search path.
SYNTAX = frozenset({"coalesce", "greatest", "least"})

DISTINCT = frozenset({operators.is_distinct_from, operators.is_not_distinct_from})
LISTS = frozenset({operators.in_op, operators.not_in_op})
BETWEEN = frozenset({operators.between_op, operators.not_between_op})
ARITHMETIC = frozenset({operators.add, operators.sub, operators.mul, operators.truediv, operators.mod})

# Operators to schema-qualify, as in OPERATOR(pg_catalog.=).
SYMBOLS = {
    operators.eq: "=",
    operators.ne: "<>",
    operators.lt: "<",
    operators.le: "<=",
    operators.gt: ">",
    operators.ge: ">=",
    operators.add: "+",
    operators.sub: "-",
    operators.mul: "*",
}


class _Number(types.Numeric[Any]):
    """A numeric type whose bind parameters get an explicit cast. The driver would send small numbers as ``smallint``,
    and the catalogue has no operator for ``numeric`` and ``smallint``.
    """

    render_bind_cast = True


class _Oid(OID):
    """An object identifier whose bind parameters get an explicit cast. SQLAlchemy's inspector has such parameters."""

    render_bind_cast = True


class _Compiler(PGCompiler_psycopg):
    """A compiler whose SQL uses only functions and operators of the server's catalogue.

    It schema-qualifies functions, and operators with an operand of unknown type. If the catalogue has an operator only
    for other types, it casts the operands to these types.
    """

    def visit_function(self, func: Function[Any], add_to_result_map: Any = None, **how: Any) -> str:  # noqa: ANN401
        text: str = super().visit_function(func, add_to_result_map=add_to_result_map, **how)
        name = func.name.lower()
        is_syntax = name in SYNTAX or (name == "unnest" and len(func.clauses) > 1)
        return text if is_syntax or func.packagenames else f"pg_catalog.{text}"

    def visit_binary(self, binary: BinaryExpression[Any], *given: Any, **how: Any) -> str:  # noqa: ANN401
        if binary.operator in BETWEEN:
            return str(self.process(_as_comparisons(binary), **how))
        if binary.operator in DISTINCT and _is_untyped(binary.left, binary.right):
            return f"({self.process(_as_coalesced(binary), **how)})"
        sides = _matched(binary)
        if binary.operator in SYMBOLS and _is_untyped(*sides):
            qualified = binary._clone()  # noqa: SLF001  as SQLAlchemy's own transformations do
            qualified.left, qualified.right = map(_bracketed, sides)
            name = f"OPERATOR(pg_catalog.{SYMBOLS[binary.operator]})"
            qualified.operator = operators.custom_op(name, is_comparison=operators.is_comparison(binary.operator))
            return f"({super().visit_binary(qualified, *given, **how)})"  # type: ignore[no-untyped-call]
        if sides != (binary.left, binary.right):
            binary = binary._clone()  # noqa: SLF001  as SQLAlchemy's own transformations do
            binary.left, binary.right = sides
        return str(super().visit_binary(binary, *given, **how))  # type: ignore[no-untyped-call]

    def render_bind_cast(self, type_: Any, dbapi_type: Any, sqltext: str) -> str:  # noqa: ANN401
        if _is_of_texts(dbapi_type):
            dbapi_type = Text()
        elif isinstance(dbapi_type, types.ARRAY) and _is_of_texts(dbapi_type.item_type):
            dbapi_type = ARRAY(Text(), dimensions=dbapi_type.dimensions)
        return str(super().render_bind_cast(type_, dbapi_type, sqltext))  # type: ignore[no-untyped-call]


class PostgresqlDialect(SharesStatements, PGDialect_psycopg):
    """SQLAlchemy's psycopg dialect with the compiler and the types above."""

    supports_statement_cache = True
    statement_compiler = _Compiler
    colspecs = PGDialect_psycopg.colspecs | {types.Numeric: _Number, OID: _Oid}

    def __init__(self, **options: Any) -> None:  # noqa: ANN401  SQLAlchemy's own options
        # The look-up of hstore compares with an operator of the search path.
        super().__init__(use_native_hstore=False, **options)  # type: ignore[no-untyped-call]

    def _get_default_schema_name(self, connection: SqlConnection) -> str:
        (name,) = connection.exec_driver_sql("SELECT pg_catalog.current_schema()").one()
        return name  # type: ignore[no-any-return]


def _matched(binary: BinaryExpression[Any]) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    sides = (binary.left, binary.right)
    is_resolved = _is_resolved(binary.operator)
    if any(map(_is_numeric, sides)) and (is_resolved or binary.operator in ARITHMETIC):
        return _as_numeric(binary.left, binary.operator), _as_numeric(binary.right, binary.operator)
    if is_resolved:
        if any(_is_of_texts(getattr(side, "type", None)) for side in sides):
            return _as_text(binary.left, binary.operator), _as_text(binary.right, binary.operator)
        if any(isinstance(side.type, OID) for side in sides):  # only in SQLAlchemy's reflection queries
            return _as_oid(binary.left), _as_oid(binary.right)
    return sides


def _is_untyped(*sides: ColumnElement[Any]) -> bool:
    """Return whether an operand is a column of the application's table with an unknown type, such as an enumeration."""
    return any(isinstance(side.type, types.NullType) for side in sides)


def _bracketed(side: ColumnElement[Any]) -> ColumnElement[Any]:
    # A schema-qualified operator has a different precedence, so compound operands need parentheses.
    is_long = isinstance(side, BinaryExpression | UnaryExpression) and not isinstance(side, CollectionAggregate)
    return Grouping(side) if is_long else side


def _as_coalesced(binary: BinaryExpression[Any]) -> ColumnElement[Any]:
    """Rewrite IS [NOT] DISTINCT FROM with ``=``, which can be schema-qualified."""
    left, right = binary.left, binary.right
    same = func.coalesce(left == right, and_(left.is_(None), right.is_(None)), type_=types.Boolean)
    return not_(same) if binary.operator is operators.is_distinct_from else same


def _as_comparisons(binary: BinaryExpression[Any]) -> ColumnElement[Any]:
    low, high = binary.right.get_children()
    both = Grouping(and_(binary.left >= low, binary.left <= high))
    return not_(both) if binary.operator is operators.not_between_op else both


def _is_resolved(operator: Any) -> bool:  # noqa: ANN401  a SQLAlchemy operator
    is_syntax = operator in {operators.is_, operators.is_not}
    return operator is operators.concat_op or (operators.is_comparison(operator) and not is_syntax)


def _is_of_texts(kind: object) -> bool:
    return isinstance(kind, types.String) and not isinstance(kind, types.Enum)


def _as_text(side: ColumnElement[Any], operator: Any) -> ColumnElement[Any]:  # noqa: ANN401  a SQLAlchemy operator
    if isinstance(side, ScalarSelect) and operator in LISTS:
        return _selected_as(Text(), side.element)
    is_list = isinstance(side, CollectionAggregate) or (operator in LISTS and not isinstance(side, ColumnClause))
    is_text = isinstance(side, Cast) and isinstance(side.type, Text)
    if is_list or is_text or isinstance(side, BindParameter | Null):  # parameters are cast to text anyway
        return side
    return cast(side.element if isinstance(side, Grouping) else side, Text)


def _is_numeric(side: ColumnElement[Any]) -> bool:
    # Integers need no cast, because the catalogue has operators for every pair of integer types.
    kind = getattr(side, "type", None)
    kind = kind.impl_instance if isinstance(kind, types.TypeDecorator) else kind
    return isinstance(kind, types.Numeric) and not isinstance(kind, types.Float)


def _as_numeric(side: ColumnElement[Any], operator: Any) -> ColumnElement[Any]:  # noqa: ANN401  a SQLAlchemy operator
    if isinstance(side, CollectionAggregate):
        return any_(cast(side.element, ARRAY(types.Numeric)))
    if isinstance(side, ScalarSelect) and operator in LISTS:
        return _selected_as(types.Numeric(), side.element)
    is_list = operator in LISTS and isinstance(side, BindParameter)
    return side if is_list or _is_numeric(side) or isinstance(side, Null) else cast(side, types.Numeric)


def _selected_as(kind: types.TypeEngine[Any], rows: SelectBase) -> ColumnElement[Any]:
    if isinstance(rows, Select):
        [column] = rows.selected_columns
        return rows.with_only_columns(cast(column, kind), maintain_column_froms=True).scalar_subquery()
    [column] = rows.subquery().c
    return select(cast(column, kind)).scalar_subquery()


def _as_oid(side: ColumnElement[Any]) -> ColumnElement[Any]:
    return cast(side, OID) if isinstance(side.type, types.Integer | REGCLASS) else side


# Types with values that Python can't represent: `infinity`, the year 10000 or 44 BC, 24:00, deeply nested JSON.
BEYOND_PYTHON = ("date", "time", "timetz", "timestamp", "timestamptz", "interval", "json", "jsonb")

UTF_8 = "utf-8"


def prepare(connection: Connection, _record: object) -> None:
    """Set up a new connection so that it can read every value and write every character.

    Raises:
        ConfigurationError: the connection has no encoding.
    """
    if connection.info.parameter_status("client_encoding") == "SQL_ASCII":  # the driver would return bytes
        raise ConfigurationError(
            "the connection has no character encoding (client_encoding is SQL_ASCII); if the database's text is UTF-8, "
            "add client_encoding=utf8 to the query string of database.url"
        )
    adapters = connection.adapters
    for name in BEYOND_PYTHON:
        oid = adapters.types[name].oid
        usual = adapters.get_loader(oid, Format.TEXT)
        assert usual is not None  # noqa: S101  for the type checker
        adapters.register_loader(oid, _or_text(usual))
    if connection.info.encoding != UTF_8:
        adapters.register_dumper(str, _EscapingDumper)


class _EscapingDumper(StrDumperUnknown):
    r"""A dumper that escapes characters that the database's encoding can't represent, for example as ``\u2026``. The
    driver would raise an error, and a response that contains such a character could not be recorded.
    """

    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj.encode(self._encoding, "backslashreplace").decode(self._encoding))


@lru_cache
def _or_text(usual: type[Loader]) -> type[Loader]:
    """Return a loader that reads a value as a string if Python can't represent it. The driver would raise an error, and
    one row with such a value would make all other rows unreadable.
    """

    class OrText(Loader):
        format = Format.TEXT

        def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
            connection = context.connection if context else None
            self._usual = usual(oid, context)
            self._encoding = connection.info.encoding if connection else UTF_8

        def load(self, data: Buffer) -> Any:  # noqa: ANN401  as psycopg declares it
            try:
                return self._usual.load(data)
            except (DataError, ValueError, RecursionError):
                return bytes(data).decode(self._encoding, "surrogateescape")

    return OrText
