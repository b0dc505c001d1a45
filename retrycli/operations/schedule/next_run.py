"""Predict the next run for all commands, endpoints and pages, and check the cron line that starts passes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from datetime import datetime, timedelta
from itertools import pairwise
from socket import gethostname
from typing import NamedTuple

from retrycli.config.loader import Loaded
from retrycli.config.settings import Settings
from retrycli.domain import cron_line, outlook, suggested
from retrycli.domain.duration import utc_text
from retrycli.domain.errors import ConfigurationError, LockUnusable
from retrycli.domain.outlook import MAX_CLOCK_SKEW, Outlook, Sight
from retrycli.domain.passes import LATE_AFTER_INTERVALS, PassRecord, StartedBy
from retrycli.operations.schedule.installation import job
from retrycli.operations.wiring import connect, pass_rules, scheduler_lock_path
from retrycli.store import schema
from retrycli.store.database import Database
from retrycli.store.own_tables import has_live_pass
from retrycli.store.passes import Ledger
from retrycli.system import crontab
from retrycli.system.host import Asker, Host, system_zone
from retrycli.system.pass_lock import Holder, PassLock

LOOK_BACK = 50  # number of passes from which `cron check`, `cron install` and doctor see what starts passes
MINUTE = timedelta(minutes=1)
STARTERS = {
    StartedBy.CRON: "cron",
    StartedBy.TIMER: "a timer",
    StartedBy.LIBRARY: "an application",
    StartedBy.APPLICATION: "an application",
    StartedBy.UNKNOWN: "an unknown scheduler",
}
CRON_IS_DOWN = ("cron is not running on this machine", "start the service `cron` or `crond`")


def next_run(
    settings: Settings, database: Database, passes: Sequence[PassRecord], now: datetime, host: Host | None = None
) -> Outlook:
    """Return when the next pass begins, or why no next run is known. The passes are the last ones, newest first."""
    host = host or Host(run=Asker())
    unfinished = any(record.result is None for record in outlook.counted(passes))
    sight = Sight(
        now=now,
        interval=settings.schedule.interval,
        zone=system_zone(host.root),
        host=gethostname(),
        booted=now - host.uptime(),
        block=next(crontab.blocks(host, settings.file), None),
        application=_application(settings).since,
        at_work=unfinished and has_live_pass(database, now - pass_rules(settings).lease),
    )
    return outlook.look(sight, passes)


def _application(settings: Settings) -> Holder:
    """Return the process on this host that makes passes with `retrycli.Scheduler`. Without one, all fields are None."""
    with suppress(LockUnusable):  # another user's application
        return PassLock(scheduler_lock_path(settings)).holder() or Holder()
    return Holder()


def recorded(settings: Settings, now: datetime) -> list[PassRecord]:
    """Return the last passes; an empty list if retrycli's tables are missing or have another version.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database can't be used.
    """
    with closing(connect(settings)) as database:
        ready = database.revision() == schema.HEAD
        return Ledger(database).last_passes(LOOK_BACK, until=now + MAX_CLOCK_SKEW) if ready else []


def began_here(settings: Settings, host: Host, passes: Sequence[PassRecord], now: datetime) -> str | None:
    """Describe the passes that began on this host lately and not from the cron line to install; None if none did. If
    the crontab already has such a line, the starts by cron come from it.
    """
    if (application := _application(settings)).pid is not None:
        return f"the application with pid {application.pid} makes passes on this host; then two schedulers start passes"
    own = {StartedBy.CRON} if any(crontab.blocks(host, settings.file)) else frozenset()
    lately = ", ".join(
        f"{utc_text(record.started_at)} ({record.started_by})"
        for record in outlook.counted(passes)
        if record.host == gethostname()
        and record.started_at > now - LATE_AFTER_INTERVALS * settings.schedule.interval
        and record.started_by not in own
    )
    if not lately:
        return None
    return (
        f"passes have begun on this host lately, and not from this cron line: {lately}. Unless what started them has "
        "been removed, two schedulers will start passes"
    )


class Verdict(NamedTuple):
    """What starts passes with these settings, and what is wrong with it."""

    blocks: list[cron_line.Block]  # retrycli's own blocks in crontabs of this host
    running: bool | None  # cron's daemon is active; None if unknown
    unread: str | None  # why a crontab can't be read
    problem: tuple[str, str] | None  # what is wrong, and the remedy
    warnings: list[tuple[str, str]]  # what an operator should know, with the remedies
    elsewhere: list[str]  # sentences about passes that do not come from these blocks


def check(loaded: Loaded, host: Host, passes: Sequence[PassRecord], now: datetime) -> Verdict:
    """Check the cron line of this host, and name other schedulers that started the last passes, newest first."""
    settings, unread = loaded.settings, list[str]()
    found = [*crontab.blocks(host, settings.file, unread)]
    running = crontab.cron_is_running(host) if found else None
    names = [
        (each.starter, each.host)
        for each in outlook.series_of(passes, settings.schedule.interval)
        if each.is_recent(now) and not (found and each.starter is StartedBy.CRON and each.host == gethostname())
    ]
    application = _application(settings)
    if application.pid is not None and all(starter != StartedBy.APPLICATION for starter, _ in names):
        names.append((StartedBy.APPLICATION, f"{application.host} (pid {application.pid})"))
    words = "passes also come from {} on {}" if found else "passes come from {} on {}, not from a block of retrycli's"
    match found:
        case [] if names:
            problem = None
        case []:
            problem = outlook.NO_SCHEDULER.sentence, f"run {to_install(loaded, host)}"
        case [_] if running is False:
            problem = CRON_IS_DOWN
        case [block]:
            wrong = _difference(block, loaded, host)
            problem = None if wrong is None else (f"{block.title}: {wrong}", "run `retrycli cron install`")
        case _:
            places = " and ".join(block.title for block in found)
            problem = f"{places} both start passes", "keep one: `retrycli cron remove` removes both"
    told = [words.format(STARTERS[starter], place) for starter, place in names]
    return Verdict(found, running, "; ".join(unread) or None, problem, _twice(passes, settings), told)


def _difference(block: cron_line.Block, loaded: Loaded, host: Host) -> str | None:
    """Return how a block differs from what `cron install` would write for its user; None if it does not."""
    try:
        wanted = job(loaded, host, user=block.user, system=block.system)
        text, when = cron_line.block(wanted), cron_line.schedule(wanted.interval)
    except ConfigurationError as error:
        return str(error)
    if block.when != when:
        return (
            f"it starts passes at {block.when or 'its own times'}, but schedule.retry_interval_minutes requires {when}"
        )
    return None if block.text == text else f"its command should be: {cron_line.command(wanted)}"


def _twice(passes: Sequence[PassRecord], settings: Settings) -> list[tuple[str, str]]:
    """Warn about a host on which the last two passes began at the same time."""
    by_host: dict[str, list[PassRecord]] = {}
    for record in outlook.counted(passes):
        by_host.setdefault(record.host, []).append(record)
    return [
        (
            f"two passes began on {host} within a minute, at {utc_text(later.started_at)} (by {later.started_by} and "
            f"{earlier.started_by}), so two schedulers start passes there",
            "keep only one of them",
        )
        for host, records in by_host.items()
        for later, earlier in pairwise(records[:2])
        if later.started_at - earlier.started_at < min(MINUTE, settings.schedule.interval / 2)
    ]


def to_install(loaded: Loaded, host: Host) -> str:
    """Return the command that schedules the passes, in backticks. Unless this command was itself run through sudo, also
    suggest the user's own crontab, because the user may lack permission to use sudo.
    """
    if host.uid == 0:
        return "`retrycli cron install`"
    by_root = as_user("root", "cron install", loaded)
    return by_root if suggested.is_by_sudo() else f"{by_root}, or, for your own crontab, `retrycli cron install --user`"


def as_user(user: str, command: str, loaded: Loaded) -> str:
    """Return a command that another user runs with these settings, in backticks."""
    file = loaded.settings.file
    return suggested.as_user(user, command, None if file is None else str(file))
