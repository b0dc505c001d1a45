"""Columns that distinguish messages with the same id, and different texts of one message.

Every column that is added to an existing table is nullable, because a pass of the previous version may still be
running on another host.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

QUEUE: dict[str, Any] = {
    "birth": sa.Text,
    "digest": sa.String(80),
    "seen_count": sa.Integer,
    "seen_error": sa.Text,
    "seen_updated_at": sa.Text,
}
ATTEMPTS: dict[str, Any] = {
    "birth": sa.Text,
    "delivery_key": sa.String(36),
    "digest": sa.String(80),
    "ticket": sa.Text,
    "message_type": sa.String(16),
    "destination": sa.String(255),
    "deliveries": sa.Integer,
    "delivered_to": sa.Text,
    "probe": sa.Boolean,
}


def upgrade() -> None:
    """Add the columns, a table of escalations, and a table that stores the name of the application's table."""
    for table, columns in (("retrycli_queue", QUEUE), ("retrycli_attempts", ATTEMPTS)):
        for name, kind in columns.items():
            op.add_column(table, sa.Column(name, kind))
    op.add_column("retrycli_acts", sa.Column("attempts", sa.Integer))
    op.add_column("retrycli_breakers", sa.Column("tickets", sa.Text))
    op.create_table(
        "retrycli_escalations",
        sa.Column("delivery_key", sa.String(36), primary_key=True),
        sa.Column("reason", sa.String(16), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table("retrycli_selection", sa.Column("table_name", sa.String(255), primary_key=True))


def downgrade() -> None:
    """Remove the columns and tables. Escalate delivered messages whose rows are not marked as sent yet, because the
    previous version would send them again.
    """
    _escalate_the_delivered()
    op.drop_table("retrycli_selection")
    op.drop_table("retrycli_escalations")
    op.drop_column("retrycli_breakers", "tickets")
    op.drop_column("retrycli_acts", "attempts")
    for table, columns in (("retrycli_attempts", ATTEMPTS), ("retrycli_queue", QUEUE)):
        for name in columns:
            op.drop_column(table, name)


def _escalate_the_delivered() -> None:
    # If an attempt has an outcome but no ``finished_at``, its result is not written into the application's row yet.
    names = ("message_id", "state", "claimed_by", "claim_expires_at", "next_attempt_at")
    queue = sa.table("retrycli_queue", *(sa.column(name) for name in (*names, "escalated_at", "escalation_reason")))
    attempts = sa.table(
        "retrycli_attempts", *(sa.column(name) for name in ("message_id", "outcome", "started_at", "finished_at"))
    )
    kept = sa.and_(attempts.c.outcome == "delivered", attempts.c.finished_at.is_(None))
    op.execute(
        queue.update()
        .where(queue.c.message_id.in_(sa.select(attempts.c.message_id).where(kept)))
        .values(
            state="escalated",
            claimed_by=None,
            claim_expires_at=None,
            next_attempt_at=None,
            escalated_at=sa.func.now(),
            escalation_reason="unknown",
        )
    )
    op.execute(attempts.update().where(kept).values(finished_at=attempts.c.started_at))
