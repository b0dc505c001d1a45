"""SQLAlchemy's dialect for SQLite files."""

from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from retrycli.store.dialects import SharesStatements


class SqliteDialect(SharesStatements, SQLiteDialect_pysqlite):
    """The driver's dialect."""

    supports_statement_cache = True
