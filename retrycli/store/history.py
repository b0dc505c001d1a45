"""Read one message with its attempts and operators' actions, and erase the stored texts of edits."""

import json
from collections.abc import Collection, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, case, func, or_, select, true, update

from retrycli.domain.errors import NoSuchMessage
from retrycli.domain.identity import UNSTABLE, birth_of, is_of_one_message, is_same_birth
from retrycli.domain.listing import ActionRecord, AttemptRecord, MessageDetails, time_of
from retrycli.domain.message import ADDRESS_SEPARATOR, KEY, MessageId, State, ticket_text
from retrycli.domain.operator_action import MessageStanding, OperatorAction, no_such, not_free
from retrycli.domain.outcome import OutcomeKind
from retrycli.domain.sanitize import as_utf8
from retrycli.store.application_table import repeated
from retrycli.store.counters import IN_DOUBT
from retrycli.store.database import Database
from retrycli.store.identity import BIRTH, birth_text
from retrycli.store.messages import addresses, columns_without_body, status_of, visible
from retrycli.store.schema import acts, attempts, queue

# The condition that an attempt may have delivered its message; see `PastAttempt.unsettled`.
MAY_HAVE_ARRIVED = or_(attempts.c.outcome.is_(None), IN_DOUBT)
# The condition that a message in the queue may have been delivered by an attempt that has ended; if its row could not
# be marked as sent, it certainly was.
UNSETTLED = (
    select(attempts.c.id)
    .where(
        attempts.c.message_id == queue.c.message_id,
        attempts.c.delivery_key == queue.c.delivery_key,
        attempts.c.finished_at.is_not(None),
        or_(MAY_HAVE_ARRIVED, attempts.c.outcome == OutcomeKind.DELIVERED.value),
    )
    .exists()
)


def message_details(
    database: Database, message_id: int, *, body: bool = False, edits: int | None = 0
) -> MessageDetails:
    """Read one message of any status, with its history. Leave out attempts at earlier messages with its id, and what
    operators did before it was created. Unless ``body`` is set, replace a body that is a string by an empty one. Of the
    newest edits, read texts of at most ``edits`` characters in all; None for all texts.

    Raises:
        NoSuchMessage: no row has the id.
        SchemaMismatch: several rows have the id.
    """
    m = database.messages
    texts = visible(m) if body else columns_without_body(database)
    columns = [status_of(database.messages.c) if column.name == "status" else column for column in texts]
    history = select(attempts).where(attempts.c.message_id == message_id).order_by(attempts.c.number)
    actions = select(*_with_texts(edits)).where(acts.c.message_id == message_id).order_by(acts.c.id)
    with database.read() as connection:
        its_row = select(*columns, birth_text(m).label(BIRTH)).where(m.c.id == message_id)
        rows = connection.execute(its_row.limit(2)).mappings().all()
        if len(rows) > 1:
            raise repeated(database, message_id)
        if not rows:
            raise NoSuchMessage(f"no message {message_id} in {database.place}; see `retrycli list-failed`")
        queued = select(queue, UNSETTLED.label("unsettled")).where(queue.c.message_id == message_id)
        found = connection.execute(queued).mappings().one_or_none()
        birth = UNSTABLE if found is not None and found["birth"] == UNSTABLE else birth_of(as_utf8(rows[0][BIRTH]))
        tried = connection.execute(history).all()
        ticket = ticket_text(rows[0]["ticket_id"])
        own = [row for row in tried if birth == UNSTABLE or _is_of(row, birth, ticket)]
        acted = connection.execute(actions).all()
    made = [AttemptRecord(**{field.name: getattr(row, field.name) for field in fields(AttemptRecord)}) for row in own]
    since = None if len(own) == len(tried) else time_of(birth)
    done = [_action(row) for row in acted if since is None or row.at >= since]
    row = {name: value for name, value in rows[0].items() if name not in {KEY, ADDRESS_SEPARATOR, BIRTH}}
    if isinstance(message_id, MessageId):
        row["id"] = MessageId(message_id, rows[0][KEY])
    if found is None:
        return MessageDetails(row, None, made, done)
    ours = {name: value for name, value in found.items() if name != "unsettled"}
    ours["delivered_to"] = addresses(ours["delivered_to"])
    return MessageDetails(row, ours, made, done, is_unsettled=found["unsettled"])


def _is_of(attempt: Row[Any], birth: str, ticket: str) -> bool:
    tried = None if attempt.birth is None else birth_of(attempt.birth)
    return (
        tried is None
        or is_of_one_message(tried, birth)
        or is_same_birth(tried, birth, before=attempt.ticket, ticket=ticket)
    )


def _with_texts(most: int | None) -> list[ColumnElement[Any]]:
    """Return the columns of a message's actions. The database leaves out the texts beyond ``most`` characters."""
    sizes = (func.coalesce(func.length(each), 0) for each in (acts.c.before, acts.c.after))
    is_shown = true() if most is None else func.sum(sum(sizes)).over(order_by=acts.c.id.desc()) <= most
    texts = (case((is_shown, each)).label(each.name) for each in (acts.c.before, acts.c.after))
    return [acts.c.at, acts.c.by, acts.c.act, acts.c.detail, *texts]


def _action(row: Row[Any]) -> ActionRecord:
    texts = (each and json.loads(each) for each in (row.before, row.after))
    return ActionRecord(row.at, row.by, row.act, row.detail, *texts)


def standings(database: Database, connection: Connection, ids: Collection[int]) -> dict[int, MessageStanding]:
    """Return the data that determine which actions are possible, by message id. Leave out messages without a row."""
    m, q = database.messages.c, queue.c
    statement = (
        select(m.id, status_of(m), q.state, q.claimed_by, q.claim_expires_at, q.acknowledged_by)
        .join_from(database.messages, queue, queue.c.message_id == m.id, isouter=True)
        .where(m.id.in_(ids))
    )
    given = {int(message_id): message_id for message_id in ids}  # with the keys of their rows, if they have some
    return {
        message_id: MessageStanding(given[message_id], status, state and State(state), *others)
        for message_id, status, state, *others in connection.execute(statement)
    }


def require_free(
    database: Database, connection: Connection, message_id: int, verb: str, now: datetime
) -> MessageStanding:
    """Check that an operator may act on a message now, and return its `MessageStanding`. ``verb`` names the action in
    errors.

    Raises:
        NoSuchMessage: the application's table has no such row.
        NotActionable: the message is not failed, or another process is sending it.
    """
    standing = standings(database, connection, [message_id]).get(message_id)
    if standing is None:
        raise no_such(message_id)
    if (reason := not_free(standing, verb, now)) is not None:
        raise reason
    return standing


HAS_TEXTS = acts.c.before.is_not(None) | acts.c.after.is_not(None)


def act_values(act: OperatorAction) -> dict[str, Any]:
    """Return the values to insert into `acts` for an action, by column, without the message's id."""
    return {
        "at": act.at,
        "by": act.by,
        "act": act.kind,
        "detail": act.detail,
        "ticket": act.ticket,
        "before": _as_json(act.before),
        "after": _as_json(act.after),
    }


def _as_json(values: Mapping[str, object] | None) -> str | None:
    # By default, `json.dumps` escapes NUL and all non-ASCII characters, so every database can store the text.
    return None if values is None else json.dumps(values, default=_text)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def count_texts(database: Database, ticket: str) -> int:
    """Count the edits of a ticket's messages whose texts are still stored."""
    return database.scalar(select(func.count()).select_from(acts).where(acts.c.ticket == ticket, HAS_TEXTS)) or 0


def erase_texts(database: Database, ticket: str) -> int:
    """Erase the stored texts of all edits of a ticket's messages, but not the edits, and return their number. On
    SQLite, overwrite the texts in the file, and remove them from the write-ahead log.

    Raises:
        DatabaseBusy: the texts remain in the write-ahead log, because another process used the log for too long.
    """
    with database.write() as connection:
        if database.is_sqlite:
            connection.exec_driver_sql("PRAGMA secure_delete = ON")
        erase = update(acts).where(acts.c.ticket == ticket, HAS_TEXTS).values(before=None, after=None)
        erased = connection.execute(erase).rowcount
    if database.is_sqlite:
        database.empty_log()
    return erased
