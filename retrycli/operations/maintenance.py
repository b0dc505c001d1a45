"""Maintain retrycli's own tables."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from functools import partial

from retrycli.config.settings import Settings
from retrycli.domain.errors import ConfigurationError
from retrycli.operations.copy_database import check_claims, keep_passes_off
from retrycli.operations.wiring import open_database
from retrycli.store import counters, history, own_tables, schema
from retrycli.store.application_table import FailedIndex
from retrycli.store.database import Database
from retrycli.store.own_tables import Belonging

PRUNE_BATCH = 5_000  # number of rows that one transaction deletes
BREATH_SECONDS = 0.05  # a pause that is long enough for another process to get SQLite's write lock


def upgrade(settings: Settings) -> tuple[str | None, str | None]:
    """Upgrade retrycli's own tables to this program's version. Return the versions before and after."""
    with closing(Database(settings.database.url, settings.database.table)) as database:
        _ = database.messages  # checks the application's table first, as `open_database` does
        before = database.revision()
        own_tables.ensure_tables(database, upgrade=True)
        return before, database.revision()


def downgrade(settings: Settings) -> tuple[str, str | None]:
    """Downgrade retrycli's own tables by one version. Return the versions before and after.

    Raises:
        LockHeld: a pass is running, or messages are being sent.
        DatabaseUnavailable: the database can't be opened, read or written.
        ConfigurationError: a setting or the application's table is wrong, or retrycli's tables have another
            version.
    """
    with ExitStack() as held:
        database = held.enter_context(closing(Database(settings.database.url, settings.database.table)))
        _ = database.messages  # checks the application's table first, as `open_database` does
        found = database.revision()
        if found is None:
            raise ConfigurationError(f"{database.place} has no tables of retrycli: there is nothing to downgrade")
        if found != schema.HEAD:
            raise ConfigurationError(
                f"retrycli's tables in {database.place} are at version {found}, but this program can downgrade only "
                f"from {schema.HEAD}; downgrade the tables with the version of retrycli that upgraded them"
            )
        keep_passes_off(settings, settings, held)
        check_claims(database)
        own_tables.downgrade_tables(database)
        return found, database.revision()


@contextmanager
def belonging(settings: Settings) -> Iterator[tuple[Belonging, Callable[[], None]]]:
    """Compare the queue with the application's table, and provide a function that makes the queue belong to it.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with closing(Database(settings.database.url, settings.database.table)) as database:
        _ = database.messages  # checks the application's table first, as `open_database` does
        own_tables.ensure_version(database, upgrade=settings.database.auto_upgrade)
        yield own_tables.compare(database), partial(own_tables.accept, database)


@contextmanager
def failed_index(settings: Settings) -> Iterator[FailedIndex]:
    """Open the only index on the application's table that retrycli may create.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with closing(Database(settings.database.url, settings.database.table)) as database:
        _ = database.messages  # checks the application's table first, as `open_database` does
        yield FailedIndex(database)


def count_history(settings: Settings, *, before: datetime) -> dict[str, int]:
    """Count the attempts, actions and passes that ended before a given time.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        return counters.count_ended(database, before)


def prune(settings: Settings, *, before: datetime, sleep: Callable[[float], None] = time.sleep) -> None:
    """Delete the attempts and passes that ended before a given time, in short transactions.

    Wait between two transactions, because a pass may be running and the application also writes.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        for _ in counters.prune_all(database, before, PRUNE_BATCH):
            sleep(BREATH_SECONDS)


def count_texts(settings: Settings, ticket: str) -> int:
    """Count the edits of a ticket's messages whose texts are still stored.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        return history.count_texts(database, ticket)


def erase_texts(settings: Settings, ticket: str) -> int:
    """Erase the texts before and after the edits of a ticket's messages. Return the number of edits.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        return history.erase_texts(database, ticket)
