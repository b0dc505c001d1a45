"""Set retrycli up, check the set-up, and maintain its own tables."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from retrycli.config.settings import Settings
from retrycli.config.template import template
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.message import OPTIONAL_COLUMNS
from retrycli.operations.copy_database import check_claims, keep_passes_off
from retrycli.operations.schedule.proposal import LOG, LOGS
from retrycli.operations.wiring import lock_path, open_database, pass_rules, utc_now
from retrycli.store import act_rows, schema, selection
from retrycli.store.database import Database
from retrycli.store.failed_index import FailedIndex
from retrycli.store.ledger import Ledger
from retrycli.system.pass_lock import PassLock
from retrycli.system.trust import write_private

if TYPE_CHECKING:
    from retrycli.gateway.router import GatewayRouter
    from retrycli.store.selection import Belonging

PRUNE_BATCH = 5_000
"""The number of rows in one transaction."""
BREATH_SECONDS = 0.05
"""Long enough for another process to take SQLite's write lock."""


def check(settings: Settings) -> dict[str, str]:
    """Check what a pass relies on, except sending: settings, preset, credentials, database, tables, lock.

    Returns:
        Facts by name.

    Raises:
        RetrycliError: the first problem found.
    """
    from retrycli.gateway.router import router_of

    pass_rules(settings)
    with open_database(settings) as database:
        columns = list(database.messages.c.keys())
        crossing = router_of(settings.gateway, columns={*columns, *OPTIONAL_COLUMNS}, connections=1, now=utc_now)
        asyncio.run(_open_and_close(crossing))
        gateways = {name.removeprefix("gateway."): gateway for name, gateway in settings.gateway.all.items()}
        lock = lock_path(settings)
        PassLock(lock).check()
        return {
            "Database": database.place,
            "Table": f"{settings.database.table}: {', '.join(columns)}",
            "Tables": f"version {database.revision()}",
            **{_name(name, "API"): gateway.destination for name, gateway in gateways.items()},
            **{
                _name(name, "Sender" if gateway.kind == "smtp" else "Preset"): gateway.sender or gateway.preset
                for name, gateway in gateways.items()
            },
            "Lock": str(lock),
        }


async def _open_and_close(gateways: GatewayRouter) -> None:
    async with gateways:
        pass


def _name(gateway: str, what: str) -> str:
    """Return a fact's name; that of a separate gateway includes the message type."""
    return what if gateway == "gateway" else f"{what} {gateway}"


def make_tables(settings: Settings) -> str:
    """Check the application's table, make retrycli's own, and return the database's place.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        return database.place


def upgrade(settings: Settings) -> tuple[str | None, str | None]:
    """Upgrade retrycli's own tables to this program's version; return the versions before and after."""
    with closing(Database(settings.database.url, settings.database.table)) as database:
        _ = database.messages  # checks the application's table first, as `open_database` does
        before = database.revision()
        database.ensure_tables(upgrade=True)
        return before, database.revision()


def downgrade(settings: Settings) -> tuple[str, str | None]:
    """Downgrade retrycli's own tables by one version; return the versions before and after.

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
        if found != schema.HEAD:
            raise ConfigurationError(
                f"retrycli's tables in {database.place} are of version {found or 'none'}, and this program's of "
                f"{schema.HEAD}; downgrade them with the program that upgraded them"
            )
        keep_passes_off(settings, settings, held)
        check_claims(database)
        database.downgrade()
        return found, database.revision()


@contextmanager
def belonging(settings: Settings) -> Iterator[tuple[Belonging, Callable[[], None]]]:
    """Compare the queue with the application's table, and provide a function that makes the queue belong to it.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with closing(Database(settings.database.url, settings.database.table)) as database:
        _ = database.messages  # checks the application's table first, as `open_database` does
        database.ensure_version(upgrade=settings.database.auto_upgrade)
        yield selection.compare(database), partial(selection.accept, database)


@contextmanager
def failed_index(settings: Settings) -> Iterator[FailedIndex]:
    """Open the only index on the application's table that retrycli may make.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with closing(Database(settings.database.url, settings.database.table)) as database:
        _ = database.messages  # checks the application's table first, as `open_database` does
        yield FailedIndex(database)


def count_history(settings: Settings, *, before: datetime) -> dict[str, int]:
    """Count the attempts, actions and passes that ended before a time.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        return Ledger(database).count_ended(before)


def prune(settings: Settings, *, before: datetime, sleep: Callable[[float], None] = time.sleep) -> None:
    """Delete the attempts and passes that ended before a time, in short transactions.

    Between two transactions it waits, because a pass may be running and the application writes too.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        for _ in Ledger(database).prune_all(before, PRUNE_BATCH):
            sleep(BREATH_SECONDS)


def count_texts(settings: Settings, ticket: str) -> int:
    """Count the edits of a ticket's messages whose texts are kept.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        return act_rows.count_texts(database, ticket)


def erase_texts(settings: Settings, ticket: str) -> int:
    """Erase the texts before and after the edits of a ticket's messages; return the number of edits.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        return act_rows.erase_texts(database, ticket)


def write_config(file: Path, *, database_url: str, base_url: str | None, logs: Path = LOGS) -> None:
    """Write a commented configuration file that only its owner can read.

    Args:
        file: its path.
        database_url: the database with the application's table.
        base_url: the ticketing API.
        logs: the folder of logs. If it is not writable, the log is beside the database, else beside the file.

    Raises:
        ConfigurationError: the file exists, or its folder can't be written.
    """
    try:
        database = re.match(r"sqlite(?:\+\w+)?:///(?![:?]|file:|$)([^?]*)", database_url)
        beside = Path(database[1]).with_name(LOG) if database else Path(LOG)
        log = logs / LOG if os.access(logs, os.W_OK | os.X_OK) else beside
        values = {"database.url": database_url, "gateway.base_url": base_url, "logging.file": log}
        write_private(file, template(values))
    except FileExistsError:
        raise ConfigurationError(f"{file} is there already; edit it, or name another with --config") from None
    except OSError as error:
        raise ConfigurationError(f"can't write {file}: {error.strerror}; name another with --config") from error
