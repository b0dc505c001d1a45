"""Which messages the queue looks after: it follows the application's table, a range of ids at a time."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Select, Text, bindparam, case, cast, delete, insert, null, or_, select, update

from retrycli.errors import InvalidMessage
from retrycli.fingerprint import fingerprint
from retrycli.message import (
    OPTIONAL_COLUMNS,
    REQUIRED_COLUMNS,
    TICKET_LENGTH,
    Message,
    Span,
    State,
    Status,
    UnusableMessage,
    utc_time,
)
from retrycli.policy import Settled, as_written
from retrycli.schema import queue
from retrycli.store.application import all_but_the_body, message_of, rows_of, word, write_messages
from retrycli.store.failed_index import FailedIndex, IndexState
from retrycli.store.these import among_ids

if TYPE_CHECKING:
    from sqlalchemy import Connection, RowMapping

    from retrycli.store.database import Database

TAIL = 5_000
"""How many of the newest messages every pass compares with its queue."""
SWEEP = 10_000
"""How many of the older ones each pass compares besides, going round. Messages that fail are new ones as a rule;
those that an old row hides are found within (rows / SWEEP) passes, and a pass over millions stays short. Where there
is an index of the failed rows, these alone are counted, and few of them are all compared by every pass."""
RETIRED_AT_ONCE = 500
"""So many leave the queue in one transaction."""
KNOWN = select(queue.c.message_id).where(among_ids(queue.c.message_id))
LET_GO = delete(queue).where(among_ids(queue.c.message_id), queue.c.state != State.SENDING.value)
FREE = select(queue.c.message_id).where(among_ids(queue.c.message_id)).with_for_update(skip_locked=True)
MOVE = (
    update(queue)
    .where(queue.c.message_id == bindparam("id"), queue.c.ticket.is_not_distinct_from(bindparam("before")))
    .values(ticket=bindparam("now"))
)
START = -(2**63)
"""Before the first id there can be."""

DECIDES = frozenset({*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS})
"""The columns by which a message is taken in."""

DELIVERY_KEYS = uuid.UUID("6f1ab6ea-36a0-5c3e-9a43-2d1f6f0c8f0e")


def delivery_key(message_id: int, ticket_id: int | str, first_failed_at: datetime) -> str:
    """The key that every request for a message carries until it is sent, the same whoever works it out."""
    name = f"{message_id}/{ticket_id}/{first_failed_at.isoformat()}"
    # A ticket that is no UTF-8 is one that makes its message unusable, but the queue keeps a row for it.
    return str(uuid.uuid5(DELIVERY_KEYS, name.encode(errors="backslashreplace").decode()))


def edited_key(key: str, at: datetime) -> str:
    """The key of a message that was edited: to the other side it is another one, whatever became of it before."""
    return str(uuid.uuid5(DELIVERY_KEYS, f"{key}/edited {at.isoformat()}"))


class Enrolment:
    """Takes messages into the queue, and out of it when they are no longer its business.

    Args:
        database: where both tables are.
        tail: how many of the newest messages every pass compares with its queue.
        sweep: how many of the older ones each pass compares besides.
    """

    def __init__(self, database: Database, *, tail: int = TAIL, sweep: int = SWEEP) -> None:
        self._database = database
        self._tail = tail
        self._sweep = sweep

    def plan_sweep(self, swept_to: int | None) -> tuple[list[Span], int]:
        """Which ranges of ids this pass compares: of the older messages the next slice, and all of the newest.

        Args:
            swept_to: where the last pass left off; None for a pass that must see everything.

        Returns:
            The ranges, and where the next pass goes on.
        """
        rows = self._rows()
        tail = self._id_at(rows, self._tail, newest=True)
        if tail is None:
            return [Span(None, None)], START
        spans = []
        after = START if swept_to is None else swept_to
        while after < tail:
            upto = self._id_at(rows, self._sweep - 1, after=after)
            upto = tail if upto is None else min(upto, tail)
            spans.append(Span(after, upto))
            after = upto
            if swept_to is not None:
                break
        return [*spans, Span(tail, None)], START if after >= tail else after

    def goes_round(self) -> bool:
        """Whether there are more messages to go through than one pass compares."""
        return self._id_at(self._rows(), self._tail + self._sweep) is not None

    def _rows(self) -> Select[Any]:
        """The ids of the rows that are gone through: all of them, or the failed ones where an index has these."""
        m = self._database.messages.c
        all_rows = select(m.id)
        indexed = FailedIndex(self._database).state() is IndexState.THERE
        return all_rows.where(m.status == word(Status.FAILED)) if indexed else all_rows

    def _id_at(self, rows: Select[Any], number: int, *, after: int | None = None, newest: bool = False) -> int | None:
        """The id that lies so many rows on from the first one after, or back from the newest; None where none does."""
        ids = self._database.messages.c.id
        statement = rows.order_by(ids.desc() if newest else ids).offset(number).limit(1)
        if after is not None:
            statement = statement.where(ids > after)
        with self._database.read() as connection:
            return connection.execute(statement).scalar()

    def newly_failed(self, span: Span, limit: int) -> list[Message | UnusableMessage]:
        """Failed messages that the queue does not know, by id, with what decides about them.

        Their bodies are left out: null, or empty. So are columns that only a preset may know: they may be as large.
        """
        m = self._database.messages.c
        decides = [each for each in all_but_the_body(self._database) if each.name in DECIDES]
        statement = (
            select(*decides)
            .join_from(self._database.messages, queue, queue.c.message_id == m.id, isouter=True)
            .where(m.status == word(Status.FAILED), queue.c.message_id.is_(None), *_within(m.id, span))
            .order_by(m.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [message_of(row) for row in rows_of(connection.execute(statement))]

    def enrol(self, entries: Sequence[tuple[Settled, datetime, int | str]], now: datetime) -> Mapping[int, str]:
        """Add messages to the queue; one that is there already stays as it is.

        Args:
            entries: each message's first transition, when it first failed, and its ticket.
            now: for ``escalated_at``.

        Returns:
            The ids of those whose rows took no change, and why: they are in a person's hands.
        """
        if not entries:
            return {}
        with self._database.write() as connection:
            self._database.one_at_a_time(connection)
            ids = [settled.message_id for settled, _, _ in entries]
            known = set(connection.execute(KNOWN, {"ids": ids}).scalars())
            fresh = [each for each in entries if each[0].message_id not in known]
            settled = [each for each, _, _ in fresh]
            refused = write_messages(self._database, connection, settled)
            written = zip(as_written(settled, refused), fresh, strict=True)
            rows = [_row(each, failed_at, ticket_id, now) for each, (_, failed_at, ticket_id) in written]
            if rows:
                connection.execute(insert(queue), rows)
        return refused

    def retire(self, span: Span) -> int:
        """Drop messages that the application has since sent, rejected, taken back or deleted; how many.

        One whose id SQLite has given to another message since goes too: the other comes in anew, with its own key.
        """
        m = self._database.messages.c
        over = m.status.is_distinct_from(word(Status.FAILED))  # it is null where there is no row
        # Not every ticket reads the same as a text of the database's: `_is_another` knows.
        may_be_another = cast(m.ticket_id, Text) != queue.c.ticket
        gone = (
            select(
                queue.c.message_id,
                queue.c.ticket,
                queue.c.first_failed_at,
                case((over, 1), else_=0).label("over"),
                m.ticket_id,
                m.created_at if "created_at" in m else null().label("created_at"),
            )
            .join_from(queue, self._database.messages, m.id == queue.c.message_id, isouter=True)
            .where(or_(over, may_be_another))
            .order_by(queue.c.message_id)
            .limit(RETIRED_AT_ONCE)
        )
        retired, rest = 0, span
        while True:
            with self._database.read() as connection:
                rows = connection.execute(gone.where(*_within(queue.c.message_id, rest))).mappings().all()
            if not rows:
                return retired
            ids = [row["message_id"] for row in rows if row["over"] or _is_another(row)]
            with self._database.write() as connection:
                # A message that is being sent keeps its row until its attempt has an outcome or its claim lapses.
                retired += connection.execute(LET_GO, {"ids": ids}).rowcount
                _follow_tickets(connection, [row for row in rows if row["message_id"] not in ids])
            rest = Span(rows[-1]["message_id"], span.upto)


def _row(settled: Settled, first_failed_at: datetime, ticket_id: int | str, now: datetime) -> dict[str, object]:
    reason = settled.transition.reason
    return {
        "message_id": settled.message_id,
        "state": State.ESCALATED if reason else State.WAITING,
        "next_attempt_at": settled.transition.next_attempt_at,
        "delivery_key": delivery_key(settled.message_id, ticket_id, first_failed_at),
        "first_failed_at": first_failed_at,
        "unknown_count": 0,
        "escalated_at": now if reason else None,
        "escalation_reason": reason,
        "fingerprint": fingerprint(settled) if reason else None,
        "ticket": _as_kept(ticket_id),
    }


def _as_kept(ticket_id: object) -> str:
    """A ticket as the queue holds it, also one that makes its message unusable."""
    text = str(ticket_id if isinstance(ticket_id, int | str) else "")
    return text.encode(errors="backslashreplace").decode()[:TICKET_LENGTH]


def _follow_tickets(connection: Connection, rows: Sequence[RowMapping]) -> None:
    """Give queue rows the tickets that the application has moved their messages to, as when it merges tickets.

    Nothing else changes: a message that is being sent keeps its claim. A row that another pass has locked follows with
    the next sweep, because that pass may be waiting for a row of this one.
    """
    moved = {row["message_id"]: row for row in rows if _as_kept(row["ticket_id"]) != row["ticket"]}
    if not moved:
        return
    free = [moved[each] for each in connection.execute(FREE, {"ids": list(moved)}).scalars()]
    tickets = [(each["message_id"], each["ticket"], _as_kept(each["ticket_id"])) for each in free]
    if tickets:
        connection.execute(MOVE, [{"id": each, "before": before, "now": now} for each, before, now in tickets])


def _is_another(row: RowMapping) -> bool:
    """Whether a row is of another message than its queue row. One that was there when that failed has only moved."""
    if _as_kept(row["ticket_id"]) == row["ticket"]:
        return False
    try:
        made_at = utc_time("created_at", row["created_at"])
    except InvalidMessage:
        made_at = None
    return made_at is None or made_at > row["first_failed_at"]


def _within(column: ColumnElement[int], span: Span) -> list[ColumnElement[bool]]:
    above = [] if span.after is None else [column > span.after]
    return above if span.upto is None else [*above, column <= span.upto]
