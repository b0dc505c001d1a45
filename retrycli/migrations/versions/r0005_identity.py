"""What tells one message from the next under the same id, and one text of a message from another.

Every new column is nullable, because a pass of the version before may still be running on another host.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
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
    """Add the columns, and the tables that remember escalations and the application's table."""
    for table, columns in (("retrycli_queue", QUEUE), ("retrycli_attempts", ATTEMPTS)):
        for name, kind in columns.items():
            op.add_column(table, sa.Column(name, kind))
    op.add_column("retrycli_acts", sa.Column("attempts", sa.Integer))
    op.add_column("retrycli_breakers", sa.Column("tickets", sa.Text))
    op.add_column("retrycli_passes", sa.Column("pruned_to", BIG))
    op.create_table(
        "retrycli_escalations",
        sa.Column("delivery_key", sa.String(36), primary_key=True),
        sa.Column("reason", sa.String(16), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table("retrycli_selection", sa.Column("table_name", sa.String(255), primary_key=True))


def downgrade() -> None:
    """Remove them."""
    op.drop_table("retrycli_selection")
    op.drop_table("retrycli_escalations")
    op.drop_column("retrycli_passes", "pruned_to")
    op.drop_column("retrycli_breakers", "tickets")
    op.drop_column("retrycli_acts", "attempts")
    for table, columns in (("retrycli_attempts", ATTEMPTS), ("retrycli_queue", QUEUE)):
        for name in columns:
            op.drop_column(table, name)
