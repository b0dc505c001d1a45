"""Read and write an application's table whose columns or status values differ from retrycli's own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Float,
    Integer,
    Numeric,
    String,
    Text,
    and_,
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
from retrycli.domain.message import ADDRESS_SEPARATOR, KEY, REQUIRED_COLUMNS, MessageStatus
from retrycli.domain.table_mapping import (
    AS_IT_IS,
    ROLES,
    Column,
    Constant,
    Expression,
    Nothing,
    Own,
    Scalar,
    Source,
    Split,
    TableMapping,
    Translated,
    UnixTime,
    query_of,
)
from retrycli.store.reflection import CONDITION, MessageTable, check_types, key_type, literals_of, read_type
from retrycli.store.schema import keys, own_values

if TYPE_CHECKING:
    from retrycli.store.database import Database


def mapped_table(database: Database, mapping: TableMapping | None) -> MessageTable:
    """Build the application's table, whose messages a sub-select reads by a mapping.

    Raises:
        SchemaMismatch: a column is missing or has an unsuitable type.
    """
    mapping, columns, is_sqlite = mapping or AS_IT_IS, database.columns, database.is_sqlite
    _require_columns(mapping, columns, database.named_place)
    names = {role: found for role in ROLES if (found := mapping.column(role)) is not None and found in columns}
    check_types(database, {role: columns[found] for role, found in names.items()})
    roles = {found: role for role, found in reversed(names.items())}
    types = tuple(
        (each, read_type(roles.get(each, each), found["type"], is_sqlite=is_sqlite)) for each, found in columns.items()
    )
    key = key_type(columns[names["id"]]["type"])
    sources = ((role, _time(database, source, role)) for role, source in mapping.columns)
    if is_sqlite:
        sources = ((role, _of_one_row(source)) for role, source in sources)
    mapping = replace(mapping, columns=tuple(sources))
    return _cached_table(mapping, database.table_name, database.schema_name, tuple(names.items()), types, key)


def _of_one_row(source: Source) -> Source:
    """Make a query that returns several rows yield null. The message is then invalid. SQLite would use the first row,
    and retrycli would send to a ticket that SQLite chose; PostgreSQL reports an error.
    """
    query = query_of(source.sql) if isinstance(source, Expression) else None
    return source if query is None else Expression(ONE_ROW.format(query))


ONE_ROW = """
WITH retrycli_rows (value) AS (
{}
)
SELECT CASE WHEN count(*) < 2 THEN max(value) END FROM retrycli_rows"""


def _time(database: Database, source: Source, role: str) -> Source:
    """Turn a Unix time into an expression. SQLite's columns may hold any type, so other values stay as they are."""
    if not isinstance(source, UnixTime):
        return source
    kind = database.columns[source.name]["type"]
    if not (database.is_sqlite or isinstance(kind, Integer | Numeric | Float)):
        raise SchemaMismatch(
            f"{database.named_place}: the column {source.name}, which database.columns.{role} names, has the type "
            f"{kind}, and so holds no Unix times; write {role} = {json.dumps(source.name)}"
        )
    quoted = '"' + source.name.replace('"', '""') + '"'
    return Expression((UNIX_IN_SQLITE if database.is_sqlite else UNIX_IN_POSTGRESQL).format(quoted))


# From 10^11 on, a number is milliseconds: as seconds, it would be in the year 5138. From 10^14 on, it is microseconds,
# and from 10^17 on nanoseconds.
SECONDS = (
    "CASE WHEN abs({0}) >= 100000000000000000 THEN {0} / 1000000000.0 WHEN abs({0}) >= 100000000000000 "
    "THEN {0} / 1000000.0 WHEN abs({0}) >= 100000000000 THEN {0} / 1000.0 ELSE {0} END"
)
UNIX_IN_POSTGRESQL = f"pg_catalog.to_timestamp({SECONDS})"
UNIX_IN_SQLITE = (
    "CASE WHEN typeof({0}) IN ('integer', 'real') "
    f"THEN strftime('%Y-%m-%d %H:%M:%f', {SECONDS}, 'unixepoch') ELSE {{0}} END"
)


def _require_columns(mapping: TableMapping, columns: Mapping[str, ReflectedColumn], place: str) -> None:
    for role, source in mapping.columns:
        named = source.name if isinstance(source, Column | Translated | Split | UnixTime) else None
        if named is not None and named not in columns:
            raise SchemaMismatch(
                f"{place} has no column {named}, which database.columns.{role} names; its columns are "
                f"{', '.join(columns)}"
            )
    missing = [role for role in REQUIRED_COLUMNS if mapping.column(role) not in {None, *columns}]
    if missing:
        raise SchemaMismatch(
            f"{place} has no column {' or '.join(missing)}; write database.columns.{missing[0]}. "
            "`retrycli table describe` shows tables and their columns"
        )


@lru_cache(maxsize=8)
def _cached_table(
    mapping: TableMapping,
    name: str,
    schema: str | None,
    names: tuple[tuple[str, str], ...],
    types: tuple[tuple[str, TypeEngine[Any] | None], ...],
    key: TypeEngine[Any] | None,
) -> MessageTable:
    """Return one object for equal tables: see `reflection`."""
    table = table_clause(name, *(column(*each) for each in types), schema=schema)
    literals = {status: _literal(value) for status, value in mapping.status}
    own = frozenset(role for role, source in mapping.columns if isinstance(source, Own))
    condition: tuple[ColumnElement[bool], ...] = (expression(mapping.where),) if mapping.where else ()
    columns = {role: table.c[found] for role, found in names}.__getitem__
    made = MessageTable(table, table, table, dict(names), columns, literals, literals_of(literals), own, condition, key)
    number: ColumnElement[Any] = made.column("id") if key is None else NUMBERS.c.retrycli_number
    selected = [*_selected(made, mapping, number, NUMBERS.c[KEY])]
    source = table if key is None else table.join(NUMBERS, _same_key(made, NUMBERS.c.retrycli_key))
    all_rows = select(*selected).select_from(source)
    rows = all_rows.where(*condition)
    unnumbered = select(*_selected(made, mapping, None, made.key_text.label(KEY))).where(*condition)
    name = "retrycli_messages"
    return replace(made, rows=rows.subquery(name), unnumbered=unnumbered, all_rows=all_rows.subquery(name))


# The numbers of messages whose keys are not integers. The names differ from those of any column of the application.
NUMBERS = select(keys.c.number.label("retrycli_number"), keys.c.key.label(KEY)).subquery("retrycli_numbers")


def _same_key(table: MessageTable, key: ColumnElement[str]) -> ColumnElement[bool]:
    """Return the condition to join the table with the numbers. Either side can use its index."""
    its_key = table.column("id")
    if table.key is None or isinstance(table.key, Text):
        return its_key == key
    return and_(its_key == cast(key, table.key), table.key_text == key)


def _selected(
    table: MessageTable, mapping: TableMapping, number: ColumnElement[Any] | None, key: ColumnElement[Any]
) -> Iterator[ColumnElement[Any]]:
    yield (literal_column("0") if number is None else number).label("id")
    if table.key is not None:
        yield key
    for role in ROLES[1:]:
        source = mapping.source(role)
        if role == "status":
            yield _status_in_words(table).label(role)
        elif not isinstance(source, Column | Nothing):
            yield _value(table, source, role, number).label(role)
        elif role in table.names:
            yield table.column(role).label(role)
    for wanted in (MessageStatus.FAILED, MessageStatus.REJECTED):
        condition = table.has_status(wanted) if wanted in table.literals else literal_column("(1 = 0)")
        yield condition.label(CONDITION + wanted)
    source = mapping.source("recipient_email")
    if mapping != AS_IT_IS and not isinstance(source, Nothing):
        separator = source.separator if isinstance(source, Split) else ""
        yield literal(separator, Text(), literal_execute=True).label(ADDRESS_SEPARATOR)
    # The table's other columns, for the templates of presets.
    yield from (each for each in table.written.c if each.name not in {*table.names.values(), *ROLES})


def _status_in_words(table: MessageTable) -> ColumnElement[Any]:
    status = table.column("status")
    words = [(status == literal_column(value), _text(f"'{word}'")) for word, value in table.literals.items()]
    # A value that only looks like one of the words means something else to the application.
    raw, own = cast(status, Text), [_text(f"'{word}'") for word in MessageStatus]
    return case(*words, (raw.in_(own), _text("'other: '") + raw), else_=raw)


def _value(table: MessageTable, source: Source, role: str, number: ColumnElement[Any] | None) -> ColumnElement[Any]:
    match source:
        case Constant(value):
            return literal_column(_literal(value), String() if isinstance(value, str) else None)
        case Expression(sql):
            return expression(sql)
        case Translated(name, words):
            text = cast(table.written.c[name], Text)
            known = [(text == _text(_literal(value)), _text(_literal(word))) for value, word in words]
            return case(*known, else_=text)
        case Split(name):
            return table.written.c[name]
        case Own() if number is None:
            return literal_column("0") if role == "retry_count" else null()
        case Own():
            of_row = own_values.c.message_id == number
            kept = select(own_values.c[role]).where(of_row).correlate_except(own_values).scalar_subquery()
            return func.coalesce(kept, 0, type_=Integer()) if role == "retry_count" else kept
        case Column() | Nothing() | UnixTime():
            return null()


def _literal(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def _text(sql: str) -> ColumnElement[str]:
    return literal_column(sql, Text())


def expression(sql: str) -> ColumnElement[Any]:
    """Return an SQL expression of the settings, in parentheses."""
    return literal_column(f"({sql}\n)")  # the line break ends a comment
