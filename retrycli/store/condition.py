"""How a database is, apart from what it holds."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import exc, select

from retrycli.errors import DatabaseUnavailable, SchemaMismatch
from retrycli.message import EscalationReason, Status
from retrycli.outcome import ERROR_LENGTH
from retrycli.policy import Settled, Transition, exhausted
from retrycli.schema import queue
from retrycli.store.application import row_by_row, word
from retrycli.store.enrolment import START
from retrycli.store.remedies import INSUFFICIENT_PRIVILEGE, LOCK_NOT_AVAILABLE, in_words, sqlstate, without_details
from retrycli.store.row_changes import write_messages

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection

    from retrycli.store.database import Database


def journal_mode(database: Database) -> str:
    """The journal mode of a SQLite file, as ``wal``."""
    with database.read() as connection:
        return str(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one())


CLOCK_READINGS = 3
"""On a machine that is busy, one answer may well be late by more than a request takes."""


def clock_ahead(database: Database, now: Callable[[], datetime]) -> timedelta:
    """How far a server's clock is ahead of ours; a file has none.

    It is taken to have been read in the middle between question and answer (RFC 5905, section 8), so it is wrong by
    half of the way there and back at most; of some readings, the quickest counts (section 10).
    """
    if database.is_sqlite:
        return timedelta(0)
    with database.read() as connection:

        def reading() -> tuple[timedelta, timedelta]:
            """How long the way there and back was, and how far ahead the clock."""
            asked_at = now()
            there: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
            took = now() - asked_at
            return took, there - (asked_at + took / 2)

        _, ahead = min(reading() for _ in range(CLOCK_READINGS))
    return ahead


ROOM = 4 * 1024 * 1024
"""So many bytes must be free where a SQLite file is: as many as its write-ahead log grows by until it is copied into
the file. With less, an attempt might still be written down before its request goes out, and what came of it no more."""


def check_writable(database: Database, now: datetime) -> None:
    """Write into a message what a pass writes, and take it back: what came of one that was sent must be written down.

    What is taken back is written nowhere, so whether there is room for changes is asked apart.

    Raises:
        DatabaseUnavailable: there is no getting the right to write or, of a file, its write lock.
        SchemaMismatch: the application's table is not as needed, or refuses what is written.
    """
    with database.nothing_kept(), database.write() as connection:
        there = database.revision() is not None
        ids = _some_messages(database, connection) if there else []
        try:
            _rehearse_one(database, connection, ids or [START], now)
        except exc.DBAPIError as error:
            state = sqlstate(error) or ""
            if ids and state.startswith(WRONG) and state != INSUFFICIENT_PRIVILEGE:
                raise _refused(database, ids[0], in_words(error)) from without_details(error)
            if state != LOCK_NOT_AVAILABLE:
                raise
    if database.file is not None:
        _check_room(database.file)


WRONG = "42"
"""What the codes of errors begin with that are about a statement, as one of a trigger's."""
SOME = 20
"""So many messages are tried until there is one whose row takes it: a single row may well be refused by itself."""


def _some_messages(database: Database, connection: Connection) -> Sequence[int]:
    """Failed messages of the queue: the last that are to be sent, then those in a person's hands.

    Nobody has locked them, and no policy hides them from changes, where there are any such.
    """
    m = database.messages.c
    by_their_index = [queue.c[name].desc() for name in ("state", "next_attempt_at", "message_id")]
    some = select(queue.c.message_id).order_by(*by_their_index).limit(SOME).subquery()
    failed = row_by_row(m.status == word(Status.FAILED))
    these = select(m.id).join_from(some, database.messages, m.id == some.c.message_id).where(failed)
    free = these.with_for_update(skip_locked=True, of=database.messages)
    return connection.execute(free).scalars().all() or connection.execute(these).scalars().all()


def _rehearse_one(database: Database, connection: Connection, ids: Sequence[int], now: datetime) -> None:
    """Try it with one message after the other until a row takes it."""
    refusals: dict[int, str] = {}
    for each in ids:
        refused = _rehearse(database, connection, each, now)
        if not refused:
            return
        refusals |= refused
    raise _refused(database, *refusals.popitem())


def _rehearse(database: Database, connection: Connection, message_id: int, now: datetime) -> dict[int, str]:
    """Write that a message has failed, and that it was sent; one that somebody has locked is not waited for.

    Returns:
        Why its row does not take that, by its id; nothing where it does.
    """
    m = database.messages.c
    connection.execute(select(m.id).where(m.id == message_id).with_for_update(nowait=True))
    error = exhausted(0, "x" * ERROR_LENGTH)
    for each in (Transition.escalated(EscalationReason.EXHAUSTED, last_error=error), Transition.delivered()):
        written = write_messages(database, connection, [Settled(message_id, each, finished_at=now)])
        if written.refused and message_id != START:
            return dict(written.refused)
    return {}


def _refused(database: Database, message_id: int, why: str) -> SchemaMismatch:
    return SchemaMismatch(
        f"{database.messages.fullname} in {database.place} does not take what came of a message, tried with message "
        f"{message_id} and taken back: {why}; let retrycli write status, retry_count, last_error and sent_at there"
    )


def _check_room(file: Path) -> None:
    disk = shutil.disk_usage(file)
    if disk.total and disk.free < ROOM:  # some file systems have no figures at all
        raise DatabaseUnavailable(
            f"{file}: its disk has {disk.free // 1024} KiB free, and {ROOM // 1024} are needed to write down what "
            "comes of messages; free some space"
        )
