"""Columns that store how each pass was started, and the texts and tickets of edits.

``message_id`` becomes nullable, so that pauses can be stored as actions. The new columns are nullable, because a pass
of the previous version may still be running on another host.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import op
from alembic.operations import BatchOperations

revision = "0006"
down_revision = "0005"

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TEXTS = ("ticket", "before", "after")
INDEXES = {"retrycli_acts_message": ["message_id", "id"], "retrycli_acts_at": ["at"]}


@contextmanager
def _acts() -> Iterator[BatchOperations]:
    # On SQLite, Alembic recreates the table, and would recreate its indexes in an arbitrary order. So the indexes are
    # dropped first, and created in a fixed order.
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for name in INDEXES if is_sqlite else ():
        op.drop_index(name, "retrycli_acts")
    with op.batch_alter_table("retrycli_acts") as acts:
        yield acts
    for name, columns in INDEXES.items() if is_sqlite else ():
        op.create_index(name, "retrycli_acts", columns)


def upgrade() -> None:
    """Add the columns, and allow actions without a message."""
    op.add_column("retrycli_passes", sa.Column("started_by", sa.String(16)))
    with _acts() as acts:
        for name in TEXTS:
            acts.add_column(sa.Column(name, sa.Text))
        acts.alter_column("message_id", existing_type=Id, nullable=True)


def downgrade() -> None:
    """Remove the columns. Texts and tickets of edits, the history of pauses, and how passes were started are lost."""
    op.execute("DELETE FROM retrycli_acts WHERE message_id IS NULL")
    with _acts() as acts:
        acts.alter_column("message_id", existing_type=Id, nullable=False)
        for name in TEXTS:
            acts.drop_column(name)
    op.drop_column("retrycli_passes", "started_by")
