"""Load messages with their identity and history, and choose their delivery keys."""

import hashlib
import json
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Result,
    Select,
    Text,
    cast,
    func,
    literal,
    literal_column,
    select,
)

from retrycli.domain.identity import (
    BY_TICKET,
    TEXT_COLUMNS,
    UNSTABLE,
    Difference,
    History,
    MessageIdentity,
    PastAttempt,
    birth_of,
    digest_of,
    is_same_birth,
    same_content,
)
from retrycli.domain.message import (
    BY_PASS,
    EscalationReason,
    Message,
    MessageStatus,
    QueuedMessage,
    UnusableMessage,
    ticket_text,
)
from retrycli.domain.sanitize import as_utf8
from retrycli.domain.transition import ActionKind, Decision
from retrycli.store.bulk import id_in
from retrycli.store.database import Database
from retrycli.store.messages import addresses, has_status, message_of, rows_of, visible
from retrycli.store.schema import acts, attempts, queue

OWN = "retrycli_"  # prefix of the labels of columns that do not belong to the application
BIRTH = OWN + "birth"
KEPT = ("birth", "digest", "delivery_key")
IDENTITY = (*KEPT, "delivered_to")
READ = (BIRTH, *TEXT_COLUMNS, "ticket_id")
NONE = History()
LAST_NUMBER = select(func.max(attempts.c.number)).where(attempts.c.message_id == queue.c.message_id).scalar_subquery()


# What `is_the_queues` compares with the row.
QUEUED = (queue.c.birth.label(OWN + "queue_birth"), queue.c.ticket.label(OWN + "queue_ticket"))


class _Own(NamedTuple):
    delivery_key: str
    first_failed_at: datetime
    unknown_count: int
    delivered_to: str | None
    digest: str | None
    birth: str | None
    ticket: str | None
    attempt_number: int
    keeps_count: bool  # retrycli keeps the retry count itself


OF_THE_QUEUE = (
    queue.c.delivery_key.label(OWN + "delivery_key"),
    queue.c.first_failed_at.label(OWN + "first_failed_at"),
    queue.c.unknown_count.label(OWN + "unknown_count"),
    queue.c.delivered_to.label(OWN + "delivered_to"),
    queue.c.digest.label(OWN + "digest"),
    *QUEUED,
    (func.coalesce(LAST_NUMBER, 0) + 1).label(OWN + "attempt_number"),
)
KEEPS_COUNT = OWN + "keeps_count"
OWN_LABELS = (*(column.key for column in OF_THE_QUEUE), KEEPS_COUNT)

HISTORY = (
    select(
        attempts.c.message_id,
        attempts.c.made_by,
        *(attempts.c[name] for name in PastAttempt._fields if name != "by_pass"),
    )
    .where(id_in(attempts.c.message_id))
    .order_by(attempts.c.message_id, attempts.c.number, attempts.c.id)
)
REQUEUES = (
    select(acts.c.message_id, acts.c.attempts, acts.c.digest, acts.c.ticket)
    .where(id_in(acts.c.message_id), acts.c.act == ActionKind.REQUEUED.value)
    .order_by(acts.c.id)
)


@lru_cache
def birth_text(messages: FromClause) -> ColumnElement[str]:
    """Select a message's birth as the database writes it; `birth_of` returns its canonical form."""
    m = messages.c
    by_ticket = literal(BY_TICKET) + func.coalesce(cast(m.ticket_id, Text), "")
    return func.coalesce(cast(m.created_at, Text), by_ticket) if "created_at" in m else by_ticket


def identifying(messages: FromClause) -> list[ColumnElement[Any]]:
    """Select the columns that identify a message and its text."""
    return [birth_text(messages).label(BIRTH), *(messages.c[name] for name in READ if name in messages.c)]


def _histories(connection: Connection, ids: Collection[int]) -> Mapping[int, History]:
    made: defaultdict[int, list[PastAttempt]] = defaultdict(list)
    if not ids:
        return {}
    for row in connection.execute(HISTORY, {"ids": list(ids)}).mappings():
        values = dict(row)
        message_id, made_by = values.pop("message_id"), values.pop("made_by")
        values["birth"] = None if values["birth"] is None else birth_of(values["birth"])
        values["delivered_to"] = frozenset(addresses(values["delivered_to"]))
        made[message_id].append(PastAttempt(by_pass=made_by == BY_PASS, **values))
    found = connection.execute(REQUEUES, {"ids": list(made)}) if made else ()
    last = {row.message_id: (row.attempts, row.digest, row.ticket) for row in found}  # the last requeue of each message
    return {message_id: History(tuple(attempts), *last.get(message_id, ())) for message_id, attempts in made.items()}


def _identified(row: dict[str, Any], history: History) -> QueuedMessage | UnusableMessage:
    as_read, birth = _identifying_in(tuple(row))(row), row.pop(BIRTH)
    own = _Own(*map(row.pop, OWN_LABELS))
    message, digest = message_of(row), digest_of(row)
    # Reuse the creation time if `message_of` has parsed it, because parsing is slow.
    created_at = message.created_at if isinstance(message, Message) else None
    birth = created_at.isoformat(timespec="microseconds") if created_at else birth_of(as_utf8(birth))
    birth = UNSTABLE if own.birth == UNSTABLE else birth
    ticket = ticket_text(row["ticket_id"])
    history = history if history is NONE else history.of(birth, ticket, own.delivery_key).since_requeue(digest, ticket)
    deliveries = 0 if history is NONE else history.deliveries(birth, digest)
    kept = None if deliveries else _kept_key(own, birth, digest, history)
    key = kept or delivery_key(row["id"], birth, digest, deliveries)
    newest = history.attempts[-1].delivery_key if history.attempts else None
    if own.keeps_count and isinstance(message, Message) and newest != key:
        message = message._replace(retry_count=history.charged(key))  # the count in the row is that of another text
    if isinstance(message, UnusableMessage):
        return message._replace(delivery_key=key, birth=birth, digest=digest, as_read=as_read)
    unknown_count = own.unknown_count if key == own.delivery_key else 0
    had = own.delivered_to if own.digest is not None and same_content(own.digest, digest) else None
    queued = QueuedMessage(
        message,
        key,
        own.first_failed_at,
        unknown_count,
        own.attempt_number,
        delivered_to=frozenset(addresses(had)),
        birth=birth,
        digest=digest,
        as_read=as_read,
    )
    if history is NONE:
        return queued
    earlier = history.earlier_texts(birth, digest, ticket)
    return queued._replace(
        unknown_count=max(queued.unknown_count, history.unknowns(key)),
        other_unknowns=history.other_unknowns(birth, digest),
        delivered_to=queued.delivered_to | history.delivered_to(birth, digest),
        partly=bool(history.delivered_to(birth, digest, after=history.allowed_up_to)),
        unsettled_since=history.unsettled_since(key),
        refused=not history.in_doubt(key),
        unsettled_at=history.unsettled_at({key, *(text.delivery_key for text in earlier)}),
        deliveries=deliveries,
        delivered_at=history.delivered_at(birth, digest),
        requests=history.requests(birth),
        elsewhere=history.elsewhere(birth, digest, ticket_text(queued.ticket_id)),
        with_others=history.may_be_with_others(birth, digest),
        earlier=earlier,
    )


def _kept_key(own: _Own, birth: str, digest: str, history: History) -> str | None:
    if (tried := history.key_of(birth, digest)) is not None:
        return tried
    return own.delivery_key if own.digest == digest else None  # without a digest, the key is provisional


def load(connection: Connection, found: Result[Any], ids: Sequence[int]) -> list[QueuedMessage | UnusableMessage]:
    """Build messages from rows of `with_queue`, in the order of `ids`. Leave out messages whose ids were reused."""
    rows = {row["id"]: row for row in rows_of(found) if is_the_queues(row)}
    past = _histories(connection, [message_id for message_id, row in rows.items() if row[OWN + "attempt_number"] > 1])
    return [_identified(rows[message_id], past.get(message_id, NONE)) for message_id in ids if message_id in rows]


def with_queue(database: Database) -> Select[Any]:
    """Select all columns of failed messages, joined with their queue rows."""
    m = database.messages
    counts: ColumnElement[int] = literal_column("1" if "retry_count" in database.table.own else "0")
    return (
        select(*visible(m), birth_text(m).label(BIRTH), *OF_THE_QUEUE, counts.label(KEEPS_COUNT))
        .join_from(queue, m, m.c.id == queue.c.message_id)
        .where(has_status(m.c, MessageStatus.FAILED))
    )


def is_the_queues(row: Mapping[str, Any]) -> bool:
    """Return whether a row and the queue row with its id belong to the same message."""
    return row[OWN + "queue_birth"] in {row[BIRTH], UNSTABLE} or is_same(row, OWN + "queue_")


def is_same(row: Mapping[str, Any], queued: str = "") -> bool:
    """Return whether a row has the birth that its queue row has: see `is_same_birth`. The names of the queue row's
    values begin with ``queued``.
    """
    known, before, ticket = birth_of(row[queued + "birth"]), row[queued + "ticket"], ticket_text(row["ticket_id"])
    return is_same_birth(known, birth_in(row), before=before, ticket=ticket)


FIRST_IDENTIFYING = 3  # index of the first identifying column, after the id, the status and the retry count


def as_found(decision: Decision, names: Sequence[str], row: Sequence[Any]) -> Decision | None:
    """Return the decision to write into a row; None if the row is no longer failed, or belongs to another message. The
    row has the id, the status and the retry count (None if it does not count), followed by the values of the columns of
    `identifying`, whose names are given.

    The result differs from the original decision if the row now holds another text, ticket or retry count. A delivered
    message's row may be sent already, because the sender has marked it.
    """
    is_marked = decision.was_delivered and row[1] == MessageStatus.SENT
    if row[1] != MessageStatus.FAILED and not is_marked:
        return None
    message = decision.message
    if message is None:
        return decision
    decision = decision.with_count_of_row(row[2])
    if message.as_read == row[FIRST_IDENTIFYING:]:
        return decision
    now = dict(zip(names, row[FIRST_IDENTIFYING:], strict=True))
    birth = UNSTABLE if message.birth == UNSTABLE else birth_in(now)
    identity = MessageIdentity(birth, digest_of(now), ticket_text(now["ticket_id"]))
    before = MessageIdentity(message.birth, message.digest, ticket_text(message.ticket_id))
    difference = before.difference(identity)
    if difference is Difference.ANOTHER:
        return None
    if difference is Difference.NONE or is_marked:
        return decision
    there = _as_it_is(decision, message, identity)._replace(as_read=tuple(row[FIRST_IDENTIFYING:]))
    return decision.superseded(difference)._replace(message=there)


def _as_it_is(
    decision: Decision, message: QueuedMessage | UnusableMessage, identity: MessageIdentity
) -> QueuedMessage | UnusableMessage:
    birth, digest = identity.birth, identity.digest
    if (birth, digest) == (message.birth, message.digest):
        return message
    deliveries = 0
    if digest == message.digest and isinstance(message, QueuedMessage):
        deliveries = message.deliveries + decision.was_delivered
    key = delivery_key(message.message_id, birth, digest, deliveries)
    now = message._replace(birth=birth, digest=digest, delivery_key=key)
    if not isinstance(now, QueuedMessage):
        return now
    had = now.delivered_to if same_content(message.digest, digest) else frozenset()
    return now._replace(delivered_to=had, unknown_count=0)


def birth_in(row: Mapping[str, Any]) -> str:
    """Return the canonical form of the birth in a row."""
    return birth_of(as_utf8(row[BIRTH]))


def identity_values(decision: Decision) -> dict[str, Any]:
    """Return the columns of a queue row that describe the message's text. If birth, digest and delivery key are None,
    `move` leaves them unchanged. The number of unknown outcomes belongs to the delivery key, so it comes with it.
    """
    message = decision.message
    if message is None or not message.digest:
        return dict.fromkeys(IDENTITY)
    # The queue stores a birth as the database writes it, so that a pass can compare all births in SQL.
    is_as_read = message.as_read and message.birth != UNSTABLE
    values = {
        "birth": as_utf8(str(message.as_read[0])) if is_as_read else message.birth,
        "digest": message.digest,
        "delivery_key": message.delivery_key,
    }
    if isinstance(message, UnusableMessage):
        return values | {"delivered_to": None}
    # If the row changed during the attempt, the recipients of this attempt did not get the current text.
    changed = decision.transition.reason is EscalationReason.CHANGED
    now = decision.outcome.delivered_to if decision.outcome and not changed else ()
    return values | {"delivered_to": as_list(message.delivered_to.union(now)), "unknown_count": message.unknown_count}


def as_list(addresses: Collection[str]) -> str | None:
    """Return addresses as a JSON list; None if there are no addresses."""
    return json.dumps(sorted(addresses)) if addresses else None


@lru_cache
def _identifying_in(names: tuple[str, ...]) -> Callable[[Mapping[str, Any]], tuple[object, ...]]:
    return itemgetter(*(name for name in READ if name in names))


NAMESPACE = uuid.UUID("6f1ab6ea-36a0-5c3e-9a43-2d1f6f0c8f0e")  # namespace of all delivery keys (RFC 9562, section 5.5)


def delivery_key(message_id: int, birth: str, digest: str, deliveries: int) -> str:
    """Return the key for requests that send a message's text, until a delivery of the text is recorded. ``birth`` is in
    its canonical form, and ``deliveries`` the number of recorded deliveries of this text of this message.
    """
    return _uuid5(f"{message_id}/{birth}/{digest}/{deliveries}")


def provisional_key(message_id: int, birth: str, now: datetime) -> str:
    """Return a key for a queue row whose message has not been read yet. Requests usually use `delivery_key` instead."""
    return _uuid5(f"{message_id}/{birth}/enrolled {now.isoformat()}")


def _uuid5(name: str) -> str:
    # Compute a version 5 UUID (RFC 9562, section 5.5), four times as fast as the module `uuid` does.
    digits = hashlib.sha1(NAMESPACE.bytes + name.encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"
