"""Play the application: add messages to its table.

`application.py add DATABASE COUNT` adds messages that failed two days ago, and creates the table if it is missing.
`application.py add-waiting DATABASE COUNT` adds messages that failed just now, so often that none is due for hours.
The module runs as a separate process: see `processes.run_together`.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

BODY = "Your order has left our house. " * 66  # 2 KB
SHORT_BODY = "Your order has left our house. " * 6
"""The body of waiting messages: a million of them must fit on a disk."""


tables = sa.MetaData()
messages = sa.Table(
    "pending_messages",
    tables,
    *(sa.Column(name, sa.Integer, primary_key=name == "id") for name in ("id", "ticket_id")),
    *(sa.Column(name, sa.Text) for name in ("message_type", "subject", "body", "status")),
    sa.Column("retry_count", sa.Integer),
    sa.Column("last_error", sa.Text),
    *(sa.Column(name, sa.DateTime) for name in ("created_at", "updated_at", "sent_at")),
    sa.Column("recipient_email", sa.Text),
)


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


def main(command: str, url: str, count: str) -> None:
    engine = sa.create_engine(url)
    now = datetime.now(UTC).replace(tzinfo=None)
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    match command:
        case "add":
            add(engine, int(count), retry_count=0, failed_at=now - timedelta(days=2), body=BODY)
        case "add-waiting":
            add(engine, int(count), retry_count=5, failed_at=now, body=SHORT_BODY)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
