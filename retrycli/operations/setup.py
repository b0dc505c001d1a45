"""Create the configuration file and retrycli's own tables, and check that a pass could run."""

import asyncio
import os
import re
import sqlite3
from pathlib import Path

from retrycli.config.settings import Settings
from retrycli.config.template import template
from retrycli.domain.duration import in_words
from retrycli.domain.errors import ConfigurationError
from retrycli.gateway.router import open_router
from retrycli.operations.schedule.installation import LOG, LOGS
from retrycli.operations.wiring import lock_path, open_database, pass_rules, utc_now
from retrycli.store.messages import column_names
from retrycli.system.pass_lock import PassLock
from retrycli.system.python_call import load
from retrycli.system.trust import require_trust, write_private


def check(settings: Settings) -> dict[str, str]:
    """Check the settings, presets, database, tables and lock, and that the credentials are set.

    Create retrycli's own tables, or upgrade them if ``database.auto_upgrade`` is set. Send nothing. Return the facts to
    show to the operator, by name.

    Raises:
        RetrycliError: the first problem that was found.
    """
    from retrycli.operations.doctor import table

    async def open_and_close(columns: list[str]) -> None:
        async with open_router(settings.gateway, columns=columns, connections=1, now=utc_now):
            pass

    pass_rules(settings)
    with open_database(settings) as database:
        columns = column_names(database)
        asyncio.run(open_and_close(columns))
        for call in settings.calls:
            load(*call)
        gateways = {name.removeprefix("gateway."): gateway for name, gateway in settings.gateway.all.items()}
        lock = lock_path(settings)
        PassLock(lock).check()
        return {
            "Database": database.place,
            "Table": f"{settings.database.table}: {', '.join(columns)}",
            "Tables": f"version {database.revision()}",
            **{_name(name, "API"): gateway.destination for name, gateway in gateways.items()},
            **{
                _name(name, what): value
                for name, gateway in gateways.items()
                for what, value in (("Preset", gateway.preset), ("Sender", gateway.sender), ("Call", gateway.call))
                if value is not None and (what != "Preset" or gateway.kind == "http")
            },
            **{_name(key.removesuffix(".call"), "Call"): name for key, name in settings.schedule.calls.items()},
            **table.facts_of(settings, database),
            "Lock": str(lock),
            **_window_facts(settings),
        }


def _window_facts(settings: Settings) -> dict[str, str]:
    facts = {
        f"Windows {kind}": f"{windows.text} ({settings.schedule.timezone or 'the zone of this machine'})"
        for kind, windows in settings.schedule.delivery_windows.items()
    }
    problem = short_windows(settings)
    return facts if problem is None else facts | {"Warning": problem}


def short_windows(settings: Settings) -> str | None:
    """Describe delivery windows that are shorter than the interval, so that no pass may start in them; None if none."""
    interval = settings.schedule.interval
    short = {
        kind: windows.shortest
        for kind, windows in settings.schedule.delivery_windows.items()
        if windows.shortest < interval
    }
    if not short:
        return None
    which = ", ".join(f"{kind}: open for {in_words(length)}" for kind, length in short.items())
    return (
        f"a delivery window is shorter than schedule.retry_interval_minutes ({in_words(interval)}), so passes may miss "
        f"it ({which})"
    )


def _name(gateway: str, what: str) -> str:
    return what if gateway == "gateway" else f"{what} {gateway}"


def make_tables(settings: Settings) -> str:
    """Check the application's table, create retrycli's own tables, and return the database's location.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        return database.place


def write_example(settings: Settings) -> None:
    """Copy the example database to the SQLite file of the settings, with times that count back from now.

    Raises:
        ConfigurationError: the settings name no SQLite file, or the file exists or can't be written.
    """
    from retrycli.operations.demo import copy_example

    if (file := _sqlite_file(settings.database.url)) is None:
        raise ConfigurationError("the example is a SQLite file, so --example needs --database-url sqlite:///FILE")
    try:
        copy_example(file, now=utc_now())
    except FileExistsError:
        raise ConfigurationError(f"{file} already exists; name a new file with --database-url") from None
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(f"can't write {file}: {why}; check its folder and the space on its disk") from error


def _sqlite_file(url: str) -> Path | None:
    """Return the file that a database URL names by its path; None for a server, or SQLite in memory or by a URI."""
    found = re.match(r"sqlite(?:\+\w+)?:///(?![:?]|file:|$)([^?]*)", url)
    return None if found is None else Path(found[1])


def write_config(file: Path, *, database_url: str, base_url: str | None, logs: Path = LOGS) -> None:
    """Write a commented configuration file that only its owner can read. If root writes it into a folder that is open
    to one group only, that group can read it, too. If ``logs`` is not writable, the log is beside the SQLite file, or
    else beside ``file``.

    Raises:
        ConfigurationError: the file exists, or its folder can't be written.
    """
    try:
        require_trust(file, may_be_missing=True)  # before a password is in a folder that another user can change
        database = _sqlite_file(database_url)
        beside = Path(LOG) if database is None else database.with_name(LOG)
        log = logs / LOG if os.access(logs, os.W_OK | os.X_OK) else beside
        write_private(file, template({"database.url": database_url, "gateway.base_url": base_url, "logging.file": log}))
    except FileExistsError:
        raise ConfigurationError(f"{file} already exists; edit that file, or name another with --config") from None
    except OSError as error:
        raise ConfigurationError(f"can't write {file}: {error.strerror}; name another with --config") from error
