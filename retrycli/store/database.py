"""The database: short transactions, the application's table, and upgrades of retrycli's own."""

from __future__ import annotations

import warnings
from contextlib import closing, contextmanager
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, exc, func, inspect, select

from retrycli.domain.errors import ConfigurationError, DatabaseBusy, DatabaseUnavailable, RetrycliError, SchemaMismatch
from retrycli.store import schema, selection
from retrycli.store.connection import (
    BUSY_SECONDS,
    NO_RESULT,
    ON_ITS_OWN,
    PATIENCE,
    make_engine,
    parsed,
    path_of,
    read_at_the_end,
    require_file,
)
from retrycli.store.error_messages import in_words, is_busy, is_of_the_table, without_details
from retrycli.store.reflection import by_name, table_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, RootTransaction, TableClause
    from sqlalchemy.engine.interfaces import ReflectedColumn
    from sqlalchemy.types import TypeEngine

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
        self._url = parsed(url)
        self._table = table
        schema_name, _, self._name = table.rpartition(".")
        self._schema = schema_name or None
        self._kept: Connection | None = None
        self.ends_transactions: dict[int, str] = {}
        """Rows of which a change has rolled back its whole transaction, and why: they are left out from then on."""
        self.row_by_row = False
        """Whether some row does so; which one shows when each is written by itself."""
        if self._url.get_backend_name() == "sqlite":
            require_file(self._url)
        self._engine = make_engine(self._url, patience)

    @property
    def place(self) -> str:
        """Where it is, without its password."""
        if self.is_sqlite:
            return self._url.database or ""
        secrets = [name for name in self._url.query if name.endswith(("password", "secret"))]
        return self._url.difference_update_query(secrets).render_as_string(hide_password=True)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a SQLite file; PostgreSQL otherwise."""
        return self._url.get_backend_name() == "sqlite"

    @property
    def file(self) -> Path | None:
        """The SQLite file; None where it is a server."""
        return Path(path_of(self._url)) if self.is_sqlite else None

    def unencodable(self, connection: Connection, text: str) -> str:
        """What of a text the database's encoding can't hold, each letter once; a file's holds all."""
        driver = connection.connection.driver_connection
        if self.is_sqlite or driver is None:
            return ""
        encoding = driver.info.encoding
        return "".join(sorted(char for char in set(text) if not char.encode(encoding, "ignore")))

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A short transaction that writes; on SQLite it takes the write lock at once, so that it can't lose it.

        Raises:
            DatabaseUnavailable: in words, whatever the driver had to say.
            SchemaMismatch: the same, if the application's table can't do what was asked of it.
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
    def transaction(self, *, wait: bool = True) -> Iterator[Callable[[], bool]]:
        """Make one transaction of all that is read and written inside.

        It is committed at the end. The application's readers may keep a SQLite file from being written then. So there
        is a function that commits before the end, and returns False if it can't just now: it may be called again.

        Args:
            wait: wait for a lock that the application holds; without, not at all for one of a file, and
                `IMPATIENT_MS` for one of a server.

        Raises:
            DatabaseBusy: somebody holds a lock for too long.
            DatabaseUnavailable: in words, whatever the driver had to say.
        """
        before = self._kept
        with self._transaction(writes=True, wait=wait) as connection:
            self._kept = connection
            try:
                yield partial(_commit, connection) if self.is_sqlite and before is None else lambda: True
            finally:
                self._kept = before

    def patience(self) -> timedelta:
        """Return how long a transaction waits for a lock."""
        with self.read() as connection:
            if self.is_sqlite:
                return timedelta(milliseconds=connection.info[PATIENCE])
            own_ms = "SELECT setting::int FROM pg_catalog.pg_settings WHERE name = 'lock_timeout'"
            return timedelta(milliseconds=connection.exec_driver_sql(own_ms).scalar_one())

    def advisory_lock(self, connection: Connection) -> None:
        """Wait for every other transaction that has called this; on SQLite one that writes waits for all others."""
        if not self.is_sqlite:
            connection.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCK)))

    @contextmanager
    def rollback_at_end(self) -> Iterator[None]:
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
            yield connection.execution_options(**ON_ITS_OWN)

    def empty_log(self) -> None:
        """Move all that a SQLite file's log holds into the file, and empty the log.

        Raises:
            DatabaseBusy: a reader needs it for too long.
        """
        with self._translated(), closing(self._engine.raw_connection()) as connection:
            cursor = connection.cursor()
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            if (found := cursor.fetchone()) is not None and found[0]:
                raise DatabaseBusy(f"{self.place}: a reader keeps what was erased in the file's log; run this again")

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()

    @cached_property
    def messages(self) -> TableClause:
        """The application's table as it is, with all its columns, untyped but for what is to be read as another type.

        Raises:
            SchemaMismatch: the table, or a column that retrycli needs, is not there, or a column can't hold what it is
                to hold.
        """
        return table_of(
            self._columns, self._name, self._schema, f"{self._table} in {self.place}", is_sqlite=self.is_sqlite
        )

    def has_messages(self) -> bool:
        """Whether the application's table is there."""
        with self.read() as connection:
            return inspect(connection).has_table(self._name, self._schema)

    @property
    def table_name(self) -> str:
        """The name of the application's table, without its schema."""
        return self._name

    @property
    def quoted_table(self) -> tuple[str, str]:
        """The schema, empty where none is named, and the name of the application's table, as SQL has them."""
        quote = self._engine.dialect.identifier_preparer.quote
        return quote(self._schema) if self._schema else "", quote(self._name)

    def type_of(self, name: str) -> TypeEngine[Any]:
        """The type of a column of the application's table."""
        return self._columns[name]["type"]

    def takes_null(self, name: str) -> bool:
        """Whether a column of the application's table may be null."""
        return self._columns[name]["nullable"]

    def max_length(self, name: str) -> int | None:
        """How many characters a column of texts holds; None is any number, as of a file's."""
        kind = self.type_of(name)
        return None if self.is_sqlite or not isinstance(kind, String) else kind.length

    @cached_property
    def error_room(self) -> int | None:
        """How many characters ``last_error`` takes, as far as is known; None is any number."""
        return self.max_length("last_error")

    @cached_property
    def _columns(self) -> dict[str, ReflectedColumn]:
        with self.read() as connection, warnings.catch_warnings():
            # That it does not know a type, as of an extension's: nor do we need to.
            warnings.simplefilter("ignore", exc.SAWarning)
            try:
                columns = inspect(connection).get_columns(self._name, self._schema)
            except exc.NoSuchTableError:
                raise SchemaMismatch(
                    f"no table {self._table} in {self.place}; check database.url and database.table"
                ) from None
        return by_name(columns, is_sqlite=self.is_sqlite)

    def ensure_tables(self, *, upgrade: bool) -> None:
        """Make or upgrade retrycli's own tables, and check that the queue belongs to the application's table.

        Raises:
            ConfigurationError: as in `ensure_version`, or the queue belongs to another table.
        """
        self.ensure_version(upgrade=upgrade)
        selection.check(self)

    def ensure_version(self, *, upgrade: bool) -> None:
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
        """Bring retrycli's own tables to the newest version, in one transaction.

        A queue that belongs to no table yet belongs to the application's from then on.
        """
        from retrycli.store.upgrades import upgrade

        upgrade(self)

    def downgrade(self) -> None:
        """Bring retrycli's own tables back to the version before the newest, in one transaction."""
        from retrycli.store.upgrades import downgrade

        downgrade(self)

    @contextmanager
    def _transaction(self, *, writes: bool, wait: bool = True) -> Iterator[Connection]:
        if self._kept is not None:
            yield self._kept
            return
        with self._translated():
            transaction = self._begun(writes=writes, wait=wait)
            with closing(transaction.connection) as connection, transaction:
                if self.is_sqlite or not writes:
                    yield connection
                else:
                    with read_at_the_end(connection):
                        yield connection
                        # By the driver's `commit` it would be waited for by itself, and then the pipeline's end.
                        connection.exec_driver_sql("COMMIT", execution_options=NO_RESULT)

    def _begun(self, *, writes: bool, wait: bool) -> RootTransaction:
        """A transaction that has begun; where the server was restarted since the last one, on another connection."""
        connection = self._engine.connect().execution_options(writes=writes, wait=wait)
        try:
            return connection.begin()
        except exc.DBAPIError as error:
            connection.close()
            if not error.connection_invalidated:
                raise
        return self._engine.connect().execution_options(writes=writes, wait=wait).begin()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            raise _kind_of(error)(f"{self.place}: {in_words(error)}") from without_details(error)


def _commit(connection: Connection) -> bool:
    """Commit to a file, unless its readers are in the way; its lock keeps new ones out until it is tried again."""
    try:
        connection.exec_driver_sql("COMMIT")
    except exc.DBAPIError as error:
        if is_busy(error):
            return False
        raise
    return True


def _kind_of(error: exc.DBAPIError) -> type[RetrycliError]:
    if is_busy(error):
        return DatabaseBusy
    return SchemaMismatch if is_of_the_table(error) else DatabaseUnavailable
