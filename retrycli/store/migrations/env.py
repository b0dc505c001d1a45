"""Runs the revisions on the connection, and in the transaction, that `retrycli.store.upgrades` hands over."""

from __future__ import annotations

from alembic import context

from retrycli.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table="retrycli_version",
)
context.run_migrations()
