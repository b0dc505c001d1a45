"""Copy retrycli's own tables when the application's data has moved to another database."""

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from pydantic import ValidationError

from retrycli.config.settings import Settings
from retrycli.domain.errors import ConfigurationError, LockHeld, RetrycliError, SchemaMismatch
from retrycli.operations.wiring import lock_path, utc_now
from retrycli.store import own_tables, schema
from retrycli.store.copy import CopiedTable, claimed_until, copy_tables, is_same, last_used, left_behind
from retrycli.store.database import Database
from retrycli.store.passes import Ledger
from retrycli.store.write_check import clock_ahead
from retrycli.system.pass_lock import Holder, PassLock

FROM, TO = "--from", "--to"


@dataclass(frozen=True, slots=True)
class Move:
    """The result of a copy; database names have no passwords."""

    source: str
    target: str
    tables: list[CopiedTable]
    paused: bool  # deliveries are also paused in the target

    @property
    def verified(self) -> bool:
        """Return whether every table has the same number of rows on both sides."""
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

    It holds the pass locks of both sides. Rows that are already equal are not written, so the copy can be repeated at
    any time, even after it was killed.

    Args:
        settings: from `retrycli.load_settings`, or created directly.
        source: the URL of the database that is copied; by default ``database.url``.
        target: the URL of the database that the application's data was moved to; by default ``database.url``.
        overwrite: undo changes made in the target since the source was last used.
        listen: receives the name of a table and the number of its rows copied so far.

    Raises:
        LockHeld: a pass is running on one of the sides.
        DatabaseUnavailable: either database can't be opened, read or written.
        ConfigurationError: both databases are the same, one is not usable, the application's data is not in the target,
            the target is ahead of the source, or the target does not accept a row.
    """
    old, new = _with_database(settings, source, FROM), _with_database(settings, target, TO)
    with ExitStack() as held:
        with _naming_option(source and FROM):
            here = held.enter_context(closing(Database(old.database.url, old.database.table)))
            _check_source(here)
        with _naming_option(target and TO):
            there = held.enter_context(closing(Database(new.database.url, new.database.table)))
            _check_target(there)
        if is_same(here, there):
            raise ConfigurationError(f"{FROM} and {TO} are the same database, {there.place}; change one of them")
        keep_passes_off(old, new, held)
        check_claims(here)
        _check_messages(settings, here, there)
        own_tables.ensure_tables(there, upgrade=new.database.auto_upgrade)
        check_claims(there)
        if not overwrite:
            _check_not_ahead(here, there)
        tables = copy_tables(here, there, listen=listen)
        return Move(here.place, there.place, tables, paused=Ledger(there).pause(utc_now()) is not None)


def _with_database(settings: Settings, url: str | None, option: str) -> Settings:
    if url is None:
        return settings
    try:
        database = settings.database.model_validate({**settings.database.model_dump(), "url": url})
    except ValidationError as error:
        reasons = "; ".join(
            problem["msg"].removeprefix("Value error, ") for problem in error.errors(include_input=False)
        )
        raise ConfigurationError(f"{option}: {reasons}") from None
    return settings.model_copy(update={"database": database})


@contextmanager
def _naming_option(option: str | None) -> Iterator[None]:
    """Make errors name the option that replaces the setting, if there is one."""
    try:
        yield
    except RetrycliError as error:
        if option is None:
            raise
        text = re.sub(r"database\.url( \(RETRYCLI_DATABASE__URL\))?", option, str(error))
        raise type(error)(text) from error


def _check_source(database: Database) -> None:
    """Check that the source has retrycli's own tables. The application's table may be gone, but must not be a different
    one.
    """
    found = database.revision()
    if found is None:
        raise ConfigurationError(f"{database.place} has no retrycli tables to copy; check database.url")
    if found != schema.HEAD:
        remedy = "install a newer retrycli" if found > schema.HEAD else "run `retrycli db upgrade` on it"
        raise ConfigurationError(
            f"retrycli's tables in {database.place} are at version {found}, but this program needs {schema.HEAD}; "
            + remedy
        )
    if database.has_messages():
        own_tables.check_selection(database)


def _check_target(database: Database) -> None:
    """Check that the target has the application's table, so that retrycli creates no tables in an unrelated
    database.
    """
    try:
        _ = database.messages
    except SchemaMismatch as error:
        raise SchemaMismatch(f"{error}. First move the application's data") from error


def keep_passes_off(old: Settings, new: Settings, held: ExitStack) -> None:
    """Acquire the pass locks of both sides, which may be the same."""
    me = Holder(os.getpid(), socket.gethostname(), utc_now())
    for path in sorted({lock_path(old), lock_path(new)}):
        lock = PassLock(path)
        lock.acquire(me, wait_seconds=new.run.wait_lock_seconds, now=utc_now, sleep=time.sleep)
        held.callback(lock.release)


def check_claims(database: Database) -> None:
    """Check for active claims, because a pass on another host, or a manual attempt, does not hold this host's lock."""
    until = claimed_until(database, utc_now() + clock_ahead(database, utc_now))
    if until is not None:
        raise LockHeld(
            f"messages in {database.place} are being sent; their claims expire by {until:%Y-%m-%dT%H:%M:%SZ}. Run "
            "`retrycli pause` or stop cron, wait for the sends to finish, and run this again"
        )


def _check_not_ahead(here: Database, there: Database) -> None:
    """Check that the target is not ahead of the source. If it is, the move has already ended, or source and target are
    swapped.
    """
    source_at, target_at = last_used(here), last_used(there)
    if target_at is not None and (source_at is None or source_at < target_at):
        before = "never" if source_at is None else f"last at {source_at:%Y-%m-%dT%H:%M:%SZ}"
        raise ConfigurationError(
            f"{there.place} was used at {target_at:%Y-%m-%dT%H:%M:%SZ}, but {here.place} {before}: a copy would undo "
            f"what passes and operators have done since. Check {FROM} and {TO}; to copy anyway, add --overwrite"
        )


def _check_messages(settings: Settings, here: Database, there: Database) -> None:
    number, first = left_behind(here, there)
    if number:
        raise ConfigurationError(
            f"{number} messages in the queue in {here.place} (the first is {first}) are missing from "
            f"{settings.database.table} in {there.place}: first move all of the application's data, and keep its ids"
        )
