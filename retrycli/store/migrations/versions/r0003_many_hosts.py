"""Data that all hosts share: the time of the next request, and the tickets of queued messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic import context, op

if TYPE_CHECKING:
    from sqlalchemy import FromClause

revision = "0003"
down_revision = "0002"

Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the table of request times, and store the tickets of queued messages."""
    op.create_table(
        "retrycli_rates",
        sa.Column("destination", sa.String(255), primary_key=True),
        sa.Column("next_at", Time, nullable=False),
    )
    op.add_column("retrycli_queue", sa.Column("ticket", sa.Text))
    queue = sa.table("retrycli_queue", sa.column("message_id"), sa.column("ticket"))
    if op.get_bind().execute(sa.select(queue.c.message_id).limit(1)).first() is not None:
        messages: FromClause = context.config.attributes["messages"]
        ticket = sa.func.substr(sa.cast(messages.c.ticket_id, sa.Text), 1, 255)  # an index limits the length of values
        of_it = sa.select(ticket).where(messages.c.id == queue.c.message_id)
        op.execute(queue.update().values(ticket=of_it.scalar_subquery()))
    op.create_index("retrycli_queue_ticket", "retrycli_queue", ["ticket", "message_id"])
    op.drop_index("retrycli_queue_due", "retrycli_queue")
    op.create_index("retrycli_queue_due", "retrycli_queue", ["state", "next_attempt_at", "message_id", "ticket"])


def downgrade() -> None:
    """Drop the table and the column."""
    op.drop_index("retrycli_queue_due", "retrycli_queue")
    op.create_index("retrycli_queue_due", "retrycli_queue", ["state", "next_attempt_at", "message_id"])
    op.drop_index("retrycli_queue_ticket", "retrycli_queue")
    op.drop_column("retrycli_queue", "ticket")
    op.drop_table("retrycli_rates")
