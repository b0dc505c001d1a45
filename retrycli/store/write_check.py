"""How a database is, apart from what it holds."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING

from sqlalchemy import exc, select, text

from retrycli.domain.errors import DatabaseUnavailable, SchemaMismatch
from retrycli.domain.message import EscalationReason, MessageStatus, State
from retrycli.domain.outcome import ERROR_LENGTH
from retrycli.domain.retry_policy import Decision, Transition, exhausted
from retrycli.store.enrolment import START
from retrycli.store.error_messages import (
    INSUFFICIENT_PRIVILEGE,
    LOCK_NOT_AVAILABLE,
    in_words,
    sqlstate,
    without_details,
)
from retrycli.store.messages import row_by_row, status_text
from retrycli.store.row_changes import write_messages
from retrycli.store.schema import queue

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection

    from retrycli.store.database import Database


def journal_mode(database: Database) -> str:
    """The journal mode of a SQLite file, as ``wal``."""
    with database.read() as connection:
        return str(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one())


CREATORS = text("""
SELECT n.nspname, r.rolname
FROM pg_catalog.pg_namespace n
CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) a
LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
LEFT JOIN pg_catalog.pg_class c ON c.oid = CAST(pg_catalog.to_regclass(:table) AS oid)
WHERE n.nspname = ANY (pg_catalog.current_schemas(false)) AND a.privilege_type = 'CREATE'
AND a.grantee <> n.nspowner AND a.grantee IS DISTINCT FROM c.relowner
AND (r.rolname IS NULL OR NOT r.rolsuper AND r.rolname <> current_user)
ORDER BY n.nspname, r.rolname
""")


def creators(database: Database) -> list[tuple[str, str | None]]:
    """Return who else may create functions where a server looks for ours: schemas with roles, None for every role.

    The owners of schema and table are left out: they may change the table, and what its triggers do.
    """
    if database.is_sqlite:
        return []
    schema, table = database.quoted_table
    with database.read() as connection:
        found = connection.execute(CREATORS, {"table": f"{schema}.{table}" if schema else table})
        return [(row.nspname, row.rolname) for row in found]


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
            there: datetime = connection.exec_driver_sql("SELECT pg_catalog.clock_timestamp()").scalar_one()
            took = now() - asked_at
            return took, there - (asked_at + took / 2)

        _, ahead = min(reading() for _ in range(CLOCK_READINGS))
    return ahead


ROOM = 4 * 1024 * 1024
"""So many bytes must be free where a SQLite file is: as many as its write-ahead log grows by until it is copied into
the file. With less, an attempt might still be written down before its request goes out, and what came of it no more."""


def check_writable(database: Database, now: datetime) -> None:
    """Write into a message what a pass writes, and take it back: a result that can't be written is sent again.

    What is taken back is written nowhere, so the room for changes is checked separately.

    Raises:
        DatabaseUnavailable: no right to write or, of a file, no write lock.
        SchemaMismatch: the application's table is not as needed, or takes no change of any message that was tried.
    """
    with database.rollback_at_end(), database.write() as connection:
        samples = _samples(database, connection, now) if database.revision() is not None else iter(())
        first = next(samples, [])
        try:
            _rehearse_some(database, connection, chain([first[:1] or [START], first[1:]], samples), now)
        except exc.DBAPIError as error:
            state = sqlstate(error) or ""
            if first and state.startswith(WRONG) and state != INSUFFICIENT_PRIVILEGE:
                raise _refused(database, first[0], in_words(error)) from without_details(error)
            if state != LOCK_NOT_AVAILABLE:
                raise
    if (lack := lack_of_room(database.file)) is not None:
        raise DatabaseUnavailable(lack)


WRONG = "42"
"""What the codes of errors begin with that are about a statement, as one of a trigger's."""
SOME = 20
"""How many messages are tried at first: one row may refuse by itself, or a few."""
SCATTERED = 200
"""How many are tried after that. A table of which all of them refuse takes no change at all, as far as is known."""
PRIME, FACTOR = 10_007, 7_919
"""They scatter ids: rows that refuse may be next to each other."""


def _samples(database: Database, connection: Connection, now: datetime) -> Iterator[Sequence[int]]:
    """Failed messages of the queue: those that are sent last, those that are sent first, and others from everywhere.

    Each pass takes others from everywhere. Nobody has locked them, and no policy hides them from changes, if there are
    such ones.
    """
    m = database.messages.c
    scattered = ((queue.c.message_id % PRIME) * FACTOR + int(now.timestamp()) % PRIME) % PRIME
    waiting = queue.c.state == State.WAITING.value
    by_their_index = [queue.c[name] for name in ("state", "next_attempt_at", "message_id")]
    ids = select(queue.c.message_id)
    choices = (
        ids.order_by(*(column.desc() for column in by_their_index)).limit(SOME),
        ids.where(waiting).order_by(*by_their_index).limit(SOME),
        ids.order_by(scattered).limit(SCATTERED),
    )
    failed = row_by_row(m.status == status_text(MessageStatus.FAILED))
    for choice in choices:
        some = choice.subquery()
        these = select(m.id).join_from(some, database.messages, m.id == some.c.message_id).where(failed)
        free = these.with_for_update(skip_locked=True, of=database.messages)
        yield connection.execute(free).scalars().all() or connection.execute(these).scalars().all()


def _rehearse_some(database: Database, connection: Connection, samples: Iterable[Sequence[int]], now: datetime) -> None:
    """Try it with some messages after others, until a row takes it.

    Raises:
        SchemaMismatch: no row does.
    """
    refusals: dict[int, str] = {}
    for sample in samples:
        ids = [message_id for message_id in sample if message_id not in refusals]
        refused = _rehearse(database, connection, ids, now)
        if len(refused) < len(ids):
            return
        refusals |= refused
    if refusals:
        raise _refused(database, *next(iter(refusals.items())))


def _rehearse(database: Database, connection: Connection, ids: Sequence[int], now: datetime) -> dict[int, str]:
    """Write that messages have failed, and that they were sent; one that somebody has locked is not waited for.

    Returns:
        Why rows do not take that, by id.
    """
    m = database.messages.c
    connection.execute(select(m.id).where(m.id.in_(ids)).with_for_update(nowait=True))
    refused: dict[int, str] = {}
    error = exhausted(0, "x" * ERROR_LENGTH)
    for transition in (Transition.escalated(EscalationReason.EXHAUSTED, last_error=error), Transition.delivered()):
        settled = [Decision(message_id, transition, finished_at=now) for message_id in ids if message_id not in refused]
        refused |= write_messages(database, connection, settled).refused
    refused.pop(START, None)  # there is no such row
    return refused


def _refused(database: Database, message_id: int, why: str) -> SchemaMismatch:
    return SchemaMismatch(
        f"{database.messages.fullname} in {database.place} does not take what came of a message, tried with message "
        f"{message_id} and taken back: {why}; let retrycli write status, retry_count, last_error and sent_at there"
    )


def lack_of_room(file: Path | None) -> str | None:
    """Return that a SQLite file's disk is too full for any delivery, with the remedy; None if it is not, or no file."""
    if file is None:
        return None
    disk = shutil.disk_usage(file)
    if not disk.total or disk.free >= ROOM:  # some file systems have no figures at all
        return None
    return (
        f"{file}: its disk has {disk.free // 1024} KiB free, and {ROOM // 1024} are needed to write down what "
        "comes of messages; free some space"
    )
