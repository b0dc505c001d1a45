"""What people do about messages. Each change names the state it expects, so that nobody touches what has moved on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, assert_never

from sqlalchemy import ColumnElement, Select, bindparam, delete, insert, select, update

from retrycli.acts import Act, ActKind, no_such, not_free, refusal
from retrycli.errors import NotActionable, RetrycliError
from retrycli.message import State, Status
from retrycli.schema import acts, queue
from retrycli.store.application import (
    give_all_tries_back,
    reject_messages,
    row_by_row,
    standings,
    word,
    write_text,
)
from retrycli.store.enrolment import edited_key

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from retrycli.store.database import Database

OF_ID = queue.c.message_id == bindparam("of_id")
FREE = queue.c.state != State.SENDING.value
ESCALATED = queue.c.state == State.ESCALATED.value
NEW = queue.c.acknowledged_at.is_(None)
GUARDS: Mapping[ActKind, tuple[ColumnElement[bool], ...]] = {
    ActKind.EDITED: (FREE,),
    ActKind.REJECTED: (FREE,),
    ActKind.REQUEUED: (ESCALATED,),
    ActKind.ACKNOWLEDGED: (ESCALATED, NEW),
    ActKind.NOTED: (ESCALATED,),
}
"""What the queue must say of a message for an act to be done to it."""

IN_NOBODYS_HANDS = {
    "state": State.WAITING.value,
    "unknown_count": 0,
    "escalated_at": None,
    "escalation_reason": None,
    "fingerprint": None,
    "acknowledged_by": None,
    "acknowledged_at": None,
    "note": None,
}
REQUEUE = update(queue).where(OF_ID, ESCALATED).values(**IN_NOBODYS_HANDS, next_attempt_at=bindparam("due"))
ACKNOWLEDGE = (
    update(queue)
    .where(OF_ID, ESCALATED, NEW)
    .values(acknowledged_by=bindparam("name"), acknowledged_at=bindparam("at"))
)
NOTE = update(queue).where(OF_ID, ESCALATED).values(note=bindparam("text"))
REJECT = delete(queue).where(OF_ID, FREE)
RENEW_THE_KEY = update(queue).where(OF_ID, FREE).values(delivery_key=bindparam("key"))


class Acts:
    """Failed messages as people act on them.

    Args:
        database: where they are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def perform(self, kind: ActKind, wanted: Mapping[int, Act]) -> set[int]:
        """Do one kind of act to messages, each its own, and write down who did it, in one transaction.

        Returns:
            The ids of those that had moved on: they were sent, taken back or are being sent, or are not in the state
            that the act expects. Nothing of these was changed; `why_not` says more.
        """
        with self._database.write() as connection:
            ids = self._lock(connection, kind, wanted)
            able = {each: wanted[each] for each in ids}
            if able:
                self._change(connection, kind, able)
                _write_down(connection, able)
        return wanted.keys() - able.keys()

    def _change(self, connection: Connection, kind: ActKind, able: Mapping[int, Act]) -> None:
        match kind:
            case ActKind.REQUEUED:
                connection.execute(REQUEUE, [{"of_id": each, "due": act.due} for each, act in able.items()])
                give_all_tries_back(self._database, connection, able)
            case ActKind.REJECTED:
                reject_messages(self._database, connection, {each: act.last_error for each, act in able.items()})
                connection.execute(REJECT, [{"of_id": each} for each in able])
            case ActKind.ACKNOWLEDGED:
                rows = [{"of_id": each, "name": act.by, "at": act.at} for each, act in able.items()]
                connection.execute(ACKNOWLEDGE, rows)
            case ActKind.NOTED:
                connection.execute(NOTE, [{"of_id": each, "text": act.note} for each, act in able.items()])
            case ActKind.EDITED:
                raise AssertionError("a message is edited by `edit`, one at a time")
            case _:
                assert_never(kind)

    def _lock(self, connection: Connection, kind: ActKind, ids: Collection[int]) -> list[int]:
        """Which of these messages an act can be done to; nobody else changes them until the transaction ends."""
        these = {"ids": list(ids)}
        enrolled = self._enrolled[kind]
        if kind is not ActKind.REJECTED:
            return list(connection.execute(enrolled, these).scalars())
        # What the queue does not know yet must not be enrolled and claimed meanwhile. A pass may hold messages while it
        # waits for this lock, so none of them is waited for.
        self._database.one_at_a_time(connection)
        return [*connection.execute(enrolled, these).scalars(), *connection.execute(self._unknown, these).scalars()]

    @cached_property
    def _enrolled(self) -> dict[ActKind, Select[Any]]:
        """Messages, by their ids, that an act can be done to."""
        m = self._database.messages
        joined = select(m.c.id).join_from(m, queue, queue.c.message_id == m.c.id).where(*self._these_failed)
        ordered = joined.order_by(m.c.id)
        return {
            kind: ordered.where(row_by_row(*guards)).with_for_update(skip_locked=kind is ActKind.REJECTED)
            for kind, guards in GUARDS.items()
        }

    @cached_property
    def _unknown(self) -> Select[Any]:
        """Failed messages, by their ids, that the queue does not know."""
        m = self._database.messages
        unknown = ~select(queue.c.message_id).where(queue.c.message_id == m.c.id).exists()
        return select(m.c.id).where(*self._these_failed, unknown).order_by(m.c.id).with_for_update(skip_locked=True)

    @property
    def _these_failed(self) -> tuple[ColumnElement[bool], ...]:
        m = self._database.messages.c
        return m.id.in_(bindparam("ids", expanding=True)), m.status == word(Status.FAILED)

    def edit(self, message_id: int, act: Act, *, read: Mapping[str, object], changes: Mapping[str, str]) -> None:
        """Give a message another text and another delivery key.

        Args:
            message_id: a message that the queue knows.
            act: what the history is to say.
            read: the columns that the change was based on, as they were read.
            changes: the columns to be written.

        Raises:
            NoSuchMessage: there is no such row any more.
            NotActionable: it is not failed or is being sent just now, what was read has changed, a column is too short
                for its new text, or the database's encoding lacks a letter of that.
        """
        m = self._database.messages
        # Compared here and not in SQL: a text that is no UTF-8, or bytes, can be read but not bound. The row is locked.
        there = (
            select(*(m.c[name] for name in read), queue.c.delivery_key.label("retrycli_delivery_key"))
            .join_from(m, queue, queue.c.message_id == m.c.id)
            .where(m.c.id == message_id, m.c.status == word(Status.FAILED), *GUARDS[ActKind.EDITED])
            .with_for_update()
        )
        with self._database.write() as connection:
            row = connection.execute(there).mappings().one_or_none()
            if row is None:
                raise self._why_not(connection, ActKind.EDITED, [message_id], act.at)[message_id]
            if any(row[name] != value for name, value in read.items()):
                raise NotActionable(
                    f"message {message_id} was changed by another while you edited it; nothing was written. "
                    f"See `retrycli show {message_id}`, and edit it again"
                )
            self._check_room(connection, message_id, changes)
            key = edited_key(row["retrycli_delivery_key"], act.at)
            write_text(self._database, connection, message_id, changes)
            connection.execute(RENEW_THE_KEY, {"of_id": message_id, "key": key})
            _write_down(connection, {message_id: act})

    def _check_room(self, connection: Connection, message_id: int, changes: Mapping[str, str]) -> None:
        for name, new in changes.items():
            room = self._database.room_in(name)
            if room is not None and len(new) > room:
                raise NotActionable(
                    f"message {message_id} can't have a {name} of {len(new):,} characters, for its column holds "
                    f"{room:,}; nothing was written"
                )
        if lacking := self._database.letters_lacking(connection, "".join(changes.values())):
            raise NotActionable(
                f"message {message_id} can't have {lacking!r} in its text, for the database's encoding lacks it; "
                "nothing was written"
            )

    def check(self, message_id: int, now: datetime) -> bool:
        """Look whether a message may be edited; whether the queue knows it.

        Raises:
            NoSuchMessage: there is no such row.
            NotActionable: it is not failed, or is being sent just now.
        """
        with self._database.read() as connection:
            standing = standings(self._database, connection, [message_id]).get(message_id)
        if standing is None:
            raise no_such(message_id)
        if (reason := not_free(standing, "edit", now)) is not None:
            raise reason
        return standing.state is not None

    def why_not(self, kind: ActKind, ids: Collection[int], now: datetime) -> dict[int, RetrycliError]:
        """Why an act was not done to messages, by id."""
        with self._database.read() as connection:
            return self._why_not(connection, kind, ids, now)

    def _why_not(
        self, connection: Connection, kind: ActKind, ids: Collection[int], now: datetime
    ) -> dict[int, RetrycliError]:
        found = standings(self._database, connection, ids)
        return {each: refusal(kind, each, found.get(each), now) for each in sorted(ids)}


def _write_down(connection: Connection, done: Mapping[int, Act]) -> None:
    rows: list[dict[str, Any]] = [
        {"message_id": each, "at": act.at, "by": act.by, "act": act.kind, "detail": act.detail}
        for each, act in done.items()
    ]
    connection.execute(insert(acts), rows)
