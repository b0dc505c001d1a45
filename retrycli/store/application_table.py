"""Check the ids of the application's table, and manage the optional index on its failed rows."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from sqlalchemy import VARCHAR, Connection, CursorResult, func, literal, select, text

from retrycli.domain.errors import DatabaseUnavailable, SchemaMismatch
from retrycli.domain.message import MessageStatus
from retrycli.store.database import Database, Queries

TAIL = 5_000  # number of newest messages that every pass compares with the queue

# Number of older messages that each pass also compares, so that a pass over millions of rows stays short. The next pass
# continues with the next slice. Failed messages are usually new. Older ones are found within (rows / SWEEP) passes.
# With an index on the failed rows, only failed rows count. If there are few, every pass compares all of them.
SWEEP = 10_000

ROW_NUMBERS = """
SELECT 1
WHERE ? = (SELECT group_concat(name || ' ' || upper(type)) FROM pragma_table_info(?, ?) WHERE pk > 0)
"""
UNIQUE_IN_SQLITE = """
SELECT 1 WHERE :id = (SELECT group_concat(name) FROM pragma_table_info(:table, :schema) WHERE pk > 0)
UNION ALL
SELECT 1 FROM pragma_index_list(:table, :schema) i WHERE i."unique" AND NOT i.partial
AND :id = (SELECT group_concat(name) FROM pragma_index_info(i.name, :schema))
LIMIT 1
"""

# Finds a unique index on the id. If other tables inherit from the table, its index does not count, because the index
# does not cover their rows. The index of a partitioned table covers all partitions.
UNIQUE_IN_POSTGRESQL = """
SELECT 1
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
WHERE i.indrelid = CAST(pg_catalog.to_regclass(:table) AS oid) AND a.attname = :id
AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indnkeyatts = 1
AND (c.relkind = 'p' OR NOT c.relhassubclass)
LIMIT 1
"""

KIND_IN_SQLITE = (
    "SELECT type FROM {schema}sqlite_master WHERE type IN ('table', 'view') AND name = :table COLLATE NOCASE"
)
KIND_IN_POSTGRESQL = "SELECT relkind FROM pg_catalog.pg_class WHERE oid = CAST(pg_catalog.to_regclass(:table) AS oid)"

PARTITIONED = "partitioned table"

# Kinds of relations other than ordinary tables, by the names that SQLite's and PostgreSQL's catalogues use.
NOT_TABLES = {"view": "view", "v": "view", "f": "foreign table", "p": PARTITIONED}


def check_ids(database: Database) -> None:
    """Check that the id of each failed message is unique, not null, and not bytes where ids are text. Read the rows
    only if the catalogue does not show this.

    Raises:
        SchemaMismatch: the id of a failed message is null, bytes or not unique.
    """
    table = database.table
    written, its_id, failed = table.written, table.column("id"), table.has_status(MessageStatus.FAILED)
    with database.read() as connection:
        row_numbers = (f"{its_id.name} INTEGER", written.name, written.schema or "main")
        if database.is_sqlite and connection.exec_driver_sql(ROW_NUMBERS, row_numbers).all():
            return  # an INTEGER PRIMARY KEY is unique and never null
        nameless = select(literal(1)).where(failed, its_id.is_(None)).limit(1)
        # In SQLite, most primary keys may be null.
        if database.columns[its_id.name]["nullable"] and connection.execute(nameless).scalar():
            raise SchemaMismatch(
                f"{database.named_place} has a failed message whose {its_id.name} is null, but retrycli identifies "
                f"messages by {its_id.name}; set the {its_id.name}, and make the column NOT NULL"
            )
        as_bytes = select(literal(1)).where(failed, func.typeof(its_id) == "blob").limit(1)
        if database.is_sqlite and table.key is not None and connection.execute(as_bytes).scalar():
            raise SchemaMismatch(
                f"{database.named_place} has a failed message whose {its_id.name} is a BLOB, which no text equals; "
                f"store the {its_id.name} as text"
            )
        unique = _ask_catalogue(database, connection, UNIQUE_IN_SQLITE, UNIQUE_IN_POSTGRESQL, its_id.name)
        if unique.first() is not None:
            return
        others = written.alias()
        ids = select(others.c[its_id.name]).where(
            others.c[table.column("status").name] == table.literal(MessageStatus.FAILED)
        )
        twice = select(its_id).where(its_id.in_(ids)).group_by(its_id).having(func.count() > 1).limit(1)
        found = connection.execute(twice).scalar()
    if found is not None:
        raise repeated(database, found)


def repeated(database: Database, message_id: object) -> SchemaMismatch:
    """Build the error for an id that several rows have."""
    return SchemaMismatch(
        f"{database.named_place} has more than one row with the id {message_id}, but retrycli identifies messages by "
        "id; give each row its own id, and make the column PRIMARY KEY"
    )


def _require_indexable(database: Database, *, make: str, drop: str | None) -> None:
    # `make` is the statement that creates the index, with a placeholder for the table's name. `drop` is the statement
    # that drops the index; None if the caller creates the index.
    with database.read() as connection:
        found = _ask_catalogue(database, connection, KIND_IN_SQLITE, KIND_IN_POSTGRESQL).scalar()
    kind = NOT_TABLES.get(str(found))
    if kind == PARTITIONED:
        raise SchemaMismatch(
            f"{database.named_place} is a {kind}; PostgreSQL can't create or drop its indexes "
            f"concurrently. Run this while nothing writes to it: {drop or make.format(database.quoted_table[1])}"
        )
    if kind is not None:
        raise SchemaMismatch(
            f"{database.named_place} is a {kind}, which can't have an index; "
            f"create the index on the underlying table: {make.format('TABLE')}"
        )


def _ask_catalogue(
    database: Database, connection: Connection, in_sqlite: str, in_postgresql: str, key: str = ""
) -> CursorResult[Any]:
    schema, _ = database.quoted_table
    query = in_sqlite.format(schema=f"{schema}." if schema else "") if database.is_sqlite else in_postgresql
    table = database.table_name if database.is_sqlite else database.qualified_table
    parameters = {"table": table, "schema": database.schema_name, "index": NAME, "id": key}
    return connection.execute(text(query), parameters)


NAME = "retrycli_failed"

IN_SQLITE = (
    "SELECT NULL AS nspname, 1 AS indisvalid FROM {schema}sqlite_master "
    "WHERE type = 'index' AND name = :index AND tbl_name = :table COLLATE NOCASE"
)
IN_POSTGRESQL = """
SELECT n.nspname, i.indisvalid
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE i.indrelid = CAST(pg_catalog.to_regclass(:table) AS oid) AND c.relname = :index
"""


class IndexState(StrEnum):
    """The state of the optional index on the failed rows."""

    ABSENT = "absent"
    THERE = "there"

    INVALID = "invalid"  # PostgreSQL did not finish building the index: writes update it, but no query uses it


class FailedIndex(Queries):
    """The optional partial index on the ids of failed rows."""

    name = NAME

    def state(self) -> IndexState:
        """Return the state of the index, with one query of the catalogue."""
        return self._find()[0]

    @property
    def holds_writers_up(self) -> bool:
        """Return whether creating the index blocks writers, as on SQLite, which allows only one writer at a time."""
        return self._database.is_sqlite

    def statements(self, *, drop: bool = False) -> list[str]:
        """Return the statements that create or drop the index; an empty list if there is nothing to do.

        Raises:
            SchemaMismatch: the application's table can't have an index, or the index can't be created or dropped while
                other processes write.
        """
        state, name = self._find()
        if state is (IndexState.ABSENT if drop else IndexState.THERE):
            return []
        names, quote = self._database.table.names, self._database.quoted
        key = quote(names["id"])
        make = f"CREATE INDEX {NAME} ON {{}} ({key}) WHERE {self._condition}"
        _require_indexable(self._database, make=make, drop=f"DROP INDEX {name}" if drop else None)
        concurrently = "" if self._database.is_sqlite else "CONCURRENTLY "
        drops = [f"DROP INDEX {concurrently}{name}"] if state is not IndexState.ABSENT else []
        if drop:
            return drops
        schema, table = self._database.quoted_table
        # PostgreSQL expects the schema before the table's name, and SQLite expects it before the index's name.
        where = f"{NAME} ON {self._database.qualified_table}"
        if schema and self._database.is_sqlite:
            where = f"{schema}.{NAME} ON {table}"
        return [*drops, f"CREATE INDEX {concurrently}{where} ({key}) WHERE {self._condition}"]

    @property
    def _condition(self) -> str:
        # The condition must match the condition in the queries, because otherwise no query uses the index. On a server,
        # a plain `=` could resolve to an operator that another role has planted: see `postgresql`.
        table = self._database.table
        name, value = table.names["status"], table.literals[MessageStatus.FAILED]
        status = self._database.quoted(name)
        if self._database.is_sqlite:
            return f"{status} = {value}"
        if isinstance(self._database.columns[name]["type"], VARCHAR):
            return f"CAST({status} AS text) = {value}"
        return f"{status} OPERATOR(pg_catalog.=) {value}"

    def execute(self, statements: Sequence[str]) -> None:
        """Execute each statement outside a transaction, as PostgreSQL requires for ``CONCURRENTLY``.

        Raises:
            DatabaseUnavailable: a statement fails.
        """
        try:
            for statement in statements:
                with self._database.outside_transactions() as connection:
                    connection.exec_driver_sql(statement)
        except DatabaseUnavailable as error:
            if self.state() is not IndexState.INVALID:
                raise
            raise DatabaseUnavailable(
                f"{error}; the index is unusable until `retrycli db index` succeeds; "
                "`retrycli db index --drop` removes it"
            ) from error

    def _find(self) -> tuple[IndexState, str]:
        schema, _ = self._database.quoted_table
        with self._database.read() as connection:
            found = _ask_catalogue(self._database, connection, IN_SQLITE, IN_POSTGRESQL).one_or_none()
            if found is not None and found.nspname is not None:
                schema = connection.dialect.identifier_preparer.quote(found.nspname)
        name = f"{schema}.{NAME}" if schema else NAME
        if found is None:
            return IndexState.ABSENT, name
        return (IndexState.THERE if found.indisvalid else IndexState.INVALID), name
