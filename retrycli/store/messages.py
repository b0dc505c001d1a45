"""The application's table: how its rows are read. `row_changes` writes them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    and_,
    case,
    func,
    literal,
    literal_column,
    select,
    true,
)

from retrycli.domain.errors import InvalidMessage, SchemaMismatch
from retrycli.domain.message import Message, MessageStatus, MessageType, State, UnusableMessage
from retrycli.domain.operator_action import MessageStanding
from retrycli.store.schema import queue

if TYPE_CHECKING:
    from sqlalchemy import Connection, Result

    from retrycli.store.database import Database


def rows_of(result: Result[Any]) -> Iterator[dict[str, Any]]:
    """Rows as plain dictionaries: SQLAlchemy's own mappings look each name up afresh, and every value is read."""
    names = list(result.keys())
    return (dict(zip(names, row, strict=True)) for row in result.all())


def message_of(row: Mapping[str, Any]) -> Message | UnusableMessage:
    """A row of the application's table, checked."""
    if not isinstance(row["id"], int):
        raise SchemaMismatch(f"the application's table has an id that is no whole number: {row['id']!r}")
    try:
        return Message.from_row(row)
    except InvalidMessage as error:
        return UnusableMessage.from_row(row, str(error))


def addresses(value: str | None) -> list[str]:
    """Who has a message already, as the queue's ``delivered_to`` says: a JSON list, or null for nobody."""
    return [] if value is None else list(json.loads(value))


def status_text(value: MessageStatus | MessageType) -> ColumnElement[str]:
    """A word to compare a column of the application's with. It has no type: that column may have one of its own.

    PostgreSQL compares an enumeration with no text, only with what it can take for one of its words. It stands in the
    statement as it is, for an index of some words' rows is used for no word that is yet to come.
    """
    return literal_column(f"'{value.value}'")


def status_of(database: Database) -> ColumnElement[str]:
    """A message's status: ``failed`` wherever SQL takes it for that.

    Python would not: a column may be one that is compared in any case, or that fills its words up with blanks.
    """
    status = database.messages.c.status
    return case((status == status_text(MessageStatus.FAILED), status_text(MessageStatus.FAILED)), else_=status).label(
        "status"
    )


def row_by_row(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Conditions that lead no planner to an index: for rows that are looked up by their ids, a few hundred at a time.

    A planner that knows no figures of a table takes a state for something that few rows are in, and then goes through
    the million that are in it for each few hundred.
    """
    return case((and_(true(), *conditions), 1), else_=0) == 1


def all_but_the_body(database: Database) -> list[ColumnElement[Any]]:
    """All columns of the application's, with an empty text for the body. One that is no text is there as it is."""
    m = database.messages.c
    # Only SQLite has others than texts; what kind a value is of stands before it, so it is not read for that.
    is_text = func.typeof(m.body) == "text" if database.is_sqlite else m.body.is_not(None)
    body = case((is_text, literal("")), else_=m.body if database.is_sqlite else None).label("body")
    return [body if column.name == "body" else column for column in m]


def standings(database: Database, connection: Connection, ids: Collection[int]) -> dict[int, MessageStanding]:
    """Where messages are, by id; those that have no row are left out."""
    m = database.messages.c
    own = (queue.c.state, queue.c.claimed_by, queue.c.claim_expires_at, queue.c.acknowledged_by)
    statement = (
        select(m.id, status_of(database), *own)
        .join_from(database.messages, queue, queue.c.message_id == m.id, isouter=True)
        .where(m.id.in_(ids))
    )
    return {
        row["id"]: MessageStanding(
            row["id"],
            row["status"],
            row["state"] and State(row["state"]),
            row["claimed_by"],
            row["claim_expires_at"],
            row["acknowledged_by"],
        )
        for row in rows_of(connection.execute(statement))
    }
