"""List the tables of a database, with their columns, keys, indexes and foreign keys, from its catalogue."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlalchemy import Connection, Row, exc

from retrycli.domain.known_table import ForeignKey, KnownTable, RelationKind, TableColumn, ValueKind
from retrycli.domain.sanitize import encodable
from retrycli.store.database import Database
from retrycli.store.table_sample import read_only

# PostgreSQL. Objects with smaller oids belong to the server. A partition is left out, because its table is listed.
FIRST_OID = 16384
RELATIONS = f"""
SELECT c.oid, c.relname, c.relkind, n.nspname, pg_catalog.pg_table_is_visible(c.oid) AS is_visible,
  pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT') AS is_readable
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid >= CAST({FIRST_OID} AS oid) AND c.relkind IN ('r', 'p', 'f', 'v')
  AND c.relpersistence <> 't' AND NOT c.relispartition
"""  # noqa: S608  a constant
# Domains are replaced by their base types, also domains over domains.
COLUMNS = f"""
WITH RECURSIVE base (oid, type) AS (
  SELECT t.oid, t.oid FROM pg_catalog.pg_type t WHERE t.typtype <> 'd'
  UNION ALL
  SELECT d.oid, b.type FROM pg_catalog.pg_type d JOIN base b ON d.typbasetype = b.oid WHERE d.typtype = 'd'
)
SELECT a.attrelid AS oid, a.attnum, a.attname, t.typname, t.typcategory, t.oid AS type,
  pg_catalog.format_type(a.atttypid, a.atttypmod) AS type_name, a.attnotnull
FROM pg_catalog.pg_attribute a JOIN base b ON b.oid = a.atttypid JOIN pg_catalog.pg_type t ON t.oid = b.type
WHERE a.attrelid >= CAST({FIRST_OID} AS oid) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""  # noqa: S608  a constant
LABELS = "SELECT enumtypid AS type, enumlabel FROM pg_catalog.pg_enum ORDER BY enumtypid, enumsortorder"
INDEXES = f"""
SELECT i.indrelid AS oid, CAST(i.indkey AS text) AS numbers, i.indnkeyatts, i.indisprimary,
  i.indisunique AND (c.relkind = 'p' OR NOT c.relhassubclass) AS is_key
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid JOIN pg_catalog.pg_am m ON m.oid = x.relam
WHERE i.indrelid >= CAST({FIRST_OID} AS oid) AND i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree'
ORDER BY i.indisprimary DESC, i.indexrelid
"""  # noqa: S608  a constant
REFERENCES = """
SELECT conrelid AS oid, conkey[1] AS attnum, confrelid AS other, confkey[1] AS target
FROM pg_catalog.pg_constraint WHERE contype = 'f' AND pg_catalog.array_length(conkey, 1) = 1 ORDER BY 1, 2
"""
RELATION_KINDS = {
    "r": RelationKind.TABLE,
    "p": RelationKind.PARTITIONED,
    "f": RelationKind.FOREIGN,
    "v": RelationKind.VIEW,
}
BY_TYPE = {"json": ValueKind.JSON, "jsonb": ValueKind.JSON, "uuid": ValueKind.UUID, "bytea": ValueKind.BYTES}
BY_CATEGORY = {
    "B": ValueKind.BOOLEAN,
    "D": ValueKind.TIME,
    "E": ValueKind.ENUM,
    "N": ValueKind.INTEGER,
    "S": ValueKind.TEXT,
}
NOT_INTEGERS = ("float4", "float8", "money", "oid", "regclass")

# SQLite decides a column's affinity by parts of its declared type. The order matters.
BY_PART = (
    ("JSON", ValueKind.JSON),
    ("BOOL", ValueKind.BOOLEAN),
    ("DATE|TIME", ValueKind.TIME),
    ("UUID|GUID", ValueKind.UUID),
    ("INT", ValueKind.INTEGER),
    ("CHAR|CLOB|TEXT|STRING", ValueKind.TEXT),
    ("BLOB|BINARY", ValueKind.BYTES),
)
# A foreign key may spell names in another case, and may leave out the column if it is the primary key.
REFERENCES_IN_SQLITE = """
SELECT (SELECT name FROM pragma_table_info(?) WHERE name = f."from" COLLATE NOCASE),
  (SELECT name FROM sqlite_master WHERE type = 'table' AND name = f."table" COLLATE NOCASE),
  (SELECT name FROM pragma_table_info(f."table") WHERE coalesce(name = f."to" COLLATE NOCASE, pk = 1))
FROM pragma_foreign_key_list(?) f WHERE (SELECT count(*) FROM pragma_foreign_key_list(?) g WHERE g.id = f.id) = 1
"""
# SQLite accepts any text as a type. A primary key may be null, unless it is an INTEGER.
COLUMNS_IN_SQLITE = """
SELECT name, type, pk, substr(type, 1, 40) AS short,
  NOT ("notnull" OR (pk AND upper(type) = 'INTEGER' AND max(pk) OVER () = 1)) AS is_nullable
FROM pragma_table_xinfo(?) WHERE hidden <> 1 ORDER BY cid
"""
# An expression in an index has no name.
INDEXES_IN_SQLITE = """
SELECT i."unique" AND i.origin <> 'pk' AND count(*) = count(x.name) AS is_key, group_concat(x.name, char(0)) AS names,
  max(CASE WHEN x.seqno = 0 THEN x.name END) AS first
FROM pragma_index_list(?) i, pragma_index_info(i.name) x
WHERE NOT i.partial GROUP BY i.name ORDER BY i.seq DESC
"""
WITHOUT_ROWID = re.compile(r"\)[^)]*WITHOUT\s+ROWID[^)]*$", re.IGNORECASE)


def list_tables(database: Database) -> list[KnownTable]:
    """Return the tables and views of a database in the order of their names. The server's own are left out.

    Raises:
        DatabaseUnavailable: the database can't be read.
    """
    with read_only(database) as connection:
        tables = list(_in_sqlite(connection) if database.is_sqlite else _in_postgresql(connection))
    # The settings can't name a table whose name contains a dot, or is not valid text.
    names = sorted((each for each in tables if _can_be_named(each)), key=lambda each: each.name)
    return [each for each in names if each.columns]


def _can_be_named(table: KnownTable) -> bool:
    words = (table.schema or "", table.relation, *(column.name for column in table.columns))
    return all(map(encodable, words)) and "." not in table.relation and "." not in (table.schema or "")


def _in_sqlite(connection: Connection) -> Iterator[KnownTable]:
    quote = connection.dialect.identifier_preparer.quote
    found = connection.exec_driver_sql(
        "SELECT name, type, sql FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' "
        "ESCAPE '\\'"
    )
    for name, kind, sql in found.all():
        try:
            columns = connection.exec_driver_sql(COLUMNS_IN_SQLITE, (name,)).all()
            indexes = connection.exec_driver_sql(INDEXES_IN_SQLITE, (name,)).all()
            references = connection.exec_driver_sql(REFERENCES_IN_SQLITE, (name, name, name)).all()
        except exc.DBAPIError:  # a view of a table that is gone, or a virtual table whose module is not loaded
            continue
        primary = tuple(column.name for column in sorted(columns, key=lambda each: each.pk) if column.pk)
        yield KnownTable(
            relation=name,
            schema=None,
            sql=quote(name),
            alias=quote(name),
            kind=RelationKind(kind),
            columns=tuple(
                TableColumn(
                    each.name, _kind_in_sqlite(each.type), quote(each.name), (), each.short, bool(each.is_nullable)
                )
                for each in columns
            ),
            primary=primary,
            unique=tuple(tuple(each.names.split("\0")) for each in indexes if each.is_key),
            indexed=frozenset([*(each.first for each in indexes if each.first), *primary[:1]]),
            references=tuple(ForeignKey(*each) for each in references if None not in each),
            has_row_numbers=kind == "table" and not WITHOUT_ROWID.search(sql or ""),
        )


def _kind_in_sqlite(declared: str) -> ValueKind:
    if not declared:
        return ValueKind.ANY
    return next((kind for parts, kind in BY_PART if re.search(parts, declared.upper())), ValueKind.OTHER)


@dataclass
class _Parts:
    """What belongs to one relation of a PostgreSQL database; columns by their numbers."""

    columns: dict[int, TableColumn] = field(default_factory=dict)
    primary: tuple[str, ...] = ()
    unique: list[tuple[str, ...]] = field(default_factory=list)
    indexed: set[int] = field(default_factory=set)
    references: list[tuple[int, int, int]] = field(default_factory=list)


def _in_postgresql(connection: Connection) -> Iterator[KnownTable]:
    quote = connection.dialect.identifier_preparer.quote
    relations = {row.oid: row for row in connection.exec_driver_sql(RELATIONS)}
    parts = _read_parts(connection)
    names = {oid: _named(row) for oid, row in relations.items()}
    for oid, row in relations.items():
        own, schema = parts[oid], names[oid][0]
        columns = own.columns
        yield KnownTable(
            relation=row.relname,
            schema=schema,
            sql=quote(row.relname) if schema is None else f"{quote(schema)}.{quote(row.relname)}",
            alias=quote(row.relname),
            kind=RELATION_KINDS[row.relkind],
            columns=tuple(columns.values()),
            primary=own.primary,
            unique=tuple(own.unique),
            indexed=frozenset(columns[number].name for number in own.indexed),
            references=tuple(
                ForeignKey(
                    columns[number].name, ".".join(filter(None, names[other])), parts[other].columns[target].name
                )
                for number, other, target in own.references
                if other in relations
            ),
            is_readable=row.is_readable,
            home=row.nspname,
        )


def _named(row: Row[*tuple[object, ...]]) -> tuple[str | None, str]:
    return None if row.is_visible else row.nspname, row.relname


def _read_parts(connection: Connection) -> defaultdict[int, _Parts]:
    quote = connection.dialect.identifier_preparer.quote
    labels: defaultdict[int, list[str]] = defaultdict(list)
    for row in connection.exec_driver_sql(LABELS):
        labels[row.type].append(row.enumlabel)
    parts: defaultdict[int, _Parts] = defaultdict(_Parts)
    for row in connection.exec_driver_sql(COLUMNS):
        kind = BY_TYPE.get(row.typname) or BY_CATEGORY.get(row.typcategory, ValueKind.OTHER)
        kind = ValueKind.OTHER if row.typname in NOT_INTEGERS else kind
        all_labels, is_nullable = tuple(labels[row.type]), not row.attnotnull
        column = TableColumn(row.attname, kind, quote(row.attname), all_labels, row.type_name, is_nullable)
        parts[row.oid].columns[row.attnum] = column
    for row in connection.exec_driver_sql(INDEXES):
        own, numbers = parts[row.oid], [int(each) for each in row.numbers.split()[: row.indnkeyatts]]
        if numbers[0] in own.columns:  # 0 stands for an expression
            own.indexed.add(numbers[0])
        if row.is_key and all(number in own.columns for number in numbers):
            names = tuple(own.columns[number].name for number in numbers)
            if row.indisprimary:
                own.primary = names
            else:
                own.unique.append(names)
    for row in connection.exec_driver_sql(REFERENCES):
        parts[row.oid].references.append((row.attnum, row.other, row.target))
    return parts
