"""Columns for the recipients that have received a message, and for the message's id at the destination."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("retrycli_queue", sa.Column("delivered_to", sa.Text))
    op.add_column("retrycli_attempts", sa.Column("external_id", sa.Text))


def downgrade() -> None:
    """Remove the columns. A partly delivered e-mail will be sent to all its recipients again."""
    op.drop_column("retrycli_attempts", "external_id")
    op.drop_column("retrycli_queue", "delivered_to")
