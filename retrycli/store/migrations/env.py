"""Run the revisions in the transaction that `retrycli.store.own_tables` passes in."""

from alembic import context

from retrycli.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table="retrycli_version"
)
context.run_migrations()
