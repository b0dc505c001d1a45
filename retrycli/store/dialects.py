"""SQLAlchemy dialects that let all engines of a process share their compiled statements."""

from functools import cache
from typing import Any

from sqlalchemy import Dialect
from sqlalchemy.dialects import registry
from sqlalchemy.util import LRUCache

# The compiled statements that all engines share. An application that embeds retrycli opens the database for each pass,
# and compiling a statement takes longer than running it. The size is SQLAlchemy's default.
COMPILED = LRUCache[Any, Any](500)


class SharesStatements(Dialect):
    """A dialect that equals another engine's dialect of the same type and database version. The engines then use each
    other's compiled statements.
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and other.server_version_info == self.server_version_info

    def __hash__(self) -> int:
        return hash(type(self))


@cache
def _sqlite_dialect() -> type[Dialect]:
    from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

    class SqliteDialect(SharesStatements, SQLiteDialect_pysqlite):
        supports_statement_cache = True

    return SqliteDialect


# The dialects are registered but not imported, so that a process loads only the dialects that it uses.
registry.impls["sqlite.retrycli"] = _sqlite_dialect
registry.register("postgresql.retrycli", "retrycli.store.postgresql", "PostgresqlDialect")
