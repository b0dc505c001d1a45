"""What tables of other applications lack: integer ids, retry counts, errors. And the selection that was accepted."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

BIG_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # see `retrycli.store.schema.BigId`


def upgrade() -> None:
    """Add a table and columns. A pass of the previous version that is still running does not read them."""
    op.create_table(
        "retrycli_keys",
        sa.Column("number", BIG_ID, primary_key=True),
        sa.Column("key", sa.Text, nullable=False),
    )
    op.create_index("retrycli_keys_key", "retrycli_keys", ["key"])
    op.create_table(
        "retrycli_own_values",
        sa.Column("message_id", BIG_ID, primary_key=True, autoincrement=False),
        sa.Column("birth", sa.Text),
        sa.Column("retry_count", sa.Integer, nullable=False),
        sa.Column("last_error", sa.Text),
    )
    op.add_column("retrycli_selection", sa.Column("accepted", sa.Text))
    op.add_column("retrycli_selection", sa.Column("accepted_by", sa.String(255)))
    op.add_column("retrycli_selection", sa.Column("accepted_at", sa.DateTime(timezone=True)))
    op.add_column("retrycli_selection", sa.Column("numbered_to", sa.Text))


def downgrade() -> None:
    """Remove the tables and the columns. The previous version can't send messages of tables that need them."""
    with op.batch_alter_table("retrycli_selection") as batch:
        for name in ("numbered_to", "accepted_at", "accepted_by", "accepted"):
            batch.drop_column(name)
    op.drop_table("retrycli_own_values")
    op.drop_table("retrycli_keys")
