"""Maintain retrycli's own tables: upgrade them, delete old records, and erase texts."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from functools import partial

from retrycli.config.settings import Settings
from retrycli.operations.wiring import check_mapping, connect, open_database
from retrycli.store import counters, history, own_tables
from retrycli.store.application_table import FailedIndex
from retrycli.store.database import Database

PRUNE_BATCH = 5_000  # maximum number of attempts, of actions and of passes that one transaction deletes
BREATH_SECONDS = 0.05  # pause between transactions, long enough for another process to get SQLite's write lock


def upgrade(settings: Settings) -> tuple[str | None, str | None]:
    """Upgrade retrycli's own tables to this program's version. Return the versions before and after."""
    with _existing_database(settings) as database:
        before = database.revision()
        own_tables.ensure_tables(database, upgrade=True)
        return before, database.revision()


@contextmanager
def belonging(settings: Settings) -> Iterator[tuple[own_tables.Belonging, Callable[[], None]]]:
    """Compare the queue with the application's table, and provide a function that assigns the queue to the table.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with _existing_database(settings) as database:
        own_tables.ensure_version(database, upgrade=settings.database.auto_upgrade)
        yield own_tables.compare(database), partial(own_tables.accept, database)


@contextmanager
def failed_index(settings: Settings) -> Iterator[FailedIndex]:
    """Open the database to examine, create or drop retrycli's only index on the application's table.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with _existing_database(settings) as database:
        yield FailedIndex(database)


def count_history(settings: Settings, *, before: datetime) -> dict[str, int]:
    """Count the attempts, actions and passes that `prune` would delete.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        return counters.count_ended(database, before)


def prune(settings: Settings, *, before: datetime, sleep: Callable[[float], None] = time.sleep) -> None:
    """Delete the attempts, actions and passes that ended before a given time and are no longer needed.

    Use short transactions with a pause after each one, so that the application and a running pass can write.

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
    """Erase from the history the texts before and after each edit of a ticket's messages. Return the number of edits.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        return history.erase_texts(database, ticket)


@contextmanager
def _existing_database(settings: Settings) -> Iterator[Database]:
    """Open the database and check the application's table. Do not create retrycli's own tables."""
    with closing(connect(settings)) as database:
        _ = database.messages
        if database.mapping is not None:
            check_mapping(database)
        yield database
