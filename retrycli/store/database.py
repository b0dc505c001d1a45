"""The database: opening it, short transactions, the application's table, and upgrades of retrycli's own."""

from __future__ import annotations

import logging
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import column, create_engine, event, exc, func, inspect, make_url, select
from sqlalchemy import table as table_clause

from retrycli import schema
from retrycli.errors import ConfigurationError, DatabaseUnavailable, SchemaMismatch
from retrycli.message import REQUIRED_COLUMNS
from retrycli.store.remedies import in_words, without_details

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection, Engine, RootTransaction, TableClause
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.types import TypeEngine

BUSY_SECONDS = 30
"""How long to wait for a lock that the application holds, which a claim outlives. A SQLite file's URL may have another
``timeout``, and a server's role another ``lock_timeout``."""

AS_IT_IS = "SELECT current_setting('lock_timeout'), current_setting('synchronous_commit')"
BEGINNING = (
    "SET LOCAL lock_timeout = '{}'; SET LOCAL synchronous_commit = '{}'; "
    "SET LOCAL datestyle = ISO; SET LOCAL intervalstyle = postgres"
)
"""What each transaction on a server begins with: its waiting comes to an end, what it has written is not forgotten when
the server dies a moment later, and times come as the driver can read them. All for this one only: behind a pooler the
next may be in another's session."""

GIVE_UP = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": BUSY_SECONDS * 1000,
}
"""When a server that has gone without a word is given up, unless its URL says otherwise; TCP would wait for hours."""

logging.getLogger("psycopg").addHandler(logging.NullHandler())
"""It warns of errors beside the one that it raises, and quotes rows. Whoever wants its log still gets it."""

UPGRADING = Lock()
"""Alembic keeps the upgrade it is at in its modules, so a process makes one at a time, of whichever database."""

SYNC_ALL = "PRAGMA synchronous = EXTRA"
"""A commit to a file is on the disk when it returns, whatever its journal is and however SQLite was built. By default a
rollback journal may still be in its folder after a power cut, and then the commit is undone."""

ADVISORY_LOCK = 0x7265747279
"""The number by which processes that use the same PostgreSQL database know each other."""


class Database:
    """One application's database.

    Args:
        url: SQLAlchemy's URL of it.
        table: the name of the application's table, with its schema where it has one.
        patience: how many seconds to wait for it at most, where nobody wants to wait as long as a pass does.

    Raises:
        DatabaseUnavailable: a SQLite file that is not there.
        ConfigurationError: the URL is none, or its driver is not installed.
    """

    def __init__(self, url: str, table: str = "pending_messages", *, patience: int = BUSY_SECONDS) -> None:
        self._url = _parsed(url)
        self._table = table
        self._kept: Connection | None = None
        if self._url.get_backend_name() == "sqlite":
            _require_file(self._url)
        self._engine = _engine(self._url, patience)

    @property
    def place(self) -> str:
        """Where it is, without its password."""
        if self.is_sqlite:
            return self._url.database or ""
        secrets = [name for name in self._url.query if "password" in name]
        return self._url.difference_update_query(secrets).render_as_string(hide_password=True)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a SQLite file; PostgreSQL otherwise."""
        return self._url.get_backend_name() == "sqlite"

    @property
    def file(self) -> Path | None:
        """The SQLite file; None where it is a server."""
        return Path(_path(self._url)) if self.is_sqlite else None

    def letters_lacking(self, connection: Connection, text: str) -> str:
        """What of a text the database's encoding can't hold, each letter once; a file's holds all."""
        driver = connection.connection.driver_connection
        if self.is_sqlite or driver is None:
            return ""
        encoding = driver.info.encoding
        return "".join(sorted(each for each in set(text) if not each.encode(encoding, "ignore")))

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A short transaction that writes; on SQLite it takes the write lock at once, so that it can't lose it.

        Raises:
            DatabaseUnavailable: in words, whatever the driver had to say.
        """
        with self._transaction(writes=True) as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A short transaction that only reads.

        Raises:
            DatabaseUnavailable: in words, whatever the driver had to say.
        """
        with self._transaction(writes=False) as connection:
            yield connection

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make one transaction of all that is read and written inside.

        Raises:
            DatabaseUnavailable: in words, whatever the driver had to say.
        """
        before = self._kept
        with self.write() as connection:
            self._kept = connection
            try:
                yield
            finally:
                self._kept = before

    def one_at_a_time(self, connection: Connection) -> None:
        """Wait for every other transaction that has called this; on SQLite one that writes waits for all others."""
        if not self.is_sqlite:
            connection.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCK)))

    @contextmanager
    def nothing_kept(self) -> Iterator[None]:
        """Whatever is written inside is rolled back at the end: for ``--dry-run``."""
        with self._translated(), self._engine.connect() as connection:
            connection.execution_options(writes=True).begin()
            self._kept = connection
            try:
                yield
            finally:
                self._kept = None
                connection.rollback()

    @contextmanager
    def outside_transactions(self) -> Iterator[Connection]:
        """A connection of which each statement is on its own, as those are that PostgreSQL carries out concurrently.

        Raises:
            DatabaseUnavailable: in words, whatever the driver had to say.
        """
        if self.is_sqlite:
            with self.write() as connection:
                yield connection
            return
        with self._translated(), self._engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()

    @cached_property
    def messages(self) -> TableClause:
        """The application's table as it is, with all its columns, untyped.

        Raises:
            SchemaMismatch: the table, or a column that retrycli needs, is not there.
        """
        columns = self._column_types
        missing = [name for name in REQUIRED_COLUMNS if name not in columns]
        if missing:
            raise SchemaMismatch(
                f"{self._table} in {self.place} has no column {', '.join(missing)}; "
                f"retrycli needs {', '.join(REQUIRED_COLUMNS)}"
            )
        schema_name, _, name = self._table.rpartition(".")
        return table_clause(name, *map(column, columns), schema=schema_name or None)

    def has_messages(self) -> bool:
        """Whether the application's table is there."""
        schema_name, _, name = self._table.rpartition(".")
        with self.read() as connection:
            return inspect(connection).has_table(name, schema_name or None)

    @property
    def quoted_table(self) -> tuple[str, str]:
        """The schema, empty where none is named, and the name of the application's table, as SQL has them."""
        quote = self._engine.dialect.identifier_preparer.quote
        schema_name, _, name = self._table.rpartition(".")
        return quote(schema_name) if schema_name else "", quote(name)

    def type_of(self, name: str) -> TypeEngine[Any]:
        """The type of a column of the application's table."""
        return self._column_types[name]

    @cached_property
    def _column_types(self) -> dict[str, TypeEngine[Any]]:
        schema_name, _, name = self._table.rpartition(".")
        with self.read() as connection:
            try:
                columns = inspect(connection).get_columns(name, schema_name or None)
            except exc.NoSuchTableError:
                raise SchemaMismatch(
                    f"no table {self._table} in {self.place}; check database.url and database.table"
                ) from None
            return {each["name"]: each["type"] for each in columns}

    def ensure_tables(self, *, upgrade: bool) -> None:
        """Make retrycli's own tables where there are none, and upgrade old ones if asked to.

        Raises:
            ConfigurationError: the tables are of another version, and not to be upgraded or newer than this program.
        """
        found = self.revision()
        if found == schema.HEAD:
            return
        if found is not None and (not upgrade or found > schema.HEAD):
            remedy = "install a newer retrycli" if found > schema.HEAD else "run `retrycli db upgrade`"
            raise ConfigurationError(
                f"retrycli's tables in {self.place} are of version {found}, and this program's of {schema.HEAD}; "
                + remedy
            )
        self.upgrade()

    def revision(self) -> str | None:
        """The version of retrycli's own tables; None where there are none."""
        with self.read() as connection:
            if not inspect(connection).has_table(schema.version.name):
                return None
            return connection.execute(select(schema.version.c.version_num)).scalar()

    def upgrade(self) -> None:
        """Bring retrycli's own tables to the newest version, in one transaction."""
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", "retrycli:migrations")
        config.set_main_option("path_separator", "os")
        config.attributes["messages"] = self.messages
        with UPGRADING, self.write() as connection:
            self.one_at_a_time(connection)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    @contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[Connection]:
        if self._kept is not None:
            yield self._kept
            return
        with self._translated():
            transaction = self._begun(writes=writes)
            with closing(transaction.connection) as connection, transaction:
                yield connection

    def _begun(self, *, writes: bool) -> RootTransaction:
        """A transaction that has begun; where the server was restarted since the last one, on another connection."""
        connection = self._engine.connect().execution_options(writes=writes)
        try:
            return connection.begin()
        except exc.DBAPIError as error:
            connection.close()
            if not error.connection_invalidated:
                raise
        return self._engine.connect().execution_options(writes=writes).begin()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            raise DatabaseUnavailable(f"{self.place}: {in_words(error)}") from without_details(error)


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except (exc.ArgumentError, ValueError):  # their texts may quote the password
        raise ConfigurationError("database.url is no URL of a database; check its port, and what it quotes") from None


def _engine(url: URL, patience: int) -> Engine:
    try:
        if url.get_backend_name() != "sqlite":
            driver = url.set(drivername="postgresql+psycopg")
            wishes = GIVE_UP | {"connect_timeout": patience}
            unsaid = {name: value for name, value in wishes.items() if name not in url.query}
            unprepared = {"prepare_threshold": None}  # a prepared statement is left in its server connection
            engine = create_engine(
                driver, pool_size=1, max_overflow=1, connect_args=unsaid | unprepared, hide_parameters=True
            )
            event.listen(engine, "begin", _Beginning(patience))
            from retrycli.store.values import read_any, write_any  # needs the driver

            event.listen(engine, "connect", read_any)
            event.listen(engine, "connect", write_any)
            return engine
        waits = {} if "timeout" in url.query else {"timeout": patience}
        engine = create_engine(url, connect_args=waits, hide_parameters=True)
    except ImportError as error:
        remedy = "" if url.get_backend_name() == "sqlite" else "; pip install 'retrycli[postgres]'"
        raise ConfigurationError(f"database.url: the driver {error.name} is not installed{remedy}") from error
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: DBAPIConnection, _record: object) -> None:
    """Take BEGIN into our own hands, have commits last, and let a row that is no UTF-8 be read: so it can be named."""
    connection.isolation_level = None
    connection.text_factory = _decoded
    connection.cursor().execute(SYNC_ALL)


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


class _Beginning:
    """Begins each transaction on a server, as its role is set to where that is good enough."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._statement = ""

    def __call__(self, connection: Connection) -> None:
        if not self._statement:
            waits, commits = connection.exec_driver_sql(AS_IT_IS).one()
            waits = f"{self._patience}s" if waits == "0" else waits
            self._statement = BEGINNING.format(waits, "local" if commits == "off" else commits)
        connection.exec_driver_sql(self._statement)


def _require_file(url: URL) -> None:
    """Opening a missing file would make an empty database in its place."""
    path = _path(url)
    if path in {"", ":memory:"}:
        raise ConfigurationError("database.url names no file; write sqlite:///PATH")
    file = Path(path).absolute()
    try:
        is_there = file.is_file()
    except OSError as error:
        raise DatabaseUnavailable(
            f"can't look for {file}: {error.strerror}; check its folder's mode and owner"
        ) from error
    if not is_there:
        raise DatabaseUnavailable(f"no database at {file}; check database.url (RETRYCLI_DATABASE__URL)")


def _path(url: URL) -> str:
    path = url.database or ""
    return unquote(urlsplit(path).path) if path.startswith("file:") and "uri" in url.query else path
