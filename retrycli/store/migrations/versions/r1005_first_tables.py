"""The first tables.

Until 0.1.0 is released, this migration creates what `retrycli.store.schema` describes, and each change of the schema
gives it a new id. The release writes the definitions out here, because later migrations start from them.
"""

from alembic import op
from sqlalchemy.schema import CreateIndex, CreateTable

from retrycli.domain.passes import PassResult
from retrycli.store.counters import COUNTED_TO, PASSES
from retrycli.store.schema import HEAD, metadata, totals

revision = HEAD
down_revision = None


def upgrade() -> None:
    """Create the tables, and begin to count."""
    for table in metadata.sorted_tables:
        op.execute(CreateTable(table))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):  # `create_all` takes them in any order
            op.execute(CreateIndex(index))
    counted = [{"name": PASSES, "label": result.value, "value": 0} for result in PassResult]
    op.bulk_insert(totals, [*counted, {"name": COUNTED_TO, "label": "", "value": 0}])
