"""The operator's desk: what is looked at and set between passes."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import takewhile
from socket import gethostname

from retrycli.config.settings import Settings
from retrycli.domain import incidents, schedule_grid
from retrycli.domain.circuit_breaker import Breaker
from retrycli.domain.delivery_stats import DeliveryStats, Group
from retrycli.domain.errors import LockUnusable
from retrycli.domain.filter import Filter
from retrycli.domain.grouping import GroupBy
from retrycli.domain.listing import EscalationGroup, ListedMessage, MessageDetails
from retrycli.domain.operator_action import OperatorAction
from retrycli.domain.pass_record import PassRecord, Pause, PauseRecord, is_late
from retrycli.domain.pass_summary import SCHEDULERS, PassResult, StopReason
from retrycli.operations import dry_run, schedule
from retrycli.operations.metrics import measured
from retrycli.operations.wiring import clock, lock_path, login_name, open_database, utc_now
from retrycli.store import listing
from retrycli.store.database import Database
from retrycli.store.delivery_stats import Statistics
from retrycli.store.escalations import escalation_groups
from retrycli.store.history import message_details
from retrycli.store.listing import Views
from retrycli.store.passes import Ledger
from retrycli.store.write_check import lack_of_room
from retrycli.system.host import Caller
from retrycli.system.pass_lock import Holder, PassLock
from retrycli.views.prometheus import Measured

LATELY = timedelta(days=7)
"""A host that has made no pass for so long makes none any more."""
NEARLY = timedelta(minutes=1)
"""A pass that began so long before a tick is that tick's."""
OFFERED = 50
"""So many messages are offered by a shell's completion at most."""
OFFER_WITHIN_SECONDS = 1


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
        callers: what calls them on this machine, as `retrycli.operations.schedule.callers_of` finds it. If it is None,
            the next run is told by the passes that a scheduler started, or by the clock.
        none_hidden: as `retrycli.operations.schedule.none_hidden` finds it.
        now: the clock.

    Raises:
        DatabaseUnavailable, ConfigurationError: as in `run_once`.
    """
    with open_database(settings) as database:
        ledger = Ledger(database)
        at = now()
        upto = at + schedule_grid.MAX_CLOCK_SKEW
        interval = timedelta(minutes=settings.schedule.retry_interval_minutes)
        passes = ledger.last_passes(incidents.LOOKBACK, until=upto)
        last = passes[0] if passes else None
        pause = ledger.pause(at)
        breakers = ledger.standing_breakers({each.base_url for each in settings.gateway.all.values()}, at)
        lost = _unrecorded(settings, ledger, passes)
        refusals = _refusals(settings, ledger, passes)
        disk = lack_of_room(database.file)
        messages = dry_run.counts(settings, database, at)
        failed = last is not None and last.reason == StopReason.FAULT
        refused = refusals or (last is not None and last.reason in incidents.REFUSED)
        down = bool(breakers or (refused and messages["waiting"]) or disk or failed or lost)
        late = last is not None and is_late(last.started_at, at, interval)
        uncalled = schedule.nothing_calls(callers, passes, interval, at, none_hidden=none_hidden)
        is_expected = (callers or last is not None) and uncalled is None and not late
        return Status(
            state=_state(last, late=late, paused=pause is not None, down=down),
            running=last is not None and not late and pause is None,
            now=at,
            last_pass=last,
            unrecorded=lost,
            hosts=[
                HostStatus(name, newest, is_late(newest, at, interval))
                for name, newest in ledger.hosts(at - LATELY, upto).items()
            ],
            next_run=_next_run(callers or (), passes, interval, at) if is_expected else None,
            missing=schedule.why_none_came(callers, at) if late and uncalled is None else None,
            uncalled=uncalled,
            unseen=callers is not None and not callers and _was_started_here(passes),
            retry_interval_minutes=settings.schedule.retry_interval_minutes,
            max_retries=settings.schedule.max_retries,
            messages=messages,
            breakers=breakers,
            refusals=refusals,
            disk=disk,
            pause=pause,
            lock=PassLock(lock_path(settings)).holder(),
        )


def _next_run(callers: Sequence[Caller], passes: Sequence[PassRecord], interval: timedelta, at: datetime) -> datetime:
    """When the next pass begins. One that began a little before its tick is that tick's."""
    grid = schedule.ticks_of(callers, passes, interval, at)
    number = grid.after(at)
    nearly = min(NEARLY, (grid[number + 1] - grid[number]) / 2)
    return grid.next(max([at, *(each.started_at + nearly for each in passes if each.started_by in SCHEDULERS)]))


def _was_started_here(passes: Sequence[PassRecord]) -> bool:
    """Tell whether the newest pass of a scheduler was made on this host."""
    newest = next((each for each in passes if each.started_by in SCHEDULERS), None)
    return newest is not None and newest.host == gethostname()


def _unrecorded(settings: Settings, ledger: Ledger, passes: Sequence[PassRecord]) -> frozenset[str]:
    """Return the passes of this host that ended although nobody recorded it: killed, or met by a full disk.

    The lock alone does not tell: for a server's database, another user's lock may be another file.
    """
    gone = [each for each in passes if each.result is None and each.host == gethostname() and not _runs(each.pid)]
    if not gone or PassLock(lock_path(settings)).holder() is not None:
        return frozenset()
    # One that has just ended recorded it after the passes were read, and before its process ended.
    open_still = {each.pass_id for each in ledger.last_passes(len(passes)) if each.result is None}
    return frozenset(each.pass_id for each in gone if each.pass_id in open_still)


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
    ended = frozenset(each.pass_id for each in passes if each.result is not None)
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
    used = {each.base_url for each in settings.gateway.all.values()}
    found = {to: each for to, each in ledger.refusals(passes).items() if to in used}
    return [Refusal(to, each.started_at, each.detail, _idle_since(each, passes)) for to, each in found.items()]


def _idle_since(earlier: PassRecord, passes: Sequence[PassRecord]) -> bool:
    """Tell whether all later passes had nothing to deliver."""
    later = takewhile(lambda each: each.pass_id != earlier.pass_id, passes)
    return all(each.result is PassResult.COMPLETED and not each.has_tried for each in later)


def _state(last: PassRecord | None, *, late: bool, paused: bool, down: bool) -> str:
    if paused:
        return "paused"
    if last is None:
        return "never_run"
    if late:
        return "late"
    return "down" if down else "ok"


@dataclass(frozen=True, slots=True)
class Listing:
    """Failed messages, to be gone through once, while the database is open."""

    messages: Iterator[ListedMessage]
    number: int
    """How many there are in the list."""
    total: Callable[[], int]
    """Counts how many there are in all."""


@contextmanager
def list_messages(
    settings: Settings, wanted: Filter, *, sort: str = "next", limit: int | None = None
) -> Iterator[Listing]:
    """Failed messages that a filter lets through. They are read as they are gone through, a page at a time.

    Raises:
        DatabaseUnavailable, ConfigurationError: as in `retrycli.run_once`.
    """
    with open_database(settings) as database:
        views = Views(database)
        ids = views.ids(wanted, sort=sort, limit=limit)
        yield Listing(views.pages(ids, wanted), len(ids), lambda: views.count(wanted))


def failed_beginning(settings: Settings, digits: str) -> list[tuple[int, object, object]]:
    """The newest failed messages whose ids begin with some digits, for a shell to offer: id, ticket, last error.

    Nothing is written, and nobody waits long for it.

    Raises:
        DatabaseUnavailable, ConfigurationError: as in `retrycli.run_once`.
    """
    hasty = Database(settings.database.url, settings.database.table, patience=OFFER_WITHIN_SECONDS)
    with closing(hasty) as database:
        return listing.failed_beginning(database, digits, limit=OFFERED)


def escalations(settings: Settings) -> list[EscalationGroup]:
    """What a person must look at: groups of one cause, the largest first. The messages are listed as others are.

    Raises:
        DatabaseUnavailable, ConfigurationError: as in `retrycli.run_once`.
    """
    with open_database(settings) as database:
        return escalation_groups(database)


def show(settings: Settings, message_id: int) -> MessageDetails:
    """One message with its text and its history.

    Raises:
        NoSuchMessage: there is no such row.
        DatabaseUnavailable, ConfigurationError: as in `retrycli.run_once`.
    """
    with open_database(settings) as database:
        found = message_details(database, message_id, body=True)
        running = {each.pass_id for each in found.attempts if each.outcome is None and each.pass_id is not None}
        return replace(found, ended=ended_passes(settings, Ledger(database), running))


def metrics(settings: Settings, *, now: Callable[[], datetime] = utc_now) -> Measured:
    """What there is to tell Prometheus.

    Raises:
        DatabaseUnavailable, ConfigurationError: as in `retrycli.run_once`.
    """
    with open_database(settings) as database:
        return measured(settings, database, now())


def last_passes(settings: Settings, *, limit: int) -> tuple[list[PassRecord], list[PauseRecord], frozenset[str]]:
    """Return the newest passes, newest first; the newest pauses and resumptions; and which passes ended unrecorded."""
    with open_database(settings) as database:
        ledger = Ledger(database)
        found = ledger.last_passes(limit)
        with suppress(LockUnusable):
            return found, ledger.pauses(limit), _unrecorded(settings, ledger, found)
        return found, ledger.pauses(limit), frozenset()


def stats(
    settings: Settings, by: GroupBy, *, span: timedelta, limit: int, now: Callable[[], datetime] = utc_now
) -> tuple[DeliveryStats, list[Group]]:
    """What came of the attempts of the last days: all figures, and the attempts by what they have in common.

    Errors have no groups of their own: `DeliveryStats.troubles` are just that.

    Raises:
        DatabaseUnavailable, ConfigurationError: as in `retrycli.run_once`.
    """
    until = now()
    with open_database(settings) as database:
        statistics = Statistics(database)
        figures = statistics.figures(until - span, until)
        return figures, [] if by is GroupBy.ERROR else statistics.groups(by, until - span, limit=limit)


def report(settings: Settings, *, span: timedelta, now: Callable[[], datetime] = utc_now) -> str:
    """The same and more as a page of HTML.

    Raises:
        DatabaseUnavailable: as in `retrycli.run_once`.
        ConfigurationError: that too; or Jinja2 is not installed.
    """
    from retrycli.operations import report

    until = now()
    state = status(settings, now=lambda: until).state
    with open_database(settings) as database:
        return report.page(settings, database, since=until - span, until=until, state=state)


def pause(
    settings: Settings,
    *,
    length: timedelta | None = None,
    reason: str | None = None,
    by: str | None = None,
    now: Callable[[], datetime] = utc_now,
) -> tuple[Pause, Pause | None]:
    """Hold deliveries back, for a time or until `resume`; return the pause, and the one in force that it replaces."""
    with open_database(settings) as database:
        at = clock(database, now)()
        wanted = Pause(at, None if length is None else at + length, by or login_name(), reason)
        ledger = Ledger(database)
        with database.transaction():
            replaced = ledger.pause(at)
            end = wanted.end if replaced is None else f"{wanted.end} (replaces {replaced.in_words})"
            ledger.set_pause(wanted, OperatorAction.paused(end, by=wanted.by, at=at))
    return wanted, replaced


def resume(settings: Settings, *, by: str | None = None, now: Callable[[], datetime] = utc_now) -> Pause | None:
    """End the pause that is in force, if any, and return it."""
    with open_database(settings) as database:
        ledger, at = Ledger(database), clock(database, now)()
        with database.transaction():
            ended = ledger.pause(at)
            act = None if ended is None else OperatorAction.resumed(ended.in_words, by=by or login_name(), at=at)
            ledger.set_pause(None, act)
    return ended
