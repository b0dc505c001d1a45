"""Report scheduler health and queue counts, and list the passes."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from socket import gethostname

from retrycli.config.settings import Settings
from retrycli.domain import incidents
from retrycli.domain.circuit_breaker import Breaker
from retrycli.domain.cursor import PASSES, Cursor, pass_cursor
from retrycli.domain.delivery_window import DeliveryWindows
from retrycli.domain.errors import InvalidArgument, LockUnusable, RetrycliError
from retrycli.domain.outlook import MAX_CLOCK_SKEW, Silence
from retrycli.domain.passes import COUNTS, PassRecord, PassResult, Pause, PauseRecord, StartedBy, StopReason, is_late
from retrycli.operations import dry_run
from retrycli.operations.pause import ActiveHold, active_holds
from retrycli.operations.schedule.next_run import next_run
from retrycli.operations.wiring import connect, lock_path, open_database, utc_now
from retrycli.store import application_table, own_tables, schema
from retrycli.store.database import Database
from retrycli.store.passes import Ledger, refusing_destinations
from retrycli.store.write_check import lack_of_room
from retrycli.system.host import Host
from retrycli.system.pass_lock import Holder, PassLock

RETIRED_AFTER = timedelta(days=7)  # a host without a pass for this long counts as retired


@dataclass(frozen=True, slots=True)
class HostStatus:
    """A host that runs passes, and whether its next pass is late."""

    host: str
    started_at: datetime  # start of the host's newest pass
    late: bool


@dataclass(frozen=True, slots=True)
class WindowStatus:
    """Message types with the same delivery windows, and whether they are open."""

    types: list[str]
    open: bool
    next_opening: datetime | None  # None while the windows are open


@dataclass(frozen=True, slots=True)
class Refusal:
    """A destination that refused a pass's requests and has shown no sign of recovery since."""

    destination: str
    at: datetime  # start of the last pass whose requests were refused
    detail: str | None
    was_idle: bool  # nothing has been due since then


@dataclass(frozen=True, slots=True)
class Status:
    """The current state, as `status` shows it.

    Attributes:
        state: ``ok``, ``late``, ``paused``, ``down`` or ``never_run``. Down means that something prevents
            deliveries: the ticketing API is down, asked retrycli to wait or refuses the waiting messages, the last pass
            failed, the disk is full, or a pass ended without a record of its end and its messages are not recovered
            yet.
        running: passes are not late, and deliveries are not paused.
        last_pass: the newest pass that was not skipped. A skipped one says nothing about deliveries, and may hide that
            the pass which held the lock has failed.
        unrecorded: the passes of this host that were killed, or could not record their end in the database.
        next_run: the start of the next pass; None if no next run is known.
        silence: why no next run is known; None if one is.
        messages: counts of ``waiting`` (including the due ones), ``due``, ``sending`` and ``escalated`` messages.
            ``due`` counts the messages that a pass would send now. ``expired`` counts waiting messages that are too old
            to send, and ``expired_due`` the messages among them that a pass would escalate now.
        disk: the reason why the disk is too full for any delivery; None if it is not too full.
        unaccepted: the reason why passes send nothing until an operator accepts the settings of the table; None if
            they may send.
        left_out: the number of failed rows, among the newest, that do not meet ``database.where``.
    """

    state: str
    running: bool
    now: datetime
    last_pass: PassRecord | None
    unrecorded: frozenset[str]
    hosts: list[HostStatus]
    next_run: datetime | None
    silence: Silence | None
    retry_interval_minutes: float
    max_retries: int
    messages: dict[str, int]
    breakers: list[Breaker]
    refusals: list[Refusal]
    disk: str | None
    pause: Pause | None
    holds: list[ActiveHold]
    windows: list[WindowStatus]
    lock: Holder | None
    unaccepted: str | None
    left_out: int


def status(settings: Settings, *, host: Host | None = None, now: Callable[[], datetime] = utc_now) -> Status:
    """Return scheduler health, queue counts, and whatever prevents deliveries.

    Args:
        settings: the settings of the passes.
        host: this machine; None for the real one.
        now: the clock.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        return _status(settings, database, host, now())


def _status(settings: Settings, database: Database, host: Host | None, at: datetime) -> Status:
    ledger = Ledger(database)
    upto = at + MAX_CLOCK_SKEW
    interval = settings.schedule.interval
    passes = ledger.last_passes(incidents.LOOKBACK, until=upto)
    newest = passes[0] if passes else None
    last = next((record for record in passes if record.result is not PassResult.SKIPPED), newest)
    pause, holds = ledger.pause_and_holds(at)
    used = settings.gateway.destinations
    breakers = ledger.standing_breakers(used, at)
    refusals = _refusals(database, passes, used)
    disk = lack_of_room(database.file)
    unrecorded = _unrecorded(settings, ledger, passes)
    messages = dry_run.counts(settings, database, at)
    # Skipped passes show that a scheduler works, but not that any pass does.
    is_idle = last is not None and last.finished_at is not None and is_late(last.finished_at, at, interval)
    late = is_idle or (newest is not None and is_late(newest.started_at, at, interval))
    outlook = next_run(settings, database, passes, at, host)
    failed = last is not None and last.reason == StopReason.FAULT
    refused = messages["waiting"] and (refusals or (last is not None and last.reason in incidents.REFUSED))
    unaccepted = own_tables.objection_to(database)
    down = bool(breakers or refused or disk or failed or unrecorded or unaccepted)
    return Status(
        state=_state(last, late=late, paused=pause is not None, down=down),
        running=last is not None and not late and pause is None,
        now=at,
        last_pass=last,
        unrecorded=unrecorded,
        hosts=_hosts(ledger.hosts(at - RETIRED_AFTER, upto), passes, interval, at),
        next_run=outlook.next_run,
        silence=outlook.silence,
        retry_interval_minutes=settings.schedule.retry_interval_minutes,
        max_retries=settings.schedule.max_retries,
        messages=messages,
        breakers=breakers,
        refusals=refusals,
        disk=disk,
        pause=pause,
        holds=active_holds(settings, database, holds),
        windows=_window_states(settings, at),
        lock=PassLock(lock_path(settings)).holder(),
        unaccepted=unaccepted,
        left_out=_left_out(database),
    )


def _left_out(database: Database) -> int:
    if database.mapping is None:
        return 0
    from retrycli.store.mapping_check import count_left_out  # most tables need it not

    return count_left_out(database)


def _hosts(
    starts: Mapping[str, datetime], passes: Sequence[PassRecord], interval: timedelta, at: datetime
) -> list[HostStatus]:
    """Compare each host's newest pass with the interval. Of several hosts with an application, one makes each pass."""
    by_application = [record for record in passes if record.started_by is StartedBy.APPLICATION]
    newest = by_application[0].started_at if by_application else None
    shared = {record.host for record in by_application if starts.get(record.host) == record.started_at}
    return [
        HostStatus(host, began, is_late(newest if newest and host in shared else began, at, interval))
        for host, began in starts.items()
    ]


def _window_states(settings: Settings, at: datetime) -> list[WindowStatus]:
    types: dict[DeliveryWindows, list[str]] = {}
    for kind, windows in settings.schedule.delivery_windows.items():
        types.setdefault(windows, []).append(kind.value)
    return [
        WindowStatus(kinds, is_open := windows.is_open(at), None if is_open else windows.next_opening(at))
        for windows, kinds in types.items()
    ]


def _refusals(database: Database, passes: Sequence[PassRecord], used: Collection[str | None]) -> list[Refusal]:
    return [
        Refusal(to, refused.started_at, refused.detail, _idle_since(refused, passes))
        for to, refused in refusing_destinations(database, passes).items()
        if to in used
    ]


def _unrecorded(settings: Settings, ledger: Ledger, passes: Sequence[PassRecord]) -> frozenset[str]:
    """Return the passes of this host that were killed, or could not record their end in the database.

    A free lock is not enough evidence, because with a server database another user's lock may be a different file.
    """
    gone = [
        record
        for record in passes
        if record.result is None and record.host == gethostname() and not _is_running(record.pid)
    ]
    if not gone or PassLock(lock_path(settings)).holder() is not None:
        return frozenset()
    # A pass that has just ended may have recorded its end after the passes were read.
    open_still = {record.pass_id for record in ledger.last_passes(len(passes)) if record.result is None}
    return frozenset(record.pass_id for record in gone if record.pass_id in open_still)


def ended_passes(settings: Settings, ledger: Ledger, pass_ids: Collection[str]) -> frozenset[str]:
    """Return which of the given passes have ended, including passes of this host whose end was not recorded. Ignore ids
    that belong to no recent pass.
    """
    if not pass_ids:
        return frozenset()
    passes = ledger.last_passes(incidents.LOOKBACK)
    ended = frozenset(record.pass_id for record in passes if record.result is not None)
    with suppress(LockUnusable):
        ended |= _unrecorded(settings, ledger, passes)
    return ended & frozenset(pass_ids)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError) as error:
        return not isinstance(error, ProcessLookupError)
    return True


def _idle_since(earlier: PassRecord, passes: Sequence[PassRecord]) -> bool:
    later = takewhile(lambda record: record.pass_id != earlier.pass_id, passes)
    return all(
        record.result is PassResult.COMPLETED and not any(getattr(record, name) for name in COUNTS) for record in later
    )


def _state(last: PassRecord | None, *, late: bool, paused: bool, down: bool) -> str:
    if paused:
        return "paused"
    if last is None:
        return "never_run"
    if late:
        return "late"
    return "down" if down else "ok"


@dataclass(frozen=True, slots=True)
class PassList:
    """One page of the list of passes.

    Attributes:
        passes: the passes, newest first.
        pauses: the newest pauses and resumptions of deliveries, as many as the limit; on a later page, only those
            before the end of the previous page.
        unrecorded: the passes of this host that were killed, or could not record their end in the database.
        next: the cursor of the next page; None on the last page.
    """

    passes: list[PassRecord]
    pauses: list[PauseRecord]
    unrecorded: frozenset[str]
    next: str | None


def passes(settings: Settings, *, after: str | None = None, limit: int = 20) -> PassList:
    """Return one page of the passes, newest first.

    Args:
        settings: the settings of the passes.
        after: `PassList.next` of the previous page; None for the first page.
        limit: the maximum number of passes, at least 1.

    Raises:
        InvalidArgument: the cursor is invalid, or the limit is not positive.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    if limit < 1:
        raise InvalidArgument(f"limit must be at least 1: {limit}")
    end = None if after is None else pass_cursor(after)
    unrecorded = frozenset[str]()
    with open_database(settings) as database:
        ledger = Ledger(database)
        found = ledger.last_passes(limit + 1) if end is None else ledger.passes_after(end.value, end.key, limit + 1)
        shown = found[:limit]
        with suppress(LockUnusable):
            unrecorded = _unrecorded(settings, ledger, shown)
        rest = str(Cursor(PASSES, shown[-1].started_at, shown[-1].pass_id)) if len(found) > limit else None
        pauses = ledger.pauses(limit, until=None if end is None else end.value)
        return PassList(shown, pauses, unrecorded, rest)


def is_ready(settings: Settings) -> bool:
    """Return whether the database and the application's table can be read, and retrycli's tables fit. Write nothing."""
    try:
        with closing(connect(settings)) as database:
            application_table.check_ids(database)
            return database.revision() in {None, schema.HEAD}  # without tables, the first command creates them
    except RetrycliError:
        return False
