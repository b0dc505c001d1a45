"""The application's table as the database describes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import CHAR, VARCHAR, Float, Integer, Numeric, String, TypeDecorator, Uuid, column
from sqlalchemy import table as table_clause
from sqlalchemy.types import NullType

from retrycli.domain.errors import SchemaMismatch
from retrycli.domain.message import REQUIRED_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from decimal import Decimal

    from sqlalchemy import Dialect, TableClause
    from sqlalchemy.engine.interfaces import ReflectedColumn
    from sqlalchemy.types import TypeEngine

UNFIT: Mapping[str, tuple[tuple[type[TypeEngine[Any]], ...], str]] = {
    "id": ((String, Uuid), "holds no whole numbers; retrycli knows messages by these"),
    "sent_at": ((Integer, Numeric, Float), "holds numbers; make it one of times"),
}
"""Types that a server's columns can't be of. What a file's columns are declared as says little, but for texts: numbers
become such there, so that its ids are none."""
BEYOND = 2**63
"""The first number that is too large for a whole one of a database's."""
WHOLE_NUMBERS = ("id", "ticket_id", "retry_count")


class IntegralNumeric(TypeDecorator[Any]):
    """A number that may have a fraction, and is whole where it has none."""

    impl = Numeric
    cache_ok = True

    def process_result_value(self, value: Decimal | None, dialect: Dialect) -> Decimal | int | None:
        """Give back a whole number where it is one."""
        if value is None or not value.is_finite() or abs(value) >= BEYOND or value != value.to_integral_value():
            return value
        return int(value)


class _Unpadded(TypeDecorator[str]):
    """A text of ``CHAR(n)``, without the blanks that a server fills it up with, and takes for nothing itself."""

    impl = NullType
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """Give back what was written."""
        return None if value is None else value.rstrip(" ")


def by_name(columns: Iterable[ReflectedColumn], *, is_sqlite: bool) -> dict[str, ReflectedColumn]:
    """Return columns by name; a server's domains are replaced by the types beneath them."""
    for reflected in columns if not is_sqlite else ():
        reflected["type"] = _beneath_domains(reflected["type"])
    return {reflected["name"]: reflected for reflected in columns}


def table_of(
    columns: Mapping[str, ReflectedColumn], name: str, schema: str | None, place: str, *, is_sqlite: bool
) -> TableClause:
    """Build the application's table, with all its columns, untyped but for what is to be read as another type.

    Args:
        columns: its columns by name.
        name: its name.
        schema: its schema, if one is named.
        place: the table and the database, for errors.
        is_sqlite: whether it is in a SQLite file.

    Raises:
        SchemaMismatch: a column that retrycli needs is missing, or a column can't hold what it is to hold.
    """
    missing = [required for required in REQUIRED_COLUMNS if required not in columns]
    if missing:
        raise SchemaMismatch(
            f"{place} has no column {', '.join(missing)}; retrycli needs {', '.join(REQUIRED_COLUMNS)}"
        )
    for column_name, (kinds, why) in UNFIT.items():
        matters = column_name == "id" or not is_sqlite
        if matters and column_name in columns and isinstance(columns[column_name]["type"], kinds):
            raise SchemaMismatch(f"{place} has a column {column_name} that {why}")
    kinds_read = {
        column_name: _read_as(column_name, found["type"], is_sqlite=is_sqlite) for column_name, found in columns.items()
    }
    return table_clause(name, *(column(column_name, kind) for column_name, kind in kinds_read.items()), schema=schema)


def _read_as(name: str, kind: TypeEngine[Any], *, is_sqlite: bool) -> TypeEngine[Any] | None:
    """Return the type to read a column as; None if it is read as the driver has it."""
    if not is_sqlite and isinstance(kind, CHAR):
        return _Unpadded()
    if not is_sqlite and isinstance(kind, VARCHAR):
        return String()  # the server's catalogue has no operator for it: see `catalogue`
    if is_sqlite or name not in WHOLE_NUMBERS:
        return None
    if isinstance(kind, Uuid):
        return Uuid(as_uuid=False)
    return IntegralNumeric() if isinstance(kind, Numeric) and not isinstance(kind, Float) else None


def _beneath_domains(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """What a server's type is in the end: a domain is another type with conditions."""
    from sqlalchemy.dialects.postgresql import DOMAIN

    while isinstance(kind, DOMAIN):
        kind = kind.data_type
    return kind
