"""What tells one message from the next under the same id, and one text of a message from another.

Every new column is nullable: a pass of the version before may still be running on another host, and writes none of
them.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

Types = dict[str, "sa.types.TypeEngine[Any] | type[sa.types.TypeEngine[Any]]"]

QUEUE: Types = {
    "birth": sa.Text,
    "digest": sa.String(80),
    "seen_count": sa.Integer,
    "seen_error": sa.String(80),
    "seen_updated_at": sa.Text,
}
ATTEMPTS: Types = {
    "delivery_key": sa.String(36),
    "digest": sa.String(80),
    "ticket": sa.Text,
    "message_type": sa.String(16),
    "destination": sa.String(255),
    "deliveries": sa.Integer,
    "probe": sa.Boolean,
}


def upgrade() -> None:
    """Add the columns, and the tables that remember escalations and the application's table."""
    for table, columns in (("retrycli_queue", QUEUE), ("retrycli_attempts", ATTEMPTS)):
        for name, kind in columns.items():
            op.add_column(table, sa.Column(name, kind))
    op.add_column("retrycli_breakers", sa.Column("tickets", sa.Text))
    op.create_table(
        "retrycli_escalations",
        sa.Column("delivery_key", sa.String(36), primary_key=True),
        sa.Column("reason", sa.String(16), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table("retrycli_selection", sa.Column("table_name", sa.String(255), primary_key=True))


def downgrade() -> None:
    """Remove them; and escalate what was delivered but still waits for its row to be written, which only they tell."""
    _escalate_the_delivered()
    op.drop_table("retrycli_selection")
    op.drop_table("retrycli_escalations")
    op.drop_column("retrycli_breakers", "tickets")
    for table, columns in (("retrycli_attempts", ATTEMPTS), ("retrycli_queue", QUEUE)):
        for name in columns:
            op.drop_column(table, name)


def _escalate_the_delivered() -> None:
    """Escalate waiting messages with a delivery recorded under their key: the version before would send them again."""
    names = ("state", "delivery_key", "next_attempt_at", "escalated_at", "escalation_reason")
    queue = sa.table("retrycli_queue", *(sa.column(name) for name in names))
    attempts = sa.table("retrycli_attempts", sa.column("delivery_key"), sa.column("outcome"))
    delivered = sa.select(attempts.c.delivery_key).where(attempts.c.outcome == "delivered")
    op.execute(
        queue.update()
        .where(queue.c.state == "waiting", queue.c.delivery_key.in_(delivered))
        .values(state="escalated", next_attempt_at=None, escalated_at=sa.func.now(), escalation_reason="unknown")
    )
