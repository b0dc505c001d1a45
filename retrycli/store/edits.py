"""Edits of failed messages by operators."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, select, update

from retrycli.domain.errors import NotActionable, RetrycliError, again_if_lost
from retrycli.domain.message import MessageStatus
from retrycli.domain.operator_action import ActionKind, OperatorAction, no_such, not_free, not_taken, refusal
from retrycli.domain.transition import Decision, Transition
from retrycli.store.database import Database
from retrycli.store.error_messages import IN_THE_WAY
from retrycli.store.identity import load, with_queue
from retrycli.store.messages import RowState, standings, status_text
from retrycli.store.operator_actions import ESCALATED, FREE, record_actions
from retrycli.store.row_changes import write_text
from retrycli.store.schema import queue
from retrycli.store.transitions import identity_values, seen_values


class Edits:
    """Edit failed messages.

    Args:
        database: holds the queue and the application's table.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def edit(
        self, message_id: int, act: OperatorAction, *, read: Mapping[str, object], changes: Mapping[str, str]
    ) -> None:
        """Change a message's text. Its delivery key changes with it.

        Args:
            message_id: a message in the queue.
            act: the action to record.
            read: the columns that the edit was based on, as they were read.
            changes: the new values by column.

        Raises:
            NoSuchMessage: the row does not exist any more.
            NotActionable: it is not failed or is being sent, it has changed since, a column is too short, or the
                database's encoding lacks a character.
        """
        again_if_lost(lambda: self._edit(message_id, act, read, changes))

    def _edit(
        self, message_id: int, act: OperatorAction, read: Mapping[str, object], changes: Mapping[str, str]
    ) -> None:
        m = self._database.messages
        # Compared in Python, because invalid UTF-8 and bytes can be read but not bound. The row is locked.
        there = (
            select(m.c.id, *(m.c[name] for name in read))
            .join_from(m, queue, queue.c.message_id == m.c.id)
            .where(m.c.id == message_id, m.c.status == status_text(MessageStatus.FAILED), FREE)
            .with_for_update()
        )
        with self._database.write() as connection:
            row = connection.execute(there).mappings().one_or_none()
            if row is None:
                raise self._why_not(connection, message_id, act.at)
            if any(row[name] != value for name, value in read.items()):
                raise NotActionable(
                    f"message {message_id} was modified concurrently while you edited it; nothing was written. "
                    f"See `retrycli show {message_id}`, and edit it again"
                )
            self._check_room(connection, message_id, changes)
            # A key that a version before 0005 chose belongs to the old text.
            self._remember(connection, message_id, queue.c.digest.is_(None))
            written = write_text(self._database, connection, message_id, changes)
            if message_id in written.unchanged:
                raise not_taken(message_id, written.refused.get(message_id, IN_THE_WAY))
            # The application has not changed the row: an escalated message stays escalated.
            self._remember(connection, message_id, ESCALATED, written.rows.get(message_id))
            record_actions(connection, {message_id: act})

    def _remember(
        self, connection: Connection, message_id: int, which: ColumnElement[bool], row: RowState | None = None
    ) -> None:
        """Store the present identity of a message if its queue row meets a condition."""
        this = with_queue(self._database).where(queue.c.message_id == message_id, which)
        for message in load(connection, connection.execute(this), [message_id]):
            now = Decision(message_id, Transition.released(), message=message)
            values = {**identity_values(now), **seen_values(row)}
            connection.execute(update(queue).where(queue.c.message_id == message_id).values(values))

    def _check_room(self, connection: Connection, message_id: int, changes: Mapping[str, str]) -> None:
        for name, new in changes.items():
            room = self._database.max_length(name)
            if room is not None and len(new) > room:
                raise NotActionable(
                    f"message {message_id} can't have a {name} of {len(new):,} characters, for its column holds "
                    f"{room:,}; nothing was written"
                )
        if lacking := self._database.unencodable(connection, "".join(changes.values())):
            raise NotActionable(
                f"message {message_id} can't have {lacking!r} in its text, for the database's encoding lacks it; "
                "nothing was written"
            )

    def check(self, message_id: int, now: datetime) -> bool:
        """Check that a message may be edited, and tell if it is in the queue.

        Raises:
            NoSuchMessage: the row does not exist.
            NotActionable: it is not failed, or is being sent.
        """
        with self._database.read() as connection:
            standing = standings(self._database, connection, [message_id]).get(message_id)
        if standing is None:
            raise no_such(message_id)
        if (reason := not_free(standing, "edit", now)) is not None:
            raise reason
        return standing.state is not None

    def _why_not(self, connection: Connection, message_id: int, now: datetime) -> RetrycliError:
        standing = standings(self._database, connection, [message_id]).get(message_id)
        return refusal(ActionKind.EDITED, message_id, standing, now)
