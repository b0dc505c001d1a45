"""Checks before retrycli's own tables are copied to another database."""

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
"""Number of messages to look up together."""
TELLING_APART = 0x72657472
"""First key of the advisory lock that tells two databases apart."""


def is_same(one: Database, other: Database) -> bool:
    """Tell if two URLs lead to the same database."""
    if one.is_sqlite or other.is_sqlite:
        return one.is_sqlite and other.is_sqlite and _file(one).samefile(_file(other))
    # An advisory lock exists within one database. No other process takes this one: it contains the backend's pid.
    with one.read() as holding, other.read() as asking:
        number: int = holding.execute(select(func.pg_backend_pid())).scalar_one()
        holding.execute(select(func.pg_advisory_xact_lock(TELLING_APART, number)))
        return not asking.execute(select(func.pg_try_advisory_xact_lock(TELLING_APART, number))).scalar_one()


def _file(database: Database) -> Path:
    """Return the file that SQLite has opened."""
    with database.read() as connection:
        first, *_ = connection.exec_driver_sql("PRAGMA database_list")  # the second is for temporary tables
        return Path(first.file)


def claimed_until(database: Database, now: datetime) -> datetime | None:
    """Return when the last live claim expires; None if there is none."""
    expiry = queue.c.claim_expires_at
    last = select(func.max(expiry, type_=expiry.type)).where(queue.c.state == State.SENDING.value, expiry > now)
    with database.read() as connection:
        return connection.execute(last).scalar()


def last_used(database: Database) -> datetime | None:
    """Return when the newest pass, attempt or action began; None if there is none."""
    newest = (
        select(passes.c.started_at).order_by(passes.c.started_at.desc()).limit(1),
        select(attempts.c.started_at).order_by(attempts.c.id.desc()).limit(1),
        select(acts.c.at).order_by(acts.c.id.desc()).limit(1),
    )
    with database.read() as connection:
        return max((at for query in newest if (at := connection.execute(query).scalar()) is not None), default=None)


def left_behind(source: Database, target: Database, *, batch: int = BATCH) -> tuple[int, int | None]:
    """Return the number of queued messages that the target's application table lacks, and the first id.

    Messages that the source's table lacks as well are not counted: the next pass drops them from the queue.
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
    """Yield the ids of queued messages in batches."""
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
    """Return the ids that exist in the application's table."""
    m = database.messages.c
    with database.read() as connection:
        return set(connection.execute(select(m.id).where(m.id.in_(ids))).scalars())
