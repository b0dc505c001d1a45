"""A table of holds: the parts of the queue that operators keep from passes."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the table. A pass of the previous version that is still running does not read it."""
    op.create_table(
        "retrycli_holds",
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("target", sa.String(255), primary_key=True),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True)),
        sa.Column("by", sa.String(255), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("birth", sa.Text),
    )


def downgrade() -> None:
    """Remove the table. The holds are lost, so passes of the previous version send the messages that were held."""
    op.drop_table("retrycli_holds")
