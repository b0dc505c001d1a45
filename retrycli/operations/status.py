"""The operator's desk: what is looked at and set between passes."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from socket import gethostname
from typing import NamedTuple

from retrycli.config.settings import Settings
from retrycli.domain import incidents, schedule_grid
from retrycli.domain.circuit_breaker import Breaker
from retrycli.domain.errors import LockUnusable
from retrycli.domain.pass_record import PassRecord, Pause, PauseRecord, is_late
from retrycli.domain.pass_summary import SCHEDULERS, PassResult, StopReason
from retrycli.operations import dry_run
from retrycli.operations.schedule import next_run
from retrycli.operations.wiring import lock_path, open_database, utc_now
from retrycli.store.database import Database
from retrycli.store.ledger import Ledger
from retrycli.store.write_check import lack_of_room
from retrycli.system.crontab import Caller
from retrycli.system.pass_lock import Holder, PassLock

LATELY = timedelta(days=7)
"""A host that has made no pass for so long makes none any more."""
NEARLY = timedelta(minutes=1)
"""A pass that began so long before a tick is that tick's."""


@dataclass(frozen=True, slots=True)
class HostStatus:
    """A machine that makes passes."""

    host: str
    started_at: datetime
    """When its newest pass began."""
    late: bool
    """Whether that is too long ago: two intervals and five minutes, or longer."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A destination that refused us, and has taken nothing since."""

    destination: str
    at: datetime
    """When the last pass began that it refused."""
    detail: str | None
    was_idle: bool
    """Whether there was nothing to deliver since."""


@dataclass(frozen=True, slots=True)
class Status:
    """What is happening, as `status` tells it."""

    state: str
    """``ok``, ``late``, ``paused``, ``down`` or ``never_run``.

    It is down if nothing can be delivered until somebody does something: the ticketing API is down, or refuses what
    waits; the last pass failed; the disk is full; a pass ended unrecorded, and its messages are not taken back yet.
    """
    running: bool
    """Whether the scheduler is alive: not paused, and the newest pass began not too long ago."""
    now: datetime
    last_pass: PassRecord | None
    unrecorded: frozenset[str]
    """The passes that ended although nobody recorded it: see `_unrecorded`."""
    hosts: list[HostStatus]
    """Those that have made a pass lately."""
    next_run: datetime | None
    """None if nothing calls one, or if they have stopped coming."""
    missing: str | None
    """Why none may have come, if the newest began too long ago, and where that shows."""
    uncalled: tuple[str, str] | None
    """Why nothing calls the next pass, and the remedy; None if something does, or may on another host."""
    unseen: bool
    """Whether nothing was found that calls the passes, though cron or a timer of this host started them so far."""
    retry_interval_minutes: float
    max_retries: int
    messages: dict[str, int]
    """Counts of ``waiting`` (the due ones included), ``due``, ``sending`` and ``escalated`` messages.

    Due is what a pass would send if it began now. ``expired`` are waiting messages that are too old to be sent, and
    ``expired_due`` those of them that a pass would escalate if it began now.
    """
    breakers: list[Breaker]
    refusals: list[Refusal]
    disk: str | None
    """That the disk is too full for any delivery; None if it is not."""
    pause: Pause | None
    lock: Holder | None
    """Who holds the pass lock just now."""


def status(
    settings: Settings,
    *,
    callers: Sequence[Caller] | None = None,
    none_hidden: bool = False,
    now: Callable[[], datetime] = utc_now,
) -> Status:
    """What is happening.

    Args:
        settings: which passes.
        callers: what calls them on this machine, as `callers_of` finds it. If it is None, the next run is told by the
            passes that a scheduler started, or by the clock.
        none_hidden: as `retrycli.operations.schedule.callers.none_hidden` finds it.
        now: the clock.

    Raises:
        DatabaseUnavailable, ConfigurationError: as in `run_once`.
    """
    with open_database(settings) as database:
        return _status(settings, database, callers, now(), none_hidden=none_hidden)


def _status(
    settings: Settings, database: Database, callers: Sequence[Caller] | None, at: datetime, *, none_hidden: bool
) -> Status:
    ledger = Ledger(database)
    upto = at + schedule_grid.CLOCKS_DIFFER
    interval = timedelta(minutes=settings.schedule.retry_interval_minutes)
    passes = ledger.last_passes(incidents.LOOKBACK, until=upto)
    last = passes[0] if passes else None
    hosts = ledger.hosts(at - LATELY, upto)
    pause = ledger.pause(at)
    obstacles = _obstacles(settings, database, passes, at)
    messages = dry_run.counts(settings, database, at)
    late = last is not None and is_late(last.started_at, at, interval)
    uncalled = next_run.nothing_calls(callers, passes, interval, at, none_hidden=none_hidden)
    is_expected = (callers or last is not None) and uncalled is None and not late
    down = obstacles.is_down(last, messages["waiting"])
    return Status(
        state=_state(last, late=late, paused=pause is not None, down=down),
        running=last is not None and not late and pause is None,
        now=at,
        last_pass=last,
        unrecorded=obstacles.unrecorded,
        hosts=[HostStatus(name, began, is_late(began, at, interval)) for name, began in hosts.items()],
        next_run=_next_run(callers or (), passes, interval, at) if is_expected else None,
        missing=next_run.why_none_came(callers, at) if late and uncalled is None else None,
        uncalled=uncalled,
        unseen=callers is not None and not callers and _was_started_here(passes),
        retry_interval_minutes=settings.schedule.retry_interval_minutes,
        max_retries=settings.schedule.max_retries,
        messages=messages,
        breakers=obstacles.breakers,
        refusals=obstacles.refusals,
        disk=obstacles.disk,
        pause=pause,
        lock=PassLock(lock_path(settings)).holder(),
    )


class _Obstacles(NamedTuple):
    """What keeps messages from being delivered."""

    breakers: list[Breaker]
    refusals: list[Refusal]
    disk: str | None
    unrecorded: frozenset[str]

    def is_down(self, last: PassRecord | None, waiting: int) -> bool:
        """Return whether nothing can be delivered until somebody acts."""
        failed = last is not None and last.reason == StopReason.FAULT
        refused = self.refusals or (last is not None and last.reason in incidents.REFUSED)
        return bool(self.breakers or (refused and waiting) or self.disk or failed or self.unrecorded)


def _obstacles(settings: Settings, database: Database, passes: Sequence[PassRecord], at: datetime) -> _Obstacles:
    ledger = Ledger(database)
    destinations = {gateway.base_url for gateway in settings.gateway.all.values()}
    breakers = ledger.standing_breakers(destinations, at)
    unrecorded = _unrecorded(settings, ledger, passes)
    return _Obstacles(breakers, _refusals(settings, ledger, passes), lack_of_room(database.file), unrecorded)


def _next_run(callers: Sequence[Caller], passes: Sequence[PassRecord], interval: timedelta, at: datetime) -> datetime:
    """When the next pass begins. One that began a little before its tick is that tick's."""
    grid = next_run.ticks_of(callers, passes, interval, at)
    number = grid.after(at)
    nearly = min(NEARLY, (grid[number + 1] - grid[number]) / 2)
    return grid.next(max([at, *(record.started_at + nearly for record in passes if record.started_by in SCHEDULERS)]))


def _was_started_here(passes: Sequence[PassRecord]) -> bool:
    """Tell whether the newest pass of a scheduler was made on this host."""
    newest = next((record for record in passes if record.started_by in SCHEDULERS), None)
    return newest is not None and newest.host == gethostname()


def _unrecorded(settings: Settings, ledger: Ledger, passes: Sequence[PassRecord]) -> frozenset[str]:
    """Return the passes of this host that ended although nobody recorded it: killed, or met by a full disk.

    The lock alone does not tell: for a server's database, another user's lock may be another file.
    """
    gone = [
        record for record in passes if record.result is None and record.host == gethostname() and not _runs(record.pid)
    ]
    if not gone or PassLock(lock_path(settings)).holder() is not None:
        return frozenset()
    # One that has just ended recorded it after the passes were read, and before its process ended.
    open_still = {record.pass_id for record in ledger.last_passes(len(passes)) if record.result is None}
    return frozenset(record.pass_id for record in gone if record.pass_id in open_still)


def ended_passes(settings: Settings, ledger: Ledger, pass_ids: Collection[str]) -> frozenset[str]:
    """Return which of some passes are known to have ended, recorded or not.

    Args:
        settings: which passes.
        ledger: where passes are recorded.
        pass_ids: the passes; what is not the id of a recent pass is left out.
    """
    if not pass_ids:
        return frozenset()
    passes = ledger.last_passes(incidents.LOOKBACK)
    ended = frozenset(record.pass_id for record in passes if record.result is not None)
    with suppress(LockUnusable):
        ended |= _unrecorded(settings, ledger, passes)
    return ended & frozenset(pass_ids)


def pass_runs(settings: Settings) -> bool:
    """Return whether a pass is under way on this host."""
    with suppress(LockUnusable):
        return PassLock(lock_path(settings)).holder() is not None
    return False


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _refusals(settings: Settings, ledger: Ledger, passes: Sequence[PassRecord]) -> list[Refusal]:
    used = {gateway.base_url for gateway in settings.gateway.all.values()}
    found = {to: record for to, record in ledger.refusals(passes).items() if to in used}
    return [
        Refusal(to, refused.started_at, refused.detail, _idle_since(refused, passes)) for to, refused in found.items()
    ]


def _idle_since(earlier: PassRecord, passes: Sequence[PassRecord]) -> bool:
    """Tell whether all later passes had nothing to deliver."""
    later = takewhile(lambda record: record.pass_id != earlier.pass_id, passes)
    return all(record.result is PassResult.COMPLETED and not record.has_tried for record in later)


def _state(last: PassRecord | None, *, late: bool, paused: bool, down: bool) -> str:
    if paused:
        return "paused"
    if last is None:
        return "never_run"
    if late:
        return "late"
    return "down" if down else "ok"


def last_passes(settings: Settings, *, limit: int) -> tuple[list[PassRecord], list[PauseRecord], frozenset[str]]:
    """Return the newest passes, newest first; the newest pauses and resumptions; and which passes ended unrecorded."""
    with open_database(settings) as database:
        ledger = Ledger(database)
        found = ledger.last_passes(limit)
        with suppress(LockUnusable):
            return found, ledger.pauses(limit), _unrecorded(settings, ledger, found)
        return found, ledger.pauses(limit), frozenset()
