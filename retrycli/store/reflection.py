"""Describe the application's table as the database reports it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ARRAY,
    CHAR,
    JSON,
    VARCHAR,
    ColumnClause,
    ColumnElement,
    Dialect,
    Float,
    FromClause,
    Integer,
    LargeBinary,
    Numeric,
    Select,
    String,
    TableClause,
    Text,
    TypeDecorator,
    Uuid,
    and_,
    cast,
    column,
    literal_column,
    select,
)
from sqlalchemy import table as table_clause
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.types import NullType, TypeEngine

from retrycli.domain.errors import SchemaMismatch
from retrycli.domain.message import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, MessageStatus
from retrycli.store.bulk import id_in
from retrycli.store.schema import keys

if TYPE_CHECKING:
    from retrycli.store.database import Database

# Unsuitable column types, with the reasons.
UNFIT: Mapping[str, tuple[tuple[type[TypeEngine[Any]], ...], str]] = {
    "id": ((LargeBinary,), "holds bytes; retrycli identifies messages by integers, text or UUIDs"),
    **dict.fromkeys(
        ("subject", "body"),
        (
            (LargeBinary, ARRAY),
            "holds bytes or an array; name a column of a text type, or an SQL expression, in [database.columns]",
        ),
    ),
    "sent_at": (
        (Integer, Numeric, Float),
        "is of a numeric type; change it to a timestamp, or write sent_at = { none = true } in [database.columns]",
    ),
    "retry_count": (
        (String,),
        "is of a text type; change it to an integer, or write retry_count = { own = true } in [database.columns]",
    ),
    "last_error": (
        (JSON,),
        "is of a JSON type; change it to text, or write last_error = { own = true } in [database.columns]",
    ),
}
# A SQLite column also accepts values of other types. So in a file these alone are unsuitable: the application could not
# read a text that retrycli wrote among its numbers.
UNFIT_IN_SQLITE: Mapping[str, tuple[type[TypeEngine[Any]], ...]] = {"id": (LargeBinary,), "sent_at": (Integer, Float)}
CONDITION = "retrycli_is_"  # prefix of the columns of `MessageTable.rows` that are conditions, not values
WHOLE_NUMBERS = ("id", "ticket_id", "retry_count")


@dataclass(frozen=True, slots=True, eq=False)
class MessageTable:
    """The application's table: how its messages are read, and how they are written."""

    rows: FromClause  # selects the messages, with one column for each role, and the table's other columns
    all_rows: FromClause  # also selects the rows that `condition` leaves out now
    written: TableClause  # the table itself, whose columns have their own names
    names: Mapping[str, str]  # the columns that retrycli may write, by role
    # Returns the column that has a role, for a change to the table. Neither this function nor `literal` is a method,
    # because a pass calls them very often.
    column: Callable[[str], ColumnClause[Any]]
    literals: Mapping[str, str]  # the SQL literals of the values of the status column, by status
    # Returns the value of the status column for a status, as an untyped SQL literal. The column may be an enumeration.
    # PostgreSQL compares an enumeration with an untyped literal that is one of its labels, but not with a string. The
    # value is not a parameter, because planners use a partial index only if the condition contains a literal.
    literal: Callable[[str], ColumnElement[Any]]
    own: frozenset[str] = frozenset()  # the roles whose values retrycli keeps itself
    condition: tuple[ColumnElement[bool], ...] = ()  # of rows that are messages
    key: TypeEngine[Any] | None = None  # if it is not an integer; retrycli then gives numbers to the messages
    # Selects the messages without what retrycli stores about them, also those that have no number. None if it is the
    # same as `rows`.
    unnumbered: Select[Any] | None = None

    def has_status(self, status: MessageStatus) -> ColumnElement[bool]:
        """Return the condition that a row has a status, for a change to the table."""
        return self.column("status") == self.literal(status)

    def has_id(self, message_id: ColumnElement[int] | int) -> ColumnElement[bool]:
        """Return the condition that a row has an id, for a change to the table. It may join the numbers of messages."""
        if self.key is None:
            return self.column("id") == message_id
        return and_(keys.c.number == message_id, self.column("id") == cast(keys.c.key, self.key))

    def has_id_in(self) -> ColumnElement[bool]:
        """Return the condition that a row has one of the ids in the parameter ``ids``, for a change to the table."""
        if self.key is None:
            return id_in(self.column("id"))
        return self.column("id").in_(select(cast(keys.c.key, self.key)).where(id_in(keys.c.number)))

    @property
    def newest_by(self) -> ColumnClause[Any]:
        """Return the column whose highest values the newest rows have."""
        return self.column("created_at" if self.key is not None and "created_at" in self.names else "id")

    @property
    def key_text(self) -> ColumnElement[str]:
        """Return the key of a row as text, if it is not an integer."""
        key: ColumnElement[Any] = self.column("id")
        return key if isinstance(key.type, String) else cast(key, Text)


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


def table_of(database: Database) -> MessageTable:
    """Build the application's table with all its columns. A column has a type only if its values must be converted, or
    if SQL must treat them as strings.

    Raises:
        SchemaMismatch: a required column is missing, or a column has an unsuitable type.
    """
    columns, is_sqlite = database.columns, database.is_sqlite
    missing = [required for required in REQUIRED_COLUMNS if required not in columns]
    if missing:
        raise SchemaMismatch(
            f"{database.named_place} has no column {' or '.join(missing)}; retrycli needs "
            f"{', '.join(REQUIRED_COLUMNS)}. If the table's columns have other names, run `retrycli table describe`"
        )
    check_types(database, columns)
    read_as = ((each, read_type(each, found["type"], is_sqlite=is_sqlite)) for each, found in columns.items())
    return _cached_table(database.table_name, database.schema_name, *read_as)


def key_type(kind: TypeEngine[Any]) -> TypeEngine[Any] | None:
    """Return the type of keys that are not integers; None if a column of this type holds integers."""
    if isinstance(kind, Uuid):
        return UUID_TEXT
    return Text() if isinstance(kind, String) else None


def check_types(database: Database, columns: Mapping[str, ReflectedColumn]) -> None:
    """Check the types of the columns that have a role.

    Raises:
        SchemaMismatch: a column has an unsuitable type.
    """
    for role, (kinds, why) in UNFIT.items():
        unfit = UNFIT_IN_SQLITE.get(role, ()) if database.is_sqlite else kinds
        if role in columns and isinstance(columns[role]["type"], unfit):
            raise SchemaMismatch(f"{database.named_place} has a column {columns[role]['name']} that {why}")


def literals_of(literals: Mapping[str, str]) -> Callable[[str], ColumnElement[Any]]:
    """Return a function that returns the value of a status."""
    values: dict[str, ColumnElement[Any]] = {status: literal_column(text) for status, text in literals.items()}
    return values.__getitem__


OWN_WORDS = {str(status): f"'{status}'" for status in MessageStatus}
OWN_WORD = literals_of(OWN_WORDS)


@lru_cache(maxsize=8)
def _cached_table(name: str, schema: str | None, *read_as: tuple[str, TypeEngine[Any] | None]) -> MessageTable:
    """Return one object for equal tables. A process opens its database again and again, and statements that the store
    keeps for a table would not be found for another object.
    """
    table = table_clause(name, *(column(*each) for each in read_as), schema=schema)
    roles = list(filter(table.c.__contains__, (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)))
    names = dict(zip(roles, roles, strict=True))
    return MessageTable(table, table, table, names, table.c.__getitem__, OWN_WORDS, OWN_WORD)


UNPADDED, STRING, UUID_TEXT, INTEGRAL = _Unpadded(), String(), Uuid(as_uuid=False), _IntegralNumeric()


def read_type(name: str, kind: TypeEngine[Any], *, is_sqlite: bool) -> TypeEngine[Any] | None:
    """Return the type with which the column of a role, or else a name, is read; None if its values are read as the
    driver returns them.
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
