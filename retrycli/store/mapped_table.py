"""Read and write an application's table whose columns or status values differ from retrycli's own."""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    String,
    TableClause,
    Text,
    case,
    cast,
    column,
    func,
    literal,
    literal_column,
    null,
    select,
)
from sqlalchemy import table as table_clause
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.types import TypeEngine

from retrycli.domain.errors import SchemaMismatch
from retrycli.domain.message import ADDRESS_SEPARATOR, REQUIRED_COLUMNS, MessageStatus
from retrycli.domain.table_mapping import (
    ROLES,
    Column,
    Constant,
    Expression,
    Literal,
    Own,
    Source,
    Split,
    TableMapping,
    Translated,
)
from retrycli.store.messages import CONDITION
from retrycli.store.reflection import MessageTable, check_types, read_type
from retrycli.store.schema import own_values


def mapped_table(
    mapping: TableMapping,
    columns: Mapping[str, ReflectedColumn],
    name: str,
    schema: str | None,
    place: str,
    *,
    is_sqlite: bool,
) -> MessageTable:
    """Build the application's table, whose messages a sub-select reads.

    Args:
        mapping: how the table holds messages.
        columns: the table's columns, by name.
        name: the name of the table.
        schema: the table's schema, if it is configured.
        place: the table and the database, for errors.
        is_sqlite: the table is in a SQLite file.

    Raises:
        SchemaMismatch: a column is missing or has an unsuitable type.
    """
    _require_columns(mapping, columns, place)
    names = {role: found for role in ROLES if (found := mapping.column(role)) is not None and found in columns}
    check_types({role: columns[found] for role, found in names.items()}, place, is_sqlite=is_sqlite)
    roles = {found: role for role, found in reversed(names.items())}
    types = tuple(
        (each, read_type(roles.get(each, each), found["type"], is_sqlite=is_sqlite)) for each, found in columns.items()
    )
    return _same_table(mapping, name, schema, tuple(names.items()), types)


def _require_columns(mapping: TableMapping, columns: Mapping[str, ReflectedColumn], place: str) -> None:
    for role, source in mapping.columns:
        named = source.name if isinstance(source, Column | Translated | Split) else None
        if named is not None and named not in columns:
            raise SchemaMismatch(
                f"{place} has no column {named}, which database.columns.{role} names; its columns are "
                f"{', '.join(columns)}"
            )
    missing = [role for role in REQUIRED_COLUMNS if mapping.column(role) not in {None, *columns}]
    if missing:
        raise SchemaMismatch(
            f"{place} has no column {' or '.join(missing)}; write database.columns.{missing[0]}. "
            "`retrycli table discover` proposes settings"
        )


@lru_cache(maxsize=8)
def _same_table(
    mapping: TableMapping,
    name: str,
    schema: str | None,
    names: tuple[tuple[str, str], ...],
    types: tuple[tuple[str, TypeEngine[Any] | None], ...],
) -> MessageTable:
    """Return one object for equal tables: see `reflection`."""
    table = table_clause(name, *(column(*each) for each in types), schema=schema)
    literals = {status: _literal(value) for status, value in mapping.status}
    own = frozenset(role for role, source in mapping.columns if isinstance(source, Own))
    columns: Iterable[Any] = _selected(table, mapping, dict(names), literals)
    rows = select(*columns).select_from(table)
    if mapping.where:
        rows = rows.where(literal_column(_in_parentheses(mapping.where)))
    return MessageTable(rows.subquery("retrycli_messages"), table, dict(names), literals, own)


def _selected(
    table: TableClause, mapping: TableMapping, names: Mapping[str, str], literals: Mapping[str, str]
) -> Iterator[ColumnElement[Any]]:
    status = table.c[names["status"]]
    for role in ROLES:
        source = mapping.source(role)
        if role == "status":
            yield _status_in_words(status, literals).label(role)
        elif not isinstance(source, Column):
            yield _value(table, source, role, names["id"]).label(role)
        elif role in names:
            yield table.c[names[role]].label(role)
    for wanted in (MessageStatus.FAILED, MessageStatus.REJECTED, MessageStatus.QUEUED):
        condition = status == literal_column(literals[wanted]) if wanted in literals else literal_column("(1 = 0)")
        yield condition.label(CONDITION + wanted)
    if isinstance(split := mapping.source("recipient_email"), Split):
        yield literal(split.separator, Text(), literal_execute=True).label(ADDRESS_SEPARATOR)
    # The table's other columns, for the templates of presets.
    yield from (each for each in table.c if each.name not in {*names.values(), *ROLES})


def _status_in_words(status: ColumnElement[Any], literals: Mapping[str, str]) -> ColumnElement[Any]:
    words = [(status == literal_column(value), _text(f"'{word}'")) for word, value in literals.items()]
    return case(*words, else_=cast(status, Text))


def _value(table: TableClause, source: Source, role: str, its_id: str) -> ColumnElement[Any]:
    match source:
        case Constant(value):
            return literal_column(_literal(value), String() if isinstance(value, str) else None)
        case Expression(sql):
            return literal_column(_in_parentheses(sql))
        case Translated(name, words):
            text = cast(table.c[name], Text)
            known = [(text == _text(_literal(value)), _text(_literal(word))) for value, word in words]
            return case(*known, else_=text)
        case Split(name):
            return table.c[name]
        case Own():
            of_row = own_values.c.message_id == table.c[its_id]
            kept = select(own_values.c[role]).where(of_row).correlate(table).scalar_subquery()
            return func.coalesce(kept, 0, type_=Integer()) if role == "retry_count" else kept
        case Column():
            return null()


def _literal(value: Literal) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def _text(sql: str) -> ColumnElement[str]:
    return literal_column(sql, Text())


def _in_parentheses(sql: str) -> str:
    return f"({sql}\n)"  # the line break ends a comment
