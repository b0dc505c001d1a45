"""Run checks of the installation. Each check returns findings with their remedies.

To add a check, write a function that takes a `Context`, and add it to `CHECKS`. If the check needs the database, let
the function also take a `Database`, and add it to `DATABASE_CHECKS` instead. Checks write nothing and send no message.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from retrycli.config.loader import HINT, load
from retrycli.domain.errors import ConfigurationError, DatabaseUnavailable, RetrycliError, Untrusted
from retrycli.operations.doctor import database, machine, network, scheduler, table
from retrycli.operations.doctor.context import Context, Finding, Level, failure, of_error
from retrycli.operations.wiring import connect, utc_now
from retrycli.store.database import Database
from retrycli.system.host import Asker, Host, under_cron

PATIENCE_SECONDS = 5

CHECKS: tuple[Callable[[Context], Iterable[Finding]], ...] = (
    machine.settings,
    machine.disk,
    machine.files,
    machine.functions,
    machine.file_system,
    machine.file_descriptors,
    machine.lock,
    machine.outputs,
    scheduler.windows,
    network.notifications,
    network.ping,
)
DATABASE_CHECKS: tuple[Callable[[Context, Database], Iterable[Finding]], ...] = (
    network.api,
    database.table,
    table.mapping,
    database.tables,
    database.queue,
    database.age,
    database.index,
    database.writing,
    database.time,
    scheduler.calling,
)


def examine(
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    host: Host | None = None,
    now: Callable[[], datetime] = utc_now,
) -> list[Finding]:
    """Run all checks. If the settings are invalid, no check runs, and the only finding is the error in the settings."""
    try:
        loaded = load(config, environment)
    except ConfigurationError as error:
        problem = str(error).removesuffix(HINT)
        return [failure("settings", problem, "fix the settings; all other checks were skipped")]
    context = Context(loaded, host or Host(run=Asker()), now)
    return [*(finding for check in CHECKS for finding in _findings(check, context)), *_database_findings(context)]


def examine_as_cron(config: Path | None) -> list[Finding]:
    """Run all checks in cron's environment: in the user's home, with almost no environment variables."""
    named = [] if config is None else ["--config", str(config.absolute())]
    done = under_cron(Host(), [sys.executable, "-P", "-m", "retrycli", "doctor", "--json", *named])
    try:
        return [
            Finding(**{**finding, "level": Level(finding["level"])}) for finding in json.loads(done.stdout)["findings"]
        ]
    except (ValueError, KeyError, TypeError):
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return [
            failure(
                "cron",
                f"retrycli does not run in cron's environment: {said}",
                "fix this error; if a module is missing, reinstall retrycli",
            )
        ]


def _findings(
    check: Callable[..., Iterable[Finding]], context: Context, *database: Database | None, is_full: bool = False
) -> list[Finding]:
    """Return a check's findings. An error becomes a finding, so that the other checks still run.

    If a full disk makes the database unusable, run the check without the database. Skip a check that needs the
    database: `disk` reports the problem.
    """
    try:
        return list(check(context, *database))
    except Exception as error:  # noqa: BLE001  a check may raise any error
        if is_full and isinstance(error, DatabaseUnavailable):
            return _findings(check, context, None) if check in {network.api, scheduler.calling} else []
        return [_problem(check.__name__.replace("_", " "), error)]


def _problem(name: str, error: Exception) -> Finding:
    if isinstance(error, RetrycliError):
        return of_error(name, str(error))
    return failure(name, f"the check failed: {type(error).__name__}", "report this as a bug in retrycli")


def _database_findings(context: Context) -> list[Finding]:
    is_full = machine.lack_of_disk(context) is not None
    try:
        opened = connect(context.settings, patience=PATIENCE_SECONDS)
    except Exception as error:  # noqa: BLE001  an unexpected error must not prevent the other checks
        problem = _problem("database", error)
        if isinstance(error, Untrusted):  # then root is not the user who makes the passes
            problem = replace(problem, level=Level.WARNING)
        told = [] if is_full and isinstance(error, DatabaseUnavailable) else [problem]
        return [*_findings(network.api, context, None), *told, *_findings(scheduler.calling, context, None)]
    with closing(opened):
        return [finding for check in DATABASE_CHECKS for finding in _findings(check, context, opened, is_full=is_full)]
