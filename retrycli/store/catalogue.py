"""List the tables of a database, with their columns, keys, indexes and foreign keys, from its catalogue."""

import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import Connection, Dialect, Enum, exc, inspect
from sqlalchemy.engine.interfaces import ReflectedColumn, ReflectedForeignKeyConstraint, ReflectedIndex
from sqlalchemy.engine.reflection import ObjectKind
from sqlalchemy.types import NullType

from retrycli.domain.known_table import ForeignKey, KnownTable, TableColumn, ValueKind
from retrycli.domain.sanitize import encodable
from retrycli.store.application_table import NOT_TABLES
from retrycli.store.database import Database
from retrycli.store.reflection import by_name
from retrycli.store.table_sample import read_only

# The inspector can't tell partitions from other tables, nor which tables may be read and which their name alone finds.
# Objects with smaller oids belong to the server. A partition is left out, because its table is listed.
RELATIONS = """
SELECT c.relname AS name, c.relkind AS kind, n.nspname AS home,
  CASE WHEN NOT pg_catalog.pg_table_is_visible(c.oid) THEN n.nspname END AS schema,
  pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT') AS is_readable,
  CASE WHEN (c.relkind IN ('f', 'v') OR c.relrowsecurity) AND NOT (o.rolsuper OR o.rolname = CURRENT_USER)
    THEN o.rolname END AS runs_code_of
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
WHERE c.oid >= CAST(16384 AS oid) AND c.relkind IN ('r', 'p', 'f', 'v')
  AND c.relpersistence <> 't' AND NOT c.relispartition
"""
# Properties of an index that does not list all rows in the order of its columns.
RESTRICTED = {"sqlite_where", "postgresql_where", "postgresql_using", "postgresql_invalid"}

# SQLite accepts any text as a type, but the inspector turns most texts into NUMERIC. The order matters.
KINDS = (
    (r"INTERVAL|RANGE|\[", ValueKind.OTHER),
    ("JSON", ValueKind.JSON),
    ("BOOL", ValueKind.BOOLEAN),
    ("DATE|TIME", ValueKind.TIME),
    ("UUID|GUID", ValueKind.UUID),
    ("INT|NUMERIC", ValueKind.INTEGER),
    ("CHAR|CLOB|TEXT|STRING", ValueKind.TEXT),
    (".", ValueKind.OTHER),
    ("", ValueKind.ANY),
)
# A primary key may be null, unless it is an INTEGER. The inspector says that every one may be null.
COLUMNS_IN_SQLITE = """
SELECT name, type, pk, NOT ("notnull" OR (pk AND upper(type) = 'INTEGER' AND max(pk) OVER () = 1)) AS is_nullable
FROM pragma_table_xinfo(?) WHERE hidden <> 1 ORDER BY cid
"""
# A foreign key may spell names in another case, and may leave out the column if it is the primary key.
REFERENCES_IN_SQLITE = """
SELECT (SELECT name FROM pragma_table_info(?) WHERE name = f."from" COLLATE NOCASE),
  (SELECT name FROM sqlite_master WHERE type = 'table' AND name = f."table" COLLATE NOCASE),
  (SELECT name FROM pragma_table_info(f."table") WHERE coalesce(name = f."to" COLLATE NOCASE, pk = 1))
FROM pragma_foreign_key_list(?) f WHERE (SELECT count(*) FROM pragma_foreign_key_list(?) g WHERE g.id = f.id) = 1
"""
WITHOUT_ROWID = re.compile(r"\)[^)]*WITHOUT\s+ROWID[^)]*$", re.IGNORECASE)


def list_tables(database: Database, relation: str | None = None) -> list[KnownTable]:
    """Return a database's tables and views, or those with one name, sorted. The server's own are left out.

    Raises:
        DatabaseUnavailable: the database can't be read.
    """
    with read_only(database) as connection, warnings.catch_warnings():
        # SQLAlchemy warns about the types of extensions, and about expressions in indexes.
        warnings.simplefilter("ignore", exc.SAWarning)
        tables = list((_in_sqlite if database.is_sqlite else _in_postgresql)(connection, relation))
    return sorted((each for each in tables if each.columns and _can_be_named(each)), key=lambda each: each.name)


def _can_be_named(table: KnownTable) -> bool:
    # The settings can't name a table whose name contains a dot, or is not valid text.
    words = (table.schema or "", table.relation, *(column.name for column in table.columns))
    return all(map(encodable, words)) and table.name.count(".") == (table.schema is not None)


def _in_sqlite(connection: Connection, relation: str | None) -> Iterator[KnownTable]:
    inspector = inspect(connection)
    found = connection.exec_driver_sql(
        "SELECT name, type, sql FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' "
        "ESCAPE '\\' AND name = coalesce(?, name) COLLATE NOCASE",
        (relation,),
    )
    for name, kind, sql in found.all():
        try:
            columns = connection.exec_driver_sql(COLUMNS_IN_SQLITE, (name,)).all()
            indexes = inspector.get_indexes(name, include_auto_indexes=True)
            references = connection.exec_driver_sql(REFERENCES_IN_SQLITE, (name, name, name)).all()
        except exc.DBAPIError:  # a view of a table that is gone, or a virtual table whose module is not loaded
            continue
        yield KnownTable(
            name,
            None,
            kind,
            tuple(
                TableColumn(column, _kind_of(declared), (), declared[:40], bool(is_nullable))
                for column, declared, _, is_nullable in columns
            ),
            *_keys([each.name for each in sorted(columns, key=lambda each: each.pk) if each.pk], indexes),
            tuple(ForeignKey(*each) for each in references if None not in each),
            has_row_numbers=kind == "table" and not WITHOUT_ROWID.search(sql or ""),
        )


def _kind_of(declared: str) -> ValueKind:
    return next(kind for parts, kind in KINDS if re.search(parts, declared.upper()))


def _in_postgresql(connection: Connection, relation: str | None) -> Iterator[KnownTable]:
    inspector, relations = inspect(connection), defaultdict(list)
    for row in connection.exec_driver_sql(RELATIONS):
        if relation in {None, row.name}:
            relations[row.schema].append(row)
    for schema, rows in relations.items():
        wanted = schema, [row.name for row in rows], ObjectKind.ANY
        columns, indexes = inspector.get_multi_columns(*wanted), inspector.get_multi_indexes(*wanted)
        primary, references = inspector.get_multi_pk_constraint(*wanted), inspector.get_multi_foreign_keys(*wanted)
        for row in rows:
            key = schema, row.name
            if not all(key in each for each in (columns, indexes, primary, references)):  # dropped since
                continue
            yield KnownTable(
                row.name,
                schema,
                NOT_TABLES.get(row.kind, "table"),
                tuple(_column(each, connection.dialect) for each in columns[key]),
                *_keys(primary[key]["constrained_columns"], indexes[key]),
                tuple(_reference(each) for each in references[key] if len(each["constrained_columns"]) == 1),
                is_readable=row.is_readable,
                runs_code_of=row.runs_code_of,
                home=row.home,
            )


def _column(found: ReflectedColumn, dialect: Dialect) -> TableColumn:
    name = getattr(found["type"], "name", None)  # only domains and enumerations have names
    [base] = (each["type"] for each in by_name([found], is_sqlite=False).values())
    if isinstance(base, NullType):
        return TableColumn(found["name"], ValueKind.OTHER, (), name or "", found["nullable"])
    words = base.compile(dialect).lower()
    kind, labels = (ValueKind.ENUM, tuple(base.enums)) if isinstance(base, Enum) else (_kind_of(words), ())
    return TableColumn(found["name"], kind, labels, name or words, found["nullable"])


def _reference(found: ReflectedForeignKeyConstraint) -> ForeignKey:
    table = ".".join(filter(None, (found["referred_schema"], found["referred_table"])))
    return ForeignKey(found["constrained_columns"][0], table, found["referred_columns"][0])


def _keys(
    primary: Sequence[str], indexes: Iterable[ReflectedIndex]
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...], frozenset[str]]:
    """Return the columns of the primary key and of the other unique indexes, and the first column of each index."""
    whole = [each for each in indexes if RESTRICTED.isdisjoint(each.get("dialect_options", {}))]
    lists = [(each["column_names"], each["unique"]) for each in whole]  # an expression in an index has no name
    unique = (tuple(map(str, names)) for names, is_unique in lists if is_unique and None not in names)
    first = (name for names, _ in lists if (name := names[0]) is not None)
    return tuple(primary), tuple(each for each in unique if each != tuple(primary)), frozenset([*primary[:1], *first])
