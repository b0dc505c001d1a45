"""What an edit changed, for which ticket; and who paused and resumed deliveries, which is an act without a message."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TEXTS = ("ticket", "before", "after")


def upgrade() -> None:
    """Add the columns, and let an act be without a message."""
    with op.batch_alter_table("retrycli_acts") as acts:
        for name in TEXTS:
            acts.add_column(sa.Column(name, sa.Text))
        acts.alter_column("message_id", existing_type=Id, nullable=True)


def downgrade() -> None:
    """Remove them: what edits changed is lost, and so is who paused."""
    op.execute("DELETE FROM retrycli_acts WHERE message_id IS NULL")
    with op.batch_alter_table("retrycli_acts") as acts:
        acts.alter_column("message_id", existing_type=Id, nullable=False)
        for name in TEXTS:
            acts.drop_column(name)
