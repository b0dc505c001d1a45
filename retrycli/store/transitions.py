"""Move messages in the queue to the states that follow from decisions."""

import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, assert_never

from sqlalchemy import ColumnElement, Connection, Update, and_, bindparam, case, delete, func, insert, select, update
from sqlalchemy.types import TypeEngine

from retrycli.domain.fingerprint import fingerprint
from retrycli.domain.message import EscalationReason, MessageStatus, QueuedMessage, State, UnusableMessage, ticket_text
from retrycli.domain.sanitize import as_utf8
from retrycli.domain.transition import LONGEST_SLACK, Claim, Decision, Transition, TransitionKind, as_written
from retrycli.store.bulk import BulkStatement, Values, id_in
from retrycli.store.connection import NO_RESULT
from retrycli.store.database import Database
from retrycli.store.identity import IDENTITY, KEPT, identity_values, load, provisional_key, with_queue
from retrycli.store.messages import ESCALATED, REMEMBERED, RowState, has_status, read_rows, row_by_row
from retrycli.store.schema import MAX_INT, escalations, queue

CLAIM = (
    update(queue)
    .where(id_in(queue.c.message_id))
    .values(state=State.SENDING.value, claimed_by=bindparam("owner"), claim_expires_at=bindparam("until"))
)
CLAIM_FREE = CLAIM.where(row_by_row(queue.c.state != State.SENDING.value))
# The guard of every change to claimed messages: the message is being sent, and the claim still holds it.
HELD = row_by_row(queue.c.state == State.SENDING.value, queue.c.claimed_by == bindparam("owner"))
HELD_BY_ID = (id_in(queue.c.message_id), HELD)
HELD_IDS = select(queue.c.message_id).where(*HELD_BY_ID)
DEQUEUE = delete(queue).where(*HELD_BY_ID).execution_options(**NO_RESULT)


# The state to which a claimed message returns: escalated if it was escalated before, otherwise waiting.
FORMER_STATE = case((queue.c.escalated_at.is_(None), State.WAITING.value), else_=State.ESCALATED.value)

KEEP = (
    update(queue)
    .where(*HELD_BY_ID)
    .values(
        state=FORMER_STATE,
        next_attempt_at=case((queue.c.escalated_at.is_(None), bindparam("until", type_=queue.c.next_attempt_at.type))),
        claimed_by=None,
        claim_expires_at=None,
    )
    .execution_options(**NO_RESULT)
)


def let_go(database: Database, connection: Connection, claim: Claim, ids: Collection[int]) -> None:
    """Drop claimed messages that are no longer failed. Those whose ids belong to other failed messages stay in the
    queue until the next pass, which compares their births. No pass that runs now may claim them again.
    """
    if not ids:
        return
    m, held = database.messages.c, {"ids": list(ids), "owner": claim.owner}
    failed = select(m.id).where(id_in(m.id), row_by_row(has_status(m, MessageStatus.FAILED)))
    reborn = list(connection.execute(failed, held).scalars())
    connection.execute(KEEP, {**held, "ids": reborn, "until": claim.expires_at + LONGEST_SLACK})
    connection.execute(DEQUEUE, held)


def move(
    connection: Connection, claim: Claim, decisions: Sequence[Decision], rows: Mapping[int, RowState], now: datetime
) -> None:
    """Move messages that this claim holds to the states of their transitions, in a writing transaction. ``rows`` has
    the current states of the escalated messages' rows.
    """
    gone, back, escalated = [], [], []
    for decision in decisions:
        change = decision.transition
        match change.kind:
            case TransitionKind.DELIVERED:
                gone.append(decision.message_id)
            case TransitionKind.RESCHEDULED | TransitionKind.RELEASED:
                back.append({**_queue_values(decision), "next_attempt_at": change.next_attempt_at})
            case TransitionKind.ESCALATED:
                row = {**_queue_values(decision), **seen_values(rows.get(decision.message_id))}
                escalated.append({**row, "escalation_reason": change.reason, "fingerprint": fingerprint(decision)})
            case TransitionKind.ENROLLED:
                raise AssertionError("a message is enrolled before it is claimed")
            case _:
                assert_never(change.kind)
    if gone:
        connection.execute(DEQUEUE, {"ids": gone, "owner": claim.owner})
    GO_BACK.execute(connection, back, owner=claim.owner)
    if escalated:
        firsts = _first_escalations(connection, escalated, now)
        ESCALATE.execute(connection, [{**row, "at": firsts[row["message_id"]]} for row in escalated], owner=claim.owner)


def escalate(
    database: Database, connection: Connection, decisions: Sequence[Decision], now: datetime
) -> tuple[Sequence[Decision], Mapping[int, str]]:
    """Escalate unclaimed messages. Store the digests of their texts and the states of their rows, so that later changes
    by the application are noticed. A text that was already delivered is not exhausted. Return the decisions with their
    messages, and the reasons why rows rejected the change, by id.
    """
    if not decisions:
        return (), {}
    from retrycli.store.row_changes import write_messages  # lazy, because a pass that changes no row does not need it

    claim = Claim(str(uuid.uuid4()), now)
    ids = [decision.message_id for decision in decisions]
    parameters = {"ids": ids, "owner": claim.owner}
    connection.execute(CLAIM_FREE, {**parameters, "until": now})
    found = connection.execute(with_queue(database).where(*HELD_BY_ID), parameters)
    whole = {message.message_id: message for message in load(connection, found, ids)}
    known = [_of_text(decision, whole[decision.message_id]) for decision in decisions if decision.message_id in whole]
    # Messages that are no longer failed, or whose ids now belong to other messages. The next pass removes these
    # messages from the queue.
    gone = [decision for decision in decisions if decision.message_id not in whole]
    written = write_messages(database, connection, known)
    rows = {**read_rows(database, connection, ids), **written.rows}
    move(connection, claim, [*as_written(known, written.refused), *gone], rows, now)
    return known, written.refused


def _of_text(decision: Decision, message: QueuedMessage | UnusableMessage) -> Decision:
    is_exhausted = decision.transition.reason is EscalationReason.EXHAUSTED
    if is_exhausted and isinstance(message, QueuedMessage) and message.delivered_at is not None:
        decision = decision._replace(transition=Transition.already_delivered(message.delivered_at))
    return decision._replace(message=message)


SEEN_AT_ONCE = 500  # number of messages whose rows are read at a time


def see_again(database: Database) -> None:
    """Store the present states of all escalated messages' rows as those last seen, after the settings have got another
    source of them. Otherwise these messages would count as changed, and would be sent again.
    """
    with database.write() as connection:
        ids = list(connection.execute(select(queue.c.message_id).where(ESCALATED)).scalars())
        for start in range(0, len(ids), SEEN_AT_ONCE):
            rows = read_rows(database, connection, ids[start : start + SEEN_AT_ONCE])
            for message_id, row in rows.items():
                is_its = queue.c.message_id == message_id
                connection.execute(update(queue).where(is_its).values(seen_values(row)))


def waiting_row(
    message_id: int,
    ticket_id: object,
    birth: str,
    *,
    first_failed_at: datetime,
    now: datetime,
    due: datetime | None = None,
) -> dict[str, Any]:
    """Return the queue row of a new waiting message whose text has not been read yet."""
    return {
        "message_id": message_id,
        "state": State.WAITING,
        "next_attempt_at": due,
        "delivery_key": provisional_key(message_id, birth, now),
        "first_failed_at": first_failed_at,
        "unknown_count": 0,
        "ticket": ticket_text(ticket_id),
        "birth": birth,
        "digest": None,
        "rebirths": None,
    }


def _queue_values(decision: Decision) -> dict[str, Any]:
    row = {"message_id": decision.message_id, "unknown_count": None, **identity_values(decision)}
    count = decision.transition.unknown_count
    return row if count is None else row | {"unknown_count": count}


def _first_escalations(
    connection: Connection, escalated: Sequence[Mapping[str, Any]], now: datetime
) -> Mapping[int, datetime]:
    """Return, by message id, when the message was first escalated with its delivery key and for its reason. Record the
    time if it is now. Operators get only one notification for it, even if the application makes the message fail again
    and again.
    """
    keys = {row["message_id"]: (row["delivery_key"] or "", str(row["escalation_reason"])) for row in escalated}
    of_keys = select(escalations).where(id_in(escalations.c.delivery_key))
    found = connection.execute(of_keys, {"ids": [key for key, _ in keys.values()]})
    known = {(key, reason): at for key, reason, at in found}
    fresh = sorted({(key, reason) for key, reason in keys.values() if key} - known.keys())
    if fresh:
        rows = [{"delivery_key": key, "reason": reason, "at": now} for key, reason in fresh]
        connection.execute(insert(escalations), rows)
    return {message_id: known.get(key, now) for message_id, key in keys.items()}


def seen_values(row: RowState | None) -> dict[str, Any]:
    """Return the columns of a queue row that store the last seen state of the application's row."""
    if row is None:
        return dict.fromkeys(SEEN)
    count = row.retry_count if isinstance(row.retry_count, int) and abs(row.retry_count) <= MAX_INT else None
    error = None if row.last_error is None else str(row.last_error)[:REMEMBERED].replace("\0", " ")
    shown, updated_at = (text and as_utf8(text) for text in (error, row.updated_at))
    return {"seen_count": count, "seen_error": shown, "seen_updated_at": updated_at}


def _release(of: Values, **values: Any) -> Update:  # noqa: ANN401  any type that a column accepts
    held = update(queue).where(queue.c.message_id == of["message_id"], HELD)
    return held.values(claimed_by=None, claim_expires_at=None, **values)


def _new_or_own(of: Values, name: str) -> ColumnElement[Any]:
    return func.coalesce(of[name], queue.c[name])


def _waiting_update(of: Values) -> Update:
    """Build the update that returns messages to their former state. An escalated message that an operator attempted
    keeps its identity, so that a change of its text is still noticed. If the operator attempted another text, keep the
    old text's ``delivered_to``, too. If the attempt had another delivery key, because its text is another or was
    already delivered, keep the old key's ``unknown_count``, too.
    """
    waits = queue.c.escalated_at.is_(None)
    another = and_(~waits, queue.c.digest != of["digest"])  # null if the queue row has no digest
    another_key = and_(~waits, queue.c.digest.is_not(None), queue.c.delivery_key != of["delivery_key"])
    return _release(
        of,
        state=FORMER_STATE,
        next_attempt_at=_new_or_own(of, "next_attempt_at"),
        unknown_count=case((another_key, queue.c.unknown_count), else_=_new_or_own(of, "unknown_count")),
        delivered_to=case((another, queue.c.delivered_to), else_=of["delivered_to"]),
        **{name: case((waits, _new_or_own(of, name)), else_=queue.c[name]) for name in KEPT},
    )


def _escalation_update(of: Values) -> Update:
    """Build the update that escalates messages. An already escalated message keeps the time of its escalation."""
    return _release(
        of,
        state=State.ESCALATED.value,
        next_attempt_at=None,
        unknown_count=_new_or_own(of, "unknown_count"),
        delivered_to=of["delivered_to"],
        escalated_at=func.coalesce(queue.c.escalated_at, of["at"]),
        escalation_reason=of["escalation_reason"],
        fingerprint=of["fingerprint"],
        **{name: _new_or_own(of, name) for name in KEPT},
        **{name: of[name] for name in SEEN},
    )


def _types(*names: str) -> dict[str, TypeEngine[Any]]:
    return {name: queue.c[name].type for name in ("message_id", "unknown_count", *IDENTITY, *names)}


# The values that make an escalated message wait again.
NOT_ESCALATED: Mapping[str, Any] = {
    "state": State.WAITING.value,
    "escalated_at": None,
    "escalation_reason": None,
    "fingerprint": None,
    "acknowledged_by": None,
    "acknowledged_at": None,
    "note": None,
}

# The columns that store the last seen state of the application's row, so that changes are noticed.
SEEN = ("seen_count", "seen_error", "seen_updated_at")
GO_BACK = BulkStatement(_waiting_update, _types("next_attempt_at"))
ESCALATE = BulkStatement(
    _escalation_update, _types("escalation_reason", "fingerprint", *SEEN) | {"at": queue.c.escalated_at.type}
)
