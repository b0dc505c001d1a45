"""Upgrades of retrycli's own tables by Alembic. It loads slowly, so a pass imports this module only to upgrade."""

from __future__ import annotations

from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config

from retrycli.store import selection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from retrycli.store.database import Database

UPGRADING = Lock()
"""Alembic keeps the current upgrade in module globals, so a process upgrades one database at a time."""


def upgrade(database: Database) -> None:
    """Upgrade the tables to the newest version: see `Database.upgrade`."""
    with _migrating(database) as (config, connection):
        command.upgrade(config, "head")
        selection.adopt(database, connection)


def downgrade(database: Database) -> None:
    """Downgrade the tables by one version: see `Database.downgrade`."""
    with _migrating(database) as (config, _):
        command.downgrade(config, "-1")


@contextmanager
def _migrating(database: Database) -> Iterator[tuple[Config, Connection]]:
    """Open the transaction in which Alembic changes retrycli's own tables."""
    config = Config()
    config.set_main_option("script_location", "retrycli:store/migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["messages"] = database.messages
    with UPGRADING, database.write() as connection:
        database.advisory_lock(connection)
        config.attributes["connection"] = connection
        yield config, connection
