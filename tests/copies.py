"""Reusable copies of a PostgreSQL database that does not change. A used copy is restored, not replaced.

Creating and dropping a database takes ten times as long as removing the rows that a test has written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg.sql import SQL, Identifier
from sqlalchemy import make_url

OWN = 16384
"""The lowest id of an object that is not built into the server."""
CATALOGS: dict[LiteralString, LiteralString] = {
    "pg_attrdef": "true",
    "pg_attribute": f"attrelid >= {OWN}",
    "pg_cast": f"oid >= {OWN}",
    "pg_collation": f"oid >= {OWN}",
    "pg_constraint": "true",
    "pg_db_role_setting": "setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())",
    "pg_default_acl": "true",
    "pg_event_trigger": "true",
    "pg_extension": "true",
    "pg_index": f"indexrelid >= {OWN}",
    "pg_inherits": "true",
    "pg_namespace": "true",
    "pg_operator": f"oid >= {OWN}",
    "pg_policy": "true",
    "pg_proc": f"oid >= {OWN}",
    "pg_rewrite": f"oid >= {OWN}",
    "pg_statistic": f"starelid >= {OWN}",
    "pg_trigger": "true",
    "pg_type": f"oid >= {OWN}",
}
"""The catalogs that record changes of schema, rights, settings or statistics, each with a condition for its rows."""
CHANGES = " UNION ALL ".join(
    f"SELECT '{name}', count(*), max(xmin::text::bigint) FROM {name} WHERE {rows}" for name, rows in CATALOGS.items()
)
"""A query whose result changes with every change of a catalog, which adds a newer row version or removes a row.
``TRUNCATE`` writes to none of these catalogs."""
RELATIONS = f"""
SELECT oid, relname, relnamespace, reltype, relowner, relkind, relpersistence, relrowsecurity, relacl, reloptions
FROM pg_class WHERE oid >= {OWN} ORDER BY oid
"""
DATABASE = "SELECT datdba, datacl, datallowconn, datconnlimit FROM pg_database WHERE datname = current_database()"
WRITTEN = f"""
SELECT relnamespace::regnamespace::text, relname FROM pg_class
WHERE oid >= {OWN} AND relkind = 'r' AND pg_relation_size(oid) > 0 ORDER BY oid
"""
ROWS: LiteralString = "SELECT to_jsonb(kept)::text FROM {} AS kept ORDER BY 1"
FILL: LiteralString = "INSERT INTO {} SELECT * FROM jsonb_populate_recordset(NULL::{}, %s::jsonb)"
SEQUENCES = """
SELECT setval(seqrelid, seqstart, false) FROM pg_sequence WHERE pg_sequence_last_value(seqrelid) IS NOT NULL
"""
ALONE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""

Table = tuple[str, str]
"""A table's schema and name."""


@dataclass
class Copies:
    """Copies of one database, each of which one test uses at a time.

    Args:
        original: the URL of the database to copy.
        make: creates a copy, provides its URL, and drops the copy at the end.
    """

    original: str
    make: Callable[[], AbstractContextManager[str]]

    def __post_init__(self) -> None:
        self._free: list[tuple[str, ExitStack]] = []
        with _connected(self.original) as connection:
            self._schema = _schema(connection)
            self._rows = {table: _rows(connection, table) for table in _written(connection)}

    @contextmanager
    def one(self) -> Iterator[str]:
        """Provide a copy. At the end restore it for the next test, or drop it if it can't be restored."""
        url, end = self._free.pop() if self._free else self._made()
        try:
            yield url
        finally:
            if self._restore(url):
                self._free.append((url, end))
            else:
                end.close()

    def close(self) -> None:
        """Drop the copies that no test uses."""
        for _, end in self._free:
            end.close()
        self._free.clear()

    def _made(self) -> tuple[str, ExitStack]:
        end = ExitStack()
        return end.enter_context(self.make()), end

    def _restore(self, url: str) -> bool:
        """Restore the original rows; return whether the copy equals the original again."""
        try:
            with _connected(url) as connection:
                connection.execute(ALONE)
                if _schema(connection) != self._schema:
                    return False
                if emptied := [Identifier(*table) for table in _written(connection) if table not in self._rows]:
                    connection.execute(SQL("TRUNCATE {}").format(SQL(", ").join(emptied)))
                for table, rows in self._rows.items():
                    if _rows(connection, table) != rows:
                        connection.execute(SQL("DELETE FROM {}").format(Identifier(*table)))
                        connection.execute(SQL(FILL).format(*[Identifier(*table)] * 2), ["[" + ", ".join(rows) + "]"])
                connection.execute(SEQUENCES)
        except psycopg.Error:
            return False  # the test left the copy unusable
        return True


@contextmanager
def _connected(url: str) -> Iterator[psycopg.Connection]:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True, options="-c lock_timeout=5s") as connection:
        yield connection


def _schema(connection: psycopg.Connection) -> list[tuple[object, ...]]:
    """Read the properties that a copy must share with the original to be used again."""
    return [row for each in (CHANGES, RELATIONS, DATABASE) for row in connection.execute(each)]


def _written(connection: psycopg.Connection) -> list[Table]:
    """Return the tables that have had a row since they were created or truncated."""
    return [(schema, name) for schema, name in connection.execute(WRITTEN)]


def _rows(connection: psycopg.Connection, table: Table) -> list[str]:
    return [row for (row,) in connection.execute(SQL(ROWS).format(Identifier(*table)))]
