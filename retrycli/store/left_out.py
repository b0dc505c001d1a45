"""Count the failed rows that the settings leave out."""

from sqlalchemy import case, func, literal_column, null, select

from retrycli.domain.message import MessageStatus
from retrycli.store.database import Database
from retrycli.store.mapped_table import expression

ROWS = 5_000  # maximum number of rows that are read: the newest, if ids are integers


def count_left_out(database: Database) -> int:
    """Count the failed rows, among at most `ROWS` rows, that do not meet ``database.where``."""
    where = "" if database.mapping is None else database.mapping.where
    if not where:
        return 0
    table = database.table
    meets = case((expression(where), null()), else_=literal_column("1"))
    is_left_out = case((table.has_status(MessageStatus.FAILED), meets))
    newest = select(is_left_out.label("left_out")).select_from(table.written)
    # Only integer keys are sure to have an index with the order of the rows.
    ordered = newest.order_by(table.column("id").desc()) if table.key is None else newest
    rows = ordered.limit(ROWS).subquery()
    return database.scalar(select(func.count(rows.c.left_out))) or 0
