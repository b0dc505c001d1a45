"""Connect the engine to its adapters, clock and randomness. Only this module chooses them."""

import asyncio
import hashlib
import os
import pwd
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path

from retrycli.config.settings import Settings
from retrycli.domain.duration import utc_text
from retrycli.domain.errors import ClockBehind, EventLoopRunning, again_if_lost
from retrycli.domain.message import MessageType
from retrycli.domain.passes import ClockWasAhead, Event
from retrycli.domain.sanitize import masked_url
from retrycli.domain.transition import Route
from retrycli.engine.ports import Dependencies, Gateway, PassRules
from retrycli.store import application_table, counters, own_tables, schema
from retrycli.store.claims import Claims
from retrycli.store.connection import BUSY_SECONDS
from retrycli.store.database import Database
from retrycli.store.enrolment import Enrolment
from retrycli.store.keys import Keys
from retrycli.store.messages import column_names
from retrycli.store.passes import Ledger
from retrycli.system import pass_lock, process
from retrycli.system.python_call import load
from retrycli.views import log_lines

# The folder for the lock files of server databases, if the user who runs the passes may write to it. The operator or
# systemd (StateDirectory=) creates the folder.
STATE_FOLDER = Path("/var/lib/retrycli")
EARLIEST = datetime(2025, 1, 1, tzinfo=UTC)  # a clock that shows an earlier time is wrong; each release may raise it


def utc_now() -> datetime:
    """Return the current time, aware and in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Runtime:
    """The clock, the randomness and the stop request of a pass. Tests supply their own."""

    now: Callable[[], datetime] = utc_now
    rng: random.Random = random.SystemRandom()  # noqa: RUF009  SystemRandom has no state, so it can be shared
    stop_requested: Callable[[], bool] = lambda: False


DEFAULT_RUNTIME = Runtime()


def connect(settings: Settings, *, patience: int = BUSY_SECONDS) -> Database:
    """Return the database that the settings name, without checking it. See `Database` for the patience and errors."""
    return Database(settings.database.url, settings.database.table, settings.database.mapping, patience=patience)


@contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """Open the database. Create retrycli's own tables, or upgrade them if ``database.auto_upgrade`` is set.

    Raises:
        DatabaseUnavailable: the database can't be opened, read or written.
        ConfigurationError: the settings name no database, the application's table can't be used, or retrycli's own
            tables have another version or belong to another table.
    """
    with closing(connect(settings)) as database:
        check_mapping(database)
        application_table.check_ids(database)  # before `_prepare`, so that an unrelated database gets no tables
        _prepare(settings, database)
        yield database


def check_mapping(database: Database) -> None:
    """Try the expressions and the values of statuses in the settings, if any, which the database may not accept.

    Raises:
        SchemaMismatch: one of them can't be used. The error names its setting.
        DatabaseUnavailable: the database can't be read.
    """
    if database.mapping is not None:
        from retrycli.store.mapping_check import check_expressions  # most tables need no mapping

        check_expressions(database)


def _prepare(settings: Settings, database: Database) -> None:
    """Create or upgrade retrycli's own tables. Number new failed messages whose keys are not integers; otherwise
    nothing could refer to them.
    """
    own_tables.ensure_tables(database, upgrade=settings.database.auto_upgrade)
    if database.table.key is not None:
        Keys(database).number_newest()


@contextmanager
def dry_run_database(settings: Settings, *, to_read: bool = False, one_transaction: bool = False) -> Iterator[Database]:
    """Open the database and roll back every write at the end.

    If the caller writes nothing (``to_read``), no transaction blocks other writers, unless retrycli's own tables must
    first be created or upgraded. With ``one_transaction``, all reads run in one transaction, and a write is an error.

    Raises:
        WriteNeeded: the caller writes, but may only read.
        DatabaseUnavailable, ConfigurationError: see `open_database`.
    """
    with closing(connect(settings)) as database:
        check_mapping(database)
        application_table.check_ids(database)
        ready = to_read and database.revision() == schema.HEAD
        with nullcontext() if ready and not one_transaction else database.rollback_at_end(writes=not ready):
            _prepare(settings, database)
            yield database


@contextmanager
def ready_to_send(
    settings: Settings,
    runtime: Runtime,
    listen: Callable[[Event], None] | None = None,
    *,
    limit: int | None = None,
    probe: bool = False,
    database: Database | None = None,
) -> Iterator[tuple[Dependencies, PassRules, Database]]:
    """Open the database unless it is given, and yield what deliveries need, if this process can deliver messages.

    Raises:
        DatabaseUnavailable: the database can't be opened, read or written.
        ConfigurationError: a setting or the application's table is wrong, a gateway has no base URL, or there are
            too few file descriptors.
        EventLoopRunning: this thread runs an event loop.
    """
    _refuse_running_loop()
    bounded = _with_affordable_concurrency(settings)
    rules = pass_rules(bounded, limit=limit, probe=probe)
    with nullcontext(database) if database else open_database(bounded) as opened, closing(log_lines.EventLog()) as log:

        def emit(event: Event) -> None:
            log(event)
            if listen is not None:
                listen(event)

        yield make_dependencies(bounded, opened, runtime, emit), rules, opened


def _with_affordable_concurrency(settings: Settings) -> Settings:
    wanted = settings.run.concurrency
    concurrency = process.affordable(wanted)
    if concurrency < wanted:
        log_lines.logger.info(
            "At most %d concurrent requests, not run.concurrency = %d: the file descriptor limit is too low",
            concurrency,
            wanted,
        )
    return settings.model_copy(update={"run": settings.run.model_copy(update={"concurrency": concurrency})})


def _refuse_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise EventLoopRunning(
        "an event loop is already running in this thread, but a delivery needs its own; "
        "call the function with `await asyncio.to_thread(FUNCTION, settings, …)`"
    )


def pass_rules(settings: Settings, *, limit: int | None = None, probe: bool = False, to_send: bool = True) -> PassRules:
    """Return the rules of a pass, from settings and options. No base URL is needed if nothing will be sent.

    Raises:
        ConfigurationError: a gateway has no base URL.
    """
    are_set = all(gateway.destination_if_set is not None for gateway in settings.gateway.all.values())
    routes = settings.gateway.routes if to_send or are_set else (Route(""),)
    return PassRules(
        destination=routes[-1].destination,
        routes=routes,
        policies=settings.policies,
        windows=settings.schedule.delivery_windows,
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
    )


def lock_path(settings: Settings, *, state: Path = STATE_FOLDER, home: Path | None = None) -> Path:
    """Return the lock file: the configured one, otherwise one beside the SQLite file, otherwise one in a state folder.

    The lock of a server database is in the system's state folder if that is writable, otherwise in the user's own. The
    path does not depend on the environment, because cron's differs from the operator's. The lock is in /tmp only if the
    user has no writable home: a service may have a private /tmp, and other users may create the file first.
    """
    if settings.run.lock_file is not None:
        return settings.run.lock_file
    if (file := settings.database.file) is not None:
        return file.with_name(f"{file.name}.retrycli.lock")
    # Everybody can see the name. With the password in it, they could try passwords.
    name = hashlib.sha256(masked_url(settings.database.url).encode()).hexdigest()[:12]
    if _is_writable(state):
        return state / f"{name}.lock"
    home = home or _home()
    own = home / pass_lock.OWN_STATE
    # The folder is created with the lock. Until then, check the nearest existing folder above it.
    nearest = next(folder for folder in (own, *own.parents) if os.access(folder, os.F_OK))
    if nearest.is_relative_to(home) and _is_writable(nearest):
        return own / f"{name}.lock"
    return Path("/tmp", f"retrycli-{os.getuid()}-{name}.lock")  # noqa: S108  opened without following links


def scheduler_lock_path(settings: Settings) -> Path:
    """Return the lock file of `retrycli.Scheduler`. The process that holds it makes the passes of this host."""
    path = lock_path(settings)
    return path.with_suffix(f".scheduler{path.suffix}")


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK) and folder.is_dir()


def _home() -> Path:
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return Path("/nonexistent")


def make_dependencies(
    settings: Settings, database: Database, runtime: Runtime, emit: Callable[[Event], None] = log_lines.log_event
) -> Dependencies:
    """Return the engine's dependencies: the database, the configured gateways, the clock and the randomness."""
    now = clock(database, runtime.now)

    def open_gateway() -> AbstractAsyncContextManager[Gateway]:
        from retrycli.gateway.router import open_router
        from retrycli.store.write_check import check_writable

        # If the database is not writable, an outcome can't be recorded, and its message would be sent again.
        again_if_lost(lambda: check_writable(database, now(), settings.schedule.largest_count))
        for call in settings.calls:
            load(*call)  # because a failure after a message was sent would be too late
        return open_router(
            settings.gateway, columns=column_names(database), connections=settings.run.concurrency, now=now
        )

    def repair_clock_skew(at: datetime, lease: timedelta, longest_wait: timedelta) -> ClockWasAhead | None:
        if not own_tables.is_clock_ahead(database, at):
            return None
        from retrycli.store import clock_repair

        return clock_repair.repair_clock_skew(database, at, lease, longest_wait)

    return Dependencies(
        database=database,
        enrolment=Enrolment(database),
        claims=Claims(database),
        ledger=Ledger(database),
        repair_clock_skew=repair_clock_skew,
        prune=partial(counters.prune, database),
        open_gateway=open_gateway,
        emit=emit,
        now=now,
        sleep=asyncio.sleep,
        jitter=lambda: runtime.rng.uniform(-1, 1),
        stop_requested=runtime.stop_requested,
        findable_requests=cache(partial(_findable_requests, settings)),
        require_accepted=partial(own_tables.require_accepted, database),
    )


def looks_up(settings: Settings, message_type: str) -> bool:
    """Return whether a message of a type that may have arrived is looked up before it is sent again.

    Raises:
        ConfigurationError: the preset is invalid.
    """
    return any(_findable_requests(settings, kind) for kind in MessageType if kind == message_type)


def _findable_requests(settings: Settings, kind: MessageType) -> str | None:
    from retrycli.gateway.presets.loader import findable_requests  # only a look-up, or a doubt, needs presets

    return findable_requests(settings.gateway.of(kind), kind)


def clock(database: Database, given: Callable[[], datetime]) -> Callable[[], datetime]:
    """Return the clock that decides when messages are due and claims expire.

    A database server's clock decides, because the clocks of its hosts may differ. With SQLite, this machine's clock
    decides. A clock that the caller passed is used unchanged.

    Raises:
        ClockBehind: the clock shows a time before `EARLIEST`.
    """
    if given is not utc_now:
        return given
    ahead = timedelta(0)
    if not database.is_sqlite:
        from retrycli.store.write_check import clock_ahead

        ahead = clock_ahead(database, utc_now)
    if (now := utc_now() + ahead) < EARLIEST:
        whose = "this machine" if database.is_sqlite else "the database server"
        raise ClockBehind(f"the clock of {whose} shows {utc_text(now)}, before this program was made; set it")
    return never_set_back((lambda: utc_now() + ahead) if ahead else utc_now)


def never_set_back(
    now: Callable[[], datetime], elapsed: Callable[[], float] = time.monotonic
) -> Callable[[], datetime]:
    """Return a clock that keeps running when ``now`` is set back. Otherwise, a pass would wait until ``now`` reached
    its old time again. The new clock follows if ``now`` jumps ahead, because the process may have been suspended.
    """
    at, began = now(), elapsed()
    return lambda: max(now(), at + timedelta(seconds=elapsed() - began))
