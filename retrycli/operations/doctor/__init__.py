"""Is everything all right? Each check looks at one thing and gives findings, with the remedy beside each.

A new check is a function of a `Case`, put into `CHECKS`, or, if it needs the database, of a `Case` and a `Database`,
put into `DATABASE_CHECKS`. Nothing is written, and no message is sent.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from datetime import datetime
from functools import partial
from pathlib import Path

from retrycli.config.loader import HINT, load
from retrycli.domain.errors import ConfigurationError, DatabaseUnavailable, RetrycliError
from retrycli.operations.doctor import api, calling, database, machine, people
from retrycli.operations.doctor.case import Case
from retrycli.operations.doctor.finding import Finding, Level, failure, of_error
from retrycli.operations.wiring import utc_now
from retrycli.store.database import Database
from retrycli.system.host import Asker, Host, under_cron

PATIENCE_SECONDS = 5
"""For a database that somebody holds."""

CHECKS: tuple[Callable[[Case], Iterable[Finding]], ...] = (
    machine.settings,
    machine.disk,
    machine.files,
    machine.file_system,
    machine.file_descriptors,
    machine.lock,
    machine.outputs,
    people.notifications,
    people.ping,
)
"""What is looked at beside the database."""
DATABASE_CHECKS: tuple[Callable[[Case, Database], Iterable[Finding]], ...] = (
    api.api,
    database.table,
    database.tables,
    database.queue,
    database.age,
    database.index,
    database.writing,
    database.search_path,
    database.time,
    calling.calling,
)
"""What is looked at in the database, once it is open."""


def examine(
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    host: Host | None = None,
    now: Callable[[], datetime] = utc_now,
) -> list[Finding]:
    """Look at everything.

    Args:
        config: the settings' file, as `retrycli.config.loader.load` takes it.
        environment: by default the process's own.
        host: by default this machine.
        now: the clock.

    Returns:
        What was found. Settings that are wrong are a finding too, and then nothing that needs them is looked at.
    """
    try:
        loaded = load(config, environment)
    except ConfigurationError as error:
        remedy = "mend it; nothing that needs the settings was looked at"
        return [failure("settings", str(error).removesuffix(HINT), remedy)]
    case = Case(loaded, host or Host(run=Asker()), now)
    return [*(each for check in CHECKS for each in _held(check, case)), *_in_database(case)]


def examine_as_cron(config: Path | None = None, *, host: Host | None = None) -> list[Finding]:
    """Look at everything as cron would find it: in the user's home, with hardly any environment.

    Args:
        config: the settings' file that the cron line names; None where it names none.
        host: by default this machine.
    """
    named = [] if config is None else ["--config", str(config.absolute())]
    done = under_cron(host or Host(), [sys.executable, "-P", "-m", "retrycli", "doctor", "--json", *named])
    try:
        return [Finding(**{**each, "level": Level(each["level"])}) for each in json.loads(done.stdout)["findings"]]
    except (ValueError, KeyError, TypeError):
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return [failure("cron", f"retrycli does not run as cron would run it: {said}", "install it again")]


def _held(
    check: Callable[..., Iterable[Finding]], *given: object, instead: Callable[[], list[Finding]] | None = None
) -> list[Finding]:
    """A check's findings; an error is one too, for the other checks are not to go without.

    Args:
        check: the check.
        given: its arguments.
        instead: what to do if the database can't be read, and another finding says why.
    """
    try:
        return list(check(*given))
    except Exception as error:  # noqa: BLE001  whatever a check did not foresee
        if instead is not None and isinstance(error, DatabaseUnavailable):
            return instead()
        return [_problem(check.__name__.replace("_", " "), error)]


def _problem(name: str, error: Exception) -> Finding:
    if isinstance(error, RetrycliError):
        return of_error(name, str(error))
    return failure(name, f"it could not be looked at: {type(error).__name__}", "tell the makers of retrycli")


def _in_database(case: Case) -> list[Finding]:
    """Everything about the database, if it can be opened. What a full disk keeps from being looked at is left out."""
    is_full = machine.lack_of_disk(case) is not None
    try:
        opened = Database(case.settings.database.url, case.settings.database.table, patience=PATIENCE_SECONDS)
    except Exception as error:  # noqa: BLE001  as in `_held`
        problem = [] if is_full and isinstance(error, DatabaseUnavailable) else [_problem("database", error)]
        return [*_held(api.api, case, None), *problem, *_held(calling.scheduling, case, [])]
    with closing(opened):
        return [
            each
            for check in DATABASE_CHECKS
            for each in _held(check, case, opened, instead=partial(_without, case, check) if is_full else None)
        ]


def _without(case: Case, check: Callable[[Case, Database], Iterable[Finding]]) -> list[Finding]:
    """Return what a check finds without the database."""
    if check is api.api:
        return _held(api.api, case, None)
    return _held(calling.scheduling, case, []) if check is calling.calling else []
