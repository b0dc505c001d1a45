"""Describe the application's table as the database reports it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    CHAR,
    VARCHAR,
    ColumnClause,
    ColumnElement,
    Dialect,
    Float,
    FromClause,
    Integer,
    Numeric,
    String,
    TableClause,
    TypeDecorator,
    Uuid,
    column,
    literal_column,
)
from sqlalchemy import table as table_clause
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.types import NullType, TypeEngine

from retrycli.domain.errors import SchemaMismatch
from retrycli.domain.message import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, STATUSES, MessageStatus

# Unsuitable column types, with the reasons. A SQLite column also accepts values of other types, so only the type of the
# id is checked in a file: a text column would convert ids to strings.
UNFIT: Mapping[str, tuple[tuple[type[TypeEngine[Any]], ...], str]] = {
    "id": ((String, Uuid), "is not of an integer type; retrycli identifies messages by integer ids"),
    "sent_at": ((Integer, Numeric, Float), "is of a numeric type; change its type to a timestamp"),
}
WHOLE_NUMBERS = ("id", "ticket_id", "retry_count")


@dataclass(frozen=True, slots=True, eq=False)
class MessageTable:
    """The application's table: how its messages are read, and how they are written.

    Attributes:
        rows: selects the messages. It has one column for each role, and the table's other columns.
        written: the table itself, whose columns have their own names.
        names: the columns that retrycli may write, by role.
        literals: the SQL literals of the values of the status column, by status.
        own: the roles whose values retrycli keeps itself.
    """

    rows: FromClause
    written: TableClause
    names: Mapping[str, str]
    literals: Mapping[str, str]
    own: frozenset[str] = frozenset()

    def column(self, role: str) -> ColumnClause[Any]:
        """Return the column that has a role, for a change to the table."""
        return self.written.c[self.names[role]]

    def literal(self, status: MessageStatus) -> ColumnElement[Any]:
        """Return the value of the status column for a status, as an untyped SQL literal.

        The column may be an enumeration. PostgreSQL compares an enumeration with an untyped literal that is one of its
        labels, but not with a string. The value is not a parameter, because planners use a partial index only if the
        condition contains a literal.
        """
        return literal_column(self.literals[status])

    def has_status(self, status: MessageStatus) -> ColumnElement[bool]:
        """Return the condition that a row has a status, for a change to the table."""
        return self.column("status") == self.literal(status)

    def has_id(self, message_id: ColumnElement[int] | int) -> ColumnElement[bool]:
        """Return the condition that a row has an id, for a change to the table."""
        return self.column("id") == message_id


class _IntegralNumeric(TypeDecorator[Any]):
    """A numeric column whose integral values are read as ``int`` if they fit into 64 bits."""

    impl = Numeric
    cache_ok = True

    def process_result_value(self, value: Decimal | None, dialect: Dialect) -> Decimal | int | None:
        if value is None or not value.is_finite() or abs(value) >= 2**63 or value != value.to_integral_value():
            return value
        return int(value)


class _Unpadded(TypeDecorator[str]):
    """A ``CHAR(n)`` column that is read without its padding, which the server ignores in comparisons."""

    impl = NullType
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else value.rstrip(" ")


def by_name(columns: Iterable[ReflectedColumn], *, is_sqlite: bool) -> dict[str, ReflectedColumn]:
    """Return columns by name, with PostgreSQL domains replaced by their base types."""
    if not is_sqlite:
        from sqlalchemy.dialects.postgresql import DOMAIN

        for reflected in columns:
            while isinstance(reflected["type"], DOMAIN):
                reflected["type"] = reflected["type"].data_type
    return {reflected["name"]: reflected for reflected in columns}


def table_of(
    columns: Mapping[str, ReflectedColumn], name: str, schema: str | None, place: str, *, is_sqlite: bool
) -> MessageTable:
    """Build the application's table with all its columns. A column has a type only if its values must be converted, or
    if SQL must treat them as strings.

    Args:
        columns: the table's columns, by name.
        name: the name of the table.
        schema: the table's schema, if it is configured.
        place: the table and the database, for errors.
        is_sqlite: the table is in a SQLite file.

    Raises:
        SchemaMismatch: a required column is missing, or a column has an unsuitable type.
    """
    missing = [required for required in REQUIRED_COLUMNS if required not in columns]
    if missing:
        raise SchemaMismatch(
            f"{place} has no column {' or '.join(missing)}; retrycli needs {', '.join(REQUIRED_COLUMNS)}. If the "
            "table's columns have other names, run `retrycli table discover`"
        )
    check_types(columns, place, is_sqlite=is_sqlite)
    read_as = ((each, read_type(each, found["type"], is_sqlite=is_sqlite)) for each, found in columns.items())
    return _same_table(name, schema, *read_as)


def check_types(columns: Mapping[str, ReflectedColumn], place: str, *, is_sqlite: bool) -> None:
    """Check the types of the columns that have a role.

    Args:
        columns: the columns, by role.
        place: the table and the database, for errors.
        is_sqlite: the table is in a SQLite file.

    Raises:
        SchemaMismatch: a column has an unsuitable type.
    """
    for role, (kinds, why) in UNFIT.items():
        matters = role == "id" or not is_sqlite
        if matters and role in columns and isinstance(columns[role]["type"], kinds):
            raise SchemaMismatch(f"{place} has a column {columns[role]['name']} that {why}")


@lru_cache(maxsize=8)
def _same_table(name: str, schema: str | None, *read_as: tuple[str, TypeEngine[Any] | None]) -> MessageTable:
    """Return one object for equal tables. A process opens its database again and again, and statements that the store
    keeps for a table would not be found for another object.
    """
    table = table_clause(name, *(column(*each) for each in read_as), schema=schema)
    names = {role: role for role in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS) if role in table.c}
    return MessageTable(table, table, names, {status: f"'{status}'" for status in STATUSES})


UNPADDED, STRING, UUID_TEXT, INTEGRAL = _Unpadded(), String(), Uuid(as_uuid=False), _IntegralNumeric()


def read_type(name: str, kind: TypeEngine[Any], *, is_sqlite: bool) -> TypeEngine[Any] | None:
    """Return the type with which a column is read; None if its values are read as the driver returns them.

    Args:
        name: the column's role, or its own name if it has no role.
        kind: the column's type in the database.
        is_sqlite: the table is in a SQLite file.
    """
    if not is_sqlite and isinstance(kind, CHAR):
        return UNPADDED
    if not is_sqlite and isinstance(kind, VARCHAR):
        return STRING  # the server's catalogue has no operator for VARCHAR: see `postgresql`
    if is_sqlite or name not in WHOLE_NUMBERS:
        return None
    if isinstance(kind, Uuid):
        return UUID_TEXT
    return INTEGRAL if isinstance(kind, Numeric) and not isinstance(kind, Float) else None
