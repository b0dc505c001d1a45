"""The optional index on the application's table: of its failed rows.

It finds failed rows among millions at once. Nothing else depends on it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import VARCHAR, text

from retrycli.domain.errors import DatabaseUnavailable
from retrycli.domain.message import MessageStatus
from retrycli.store.relation import require_indexable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrycli.store.database import Database

NAME = "retrycli_failed"

IN_SQLITE = (
    "SELECT 1 FROM {schema}sqlite_master WHERE type = 'index' AND name = :name AND tbl_name = :table COLLATE NOCASE"
)
IN_POSTGRESQL = """
SELECT n.nspname, i.indisvalid
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE i.indrelid = CAST(pg_catalog.to_regclass(:table) AS oid) AND c.relname = :name
"""


class IndexState(StrEnum):
    """The state of the index."""

    ABSENT = "absent"
    THERE = "there"
    INVALID = "invalid"
    """PostgreSQL did not finish building it: each write updates it, and no query uses it."""


class FailedIndex:
    """The index of one application's table.

    Args:
        database: holds the table.
    """

    name = NAME

    def __init__(self, database: Database) -> None:
        self._database = database

    def state(self) -> IndexState:
        """Return its state, with one query of the catalogue."""
        return self._find()[0]

    @property
    def holds_writers_up(self) -> bool:
        """True if creating it blocks writers: SQLite has one writer at a time."""
        return self._database.is_sqlite

    def statements(self, *, drop: bool = False) -> list[str]:
        """Return the statements that create or drop it; none if that is done already.

        Raises:
            SchemaMismatch: the application's table can't have an index, or not while others write.
        """
        state, name = self._find()
        if state is (IndexState.ABSENT if drop else IndexState.THERE):
            return []
        # The condition must match the queries'. With a plain = a planted operator could become part of the index: see
        # `catalogue`.
        failed = f"status = '{MessageStatus.FAILED}'"
        if not self._database.is_sqlite:
            is_varchar = isinstance(self._database.type_of("status"), VARCHAR)
            status = "CAST(status AS text) =" if is_varchar else "status OPERATOR(pg_catalog.=)"
            failed = f"{status} '{MessageStatus.FAILED}'"
        make = f"CREATE INDEX {NAME} ON {{}} (id) WHERE {failed}"
        require_indexable(self._database, make=make, drop=f"DROP INDEX {name}" if drop else None)
        concurrently = "" if self._database.is_sqlite else "CONCURRENTLY "
        taking_away = [f"DROP INDEX {concurrently}{name}"] if state is not IndexState.ABSENT else []
        if drop:
            return taking_away
        return [*taking_away, f"CREATE INDEX {concurrently}{self._where} (id) WHERE {failed}"]

    def execute(self, statements: Sequence[str]) -> None:
        """Execute the statements.

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
            remedy = "the index is of no use: `retrycli db index` builds it anew, `retrycli db index --drop` drops it"
            raise DatabaseUnavailable(f"{error}; {remedy}") from error

    def _find(self) -> tuple[IndexState, str]:
        """Return its state and its full name."""
        schema, table = self._database.quoted_table
        own = f"{schema}." if schema else ""
        if self._database.is_sqlite:
            query, known = text(IN_SQLITE.format(schema=own)), {"name": NAME, "table": self._database.messages.name}
        else:
            query, known = text(IN_POSTGRESQL), {"name": NAME, "table": f"{own}{table}"}
        with self._database.read() as connection:
            found = connection.execute(query, known).one_or_none()
            if found is None:
                return IndexState.ABSENT, f"{own}{NAME}"
            if self._database.is_sqlite:
                return IndexState.THERE, f"{own}{NAME}"
            in_schema = connection.dialect.identifier_preparer.quote(found.nspname)
            return (IndexState.THERE if found.indisvalid else IndexState.INVALID), f"{in_schema}.{NAME}"

    @property
    def _where(self) -> str:
        """Return its name and table for CREATE INDEX: only one of the two takes the schema."""
        schema, table = self._database.quoted_table
        if not schema:
            return f"{NAME} ON {table}"
        return f"{schema}.{NAME} ON {table}" if self._database.is_sqlite else f"{NAME} ON {schema}.{table}"
