"""What is looked at before retrycli's own tables are taken from one database to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from retrycli.domain.message import State
from retrycli.store.schema import acts, attempts, passes, queue

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from datetime import datetime

    from retrycli.store.database import Database

BATCH = 2_000
"""So many messages are looked for at once."""
TELLING_APART = 0x72657472
"""The first of the two numbers of a lock by which one database is told from another."""


def is_same(one: Database, other: Database) -> bool:
    """Whether two URLs lead to one database, however they are written."""
    if one.is_sqlite or other.is_sqlite:
        return one.is_sqlite and other.is_sqlite and _file(one).samefile(_file(other))
    # Such a lock is known within one database alone, and nobody else takes this one: it bears its process's number.
    with one.read() as holding, other.read() as asking:
        number: int = holding.execute(select(func.pg_backend_pid())).scalar_one()
        holding.execute(select(func.pg_advisory_xact_lock(TELLING_APART, number)))
        return not asking.execute(select(func.pg_try_advisory_xact_lock(TELLING_APART, number))).scalar_one()


def _file(database: Database) -> Path:
    """The file that SQLite has opened."""
    with database.read() as connection:
        first, *_ = connection.exec_driver_sql("PRAGMA database_list")  # the other is for temporary tables
        return Path(first.file)


def claimed_until(database: Database, now: datetime) -> datetime | None:
    """When the last of the claims lapses that still hold; None where none does."""
    expiry = queue.c.claim_expires_at
    last = select(func.max(expiry, type_=expiry.type)).where(queue.c.state == State.SENDING.value, expiry > now)
    with database.read() as connection:
        return connection.execute(last).scalar()


def last_used(database: Database) -> datetime | None:
    """When the newest pass, attempt or act began there; None where there is none."""
    newest = (
        select(passes.c.started_at).order_by(passes.c.started_at.desc()).limit(1),
        select(attempts.c.started_at).order_by(attempts.c.id.desc()).limit(1),
        select(acts.c.at).order_by(acts.c.id.desc()).limit(1),
    )
    with database.read() as connection:
        return max((at for query in newest if (at := connection.execute(query).scalar()) is not None), default=None)


def left_behind(source: Database, target: Database, *, batch: int = BATCH) -> tuple[int, int | None]:
    """How many messages of the source's queue the target's application table lacks, and the first of them.

    One that the source's application table lacks as well is not counted: the next pass drops it from the queue.
    """
    source_knows = source.has_messages()
    number, first = 0, None
    for ids in _queued(source, batch):
        lacking = ids - _known(target, ids)
        if lacking and source_knows:
            lacking &= _known(source, lacking)
        if lacking:
            number, first = number + len(lacking), min(lacking) if first is None else first
    return number, first


def _queued(database: Database, batch: int) -> Iterator[set[int]]:
    """The messages of the queue, so many at a time."""
    ids = select(queue.c.message_id).order_by(queue.c.message_id).limit(batch)
    after: list[int] = []
    while True:
        with database.read() as connection:
            found = set(connection.execute(ids.where(*(queue.c.message_id > last for last in after))).scalars())
        if not found:
            return
        yield found
        after = [max(found)]


def _known(database: Database, ids: Collection[int]) -> set[int]:
    """Which of these messages the application's table has."""
    m = database.messages.c
    with database.read() as connection:
        return set(connection.execute(select(m.id).where(m.id.in_(ids))).scalars())
