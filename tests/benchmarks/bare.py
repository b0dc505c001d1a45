"""Run the bare loop that retrycli is compared with: `bare.py DATABASE URL CONCURRENCY`.

It is the fastest simple loop that uses retrycli's libraries and gives the same database guarantees: a claim is a short
transaction, an attempt is recorded before its request, and no transaction is open during a request. It has no
schedules, no classification of outcomes, no breaker, no lock and no command line.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import httpx
import sqlalchemy as sa
from httpx_aiohttp import AiohttpTransport

from tests.benchmarks.application import messages, tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Message = sa.Row[*tuple[object, ...]]
    Outcome = dict[str, object]

CLAIMED_AT_ONCE = 500
RECORD_EVERY = 0.01

queue = sa.Table(
    "bare_queue",
    tables,
    sa.Column("message_id", sa.Integer, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("next_attempt_at", sa.DateTime, nullable=False),
    sa.Index("bare_queue_due", "state", "next_attempt_at"),
)
attempts = sa.Table(
    "bare_attempts",
    tables,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("message_id", sa.Integer, nullable=False, index=True),
    sa.Column("started_at", sa.DateTime, nullable=False),
    sa.Column("finished_at", sa.DateTime),
    sa.Column("status_code", sa.Integer),
)

SENT_FIELDS = (messages.c.id, messages.c.ticket_id, messages.c.subject, messages.c.body)
MESSAGE = sa.bindparam("message", type_=sa.Integer)
AT = sa.bindparam("at", type_=sa.DateTime)
CODE = sa.bindparam("code", type_=sa.Integer)
FINISH = (
    attempts.update()
    .where(attempts.c.message_id == MESSAGE, attempts.c.finished_at.is_(None))
    .values(finished_at=AT, status_code=CODE)
)
SEND = messages.update().where(messages.c.id == MESSAGE).values(status="sent", sent_at=AT)
LEAVE = queue.delete().where(queue.c.message_id == MESSAGE)


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def enrol(engine: sa.Engine) -> None:
    """Enrol every failed message, due at once."""
    failed = sa.select(messages.c.id, sa.literal("waiting"), sa.literal(now())).where(
        messages.c.status == "failed", messages.c.id.not_in(sa.select(queue.c.message_id))
    )
    with engine.begin() as connection:
        connection.execute(queue.insert().from_select(list(queue.c), failed))


def claim(engine: sa.Engine) -> Sequence[Message]:
    """Claim due messages, oldest first, and record an attempt for each."""
    due = sa.select(queue.c.message_id).where(queue.c.state == "waiting", queue.c.next_attempt_at <= now())
    oldest = due.order_by(queue.c.next_attempt_at, queue.c.message_id).limit(CLAIMED_AT_ONCE)
    oldest = oldest.with_for_update(skip_locked=True)  # has no effect on SQLite, which allows one writer
    take = queue.update().where(queue.c.message_id.in_(oldest)).values(state="sending")
    with engine.begin() as connection:
        taken = connection.scalars(take.returning(queue.c.message_id)).all()
        if taken:
            connection.execute(
                attempts.insert(), [{"message_id": message_id, "started_at": now()} for message_id in taken]
            )
        return connection.execute(sa.select(*SENT_FIELDS).where(messages.c.id.in_(taken))).all()


def claimed(engine: sa.Engine) -> Iterator[Message]:
    while batch := claim(engine):
        yield from batch


def record(engine: sa.Engine, outcomes: Sequence[Outcome]) -> None:
    """Record the outcomes of some attempts in one transaction."""
    sent = [outcome for outcome in outcomes if outcome["code"] == httpx.codes.OK]
    with engine.begin() as connection:
        for statement, rows in ((FINISH, outcomes), (SEND, sent), (LEAVE, sent)):
            if rows:
                connection.execute(statement, rows)


async def work(client: httpx.AsyncClient, url: str, source: Iterator[Message], ready: list[Outcome]) -> None:
    for message in source:
        response = await client.post(url, json=message._asdict())
        ready.append({"message": message.id, "at": now(), "code": response.status_code})


async def record_ready(engine: sa.Engine, ready: list[Outcome]) -> None:
    """Record the answers that have arrived, every 10 ms."""
    while True:
        await asyncio.sleep(RECORD_EVERY)
        if ready:
            record(engine, ready)
            ready.clear()


async def deliver(engine: sa.Engine, url: str, concurrency: int) -> None:
    ready: list[Outcome] = []
    recorder = asyncio.create_task(record_ready(engine, ready))
    limits = httpx.Limits(max_connections=concurrency)
    async with httpx.AsyncClient(transport=AiohttpTransport(limits=limits)) as client:
        source = claimed(engine)
        await asyncio.gather(*(work(client, url, source, ready) for _ in range(concurrency)))
    recorder.cancel()
    record(engine, ready)


def main(database: str, url: str, concurrency: str) -> None:
    engine = sa.create_engine(database)
    tables.create_all(engine)
    enrol(engine)
    asyncio.run(deliver(engine, url, int(concurrency)))


if __name__ == "__main__":
    main(*sys.argv[1:])
