"""Health checks: journal mode, roles that could plant functions, clock skew, write permission, disk space."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, case, exc, select

from retrycli.domain.errors import DatabaseUnavailable, SchemaMismatch
from retrycli.domain.identity import TEXT_COLUMNS, birth_of, digest_of
from retrycli.domain.message import EscalationReason, MessageStatus, State
from retrycli.domain.outcome import ERROR_LENGTH
from retrycli.domain.retry_policy import exhausted
from retrycli.domain.transition import Decision, Transition
from retrycli.store import own_tables
from retrycli.store.application_table import TAIL
from retrycli.store.bulk import id_in
from retrycli.store.database import Database
from retrycli.store.enrolment import START
from retrycli.store.error_messages import (
    INSUFFICIENT_PRIVILEGE,
    LOCK_NOT_AVAILABLE,
    in_words,
    sqlstate,
    without_details,
)
from retrycli.store.identity import BIRTH, birth_text, identifying
from retrycli.store.messages import has_status, row_by_row, rows_of
from retrycli.store.row_changes import write_messages
from retrycli.store.schema import queue


def journal_mode(database: Database) -> str:
    """Return the journal mode of a SQLite file, such as ``wal``."""
    with database.read() as connection:
        return str(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one())


# Number of clock readings. On a busy machine, a single reading may be delayed by more than the usual round trip.
CLOCK_READINGS = 3


def clock_ahead(database: Database, now: Callable[[], datetime]) -> timedelta:
    """Return how far a server's clock is ahead of this machine's clock; zero for a file.

    The server is assumed to read its clock halfway through the round trip (RFC 5905, section 8), so the error is at
    most half the round trip. Of several readings, only the one with the shortest round trip is used (section 10).
    """
    if database.is_sqlite:
        return timedelta(0)
    with database.read() as connection:

        def reading() -> tuple[timedelta, timedelta]:
            asked_at = now()
            there: datetime = connection.exec_driver_sql("SELECT pg_catalog.clock_timestamp()").scalar_one()
            took = now() - asked_at
            return took, there - (asked_at + took / 2)

        _, ahead = min(reading() for _ in range(CLOCK_READINGS))
    return ahead


# Required number of free bytes on the disk of a SQLite file: the size of a full write-ahead log. With less space,
# retrycli might record an attempt and send its request, but fail to record the result.
MIN_FREE = 4 * 1024 * 1024


def check_writable(database: Database, now: datetime, largest_count: int) -> None:
    """Write a pass's results into sample messages, and roll the changes back: a delivery, and a failure with the
    largest retry count that a pass may write. A result that can't be recorded could lead to a second delivery.

    Writes that are rolled back need no disk space, so free space is checked separately.

    Raises:
        DatabaseUnavailable: the permission to write is missing, a file's write lock can't be acquired, or its disk is
            too full.
        SchemaMismatch: the application's table is unsuitable or has a faulty trigger, or rejects the changes of all
            sample messages, or shows one of them as another message after a change.
    """
    with database.rollback_at_end(), database.write() as connection:
        if (database.mapping or database.table.key) is not None and database.revision() is None:
            own_tables.upgrade_tables(database)  # retrycli may keep a part of the results, or the numbers of text ids
        samples = _samples(database, connection, now)
        first = next(samples, [])
        try:
            _rehearse_some(database, connection, chain([first[:1] or [START], first[1:]], samples), now, largest_count)
        except exc.DBAPIError as error:
            state = sqlstate(error) or ""
            if first and state.startswith(STATEMENT_ERROR) and state != INSUFFICIENT_PRIVILEGE:
                raise _refused(database, first[0], in_words(error)) from without_details(error)
            if state != LOCK_NOT_AVAILABLE:
                raise
    if (lack := lack_of_room(database.file)) is not None:
        raise DatabaseUnavailable(lack)


STATEMENT_ERROR = "42"  # SQLSTATE class of invalid syntax or names and missing permissions, also in a trigger

# Size of each of the first two samples. One row is not enough, because single rows may reject changes.
FIRST_SAMPLE = 20

# Size of the last sample. If all its rows reject the changes, the table is assumed to reject every change.
LAST_SAMPLE = 200
PRIME, FACTOR = 10_007, 7_919  # numbers that scatter the sample, because rows that reject changes may be adjacent


def _samples(database: Database, connection: Connection, now: datetime) -> Iterator[Sequence[int]]:
    """Yield samples of failed queued messages: those to be sent last, those to be sent first, and others scattered over
    all ids. If no message is queued, yield the newest failed rows first; if there is no queue yet, only these.

    The scattered messages differ from pass to pass. A sample leaves out rows that are locked or that a row-level policy
    hides, unless all rows are locked or hidden.
    """
    m = database.messages.c
    scattered = ((queue.c.message_id % PRIME) * FACTOR + int(now.timestamp()) % PRIME) % PRIME
    by_their_index = [queue.c[name] for name in ("state", "next_attempt_at", "message_id")]
    ids = select(queue.c.message_id)
    choices = (
        ids.order_by(*(column.desc() for column in by_their_index)).limit(FIRST_SAMPLE),
        ids.where(queue.c.state == State.WAITING.value).order_by(*by_their_index).limit(FIRST_SAMPLE),
        ids.order_by(scattered).limit(LAST_SAMPLE),
    )
    failed = row_by_row(has_status(m, MessageStatus.FAILED))
    has_queue = database.revision() is not None
    if not has_queue or connection.execute(ids.limit(1)).first() is None:
        is_failed = case((has_status(m, MessageStatus.FAILED), 1), else_=0).label("is_failed")
        newest = select(m.id, is_failed).order_by(m.id.desc()).limit(TAIL).subquery()
        yield connection.execute(select(newest.c.id).where(newest.c.is_failed == 1).limit(FIRST_SAMPLE)).scalars().all()
    for choice in choices if has_queue else ():
        sample = choice.subquery()
        failed_rows = select(m.id).join_from(sample, database.messages, m.id == sample.c.message_id).where(failed)
        unlocked = failed_rows.with_for_update(skip_locked=True, of=database.messages)
        yield connection.execute(unlocked).scalars().all() or connection.execute(failed_rows).scalars().all()


def _rehearse_some(
    database: Database, connection: Connection, samples: Iterable[Sequence[int]], now: datetime, largest_count: int
) -> None:
    refusals: dict[int, str] = {}
    accepted = False
    # A condition or a view may hide only some rows. So more rows are tried if the settings describe the table.
    least = 2 if database.mapping is None else 3
    for number, sample in enumerate(samples, 1):
        ids = [message_id for message_id in sample if message_id not in refusals] if refusals else sample
        if ids:
            refused, lost = _rehearse(database, connection, ids, now, largest_count)
            for message_id, why in lost.items():  # a pass would lose sight of it, however many rows are in order
                raise _refused(database, message_id, why)
            accepted = accepted or len(refused) < len(ids)
            refusals |= refused
        if accepted and number >= least:
            return
    if refusals and not accepted:
        raise _refused(database, *next(iter(refusals.items())))


def _rehearse(
    database: Database, connection: Connection, ids: Sequence[int], now: datetime, largest_count: int
) -> tuple[dict[int, str], dict[int, str]]:
    """Write failures and deliveries into messages' rows, without waiting for locked rows. Return the reasons why rows
    rejected the changes, and what happened to rows that are other messages, or none, after a failure; both by id.
    """
    m = database.messages.c
    these, chosen = id_in(m.id), {"ids": [*ids]}
    connection.execute(select(m.id).where(these).with_for_update(nowait=True), chosen)
    before = _read(database, connection, these, chosen)
    longest_error = exhausted(largest_count, "x" * ERROR_LENGTH)
    failed = Transition.escalated(EscalationReason.EXHAUSTED, last_error=longest_error, retry_count=largest_count)
    decisions = [Decision(message_id, failed, finished_at=now) for message_id in ids]
    written = write_messages(database, connection, decisions)
    refused = dict(written.refused)
    after = _read(database, connection, these, chosen)
    lost = dict.fromkeys(before.keys() - after.keys(), LEFT_OUT.format(largest_count))
    for message_id, (birth, digest, count) in after.items():
        if message_id in before and before[message_id][0] != birth:
            lost[message_id] = REBORN
        elif message_id in before and before[message_id][1] != digest:
            lost[message_id] = REWORDED
        elif message_id not in written.unchanged and count != largest_count:
            lost[message_id] = ANOTHER_COUNT.format(largest_count, count)
    if lost:
        return refused, lost
    delivered = [
        Decision(message_id, Transition.delivered(), finished_at=now) for message_id in ids if message_id not in refused
    ]
    refused |= write_messages(database, connection, delivered).refused
    refused.pop(START, None)  # START only stands for a missing sample: it is not a message's id
    return refused, {}


LEFT_OUT = (
    "with the retry count {} it is no longer one of the failed messages; let database.where, or the view, select it "
    "with any retry count"
)
ANOTHER_COUNT = (
    "the retry count {} is read back as {!r}, so a pass could not count its retries; let retry_count be an integer "
    "column without a trigger that changes it"
)
REWORDED = (
    "its text changes with its status, retry count or error, so each attempt would send another message; describe the "
    "text by columns that retrycli does not write"
)
REBORN = "its created_at changes with its row, so it would be another message; name another column for created_at"


def _read(
    database: Database, connection: Connection, these: ColumnElement[bool], chosen: Mapping[str, Sequence[int]]
) -> dict[int, tuple[str, str | None, object]]:
    """Return the births of failed rows, the digests of their texts if these are expressions, and their retry counts, by
    id.
    """
    m = database.messages
    failed = these, row_by_row(has_status(m.c, MessageStatus.FAILED))
    if database.mapping is None or not database.mapping.renders(TEXT_COLUMNS):
        found = connection.execute(select(m.c.id, birth_text(m), m.c.retry_count).where(*failed), chosen)
        return {message_id: (birth_of(birth), None, count) for message_id, birth, count in found}
    rows = rows_of(connection.execute(select(m.c.id, m.c.retry_count, *identifying(m)).where(*failed), chosen))
    return {row["id"]: (birth_of(row[BIRTH]), digest_of(row), row["retry_count"]) for row in rows}


def _refused(database: Database, message_id: int, why: str) -> SchemaMismatch:
    return SchemaMismatch(
        f"{database.named_place} rejects the changes that record a result (tried on "
        f"message {message_id} and rolled back): {why}"
        + ("" if "; " in why else "; allow retrycli to write status, retry_count, last_error and sent_at")
    )


def lack_of_room(file: Path | None) -> str | None:
    """Return an error text if the disk of a SQLite file is too full to record a delivery. Otherwise return None, as for
    a server.
    """
    if file is None:
        return None
    disk = shutil.disk_usage(file)
    if not disk.total or disk.free >= MIN_FREE:  # some file systems report no sizes
        return None
    return (
        f"the disk of {file} has {disk.free // 1024} KiB free, but {MIN_FREE // 1024} KiB are needed to record "
        "results; free some space"
    )
