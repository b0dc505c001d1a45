"""Enrol, retire and review messages: compare the queue with the application's table, one range of ids at a time."""

from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    func,
    insert,
    or_,
    select,
    true,
    update,
)

from retrycli.domain.identity import REBIRTHS, UNSTABLE, birth_of, digest_of
from retrycli.domain.message import (
    ADDRESS_SEPARATOR,
    KEY,
    OPTIONAL_COLUMNS,
    REQUIRED_COLUMNS,
    Message,
    MessageStatus,
    QueuedMessage,
    State,
    UnusableMessage,
    ticket_text,
)
from retrycli.domain.sanitize import as_utf8
from retrycli.domain.transition import ChangedMessage, Decision, IdRange, TransitionKind, as_written
from retrycli.store import own_tables
from retrycli.store.application_table import SWEEP, TAIL, FailedIndex, IndexState
from retrycli.store.bulk import id_in
from retrycli.store.database import Database
from retrycli.store.identity import (
    BIRTH,
    birth_text,
    delivery_key,
    identifying,
    identity_values,
    is_same,
    load,
    with_queue,
)
from retrycli.store.keys import Keys
from retrycli.store.messages import (
    ESCALATED,
    FIRST_IN_QUEUE,
    REMEMBERED,
    RowState,
    columns_without_body,
    has_status,
    message_of,
    queued_ids,
    read_rows,
    row_by_row,
    rows_of,
    same_id,
    updated_at_text,
    within,
)
from retrycli.store.schema import queue
from retrycli.store.transitions import NOT_ESCALATED, escalate, seen_values, waiting_row

RETIRED_AT_ONCE = 500  # maximum number of messages that one transaction removes from the queue
DROP_QUEUED = delete(queue).where(id_in(queue.c.message_id), queue.c.state != State.SENDING.value)
UNLOCKED = select(queue.c.message_id).where(id_in(queue.c.message_id)).with_for_update(skip_locked=True)
FOLLOW = (
    update(queue)
    .where(queue.c.message_id == bindparam("id"), queue.c.ticket.is_not_distinct_from(bindparam("before")))
    .values(ticket=bindparam("now"), birth=bindparam("birth"), rebirths=None)
)
SEEN_OF = select(queue.c.message_id, queue.c.digest, queue.c.seen_count, queue.c.seen_error).where(
    id_in(queue.c.message_id)
)
START = -(2**63)  # the lowest 64-bit integer, assumed to be lower than all ids

DECIDING_COLUMNS = frozenset({*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS, KEY, ADDRESS_SEPARATOR})
Rows = list[Mapping[str, Any]]


class Rebirths:
    """The rows in a range of ids that have another birth than their queue rows."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._found: dict[int, tuple[int, str]] = {}  # passes in a row, and the digest, by id

    def replaced(self, connection: Connection, rows: Rows) -> set[int]:
        """Return the ids of failed rows that belong to other messages than the queue rows with their ids. Read the
        texts of rows with another birth.
        """
        reborn = {row["message_id"]: row for row in rows if row["birth"] == UNSTABLE or not is_same(row)}
        if not reborn:
            return set()
        by_text = own_tables.births_differ(self._database)  # their births can't be compared
        m = self._database.messages
        texts = connection.execute(select(m.c.id, *identifying(m)).where(id_in(m.c.id)), {"ids": list(reborn)})
        replaced: set[int] = set()
        for text in texts.mappings():
            row, digest = reborn[text["id"]], digest_of(dict(text))
            if not (by_text or row["birth"] == UNSTABLE) or row["digest"] != digest:
                before = (row["rebirths"] or 0) if row["digest"] == digest else 0
                self._found[text["id"]] = before + 1, digest
                replaced.add(text["id"])
        return replaced

    def message_of(self, row: Mapping[str, Any]) -> Message | UnusableMessage:
        """Build a message from a row: an `UnusableMessage` if it had another birth at `REBIRTHS` passes in a row."""
        number, _ = self._found.get(row["id"], (0, ""))
        if number < REBIRTHS:
            return message_of(row)
        column = "created_at" if "created_at" in row else "ticket_id"
        problem = f"{column} was different at {REBIRTHS} passes in a row, although the text was the same"
        return UnusableMessage.from_row(row, problem)

    def values(self, message_id: int, birth: str) -> dict[str, Any]:
        """Return what the queue row of a message stores about these births, which the next pass reads."""
        if message_id not in self._found:
            return {}
        number, digest = self._found[message_id]
        birth = birth if number < REBIRTHS else UNSTABLE
        key = delivery_key(message_id, birth_of(birth), digest, 0)
        return {"birth": birth, "digest": digest, "delivery_key": key, "rebirths": number}


class Enrolment:
    """Enrol failed messages, and retire messages that are no longer failed. Every pass compares the ``tail`` newest
    messages and, in addition, ``sweep`` older ones.
    """

    def __init__(self, database: Database, *, tail: int = TAIL, sweep: int = SWEEP) -> None:
        self._database = database
        self._tail = tail
        self._sweep = sweep
        self._rebirths: Rebirths | None = None  # those in the range that was compared last, if it has any

    def plan_sweep(self, swept_to: int | None) -> tuple[list[IdRange], int]:
        """Return the ranges of ids to compare in this pass, all of the newest messages and the next slice of the older
        ones, and the id at which the next pass continues. Compare all messages if no pass has stopped at an id before.
        """
        if self._database.table.key is not None:
            Keys(self._database).number_older(all_of_them=swept_to is None)
        rows = self._rows()
        tail = self._id_at(rows, self._tail, newest=True)
        if tail is None:
            return [IdRange(None, None)], START
        spans = []
        after = START if swept_to is None else swept_to
        while after < tail:
            end = self._id_at(rows, self._sweep - 1, after=after)
            upto = tail if end is None else min(end, tail)
            spans.append(IdRange(after, upto))
            after = upto
            if swept_to is not None:
                break
        return [*spans, IdRange(tail, None)], START if after >= tail else after

    def goes_round(self) -> bool:
        """Return whether there are more messages than one pass compares."""
        return self._id_at(self._rows(), self._tail + self._sweep) is not None

    def _rows(self) -> Select[Any]:
        m = self._database.messages.c
        if FailedIndex(self._database).state() is IndexState.THERE:
            return select(m.id).where(has_status(m, MessageStatus.FAILED))
        return select(m.id)

    def _id_at(self, rows: Select[Any], number: int, *, after: int | None = None, newest: bool = False) -> int | None:
        """Return the id at position `number`, counted from 0 upward from `after`, or downward from the newest id if
        `newest` is set. Return None if there are too few rows.
        """
        ids = self._database.messages.c.id
        ordered = rows.where(*within(ids, IdRange(after, None))).order_by(ids.desc() if newest else ids)
        return self._database.scalar(ordered.offset(number).limit(1))

    def newly_failed(
        self, span: IdRange, limit: int, *, replaced: Collection[int] = ()
    ) -> list[Message | UnusableMessage]:
        """Read failed messages that are not in the queue, in the order of their ids. Also read the current messages
        with the ``replaced`` ids, which are queued for earlier messages. Replace the body as `columns_without_body`
        does, and leave out columns that only a preset may use, because they may be as large as bodies.
        """
        unknown: ColumnElement[bool] = queue.c.message_id.is_(None)
        m = self._database.messages.c
        decides = [column for column in columns_without_body(self._database) if column.name in DECIDING_COLUMNS]
        statement = (
            select(*decides)
            .join_from(self._database.messages, queue, same_id(m.id, queue.c.message_id, span), isouter=True)
            .where(
                has_status(m, MessageStatus.FAILED),
                or_(unknown, id_in(m.id)) if replaced else unknown,
                *within(m.id, span),
            )
            .order_by(m.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            found = connection.execute(statement, {"ids": list(replaced)} if replaced else None)
            # A count that retrycli keeps may be that of an earlier text. Only a claim reads the text, and then decides.
            counted = {"retry_count": 0} if "retry_count" in self._database.table.own else {}
            as_message = message_of if self._rebirths is None else self._rebirths.message_of
            return [as_message(row | counted) for row in rows_of(found)]

    def enrol(
        self, entries: Sequence[tuple[Decision, datetime, int | str]], now: datetime
    ) -> tuple[Sequence[Decision], Mapping[int, str]]:
        """Add messages to the queue, and escalate some of them immediately. Leave queued messages unchanged. Each entry
        is a first transition, the time of the first failure, and the ticket. Return what `escalate` does.
        """
        if not entries:
            return (), {}
        m = self._database.messages
        with self._database.write() as connection:
            self._database.take_turn(connection)
            known = queued_ids(connection, [decision.message_id for decision, _, _ in entries])
            fresh = [entry for entry in entries if entry[0].message_id not in known]
            ids = {"ids": [decision.message_id for decision, _, _ in fresh]}
            found = connection.execute(select(m.c.id, birth_text(m)).where(id_in(m.c.id)), ids) if fresh else ()
            births = {message_id: as_utf8(birth) for message_id, birth in found}
            fresh = [entry for entry in fresh if entry[0].message_id in births]  # others were deleted meanwhile
            if self._database.table.own and births:
                from retrycli.store.own_values import forget_others  # most tables need it not

                forget_others(connection, births)
            rows = [
                waiting_row(
                    decision.message_id,
                    ticket_id,
                    births[decision.message_id],
                    first_failed_at=failed_at,
                    now=now,
                    due=decision.transition.next_attempt_at or now,
                )
                | (self._rebirths.values(decision.message_id, births[decision.message_id]) if self._rebirths else {})
                for decision, failed_at, ticket_id in fresh
            ]
            if rows:
                connection.execute(insert(queue), rows)
            escalated = [decision for decision, _, _ in fresh if decision.transition.reason]
            return escalate(self._database, connection, escalated, now)

    def retire(self, span: IdRange) -> Sequence[int]:
        """Remove from the queue the messages that the application has sent, rejected, withdrawn or deleted. Also remove
        a message whose id now belongs to another message, which is then enrolled as new. Return the ids of escalated
        messages whose rows the application may have changed.
        """
        changed = array("q")
        for leave, stay in self._differences(span):
            with self._database.write() as connection:
                # A message in flight keeps its queue row until its attempt has an outcome or its claim expires.
                connection.execute(DROP_QUEUED, {"ids": [row["message_id"] for row in leave]})
                _follow(connection, stay)
            changed.extend(row["message_id"] for row in stay if row["may_differ"])
        return changed

    def would_retire(self, span: IdRange) -> tuple[set[int], Sequence[int]]:
        """Return what `retire` would find, without writing anything: ids that now belong to other messages, and ids of
        escalated messages whose rows the application may have changed.
        """
        replaced: set[int] = set()
        changed = array("q")
        for leave, stay in self._differences(span):
            replaced |= {row["message_id"] for row in leave if not row["over"] and row["state"] != State.SENDING}
            changed.extend(row["message_id"] for row in stay if row["may_differ"])
        return replaced, changed

    def _differences(self, span: IdRange) -> Iterator[tuple[Rows, Rows]]:
        """Yield queue rows that differ from the application's rows, in batches: the rows that leave the queue, and the
        rows that stay.
        """
        self._rebirths = None
        if self._database.scalar(FIRST_IN_QUEUE) is None:
            return
        rest = span
        while True:
            with self._database.read() as connection:
                rows = list(rows_of(connection.execute(self._differing(rest))))
                ids = {row["message_id"] for row in rows if row["over"]}
                if len(ids) < len(rows):
                    self._rebirths = self._rebirths or Rebirths(self._database)
                    ids |= self._rebirths.replaced(connection, [row for row in rows if not row["over"]])
            if not rows:
                return
            yield (
                [row for row in rows if row["message_id"] in ids],
                [row for row in rows if row["message_id"] not in ids],
            )
            rest = IdRange(rows[-1]["message_id"], span.upto)

    def _differing(self, span: IdRange) -> Select[Any]:
        m = self._database.messages
        over = case((has_status(m.c, MessageStatus.FAILED), 0), else_=1) == 1  # also true if the row does not exist
        birth = birth_text(m)
        may_differ = and_(ESCALATED, self._may_differ())
        return (
            select(
                *(queue.c[name] for name in ("message_id", "state", "birth", "ticket", "digest", "rebirths")),
                birth.label(BIRTH),
                m.c.ticket_id,
                case((over, 1), else_=0).label("over"),
                case((may_differ, 1), else_=0).label("may_differ"),
            )
            .join_from(queue, m, same_id(queue.c.message_id, m.c.id, span), isouter=True)
            # The same time or ticket may be written in two formats. `_is_another` compares the values, and `_follow`
            # stores the current format.
            .where(
                *within(queue.c.message_id, span),
                or_(
                    over,
                    birth != queue.c.birth,
                    cast(m.c.ticket_id, Text) != queue.c.ticket,
                    queue.c.rebirths.is_not(None),
                    may_differ,
                ),
            )
            .order_by(queue.c.message_id)
            .limit(RETIRED_AT_ONCE)
        )

    def _may_differ(self) -> ColumnElement[bool]:
        m = self._database.messages
        if "updated_at" not in m.c:  # without this column, `review` must compare every text
            return true()
        return or_(
            m.c.retry_count.is_distinct_from(queue.c.seen_count),
            func.substr(m.c.last_error, 1, REMEMBERED).is_distinct_from(queue.c.seen_error),
            updated_at_text(m).is_distinct_from(queue.c.seen_updated_at),
        )

    def review(
        self, ids: Collection[int], decide: Callable[[ChangedMessage], Decision], now: datetime
    ) -> list[Decision]:
        """Review escalated messages: return each one to waiting, escalate it again, or leave it escalated and store the
        current state of its row. Return the decisions, with an escalation for each message whose row rejected the
        change. Lock the rows, and leave those that another transaction has locked to the next pass.
        """
        m = self._database.messages
        unlocked = (
            select(queue.c.message_id)
            .join_from(queue, m, m.c.id == queue.c.message_id)
            .where(id_in(queue.c.message_id), row_by_row(ESCALATED, has_status(m.c, MessageStatus.FAILED)))
            .order_by(queue.c.message_id)
            .with_for_update(skip_locked=True)
        )
        with self._database.write() as connection:
            free = list(connection.execute(unlocked, {"ids": list(ids)}).scalars())
            rows = read_rows(self._database, connection, free)
            reviewed = self._decided(connection, free, rows, decide)
            anew = [decision for decision in reviewed if decision.transition.reason]
            _, refused = escalate(self._database, connection, anew, now)
            for decision in reviewed:
                if decision.transition.reason:
                    continue
                values = {**identity_values(decision), **seen_values(rows[decision.message_id])}
                if decision.transition.kind is TransitionKind.ENROLLED:
                    values |= {
                        **NOT_ESCALATED,
                        "next_attempt_at": decision.transition.next_attempt_at,
                        "unknown_count": decision.transition.unknown_count or 0,
                    }
                connection.execute(
                    update(queue).where(queue.c.message_id == decision.message_id, ESCALATED).values(values)
                )
            if self._database.table.own:
                from retrycli.store.own_values import keep_counts  # most tables need it not

                again = [one.message for one in reviewed if one.transition.kind is TransitionKind.ENROLLED]
                keep_counts(self._database.table, connection, [one for one in again if isinstance(one, QueuedMessage)])
            return as_written(reviewed, refused)

    def would_review(self, ids: Collection[int], decide: Callable[[ChangedMessage], Decision]) -> list[Decision]:
        """Return what `review` would decide, without writing anything."""
        with self._database.read() as connection:
            return self._decided(connection, ids, read_rows(self._database, connection, ids), decide)

    def _decided(
        self,
        connection: Connection,
        ids: Collection[int],
        rows: Mapping[int, RowState],
        decide: Callable[[ChangedMessage], Decision],
    ) -> list[Decision]:
        known = {row.message_id: row for row in connection.execute(SEEN_OF, {"ids": list(ids)})}
        found = connection.execute(with_queue(self._database).where(id_in(queue.c.message_id)), {"ids": list(ids)})
        # Only retrycli changes the values that it keeps itself. If only `updated_at` is newer, the row has not changed.
        roles = {"seen_count": "retry_count", "seen_error": "last_error"}
        compared = [name for name, role in roles.items() if role not in self._database.table.own]
        decisions = []
        for message in load(connection, found, list(ids)):
            was, seen = known[message.message_id], seen_values(rows[message.message_id])
            is_other = was.digest != message.digest or any(getattr(was, name) != seen[name] for name in compared)
            decisions.append(decide(ChangedMessage(message, is_other)))
        return decisions


def _follow(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store the new tickets of messages that the application has moved, for example when it merged tickets. Also store
    births in their current format, so that the next pass need not compare them again, and forget earlier births,
    because this pass has found the same message as the last one. A message in flight keeps its claim. To avoid
    deadlocks, leave rows that another pass has locked to the next sweep.
    """
    moved = {}
    for row in rows:
        ticket = ticket_text(row["ticket_id"])
        birth = UNSTABLE if row["birth"] == UNSTABLE else as_utf8(row[BIRTH])
        if (ticket, birth, None) != (row["ticket"], row["birth"], row["rebirths"]):
            moved[row["message_id"]] = {"id": row["message_id"], "before": row["ticket"], "now": ticket, "birth": birth}
    free = list(connection.execute(UNLOCKED, {"ids": list(moved)}).scalars()) if moved else []
    if free:
        connection.execute(FOLLOW, [moved[message_id] for message_id in free])
