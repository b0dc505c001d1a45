"""Play the application: add messages to its table, or count those that were sent.

`application.py add DATABASE COUNT` adds messages that failed two days ago, and creates the table if it is missing.
`application.py add-with-uuids DATABASE COUNT` does the same with UUIDs as keys.
`application.py add-waiting DATABASE COUNT` adds messages that failed just now, so often that none is due for hours.
`application.py count-sent DATABASE` prints how many are sent. The module runs as a separate process:
see `processes.run_together`.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

BODY = "Your order has left our house. " * 66  # 2 KB
SHORT_BODY = "Your order has left our house. " * 6
"""The body of waiting messages: a million of them must fit on a disk."""

UUID_KEY = sa.Text().with_variant(sa.Uuid(as_uuid=False), "postgresql")
NEW_UUID = {"sqlite": sa.func.lower(sa.func.hex(sa.func.randomblob(16))), "postgresql": sa.func.gen_random_uuid()}


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


tables, tables_with_uuids = sa.MetaData(), sa.MetaData()
messages = messages_table(tables, sa.Integer())
messages_with_uuids = messages_table(tables_with_uuids, UUID_KEY)
sa.Index("pending_messages_created", messages_with_uuids.c.created_at)  # without it, no pass could find new rows


def add(
    engine: sa.Engine, count: int, *, retry_count: int, failed_at: datetime, body: str, uuids: bool = False
) -> None:
    """Add failed messages, each with its own subject."""
    target = messages_with_uuids if uuids else messages
    with engine.begin() as connection:
        target.metadata.create_all(connection)
        before: int = connection.execute(sa.select(sa.func.count()).select_from(target)).scalar_one()
        if count == 0:
            return
        counted = sa.select(sa.literal(before + 1).label("n")).cte("counted", recursive=True)
        counted = counted.union_all(sa.select(counted.c.n + 1).where(counted.c.n < before + count))
        values: dict[str, sa.ColumnElement[Any]] = {
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
        if uuids:
            values["id"] = NEW_UUID[engine.dialect.name]
        connection.execute(target.insert().from_select(list(values), sa.select(*values.values())))


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
        case "add-with-uuids":
            add(engine, int(count), retry_count=0, failed_at=now - timedelta(days=2), body=BODY, uuids=True)
        case "add-waiting":
            add(engine, int(count), retry_count=5, failed_at=now, body=SHORT_BODY)
        case "count-sent":
            print(count_sent(engine))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
