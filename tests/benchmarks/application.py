"""Play the application: add messages to its table, or count those that were sent.

`application.py add DATABASE COUNT` adds messages that failed two days ago, and creates the table if it is missing.
`application.py add-with-integers DATABASE COUNT` and `add-with-uuids` do the same in a table with an index by time.
`application.py add-waiting DATABASE COUNT` adds messages that failed just now, so often that none is due for hours.
`application.py count-sent DATABASE` prints how many are sent. The module runs as a separate process:
see `processes.run_together`.
"""

from __future__ import annotations

import sys
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

BODY = "Your order has left our house. " * 66  # 2 KB
SHORT_BODY = "Your order has left our house. " * 6
"""The body of waiting messages: a million of them must fit on a disk."""


def messages_table(metadata: sa.MetaData, key: sa.types.TypeEngine[Any]) -> sa.Table:
    """Define the application's table with keys of a type."""
    return sa.Table(
        "pending_messages",
        metadata,
        sa.Column("id", key, primary_key=True),
        sa.Column("ticket_id", sa.Integer),
        *(sa.Column(name, sa.Text) for name in ("message_type", "subject", "body", "status")),
        sa.Column("retry_count", sa.Integer),
        sa.Column("last_error", sa.Text),
        *(sa.Column(name, sa.DateTime) for name in ("created_at", "updated_at", "sent_at")),
        sa.Column("recipient_email", sa.Text),
    )


tables = sa.MetaData()
messages = messages_table(tables, sa.Integer())


def add(engine: sa.Engine, count: int, *, retry_count: int, failed_at: datetime, body: str) -> None:
    """Add failed messages, each with its own subject."""
    with engine.begin() as connection:
        tables.create_all(connection)
        before: int = connection.execute(sa.select(sa.func.coalesce(sa.func.max(messages.c.id), 0))).scalar_one()
        if count == 0:
            return
        counted = sa.select(sa.literal(before + 1).label("n")).cte("counted", recursive=True)
        counted = counted.union_all(sa.select(counted.c.n + 1).where(counted.c.n < before + count))
        values = {
            "ticket_id": counted.c.n,
            "message_type": sa.literal("customer"),
            "subject": sa.literal("Ticket ") + sa.cast(counted.c.n, sa.Text),
            "body": sa.literal(body),
            "status": sa.literal("failed"),
            "retry_count": sa.literal(retry_count),
            "last_error": sa.literal("HTTP 503"),
            "created_at": sa.literal(failed_at),
            "updated_at": sa.literal(failed_at),
            "recipient_email": sa.literal("someone@example.com"),
        }
        connection.execute(messages.insert().from_select(list(values), sa.select(*values.values())))


def add_with_keys(engine: sa.Engine, count: int, *, uuids: bool, failed_at: datetime) -> None:
    """Add failed messages to an empty table. Their times have the order in which they are added; UUIDs are random."""
    key = sa.Text().with_variant(sa.Uuid(as_uuid=False), "postgresql") if uuids else sa.Integer()
    own_tables = sa.MetaData()
    table = messages_table(own_tables, key)
    sa.Index("pending_messages_created", table.c.created_at)  # with UUIDs, it shows which rows are new
    usual = {"message_type": "customer", "body": BODY, "status": "failed", "retry_count": 0, "last_error": "HTTP 503"}
    rows = [
        {
            **usual,
            "id": str(uuid.uuid4()) if uuids else number,
            "ticket_id": number,
            "subject": f"Ticket {number}",
            "created_at": failed_at + number * timedelta(milliseconds=1),
            "updated_at": failed_at,
            "recipient_email": "someone@example.com",
        }
        for number in range(1, count + 1)
    ]
    with engine.begin() as connection:
        own_tables.create_all(connection)
        if rows:
            connection.execute(table.insert(), rows)


def count_sent(engine: sa.Engine) -> int:
    sent = sa.select(sa.func.count()).where(messages.c.status == "sent", messages.c.sent_at.is_not(None))
    with engine.begin() as connection:
        return connection.execute(sent).scalar_one()


def main(command: str, url: str, count: str = "0") -> None:
    engine = sa.create_engine(url)
    now = datetime.now(UTC).replace(tzinfo=None)
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    match command:
        case "add":
            add(engine, int(count), retry_count=0, failed_at=now - timedelta(days=2), body=BODY)
        case "add-with-integers" | "add-with-uuids":
            uuids = command.endswith("uuids")
            add_with_keys(engine, int(count), uuids=uuids, failed_at=now - timedelta(days=2))
        case "add-waiting":
            add(engine, int(count), retry_count=5, failed_at=now, body=SHORT_BODY)
        case "count-sent":
            print(count_sent(engine))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
