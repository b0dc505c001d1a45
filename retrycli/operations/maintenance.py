"""Maintain retrycli's own tables: upgrade them, copy them, delete old records, and erase texts."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from retrycli.config.settings import Settings
from retrycli.domain.errors import ConfigurationError, LockHeld, SchemaMismatch
from retrycli.operations.database_option import naming_option, with_database
from retrycli.operations.wiring import check_mapping, connect, lock_path, open_database, utc_now
from retrycli.store import counters, history, own_tables, schema
from retrycli.store.application_table import FailedIndex
from retrycli.store.copy import CopiedTable, claimed_until, copy_tables, is_same, last_used, left_behind
from retrycli.store.database import Database
from retrycli.store.passes import Ledger
from retrycli.store.write_check import clock_ahead
from retrycli.system.pass_lock import Holder, PassLock

PRUNE_BATCH = 5_000  # maximum number of attempts, of actions and of passes that one transaction deletes
BREATH_SECONDS = 0.05  # pause between transactions, long enough for another process to get SQLite's write lock
FROM, TO = "--from", "--to"


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


@dataclass(frozen=True, slots=True)
class Move:
    """The result of a copy. The names of the databases contain no passwords."""

    source: str
    target: str
    tables: list[CopiedTable]
    paused: bool  # deliveries are paused in both databases

    @property
    def verified(self) -> bool:
        """Return whether every copied table has the same number of rows in both databases."""
        return all(table.verified for table in self.tables)


def copy(
    settings: Settings,
    *,
    source: str | None = None,
    target: str | None = None,
    overwrite: bool = False,
    listen: Callable[[str, int], None] = lambda *_: None,
) -> Move:
    """Make retrycli's own tables in the target equal to the source's. The application's tables are only read, not
    changed.

    The copy holds the pass locks of both databases. It writes only rows that differ, so it can be repeated at any time,
    even after it was killed.

    Args:
        settings: from `retrycli.load_settings`, or created directly.
        source: the URL of the database that is copied; by default ``database.url``.
        target: the URL of the database that the application's data was moved to; by default ``database.url``.
        overwrite: copy even if the copy undoes changes made in the target since the source was last used.
        listen: receives the name of a table and the number of its rows compared so far.

    Raises:
        LockHeld: a pass is running on either database, or messages are being sent.
        DatabaseUnavailable: either database can't be opened, read or written.
        ConfigurationError: the databases are the same, one is not usable, the application's data is not in the target,
            the target is ahead of the source, or the target does not accept a row.
    """
    old, new = with_database(settings, source, FROM), with_database(settings, target, TO)
    with ExitStack() as held:
        with naming_option(source and FROM):
            here = held.enter_context(closing(connect(old)))
            _check_source(here)
        with naming_option(target and TO):
            there = held.enter_context(closing(connect(new)))
            _check_target(there)
        if is_same(here, there):
            raise ConfigurationError(
                f"{FROM} and {TO} (by default database.url) are the same database, {there.place}; change one of them"
            )
        _keep_passes_off(old, new, held)
        _check_claims(here)
        _check_messages(settings, here, there)
        own_tables.ensure_tables(there, upgrade=new.database.auto_upgrade)
        _check_claims(there)
        if not overwrite:
            _check_not_ahead(here, there)
        tables = copy_tables(here, there, listen=listen)
        return Move(here.place, there.place, tables, paused=Ledger(there).pause(utc_now()) is not None)


def _check_source(database: Database) -> None:
    found = database.revision()
    if found is None:
        raise ConfigurationError(f"{database.place} has no retrycli tables to copy; check database.url")
    if found != schema.HEAD:
        remedy = "install a newer retrycli" if found > schema.HEAD else "run `retrycli db upgrade` on that database"
        raise ConfigurationError(
            f"retrycli's tables in {database.place} are at version {found}, but this program needs {schema.HEAD}; "
            + remedy
        )
    if database.has_messages():  # the source may no longer have the application's table
        own_tables.check_selection(database)


def _check_target(database: Database) -> None:
    try:
        _ = database.messages  # checked first, so that retrycli creates no tables in an unrelated database
    except SchemaMismatch as error:
        raise SchemaMismatch(f"{error}. If the application's data is not there yet, move it first") from error


def _keep_passes_off(old: Settings, new: Settings, held: ExitStack) -> None:
    me = Holder(os.getpid(), socket.gethostname(), utc_now())
    for path in sorted({lock_path(old), lock_path(new)}):  # a set, because the two paths may be the same lock
        lock = PassLock(path)
        lock.acquire(me, wait_seconds=new.run.wait_lock_seconds, now=utc_now, sleep=time.sleep)
        held.callback(lock.release)


def _check_claims(database: Database) -> None:
    """Check for active claims, because a pass on another host, or a manual attempt, does not hold this host's lock."""
    until = claimed_until(database, utc_now() + clock_ahead(database, utc_now))
    if until is not None:
        raise LockHeld(
            f"messages in {database.place} are claimed; the last claim expires at {until:%Y-%m-%dT%H:%M:%SZ}. "
            "Run `retrycli pause` or stop cron, wait until the claims end, and run this command again"
        )


def _check_not_ahead(here: Database, there: Database) -> None:
    # If the target was used later than the source, passes already use the target, or the two options are swapped.
    source_at, target_at = last_used(here), last_used(there)
    if target_at is not None and (source_at is None or source_at < target_at):
        before = "was never used" if source_at is None else f"was last used at {source_at:%Y-%m-%dT%H:%M:%SZ}"
        raise ConfigurationError(
            f"{there.place} was last used at {target_at:%Y-%m-%dT%H:%M:%SZ}, but {here.place} {before}: a copy would "
            f"undo what passes and operators have done since. Check {FROM} and {TO}; to copy anyway, add --overwrite"
        )


def _check_messages(settings: Settings, here: Database, there: Database) -> None:
    number, first = left_behind(here, there)
    if number:
        raise ConfigurationError(
            f"messages in the queue of {here.place} are missing from {settings.database.table} in {there.place} "
            f"({number} in total, the first has id {first}); move all of the application's data first, and keep the ids"
        )
