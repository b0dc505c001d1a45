"""Open a database, and set up its connections and transactions."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from operator import methodcaller
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor, ExecutionContext
from sqlalchemy.pool import ConnectionPoolEntry

from retrycli.domain.errors import ConfigurationError, DatabaseUnavailable
from retrycli.store.dialects import COMPILED
from retrycli.system.process import install
from retrycli.system.trust import ROOT, require_trust

# Default number of seconds to wait for a lock that the application holds. The wait is shorter than a claim's lease, so
# that claims do not expire during one wait. The URL of a SQLite file may set another `timeout`, and the role on a
# server may have another `lock_timeout`.
BUSY_SECONDS = 30

# Maximum number of milliseconds to wait for a lock on a server while requests are in flight. The limit is low, because
# no answers can be read during the wait.
IMPATIENT_MS = 100

OWN_SETTINGS = (
    "SELECT (SELECT setting::int FROM pg_catalog.pg_settings WHERE name = 'lock_timeout'), "
    "pg_catalog.current_setting('synchronous_commit')"
)

# Begins each transaction on a server, with all settings in one string to save round trips. They limit lock waits, make
# commits survive a crash of the server, and make the commits of other transactions visible. Times are in formats that
# the driver can read, and in UTC, because in another zone a time may lie outside Python's calendar. Most statements
# find a few rows by their ids; with the default `random_page_cost` of 4, the server would scan tables of some ten
# thousand rows for each. Deferred constraints are checked when a row is written, so that they reject this row and not
# the whole commit. Behind a pooler the next transaction may use another session, so the settings are for one only.
BEGIN_TRANSACTION = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {}; SET LOCAL synchronous_commit = '{}'; "
    "SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = ISO; SET LOCAL intervalstyle = postgres; "
    "SET LOCAL random_page_cost = 1.1; SET CONSTRAINTS ALL IMMEDIATE"
)

# Execution option for a statement whose result is not read. On a server, a writing transaction does not wait for the
# statement to finish.
NO_RESULT = {"unread": True}

# Default TCP limits for a server that does not respond; without limits, TCP would wait for hours. The URL may set
# others. Times are in seconds, except `tcp_user_timeout`, which is in milliseconds.
KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": BUSY_SECONDS * 1000,
}

# psycopg logs errors that it does not raise, such as a second error in a pipeline, and these log lines may quote rows.
# This handler keeps them off stderr. An application's own handlers still get psycopg's log.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

# Keys in the `info` of a SQLite connection: the configured and the current lock wait, in milliseconds.
PATIENCE, WAITS = "patience", "waits"


def parsed(url: str) -> URL:
    """Parse a database URL.

    Raises:
        ConfigurationError: the URL is invalid.
    """
    try:
        found = make_url(url)
    except (exc.ArgumentError, ValueError):  # dropped, because the error's text may quote the password
        raise ConfigurationError(
            "database.url is not a valid database URL; check its port and its percent-encoding"
        ) from None
    if found.password is not None and "@" in f"{found.host}{found.database}":  # errors would quote them
        raise ConfigurationError("database.url: the password contains @; write %40 for it")
    return found


def make_engine(url: URL, patience: int) -> Engine:
    """Create the engine for a database. ``patience`` is the maximum number of seconds to wait for a connection or a
    lock, if neither the URL nor the role sets another limit.

    Raises:
        ConfigurationError: the driver is not installed.
    """
    is_sqlite = url.get_backend_name() == "sqlite"
    try:
        return _sqlite(url, patience) if is_sqlite else _postgresql(url, patience)
    except ImportError as error:
        remedy = "" if is_sqlite else f"; run `{install('postgres')}`"
        raise ConfigurationError(f"database.url: the driver {error.name} is not installed{remedy}") from error


def _postgresql(url: URL, patience: int) -> Engine:
    wishes = KEEPALIVE | {"connect_timeout": patience}
    engine = _engine(
        url.set(drivername="postgresql+retrycli"),
        {
            **{name: value for name, value in wishes.items() if name not in url.query},
            "prepare_threshold": None,  # behind a pooler, another session would lack the prepared statement
            "autocommit": True,  # retrycli sends BEGIN itself
        },
    )
    from retrycli.store.postgresql import prepare  # imported here because it imports the driver

    event.listen(engine, "connect", prepare, insert=True)  # first: SQLAlchemy's own listener fails with SQL_ASCII
    event.listen(engine, "begin", _BeginTransaction(patience))
    event.listen(engine, "after_cursor_execute", _sync_pipeline)
    return engine


def _sqlite(url: URL, patience: int) -> Engine:
    # The URL may name an asynchronous driver that the application uses, so the driver is replaced. SQLCipher's driver
    # stays, because no other driver can read its files.
    driver = url if url.drivername == "sqlite+pysqlcipher" else url.set(drivername="sqlite+retrycli")
    engine = _engine(driver, {} if "timeout" in url.query else {"timeout": patience})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _engine(url: URL, arguments: Mapping[str, object]) -> Engine:
    # A pass uses one connection from start to end. The second connection is for reads while a transaction is open.
    engine = create_engine(url, connect_args={**arguments}, hide_parameters=True, pool_size=1, max_overflow=1)
    engine.update_execution_options(compiled_cache=COMPILED)
    return engine


def _prepare_sqlite(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # retrycli sends BEGIN itself
    # Decode invalid UTF-8 as surrogates instead of failing, so that an error can name the row that contains it.
    connection.text_factory = methodcaller("decode", "utf-8", "surrogateescape")
    cursor = connection.cursor()
    # Ensure that the data of a commit is on disk when the commit returns, in every journal mode and build of SQLite. By
    # default, a rollback journal can survive a power cut and then undo the commit.
    cursor.execute("PRAGMA synchronous = EXTRA")
    ((patience,),) = cursor.execute("PRAGMA busy_timeout")
    record.info[PATIENCE] = record.info[WAITS] = patience


def _begin_sqlite(connection: Connection) -> None:
    options, info = connection.get_execution_options(), connection.info
    waits = info[PATIENCE] if options.get("wait", True) else 0
    if waits != info[WAITS]:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {waits}")
        info[WAITS] = waits
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes") else "BEGIN")


def _sync_pipeline(
    _connection: Connection,
    _cursor: DBAPICursor,
    _statement: str,
    _parameters: object,
    context: ExecutionContext,
    _executemany: bool,  # noqa: FBT001  SQLAlchemy passes it by position
) -> None:
    pipeline = context.execution_options.get("pipeline")
    if pipeline is not None and "unread" not in context.execution_options:
        pipeline.sync()


@contextmanager
def pipelined(connection: Connection) -> Iterator[None]:
    """On PostgreSQL, run the block in libpq's pipeline mode: wait for the server only to read results, and at the end.

    Raises:
        DBAPIError: a statement has failed, possibly before the statement that raises the error.
    """
    if connection.dialect.name == "sqlite":
        yield
        return
    from psycopg import Error, pq

    driver: Any = connection.connection.driver_connection
    try:
        with driver.pipeline() as pipeline:
            connection.execution_options(pipeline=pipeline)
            yield
    except Error as error:
        raise exc.DBAPIError(None, None, error, hide_parameters=True) from error
    finally:
        connection.execution_options(pipeline=None)
        # The pool can't roll back a connection that the server has closed, or left in the middle of an answer.
        if driver.info.transaction_status in {pq.TransactionStatus.ACTIVE, pq.TransactionStatus.UNKNOWN}:
            connection.invalidate()


@contextmanager
def pipeline_errors(connection: Connection) -> Iterator[None]:
    """Raise errors of statements as SQLAlchemy's errors, and leave the pipeline usable. The block must end with a
    statement whose result is read, because the server may not have executed the others before.

    Raises:
        DBAPIError: a statement has failed, possibly before the statement that raises the error.
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


class _BeginTransaction:
    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._patient = self._impatient = ""

    def __call__(self, connection: Connection) -> None:
        options = connection.get_execution_options()
        if "on_its_own" in options:
            return
        if not self._patient:  # first transaction: keep the role's settings, unless they are unsafe
            own_ms, commits = connection.exec_driver_sql(OWN_SETTINGS).one()
            waits_ms = own_ms or self._patience * 1000
            commits = "local" if commits == "off" else commits
            self._patient = BEGIN_TRANSACTION.format(waits_ms, commits)
            self._impatient = BEGIN_TRANSACTION.format(min(waits_ms, IMPATIENT_MS), commits)
        connection.exec_driver_sql(self._patient if options.get("wait", True) else self._impatient)


def require_file(url: URL) -> None:
    """Check that a file exists, because opening a missing file would create an empty database.

    Raises:
        ConfigurationError: the URL does not name a file.
        Untrusted: root would open the file, or its path is relative, but another user may change the file, a link to it
            or a folder above it.
        DatabaseUnavailable: the file does not exist, or can't be accessed.
    """
    path = path_of(url)
    if path in {"", ":memory:"}:
        raise ConfigurationError("database.url names no file; write sqlite:///PATH")
    file = Path(path).absolute()
    try:
        is_there = file.is_file()
    except OSError as error:
        raise DatabaseUnavailable(
            f"can't access {file}: {error.strerror}; check the owner and permissions of the folders above it"
        ) from error
    if not is_there:
        raise DatabaseUnavailable(f"no database at {file}; check database.url (RETRYCLI_DATABASE__URL)")
    # SQLite deletes files that a journal beside the database names. The working directory may be another user's.
    if os.geteuid() == ROOT or not Path(path).is_absolute():
        require_trust(file, "database.url")


def path_of(url: URL) -> str:
    """Return the path in a SQLite file's URL; empty if the URL has no path."""
    path = url.database or ""
    return unquote(urlsplit(path).path) if path.startswith("file:") and "uri" in url.query else path
