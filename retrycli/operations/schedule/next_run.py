"""Predict when the next pass begins, or explain why no pass begins."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from socket import gethostname

from retrycli.domain import schedule_grid
from retrycli.domain.cron_line import Caller
from retrycli.domain.passes import SCHEDULERS, PassRecord, StartedBy, is_late
from retrycli.operations.schedule.callers import stopped
from retrycli.system import systemd
from retrycli.system.host import named_zone, system_zone

BEGINS_WITHIN = timedelta(minutes=1)  # a pass has begun, and recorded it, this long after its tick

# The problem and the remedy if nothing but operators starts passes. The current user may not see another user's
# crontab.
UNCALLED = ("no cron line or timer found here starts passes", "see `retrycli cron install`")


def ticks_of(
    callers: Sequence[Caller],
    passes: Sequence[PassRecord],
    interval: timedelta,
    now: datetime,
    zone: tzinfo | None = None,
) -> schedule_grid.Ticks:
    """Return the grid on which the next passes begin.

    Passes started by hand are ignored.

    Args:
        callers: what starts the passes on this machine. Of several callers, the one that starts the next pass counts. A
            caller whose daemon is stopped starts nothing.
        passes: the newest passes, newest first. They determine the grid if the caller can't be read, or is on another
            host.
        interval: how often a pass should begin. It gives a grid by the clock if nothing else does.
        now: the time.
        zone: the time zone of cron and timers; by default the system's.
    """
    zone = zone or system_zone()
    latest = passes[: schedule_grid.PASSES_LOOKED_AT]
    starts = [record.started_at for record in latest if record.started_by in SCHEDULERS]
    at_work = [_ticks(caller, starts, now, zone) for caller in callers if caller.running is not False]
    if found := [ticks for ticks in at_work if ticks is not None]:
        return min(found, key=lambda ticks: ticks.next(now))
    return schedule_grid.grid(starts, interval) or schedule_grid.by_clock(interval, now, zone)


def _ticks(caller: Caller, starts: Sequence[datetime], now: datetime, zone: tzinfo) -> schedule_grid.Ticks | None:
    if caller.kind == "cron":
        return schedule_grid.by_cron(caller.when, now, named_zone(caller.zone) or zone)
    for when in caller.when.split(", "):
        line, span = systemd.as_cron(when), systemd.span(when)
        if line is not None:
            return schedule_grid.by_cron(line, now, zone)
        if span is not None and starts:
            return schedule_grid.Grid(starts[0], span)
    return None


def nothing_calls(
    callers: Sequence[Caller] | None,
    passes: Sequence[PassRecord],
    interval: timedelta,
    now: datetime,
    *,
    none_hidden: bool = False,
) -> tuple[str, str] | None:
    """Return the reason why nothing starts the next pass, and the remedy; None if something does, or may on another
    host.

    Args:
        callers: what starts the passes on this machine; None if it was not examined.
        passes: the newest passes, newest first.
        interval: how often a pass should begin.
        now: the time.
        none_hidden: no crontab of this machine starts any pass, and the current user can read all crontabs.
    """
    if callers:
        found = [stopped(caller) for caller in callers]
        return found[0] if all(found) else None
    if callers is None:
        return None
    recent = [record for record in passes if not is_late(record.started_at, now, interval)]
    others = [record for record in [*passes[:1], *recent] if record.started_by is not StartedBy.PERSON]
    here = (StartedBy.CRON, gethostname())
    is_gone = none_hidden and all((record.started_by, record.host) == here for record in others)
    return UNCALLED if is_gone or not others else None


def why_none_came(callers: Sequence[Caller] | None, now: datetime) -> str:
    """Explain why due passes may not have run, and say where to look. Only a log shows what cron rejects."""
    at_work = next((caller for caller in callers or () if caller.running), None)
    if at_work is None:
        return "cron may be stopped, or may refuse the user (PAM, cron.deny); see `journalctl -u cron`"
    if (tick := first_tick(at_work, now)) is not None:
        return f"cron or its line is newer than the last scheduled time; the first pass is at {tick:%Y-%m-%dT%H:%M:%SZ}"
    if at_work.kind == "timer":
        return f"the timer is running; see `journalctl -u {Path(at_work.title).with_suffix('.service').name}`"
    whose = at_work.user or at_work.owner
    fault = f"may refuse {whose} (PAM, cron.deny), or the cron line may fail"
    return f"cron runs, but {fault}; see `journalctl -u cron`, and {whose}'s mail"


def first_tick(caller: Caller, now: datetime, zone: tzinfo | None = None) -> datetime | None:
    """Return the first tick of a cron line since cron loaded it; None if a pass should have begun by now.

    Args:
        caller: what starts the passes.
        now: the time.
        zone: the time zone of cron; by default the system's.
    """
    if caller.kind != "cron" or caller.since is None:
        return None
    zone = named_zone(caller.zone) or zone or system_zone()
    if (line := schedule_grid.by_cron(caller.when, caller.since, zone)) is None:
        return None
    tick = line.next(caller.since).astimezone(UTC)
    return tick if now < tick + BEGINS_WITHIN else None
