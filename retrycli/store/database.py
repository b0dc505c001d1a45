"""Open short transactions, and describe the application's table."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from sqlalchemy import (
    NUMERIC,
    Connection,
    FromClause,
    RootTransaction,
    Row,
    Select,
    String,
    Text,
    exc,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.sql.selectable import TypedReturnsRows

from retrycli.domain.errors import (
    ConfigurationError,
    DatabaseBusy,
    DatabaseUnavailable,
    RetrycliError,
    SchemaMismatch,
    Untrusted,
)
from retrycli.domain.sanitize import SECRET_PARAMETER
from retrycli.store.connection import (
    BUSY_SECONDS,
    NO_RESULT,
    PATIENCE,
    make_engine,
    parsed,
    path_of,
    pipelined,
    require_file,
)
from retrycli.store.error_messages import is_busy, is_of_the_table, of_statement_in_words, without_details
from retrycli.store.reflection import MessageTable, by_name, key_type, table_of
from retrycli.store.schema import version

if TYPE_CHECKING:
    from retrycli.domain.table_mapping import Acceptance, TableMapping

Value = TypeVar("Value")
Columns = TypeVarTuple("Columns")

CREATION = 0x7265747279  # key of the advisory lock of the process that creates tables in a PostgreSQL database
TURN = text(f"LOCK TABLE {version.name} IN SHARE UPDATE EXCLUSIVE MODE")

# SQLite has no type for UUIDs. SQLAlchemy reads these names of types as numeric types.
UUIDS_IN_SQLITE = "SELECT name FROM pragma_table_info(?) WHERE lower(type) IN ('uuid', 'guid', 'uniqueidentifier')"

# The roles whose code this session may run: those that have its rights anyway, and the owner of the application's
# table, unless it may have planted a table of this name. So is a group of which this role is a member, if nobody else
# can act as the group. A superuser is a member of every role, which shows nothing.
TRUST = """
JOIN pg_catalog.pg_roles me ON me.rolname = CAST(CURRENT_USER AS name)
JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
LEFT JOIN pg_catalog.pg_class m ON m.oid = CAST(pg_catalog.to_regclass(CAST(:table AS text)) AS oid)
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_class other
        JOIN pg_catalog.pg_namespace home ON home.oid = other.relnamespace
        WHERE other.relname = m.relname AND other.relowner <> m.relowner AND pg_catalog.pg_table_is_visible(m.oid)
        AND home.nspname = ANY (pg_catalog.current_schemas(false)))
LEFT JOIN LATERAL (SELECT (o.rolsuper OR o.oid IN (me.oid, d.datdba, m.relowner) OR o.rolname = 'pg_database_owner'
    OR NOT me.rolsuper AND pg_catalog.pg_has_role(me.oid, o.oid, 'MEMBER') AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_roles r WHERE r.rolcanlogin AND pg_catalog.pg_has_role(r.oid, o.oid, 'MEMBER')
        AND NOT pg_catalog.pg_has_role(r.oid, me.oid, 'MEMBER')
        AND NOT pg_catalog.pg_has_role(r.oid, d.datdba, 'MEMBER')
        AND (m.relowner IS NULL OR NOT pg_catalog.pg_has_role(r.oid, m.relowner, 'MEMBER')))
    ) IS TRUE AS ed) trust ON TRUE
"""
# Other roles that may create relations, functions and operators in a schema of the search path, or a schema that it
# names. All statements would use them. No role stands for PUBLIC, if another role may connect; no schema stands for the
# database.
STRANGERS = text(f"""
WITH path AS (SELECT CASE WHEN part = '"$user"' OR part = '$user' THEN CAST(CURRENT_USER AS text)
        WHEN pg_catalog.starts_with(part, '"') THEN pg_catalog.btrim(part, '"') ELSE pg_catalog.lower(part) END AS name
    FROM pg_catalog.regexp_split_to_table(pg_catalog.btrim(pg_catalog.current_setting('search_path')), ' *, *') part
    WHERE part NOT IN ('', '""', 'pg_temp')
    UNION SELECT CAST(known AS text) FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) known)
SELECT place.name, o.rolname, o.oid = place.owner AS owns
FROM (SELECT CAST(n.nspname AS text) AS name, n.nspowner AS owner,
        coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner)) AS acl
    FROM pg_catalog.pg_namespace n JOIN path ON path.name = CAST(n.nspname AS text)
    UNION ALL SELECT NULL, b.datdba, coalesce(b.datacl, pg_catalog.acldefault('d', b.datdba))
    FROM pg_catalog.pg_database b WHERE b.datname = pg_catalog.current_database() AND EXISTS (SELECT FROM path
        WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE CAST(n.nspname AS text) = path.name))) place
CROSS JOIN LATERAL (SELECT a.grantee FROM pg_catalog.aclexplode(place.acl) a WHERE a.privilege_type = 'CREATE'
    UNION SELECT place.owner) a
LEFT JOIN pg_catalog.pg_roles o ON o.oid = a.grantee
{TRUST}
WHERE NOT trust.ed AND (o.oid IS NOT NULL OR EXISTS (SELECT FROM pg_catalog.pg_roles o {TRUST}
    WHERE o.rolcanlogin AND NOT trust.ed AND pg_catalog.has_database_privilege(o.oid, d.oid, 'CONNECT')))
ORDER BY place.name, o.rolname LIMIT 1
""")  # noqa: S608  the text is constant
# The relations that this session would take for retrycli's own tables. Reading a view or another role's table can run
# that role's code.
OWN_IN_POSTGRESQL = text(f"""
SELECT c.relname, n.nspname, o.rolname, c.relkind = CAST('r' AS "char") AND trust.ed AS is_ours
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
{TRUST}
WHERE pg_catalog.starts_with(CAST(c.relname AS text), 'retrycli_') AND pg_catalog.pg_table_is_visible(c.oid)
AND c.relkind NOT IN (CAST('i' AS "char"), CAST('S' AS "char"))
ORDER BY c.relname
""")  # noqa: S608  the text is constant


class WriteNeeded(Exception):
    """A transaction that may only read would have to write. Repeat it as one that may write."""


class Database:
    """The application's database, in which retrycli also keeps its own tables. Without a ``mapping``, the columns of
    the application's table have retrycli's own names. ``patience`` is the maximum number of seconds to wait for a
    connection or a lock.

    Raises:
        DatabaseUnavailable: the SQLite file does not exist.
        ConfigurationError: the URL is invalid, or its driver is not installed.
        Untrusted: see `require_file`.
    """

    def __init__(
        self,
        url: str,
        table: str = "pending_messages",
        mapping: "TableMapping | None" = None,
        *,
        patience: int = BUSY_SECONDS,
    ) -> None:
        self._url = parsed(url)
        self._table = table
        schema_name, _, self.table_name = table.rpartition(".")
        self.schema_name = schema_name or None
        self.mapping = mapping
        self.accepted: Acceptance | None = None  # what an operator had accepted when `own_tables` checked the queue
        self.text_columns: str | None = None  # in `retrycli_selection`, at that time
        self._ambient: Connection | None = None
        self._only_reads = False  # the open transaction may not write

        # Ids of rows whose change has rolled back the whole transaction, with the reasons. Later writes leave out these
        # rows.
        self.ends_transactions: dict[int, str] = {}

        # True after a change has rolled back a transaction. Rows are then written one by one, to identify the row that
        # caused it.
        self.row_by_row = False

        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self._is_trusted = self.is_sqlite  # no other role may plant what the statements use
        if self.is_sqlite:
            require_file(self._url)
        self._engine = make_engine(self._url, patience)

    @property
    def place(self) -> str:
        """Return the file's path, or the server's URL without passwords and secrets."""
        if self.is_sqlite:
            return self._url.database or ""
        secrets = [*filter(SECRET_PARAMETER.search, self._url.query)]
        return self._url.difference_update_query(secrets).render_as_string(hide_password=True)

    @property
    def file(self) -> Path | None:
        """Return the SQLite file; None for a server."""
        return Path(path_of(self._url)) if self.is_sqlite else None

    def unencodable(self, connection: Connection, text: str) -> str:
        """Return the characters of a text that the database's encoding can't represent; an empty string for SQLite."""
        return "".join(sorted(char for char in set(text) if self.as_stored(connection, char) != char))

    def as_stored(self, connection: Connection, text: str) -> str:
        """Return a text as the database stores it: a server gets characters escaped that its encoding lacks."""
        driver = connection.connection.driver_connection
        if self.is_sqlite or driver is None:
            return text
        encoding = driver.info.encoding
        return text.encode(encoding, "backslashreplace").decode(encoding)

    def quoted(self, name: str) -> str:
        """Return a name, quoted for SQL if necessary."""
        return self._engine.dialect.identifier_preparer.quote(name)

    @cached_property
    def table(self) -> MessageTable:
        """Return the application's table with all its columns.

        Raises:
            SchemaMismatch: the table or a required column does not exist, or a column has an unsuitable type.
        """
        if self.mapping is None and ("id" not in self.columns or key_type(self.columns["id"]["type"]) is None):
            return table_of(self)
        from retrycli.store.mapped_table import mapped_table

        return mapped_table(self, self.mapping)

    @cached_property
    def messages(self) -> FromClause:
        """Return the rows of the application's table, with one column for each role."""
        return self.table.rows

    @property
    def named_place(self) -> str:
        """Return the application's table and its database, as errors name them."""
        return f"{self._table} in {self.place}"

    @property
    def quoted_table(self) -> tuple[str, str]:
        """Return the schema and the name of the application's table, quoted for SQL. The schema is empty if none is
        configured.
        """
        return self.quoted(self.schema_name) if self.schema_name else "", self.quoted(self.table_name)

    @property
    def qualified_table(self) -> str:
        """Return the quoted name of the application's table, schema-qualified if a schema is configured."""
        return ".".join(filter(None, self.quoted_table))

    def max_length(self, name: str) -> int | None:
        """Return the maximum number of characters of a role's column; None if it has no limit, as in a SQLite file."""
        found = self.column_of(name)
        kind = None if found is None else found["type"]
        return None if self.is_sqlite or not isinstance(kind, String) else kind.length

    @cached_property
    def column_of(self) -> Callable[[str], ReflectedColumn | None]:
        """Return a function that returns the column of a role; None if the role is not one plain column."""
        return {role: self.columns[name] for role, name in self.table.names.items()}.get

    @cached_property
    def error_max_length(self) -> int | None:
        """Return the maximum number of characters of ``last_error``; None if no limit is known. `row_changes` lowers
        the limit when the column accepts only a shorter error.
        """
        return self.max_length("last_error")

    @cached_property
    def columns(self) -> dict[str, ReflectedColumn]:
        """Return the columns of the application's table, by name.

        Raises:
            SchemaMismatch: the table does not exist.
        """
        with self.read() as connection, warnings.catch_warnings():
            # SQLAlchemy warns about columns of unknown types, such as those of an extension. retrycli does not need
            # these types.
            warnings.simplefilter("ignore", exc.SAWarning)
            try:
                columns = inspect(connection).get_columns(self.table_name, self.schema_name)
            except exc.NoSuchTableError:
                raise SchemaMismatch(f"no table {self.named_place}; check database.url and database.table") from None
            if self.is_sqlite and any(isinstance(column["type"], NUMERIC) for column in columns):
                uuids = set(connection.exec_driver_sql(UUIDS_IN_SQLITE, (self.table_name,)).scalars())
                columns = [column | {"type": Text()} if column["name"] in uuids else column for column in columns]
        return by_name(columns, is_sqlite=self.is_sqlite)

    def write(self) -> AbstractContextManager[Connection]:
        """Open a short writing transaction, unless a transaction is already open. On SQLite, acquire the write lock
        immediately, so that no other process can write between this transaction's reads and writes.

        Raises:
            DatabaseUnavailable: the driver reports an error.
            SchemaMismatch: the application's table does not support the statement.
        """
        return self._transaction(writes=True)

    def read(self) -> AbstractContextManager[Connection]:
        """Open a short read-only transaction, unless a transaction is already open.

        Raises:
            DatabaseUnavailable: the driver reports an error.
        """
        return self._transaction(writes=False)

    def scalar(self, statement: Select[Value], parameters: Mapping[str, object] | None = None) -> Value | None:
        """Return the first value of a query; None if there is no row. Open a transaction unless one is already open."""
        with self.read() as connection:
            return connection.execute(statement, parameters).scalar()

    def rows(
        self, statement: TypedReturnsRows[*Columns], parameters: Mapping[str, object] | None = None
    ) -> Sequence[Row[*Columns]]:
        """Return all rows of a query. Open a transaction unless one is already open."""
        with self.read() as connection:
            return connection.execute(statement, parameters).all()

    @contextmanager
    def transaction(self, *, wait: bool = True) -> Iterator[Callable[[], bool]]:
        """Run all reads and writes in the block in one transaction. On SQLite, the application's readers may block the
        commit, so the block gets a function that tries to commit before the end. It returns False if readers block the
        commit, and may be called again. On a server, and within another transaction, it does nothing and returns True.
        Without ``wait``, do not wait for a file's lock, and wait at most `IMPATIENT_MS` for a server's lock.

        Raises:
            DatabaseBusy: another transaction held a lock for too long.
            DatabaseUnavailable: the driver reports an error.
        """
        before = self._ambient
        with self._transaction(writes=True, wait=wait) as connection:
            self._ambient = connection
            try:
                yield partial(_commit, connection) if self.is_sqlite and before is None else lambda: True
            finally:
                self._ambient = before

    def patience(self) -> timedelta:
        """Return how long a transaction waits for a lock."""
        with self.read() as connection:
            if self.is_sqlite:
                return timedelta(milliseconds=connection.info[PATIENCE])
            wait = connection.exec_driver_sql(
                "SELECT setting::int FROM pg_catalog.pg_settings WHERE name = 'lock_timeout'"
            )
            return timedelta(milliseconds=wait.scalar_one())

    def take_turn(self, connection: Connection) -> None:
        """Wait until no other transaction has its turn, and keep the turn until the transaction ends. SQLite needs no
        turns, because it allows only one writer at a time.

        Any role that may connect could hold an advisory lock, but only roles that may write to retrycli's tables can
        lock one. This lock conflicts with itself, but not with reads and writes.
        """
        if not self.is_sqlite:
            connection.execute(TURN)

    def take_turn_to_create(self, connection: Connection) -> bool:
        """Take the turn, even if retrycli's tables do not exist yet. Return whether they exist."""
        if self.is_sqlite:
            return inspect(connection).has_table(version.name)
        connection.execute(select(func.pg_advisory_xact_lock(CREATION)))
        exists = connection.execute(select(func.to_regclass(version.name))).scalar() is not None
        if exists:
            self.take_turn(connection)
        return exists

    @contextmanager
    def rollback_at_end(self, *, writes: bool = True) -> Iterator[None]:
        """Run all reads and writes in the block in one transaction, and roll it back at the end. On SQLite, acquire the
        write lock immediately. Without ``writes``, do not, and let the block only read.

        Raises:
            WriteNeeded: the block may only read, and something in it writes.
        """
        with self._translated(), self._engine.connect() as connection:
            connection.execution_options(writes=writes).begin()
            if not self._is_trusted:
                self._require_trust(connection)
            self._ambient, self._only_reads = connection, not writes
            try:
                yield
            finally:
                self._ambient, self._only_reads = None, False
                connection.rollback()

    @contextmanager
    def outside_transactions(self) -> Iterator[Connection]:
        """Open a connection without a transaction, which PostgreSQL requires for ``CONCURRENTLY``. On SQLite, open a
        writing transaction.

        Raises:
            DatabaseUnavailable: the driver reports an error.
        """
        if self.is_sqlite:
            with self.write() as connection:
                yield connection
            return
        with self._translated(), self._engine.connect() as connection:
            yield connection.execution_options(on_its_own=True)

    def empty_log(self) -> None:
        """Copy a SQLite file's write-ahead log into the file, and truncate the log.

        Raises:
            DatabaseBusy: another process used the log for too long.
        """
        with self._translated(), closing(self._engine.raw_connection()) as connection:
            cursor = connection.cursor()
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            if (found := cursor.fetchone()) is not None and found[0]:
                raise DatabaseBusy(
                    f"{self.place}: the erased texts remain in the write-ahead log, which another "
                    "process is using; run this again when it has finished"
                )

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def revision(self) -> str | None:
        """Return the version of retrycli's own tables; None if they do not exist.

        Raises:
            ConfigurationError: another role may have planted one of them.
        """
        with self.read() as connection:
            if self.is_sqlite:
                exists = inspect(connection).has_table(version.name)
            else:
                found = connection.execute(OWN_IN_POSTGRESQL, {"table": self.qualified_table}).all()
                exists = any(each.relname == version.name for each in found)
                if planted := next((each for each in found if not each.is_ours), None):
                    raise ConfigurationError(
                        f"{planted.nspname}.{planted.relname} in {self.place} is not a table of retrycli's role, but "
                        f"of {planted.rolname}, and reading it may run that role's code. Drop it; or, if that role's "
                        f"passes made it, grant the role {planted.rolname} to the one that runs this"
                    )
            return connection.execute(select(version.c.version_num)).scalar() if exists else None

    @contextmanager
    def _transaction(self, *, writes: bool, wait: bool = True) -> Iterator[Connection]:
        if self._ambient is not None:
            if writes and self._only_reads:
                raise WriteNeeded
            yield self._ambient
            return
        with self._translated():
            transaction = self._begin(writes=writes, wait=wait)
            with closing(transaction.connection) as connection, transaction:
                if not self._is_trusted:
                    self._require_trust(connection)
                if self.is_sqlite or not writes:
                    yield connection
                else:
                    with pipelined(connection):
                        yield connection
                        # The driver's `commit` would need an extra round trip before the end of the pipeline.
                        connection.exec_driver_sql("COMMIT", execution_options=NO_RESULT)

    def _require_trust(self, connection: Connection) -> None:
        found = connection.execute(STRANGERS, {"table": self.qualified_table}).first()
        if found is None:
            self._is_trusted = True
            return
        schema, role, owns = found

        def quoted(name: str | None) -> str:
            return self.quoted(name or "").replace("%%", "%")  # doubled for the driver, not for psql

        of = f"DATABASE {quoted(self._url.database)}" if schema is None else f"SCHEMA {quoted(schema)}"
        where = "a schema that does not exist" if schema is None else f"the schema {schema}"
        revoke = f"`REVOKE CREATE ON {of} FROM {'PUBLIC' if role is None else quoted(role)}`"
        raise Untrusted(
            f"{self.place}: {'every role' if role is None else f'the role {role}'} may create tables and functions "
            f"that retrycli would use, because the search_path names {where}; "
            f"{'give that schema another owner' if owns else revoke}, or set another search_path"
        )

    def _begin(self, *, writes: bool, wait: bool) -> RootTransaction:
        connection = self._engine.connect().execution_options(writes=writes, wait=wait)
        try:
            return connection.begin()
        except exc.DBAPIError as error:
            connection.close()
            if not error.connection_invalidated:
                raise
        # The connection has been lost since the last transaction, for example because the server restarted. Reconnect.
        return self._engine.connect().execution_options(writes=writes, wait=wait).begin()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            kind: type[RetrycliError] = SchemaMismatch if is_of_the_table(error) else DatabaseUnavailable
            kind = DatabaseBusy if is_busy(error) else kind
            raise kind(f"{self.place}: {of_statement_in_words(error)}") from without_details(error)


class Queries:
    """Base class of objects that query one database, which has the queue and the application's table."""

    def __init__(self, database: Database) -> None:
        self._database = database


def _commit(connection: Connection) -> bool:
    # Return whether the commit succeeded. If readers block the commit, the transaction keeps its lock, so no new reader
    # can start before the next attempt.
    try:
        connection.exec_driver_sql("COMMIT")
    except exc.DBAPIError as error:
        if is_busy(error):
            return False
        raise
    return True
