"""One message with its history: its attempts, and what operators did about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from retrycli.domain.errors import NoSuchMessage
from retrycli.domain.listing import ActionRecord, AttemptRecord, MessageDetails
from retrycli.store.act_rows import texts
from retrycli.store.messages import addresses, columns_without_body, status_of
from retrycli.store.relation import repeated
from retrycli.store.schema import acts, attempts, queue

if TYPE_CHECKING:
    from retrycli.store.database import Database


def message_details(database: Database, message_id: int, *, body: bool = False) -> MessageDetails:
    """Read one message of any status, with its history.

    Args:
        database: holds the queue and the application's table.
        message_id: the message.
        body: read its body too. Otherwise the body is an empty text, or null if there is none.

    Raises:
        NoSuchMessage: no row has the id.
        SchemaMismatch: several rows have the id.
    """
    m = database.messages
    texts = m.c if body else columns_without_body(database)
    columns = [status_of(database) if column.name == "status" else column for column in texts]
    history = select(attempts).where(attempts.c.message_id == message_id).order_by(attempts.c.number)
    words = (acts.c.before, acts.c.after) if body else ()
    by_people = select(acts.c.at, acts.c.by, acts.c.act, acts.c.detail, *words)
    by_people = by_people.where(acts.c.message_id == message_id).order_by(acts.c.id)
    with database.read() as connection:
        rows = connection.execute(select(*columns).where(m.c.id == message_id).limit(2)).mappings().all()
        if len(rows) > 1:
            raise repeated(database, message_id)
        row = rows[0] if rows else None
        if row is None:
            raise NoSuchMessage(f"no message {message_id} in {database.place}; see `retrycli list-failed`")
        found = connection.execute(select(queue).where(queue.c.message_id == message_id)).mappings().one_or_none()
        made = [_attempt(row) for row in connection.execute(history).mappings()]
        done = [_act(row, body=body) for row in connection.execute(by_people).mappings()]
    ours = None if found is None else {**found, "delivered_to": addresses(found["delivered_to"])}
    return MessageDetails(dict(row), ours, made, done)


def _attempt(row: Mapping[Any, Any]) -> AttemptRecord:
    return AttemptRecord(**{field.name: row[field.name] for field in fields(AttemptRecord)})


def _act(row: Mapping[Any, Any], *, body: bool) -> ActionRecord:
    words = {name: texts(row, name) for name in ("before", "after")} if body else {}
    return ActionRecord(row["at"], row["by"], row["act"], row["detail"], **words)
