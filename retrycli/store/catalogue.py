"""List the tables of a database, with their columns, keys, indexes and foreign keys, from its catalogue; and find facts
about the application's table that help an operator to check the settings. Customers' texts stay in it.
"""

import re
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Enum,
    Text,
    case,
    cast,
    column,
    exc,
    inspect,
    literal_column,
    or_,
    select,
    text,
)
from sqlalchemy.engine.interfaces import ReflectedColumn, ReflectedForeignKeyConstraint, ReflectedIndex
from sqlalchemy.engine.reflection import ObjectKind
from sqlalchemy.types import NullType

from retrycli.domain.errors import DatabaseUnavailable
from retrycli.domain.known_table import (
    ForeignKey,
    KnownTable,
    Sample,
    ShownValues,
    TableColumn,
    ValueKind,
    plain_name,
    shown_values,
)
from retrycli.domain.message import MessageStatus
from retrycli.domain.sanitize import encodable
from retrycli.domain.table_mapping import AS_IT_IS, WRITTEN_ROLES, Expression, Scalar, TableMapping
from retrycli.store.application_table import NOT_TABLES
from retrycli.store.database import TRUST, Database
from retrycli.store.reflection import by_name
from retrycli.store.table_sample import ROWS, TableSample, read_only

# The inspector can't tell partitions from other tables, nor which tables may be read and which their name alone finds.
# Objects with smaller oids belong to the server. A partition is left out, because its table is listed.
RELATIONS = text(f"""
SELECT c.relname AS name, c.relkind AS kind, n.nspname AS home,
  CASE WHEN NOT pg_catalog.pg_table_is_visible(c.oid) THEN n.nspname END AS schema,
  pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT') AS is_readable,
  CASE WHEN NOT trust.ed THEN o.rolname END AS runs_code_of
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
{TRUST}
WHERE c.oid >= CAST(16384 AS oid) AND c.relkind IN ('r', 'p', 'f', 'v')
  AND c.relpersistence <> 't' AND NOT c.relispartition
""")  # noqa: S608  the text is constant
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
        if database.is_sqlite:
            tables = list(_in_sqlite(connection, relation))
        else:
            tables = list(_in_postgresql(connection, relation, database.qualified_table))
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


def _in_postgresql(connection: Connection, relation: str | None, table: str) -> Iterator[KnownTable]:
    inspector, relations = inspect(connection), defaultdict(list)
    for row in connection.execute(RELATIONS, {"table": table}):
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


EDITED = ("subject", "body", "recipient_email")

# Names of columns whose values a recipient of the message would miss.
MISSED = re.compile(r".*html.*|(.*_)?(from|sender|reply_to|cc|bcc|headers?)(_.*)?|.*(attach|file)s?.*|.*attachments?.*")
EMPTY = ("", "[]", "{}", "null", "\\x")


class StatusCount(NamedTuple):
    """The values of the status column in the newest rows."""

    sample: Sample
    shown: ShownValues
    failed: int  # the rows with the value for failed messages; at least one if only older rows have it
    unnamed: Sequence[Scalar]  # the values that the settings do not name


class TicketReference(NamedTuple):
    """The key of another table to which the ticket column refers, and a message as an example."""

    key: ForeignKey
    message_id: object  # None if the table has no message with a ticket, or can't be read in some seconds
    ticket: int | str | None


class TableFacts:
    """Reads facts about the application's table. Each method reads a limited number of rows."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._mapping: TableMapping = database.mapping or AS_IT_IS

    @cached_property
    def known(self) -> KnownTable:
        """Return the table as the catalogue describes it; a table without columns if the catalogue does not list it."""
        name, schema = self._database.table_name, self._database.schema_name
        for each in list_tables(self._database, name):
            if self._database.is_sqlite or (each.home if schema else each.schema) == schema:
                return each
        return KnownTable(name, schema, "table", ())

    def count_statuses(self) -> StatusCount | None:
        """Count the values of the status column in the newest rows; None if the rows can't be read in some seconds."""
        status = self._column("status")
        if status is None:
            return None
        labels: Collection[str] | None = getattr(self._database.columns[status.name]["type"], "enums", None)
        # The database compares, because it may not find equal what looks equal: 1 and '1', or two cases of a word.
        literals: dict[str, ColumnElement[Any]] = {
            word: literal_column(each)
            for word, each in self._database.table.literals.items()
            if labels is None or each.strip("'") in labels  # an enumeration can't be compared with other words
        }
        try:
            sample, (newest, older) = self._rows.sample, self._rows.count_values(status)
            is_failed = literals.get(MessageStatus.FAILED)
            failed = 0 if is_failed is None else self._rows.count_if(column(status.name) == is_failed)
            named = self._rows.values_if(status, or_(*(column(status.name) == each for each in literals.values())))
            stored = {word: self._rows.find(status, each) for word, each in literals.items()} if older else {}
        except DatabaseUnavailable:
            return None
        failed += sum(number for value, number in older if value == stored.get(MessageStatus.FAILED))
        named |= {*stored.values()}
        shown = shown_values((*newest, *older), status)
        unnamed = [value for value, number in shown.counts if number and value not in named]
        return StatusCount(sample, shown, failed, unnamed)

    def missed_columns(self, used: Collection[str]) -> list[str]:
        """Return the columns that no setting names, that no preset uses, and that hold data for the recipient."""
        names = [each.name for each in self.known.columns if MISSED.fullmatch(plain_name(each.name))]
        unused = [name for name in names if name not in used and not self._is_used(name)]
        with suppress(DatabaseUnavailable):
            return [name for name in unused if self._rows.count_if(cast(column(name), Text).not_in(EMPTY))]
        return []

    def ticket_reference(self) -> TicketReference | None:
        """Return the table to which the ticket column refers; None if it is not a foreign key."""
        key, table = self.known.reference(self._database.table.names.get("ticket_id", "")), self._database.table
        if key is None:
            return None
        newest = (
            select(
                table.column("id").label("id"),
                table.column("ticket_id").label("ticket"),
                case((table.has_status(MessageStatus.FAILED), 1), else_=0).label("is_failed"),
            )
            .order_by(table.newest_by.desc())
            .limit(ROWS)
            .subquery()
            .c
        )
        example = select(newest.id, newest.ticket).where(newest.ticket.is_not(None))
        message_id = ticket = None
        with suppress(DatabaseUnavailable), read_only(self._database) as connection:  # it may take too long
            ordered = example.order_by(newest.is_failed.desc(), newest.id.desc()).limit(1)
            message_id, ticket = connection.execute(ordered).first() or (None, None)
        return TicketReference(key, message_id, ticket if isinstance(ticket, int | None) else str(ticket))

    def _column(self, role: str) -> TableColumn | None:
        name = self._database.table.names.get(role)
        return next((each for each in self.known.columns if each.name == name), None)

    @cached_property
    def _rows(self) -> TableSample:
        ordered, kinds = (self._column("id"), self._column("created_at")), {ValueKind.INTEGER, ValueKind.TIME}
        return TableSample(self._database, self.known, [each for each in ordered if each and each.kind in kinds])

    def _is_used(self, name: str) -> bool:
        sources = (source for _, source in self._mapping.columns)
        texts = [each.sql if isinstance(each, Expression) else getattr(each, "name", "") for each in sources]
        all_of_them = "\n".join((*self._database.table.names.values(), *texts, self._mapping.where))
        return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", all_of_them, re.IGNORECASE) is not None


def required_privileges(database: Database) -> tuple[list[str], str | None]:
    """Return the columns that retrycli writes, and on a server the statement that grants the privileges for them."""
    names = database.table.names
    written, edited = ([names[role] for role in roles if role in names] for roles in (WRITTEN_ROLES, EDITED))
    if database.is_sqlite:
        return written, None
    with database.read() as connection:
        role = connection.exec_driver_sql("SELECT current_user").scalar_one()
    columns = ", ".join(database.quoted(name) for name in (*written, *edited))
    return written, f"GRANT SELECT, UPDATE ({columns}) ON {database.qualified_table} TO {database.quoted(str(role))}"
