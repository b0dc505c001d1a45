"""How a database is opened, and what each of its connections and transactions begins with."""

from __future__ import annotations

import logging
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from sqlalchemy import create_engine, event, exc, make_url

from retrycli.domain.errors import ConfigurationError, DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection as PsycopgConnection
    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor, ExecutionContext
    from sqlalchemy.pool import ConnectionPoolEntry

BUSY_SECONDS = 30
"""How long to wait for a lock that the application holds, which a claim outlives. A SQLite file's URL may have another
``timeout``, and a server's role another ``lock_timeout``."""

IMPATIENT_MS = 100
"""How long a transaction waits for a server's lock while requests are out: their answers can't come in meanwhile."""

AS_IT_IS = (
    "SELECT (SELECT setting::int FROM pg_catalog.pg_settings WHERE name = 'lock_timeout'), "
    "pg_catalog.current_setting('synchronous_commit')"
)
BEGINNING = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {}; SET LOCAL synchronous_commit = '{}'; "
    "SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = ISO; SET LOCAL intervalstyle = postgres; "
    "SET CONSTRAINTS ALL IMMEDIATE"
)
"""What each transaction on a server begins with: its waiting comes to an end, what it has written is not forgotten when
the server dies a moment later, it sees what others have committed meanwhile, and times come as the driver can read
them: also those that the calendar has in UTC alone. A deferred constraint refuses a row when it is written, and not all
rows at the commit. All for this one only: behind a pooler the next may be in another's session. In one text, so that
the server is waited for once."""
ON_ITS_OWN = {"on_its_own": True}
"""The option of a connection that begins no transactions."""
ONE_CONNECTION = {"pool_size": 1, "max_overflow": 1}
"""A pass uses one connection from its start to its end. A second one is for whatever reads within a transaction."""
NO_RESULT = {"unread": True}
"""The option of a statement of which nothing is read: within a transaction that writes, nobody waits for it alone."""

GIVE_UP = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": BUSY_SECONDS * 1000,
}
"""When a server that has gone without a word is given up, unless its URL says otherwise; TCP would wait for hours."""

logging.getLogger("psycopg").addHandler(logging.NullHandler())
"""It warns of errors beside the one that it raises, and quotes rows. Whoever wants its log still gets it."""

PATIENCE, WAITS = "patience", "waits"
"""What is known of a connection to a file: for how many milliseconds to wait for a lock, and for how many it does."""
SYNC_ALL = "PRAGMA synchronous = EXTRA"
"""A commit to a file is on the disk when it returns, whatever its journal is and however SQLite was built. By default a
rollback journal may still be in its folder after a power cut, and then the commit is undone."""


def parsed(url: str) -> URL:
    """SQLAlchemy's form of a URL.

    Raises:
        ConfigurationError: it is none.
    """
    try:
        return make_url(url)
    except (exc.ArgumentError, ValueError):  # their texts may quote the password
        raise ConfigurationError("database.url is no URL of a database; check its port, and what it quotes") from None


def make_engine(url: URL, patience: int) -> Engine:
    """What connects to a database.

    Args:
        url: where it is.
        patience: how many seconds to wait at most, for a connection and for a lock.

    Raises:
        ConfigurationError: its driver is not installed.
    """
    is_sqlite = url.get_backend_name() == "sqlite"
    try:
        return _sqlite(url, patience) if is_sqlite else _postgresql(url, patience)
    except ImportError as error:
        from retrycli.system.python import install

        remedy = "" if is_sqlite else f"; {install('postgres')}"
        raise ConfigurationError(f"database.url: the driver {error.name} is not installed{remedy}") from error


def _postgresql(url: URL, patience: int) -> Engine:
    driver = url.set(drivername="postgresql+psycopg")
    wishes = GIVE_UP | {"connect_timeout": patience}
    unsaid = {name: value for name, value in wishes.items() if name not in url.query}
    # A prepared statement would be left in its server connection, and BEGIN is in our own hands.
    own = {"prepare_threshold": None, "autocommit": True}
    engine = create_engine(driver, connect_args=unsaid | own, hide_parameters=True, **ONE_CONNECTION)
    from retrycli.store.catalogue import VALUES, Compiler
    from retrycli.store.values import read_any, write_any  # needs the driver

    engine.dialect.statement_compiler = Compiler
    engine.dialect.colspecs = {**engine.dialect.colspecs, **VALUES}
    event.listen(engine, "connect", _require_letters, insert=True)  # before SQLAlchemy asks for the server's version
    event.listen(engine, "connect", read_any)
    event.listen(engine, "connect", write_any)
    event.listen(engine, "begin", _Beginning(patience))
    event.listen(engine, "after_cursor_execute", _wait_for_it)
    return engine


def _require_letters(connection: PsycopgConnection, _record: object) -> None:
    """See that texts come as texts: from a database without an encoding they come as bytes, unless one is named.

    Raises:
        ConfigurationError: it has none.
    """
    if connection.info.parameter_status("client_encoding") == "SQL_ASCII":
        remedy = "add client_encoding=utf8 to the query of database.url, if that is what its texts are in"
        raise ConfigurationError(f"the database has no encoding (SQL_ASCII); {remedy}")


def _sqlite(url: URL, patience: int) -> Engine:
    waits = {} if "timeout" in url.query else {"timeout": patience}
    # The application's own driver may be an asynchronous one; what only SQLCipher can read is left to it.
    driver = url if url.drivername == "sqlite+pysqlcipher" else url.set(drivername="sqlite")
    engine = create_engine(driver, connect_args=waits, hide_parameters=True, **ONE_CONNECTION)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    """Take BEGIN into our own hands, have commits last, and let a row that is no UTF-8 be read: so it can be named."""
    connection.isolation_level = None
    connection.text_factory = _decoded
    cursor = connection.cursor()
    cursor.execute(SYNC_ALL)
    ((patience,),) = cursor.execute("PRAGMA busy_timeout")
    record.info[PATIENCE] = record.info[WAITS] = patience


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _begin_sqlite(connection: Connection) -> None:
    options, info = connection.get_execution_options(), connection.info
    waits = info[PATIENCE] if options.get("wait", True) else 0
    if waits != info[WAITS]:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {waits}")
        info[WAITS] = waits
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes") else "BEGIN")


def _wait_for_it(
    _connection: Connection,
    _cursor: DBAPICursor,
    _statement: str,
    _parameters: object,
    context: ExecutionContext,
    _executemany: bool,  # noqa: FBT001  as SQLAlchemy calls it
) -> None:
    """Have a statement's result, and those of all before it, unless nobody reads it."""
    pipeline = context.execution_options.get("pipeline")
    if pipeline is not None and "unread" not in context.execution_options:
        pipeline.sync()


@contextmanager
def read_at_the_end(connection: Connection) -> Iterator[None]:
    """Wait for a server where something is read and at the end, and not for each statement (libpq's pipeline mode).

    Raises:
        DBAPIError: a statement has failed, maybe one before that which was told of it.
    """
    if connection.dialect.name == "sqlite":
        yield
        return
    from psycopg import Error

    driver = connection.connection.driver_connection
    assert driver is not None  # noqa: S101  told to the type checker
    around = connection.get_execution_options().get("pipeline")
    try:
        with driver.pipeline() as pipeline:
            connection.execution_options(pipeline=pipeline)
            yield
    except Error as error:
        raise exc.DBAPIError(None, None, error, hide_parameters=True) from error
    finally:
        connection.execution_options(pipeline=around)


@contextmanager
def errors_of_a_pipeline(connection: Connection) -> Iterator[None]:
    """Raise the errors of statements as SQLAlchemy's, and leave the pipeline in order.

    The block must end with a statement that is read: before that a server may not have carried out the others.

    Raises:
        DBAPIError: a statement has failed, maybe one before that which was told of it.
    """
    pipeline = connection.get_execution_options().get("pipeline")
    if pipeline is None:
        yield
        return
    from psycopg import Error

    try:
        yield
    except (Error, exc.DBAPIError) as error:
        with suppress(Error):
            pipeline.sync()
        if isinstance(error, exc.DBAPIError):
            raise
        raise exc.DBAPIError(None, None, error, hide_parameters=True) from error


class _Beginning:
    """Begins each transaction on a server, as its role is set to where that is good enough."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._patient = self._impatient = ""

    def __call__(self, connection: Connection) -> None:
        options = connection.get_execution_options()
        if "on_its_own" in options:
            return
        if not self._patient:
            own_ms, commits = connection.exec_driver_sql(AS_IT_IS).one()
            waits_ms = own_ms or self._patience * 1000
            commits = "local" if commits == "off" else commits
            self._patient = BEGINNING.format(waits_ms, commits)
            self._impatient = BEGINNING.format(min(waits_ms, IMPATIENT_MS), commits)
        connection.exec_driver_sql(self._patient if options.get("wait", True) else self._impatient)


def require_file(url: URL) -> None:
    """See that a file is there: opening a missing one would make an empty database in its place.

    Raises:
        ConfigurationError: the URL names none.
        DatabaseUnavailable: it is not there.
    """
    path = path_of(url)
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


def path_of(url: URL) -> str:
    """The path that a SQLite file's URL names, empty where it names none."""
    path = url.database or ""
    return unquote(urlsplit(path).path) if path.startswith("file:") and "uri" in url.query else path
