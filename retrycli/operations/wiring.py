"""The only place where adapters, clock and randomness are put together.

What the commands call is also public Python: see `retrycli.run_once` and `retrycli.retry`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import pwd
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from retrycli.config.settings import Settings
from retrycli.domain.errors import EventLoopRunning, again_if_lost
from retrycli.domain.events import Event
from retrycli.domain.message import MessageType, Route
from retrycli.domain.operator_action import LONGEST_NAME
from retrycli.domain.sanitize import encodable
from retrycli.engine.rules import Dependencies, PassRules
from retrycli.store import schema
from retrycli.store.claims import Claims
from retrycli.store.database import Database
from retrycli.store.enrolment import Enrolment
from retrycli.store.ledger import Ledger
from retrycli.store.relation import check_ids
from retrycli.system import descriptors
from retrycli.system.pass_lock import OWN_STATE
from retrycli.views import log_lines

if TYPE_CHECKING:
    from retrycli.engine.ports import Gateway

STATE_FOLDER = Path("/var/lib/retrycli")
"""Where the locks for servers' databases are. Whoever sets retrycli up makes it, for the user who makes the passes."""


def utc_now() -> datetime:
    """The clock: the time, aware and in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a pass is given of the machine it runs on; tests give it others."""

    now: Callable[[], datetime] = utc_now
    rng: random.Random = random.SystemRandom()  # noqa: RUF009  it has no state to share
    stop_requested: Callable[[], bool] = lambda: False


DEFAULT_RUNTIME = Runtime()


@contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """Open the database, with retrycli's own tables in it.

    Raises:
        DatabaseUnavailable: it can't be opened, read or written.
        ConfigurationError: the settings name none, it is not the application's, or its tables are of another version.
    """
    with closing(Database(settings.database.url, settings.database.table)) as database:
        check_ids(database)  # looked at first, so that somebody else's database gets no tables of ours
        database.ensure_tables(upgrade=settings.database.auto_upgrade)
        yield database


@contextmanager
def dry_run_database(settings: Settings, *, to_read: bool = False) -> Iterator[Database]:
    """Open the database to see what would become of it: whatever is written is rolled back.

    Args:
        settings: which one.
        to_read: nothing will be written, so there need not be one transaction for all, in which nobody else could
            write: unless retrycli's own tables have to be made for it.

    Raises:
        DatabaseUnavailable, ConfigurationError: as in `open_database`.
    """
    with closing(Database(settings.database.url, settings.database.table)) as database:
        check_ids(database)
        ready = to_read and database.revision() == schema.HEAD
        with nullcontext() if ready else database.rollback_at_end():
            database.ensure_tables(upgrade=settings.database.auto_upgrade)
            yield database


@contextmanager
def ready_to_send(
    settings: Settings,
    runtime: Runtime,
    listen: Callable[[Event], None] | None = None,
    *,
    limit: int | None = None,
    probe: bool = False,
) -> Iterator[tuple[Dependencies, PassRules, Database]]:
    """Check that this process can send and record, and open the database.

    Raises:
        DatabaseUnavailable: as in `open_database`.
        ConfigurationError: that too; or a gateway has no base URL, or there are too few file descriptors.
        EventLoopRunning: this thread runs an event loop.
    """
    _refuse_a_running_loop()
    bounded = _bounded(settings)
    rules = pass_rules(bounded, limit=limit, probe=probe)
    with open_database(bounded) as database, closing(log_lines.EventLog()) as log:

        def emit(event: Event) -> None:
            log(event)
            if listen is not None:
                listen(event)

        yield make_dependencies(bounded, database, runtime, emit), rules, database


def _bounded(settings: Settings) -> Settings:
    """Return the settings with as much concurrency as the file descriptors allow."""
    wanted = settings.run.concurrency
    concurrency = descriptors.affordable(wanted)
    if concurrency < wanted:
        words = "At most %d requests in flight, not run.concurrency = %d: the file descriptor limit is too low"
        log_lines.logger.info(words, concurrency, wanted)
    run = settings.run.model_copy(update={"concurrency": concurrency})
    return settings.model_copy(update={"run": run})


def _refuse_a_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise EventLoopRunning(
        "an event loop is running in this thread, and a delivery needs its own; "
        "call the function by `await asyncio.to_thread(FUNCTION, settings, …)`"
    )


def pass_rules(settings: Settings, *, limit: int | None = None, probe: bool = False, to_send: bool = True) -> PassRules:
    """The settings as a pass needs them.

    Args:
        settings: which pass.
        limit: how many attempts to begin; by default `run.limit`.
        probe: whether to probe a destination that is down now.
        to_send: False if nothing is sent, and so no base URL is needed.

    Raises:
        ConfigurationError: a gateway has no base URL.
    """
    routes = settings.gateway.routes if to_send else (Route(""),)
    return PassRules(
        destination=routes[-1].destination,
        routes=routes,
        policies=settings.policies,
        breaker=settings.breaker.rules,
        due_slack=timedelta(seconds=settings.schedule.due_slack_seconds),
        deadline=timedelta(minutes=settings.run.deadline_minutes),
        request_timeout=settings.gateway.longest,
        concurrency=settings.run.concurrency,
        limit=settings.run.limit if limit is None else limit,
        rate_per_second=settings.run.rate_per_second,
        per_ticket_order=settings.run.per_ticket_order,
        retention=None if settings.run.retention_days is None else timedelta(days=settings.run.retention_days),
        probe_now=probe,
        at_a_server=settings.database.file is None,
    )


def lock_path(settings: Settings, *, state: Path = STATE_FOLDER, home: Path | None = None) -> Path:
    """Return the lock file: the one that is set, or beside the SQLite file, or in a state folder.

    For a server's database that is the system's if we may write there, else the user's own. Its place does not depend
    on the environment, which cron's is not the operator's. Only a user without a home has the lock in /tmp: a service
    may have one of its own, and others may make the file first.

    Args:
        settings: the settings.
        state: the system's state folder.
        home: the user's home; by default what the password database names.
    """
    if settings.run.lock_file is not None:
        return settings.run.lock_file
    if (file := settings.database.file) is not None:
        return file.with_name(f"{file.name}.retrycli.lock")
    name = hashlib.sha256(settings.database.url.encode()).hexdigest()[:12]
    if _is_writable(state):
        return state / f"{name}.lock"
    home = home or _home()
    own = home / OWN_STATE
    # It is made with the lock. Until then the first folder above that exists counts.
    nearest = next(folder for folder in (own, *own.parents) if os.access(folder, os.F_OK))
    if nearest.is_relative_to(home) and _is_writable(nearest):
        return own / f"{name}.lock"
    return Path("/tmp", f"retrycli-{os.getuid()}-{name}.lock")  # noqa: S108  opened without following links


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK) and folder.is_dir()


def _home() -> Path:
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return Path("/nonexistent")


def login_name() -> str:
    """Return who is at the keyboard, in a form that any database takes: the user behind sudo, or the login name."""
    import getpass

    names = [os.environ.get("SUDO_USER", "")]
    with suppress(KeyError, OSError):
        names.append(getpass.getuser())
    usable = (name for name in names if 0 < len(name) <= LONGEST_NAME and encodable(name) and name.isprintable())
    return next(usable, f"uid {os.getuid()}")


def make_dependencies(
    settings: Settings,
    database: Database,
    runtime: Runtime,
    emit: Callable[[Event], None] = log_lines.log_event,
) -> Dependencies:
    """What a pass over this database is given."""
    now = clock(database, runtime.now)

    @asynccontextmanager
    async def open_gateway() -> AsyncIterator[Gateway]:
        from retrycli.gateway.router import router_of
        from retrycli.store.write_check import check_writable

        # Or what came of a message could not be written down, and it would go out again.
        again_if_lost(lambda: check_writable(database, now()))
        columns = database.messages.c.keys()
        chosen = router_of(settings.gateway, columns=columns, connections=settings.run.concurrency, now=now)
        async with chosen as gateway:
            yield gateway

    @cache
    def looks_up(message_type: MessageType) -> bool:
        from retrycli.gateway import router

        return router.looks_up(settings.gateway.of(message_type), message_type)

    return Dependencies(
        enrolment=Enrolment(database),
        claims=Claims(database),
        ledger=Ledger(database),
        open_gateway=open_gateway,
        emit=emit,
        now=now,
        sleep=asyncio.sleep,
        jitter=lambda: runtime.rng.uniform(-1, 1),
        stop_requested=runtime.stop_requested,
        looks_up=looks_up,
    )


def clock(database: Database, given: Callable[[], datetime]) -> Callable[[], datetime]:
    """The clock by which messages are due and claims lapse: a server's own, for its hosts' clocks may differ.

    A file has none, and a clock that was given is the caller's business.
    """
    if given is not utc_now:
        return given
    if database.is_sqlite:
        return never_set_back(utc_now)
    from retrycli.store.write_check import clock_ahead

    ahead = clock_ahead(database, utc_now)
    return never_set_back(lambda: utc_now() + ahead)


def never_set_back(
    now: Callable[[], datetime], elapsed: Callable[[], float] = time.monotonic
) -> Callable[[], datetime]:
    """A clock that goes on where another is set back: a pass would else wait for its deadline until that came again.

    Args:
        now: the other clock. Where that is set ahead, so is this one: the process may have stood still.
        elapsed: seconds, from whenever, that nobody sets.
    """
    at, began = now(), elapsed()
    return lambda: max(now(), at + timedelta(seconds=elapsed() - began))
