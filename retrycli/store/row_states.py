"""Read what retrycli remembers of the application's rows, to notice when the application writes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import ColumnElement, Select, Text, case, cast, null, select

from retrycli.domain.message import MessageStatus
from retrycli.store.bulk import id_in
from retrycli.store.messages import status_text

if TYPE_CHECKING:
    from sqlalchemy import Connection, TableClause

    from retrycli.store.database import Database

REMEMBERED = 1_000
"""Number of characters of an error to remember, to notice when the application writes another."""


class RowState(NamedTuple):
    """The last seen state of a row. If the row differs, the application has written it."""

    failed: bool
    retry_count: object
    last_error: object
    updated_at: str | None


def read_rows(database: Database, connection: Connection, ids: Collection[int]) -> Mapping[int, RowState]:
    """Read the present states of rows, by id."""
    found = connection.execute(_row_states(database.messages), {"ids": list(ids)}).all() if ids else ()
    return {message_id: RowState(bool(failed), *values) for message_id, failed, *values in found}


def shown_error(error: object) -> str | None:
    """Return the remembered part of an error, in a form that every database can keep."""
    if error is None:
        return None
    return str(error)[:REMEMBERED].replace("\0", " ").encode(errors="backslashreplace").decode()


@lru_cache
def updated_at_text(messages: TableClause) -> ColumnElement[Any]:
    """Return ``updated_at`` as the database writes it; null in a table without this column."""
    return cast(messages.c.updated_at, Text) if "updated_at" in messages.c else cast(null(), Text)


@lru_cache
def _row_states(messages: TableClause) -> Select[Any]:
    m = messages.c
    failed = case((m.status == status_text(MessageStatus.FAILED), 1), else_=0)
    return select(m.id, failed, m.retry_count, m.last_error, updated_at_text(messages)).where(id_in(m.id))
