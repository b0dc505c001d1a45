"""Check what starts the passes, and that passes run."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from socket import gethostname
from statistics import median

from retrycli.domain import cron_line
from retrycli.domain.duration import in_words
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.passes import SCHEDULERS, PassRecord, StartedBy, is_late
from retrycli.operations.doctor.context import CLOCK_TOLERANCE, Context, Finding, failure, ok, warning
from retrycli.operations.doctor.database import newest_passes
from retrycli.operations.schedule.applications import beside_application, why_gone
from retrycli.operations.schedule.callers import (
    as_user,
    callers_for,
    callers_of,
    check,
    none_hidden,
    stopped,
    to_install,
    to_read,
    unread,
    why_late,
    why_not_scheduled,
)
from retrycli.operations.setup import short_windows
from retrycli.store.database import Database
from retrycli.system import systemd

UNEVEN = 1.5  # maximum factor by which the usual interval of passes may be above or below the configured interval


def calling(context: Context, database: Database | None) -> Iterator[Finding]:
    """Check that exactly one cron line, timer or application starts passes, and that it runs them as this user. If the
    database can be read, also check that passes run as often as they should.
    """
    passes = [] if database is None else newest_passes(database, until=context.now() + CLOCK_TOLERANCE)
    is_named = context.loaded.file is not None
    callers = callers_of(context.loaded, context.host) + ([] if is_named else callers_for(None, context.host, {}))
    missed = unread(context.host)
    match callers:
        case []:
            yield _no_caller(context, passes, missed)
        case [one]:
            yield _one_caller(context, one)
            if one.user is not None and one.user != context.host.login:
                yield warning(
                    "user",
                    f"passes run as {one.user}, but doctor runs as {context.host.login}, whose permissions may differ",
                    as_user(one.user, "doctor", context.loaded),
                )
        case several:
            kinds = {caller.kind for caller in several}
            if "application" in kinds:
                yield warning("scheduler", *beside_application(several))
            else:
                who = "both cron and a timer start" if len(kinds) > 1 else f"{len(several)} {kinds.pop()} entries start"
                yield warning(
                    "scheduler",
                    f"{who} passes: {', '.join(caller.place for caller in several)}",
                    "keep only one of them; `retrycli cron remove` removes any that retrycli installed",
                )
            for why in dict.fromkeys(stopped(caller) for caller in several):
                if why is not None:
                    yield failure("scheduler", *why)
    if missed is not None and callers:
        yield warning(
            "scheduler",
            f"{missed}, which may also start passes",
            to_read(context.loaded, context.host, "doctor"),
        )
    if database is not None:
        yield _cadence(context, callers, passes)


def windows(context: Context) -> Iterator[Finding]:
    """Check that passes do not miss a delivery window. Report nothing if deliveries have no windows."""
    if context.settings.schedule.delivery_windows:
        problem = short_windows(context.settings)
        if problem is None:
            yield ok("windows", "each delivery window is at least as long as the interval between passes")
        else:
            yield warning("windows", problem, "lengthen the window, or start passes more often")


def _no_caller(context: Context, passes: list[PassRecord], missed: str | None) -> Finding:
    """Report that no cron line or timer was found. The level depends on whether, where and how passes run."""
    if (gone := why_gone(passes, context.interval, context.now())) is not None:
        return failure("scheduler", *gone)
    words = "no cron line or timer that starts passes was found on this machine"
    unread = f"{context.host.login} can't read other users' crontabs, such as root's" if context.host.uid != 0 else None
    hidden = missed or unread
    passes = [record for record in passes if record.started_by is not StartedBy.PERSON]
    last = passes[0] if passes else None
    is_known = any(record.started_by in SCHEDULERS and not _is_late(context, record) for record in passes)
    if last is None or _is_late(context, last) or not (is_known or _is_steady(context, _usual_interval(passes))):
        if missed is not None:
            words = f"no readable cron line or timer starts passes; {missed}"
            return failure("scheduler", words, to_read(context.loaded, context.host, "doctor"))
        words += f"; {unread}" if unread else ""
        return failure("scheduler", words, to_install(context.loaded, context.host))
    words += f", but passes do run; the last one ran on {last.host}"
    if last.started_by is StartedBy.APPLICATION:
        return ok("scheduler", f"{words} in an application (pid {last.pid})")
    if last.host != gethostname() or last.started_by not in SCHEDULERS:
        return ok("scheduler", words)
    if hidden is not None:
        return warning("scheduler", f"{words}; {hidden}", to_read(context.loaded, context.host, "doctor"))
    install = to_install(context.loaded, context.host)
    all_seen = none_hidden(context.host)
    if why_not_scheduled([], passes, context.interval, context.now(), none_hidden=all_seen) is not None:
        return failure("scheduler", f"{words}, from a cron line that no longer exists", install)
    return warning("scheduler", words, f"if the cron line or timer was removed: {install}")


def _one_caller(context: Context, caller: cron_line.Caller) -> Finding:
    if caller.kind == "application":
        return ok("scheduler", f"an application makes the passes {caller.when}: {caller.place}")
    words = f"{caller.kind} starts passes at {caller.when}: {caller.place}"
    if (why := stopped(caller)) is not None:
        return failure("scheduler", f"{words}; but {why[0]}", why[1])
    try:
        objection = next((caller.objection for caller in check(context.loaded, context.host).callers), None)
    except ConfigurationError:
        objection = None  # the check `settings` reports this error
    if objection is None and caller.running is None:
        return warning(
            "scheduler",
            f"{words}; can't tell whether the scheduler is running",
            f"run as root: {as_user('root', 'doctor', context.loaded)}",
        )
    if objection is None:
        return ok("scheduler", words)
    return warning("scheduler", f"{words}; {objection}", "`retrycli cron check`")


def _cadence(context: Context, callers: list[cron_line.Caller], passes: list[PassRecord]) -> Finding:
    """Check that passes run as often as they should. Passes that were started by hand count only if there are no
    others.
    """
    newest = passes[:1]
    passes = [record for record in passes if record.started_by is not StartedBy.PERSON] or passes
    wanted = in_words(context.interval)
    if not passes:
        return warning("passes", "no pass has run yet", "`retrycli run-once`")
    which = "the last one"
    if passes[:1] != newest:
        is_known = passes[0].started_by in SCHEDULERS
        which += " that a scheduler started" if is_known else " not started by an operator"
    ago = f"{which} began {in_words(context.now() - passes[0].started_at)} ago"
    if _is_late(context, passes[0]):
        gone = None if callers else why_gone(passes, context.interval, context.now())
        return failure(
            "passes",
            f"{ago}, but there should be one every {wanted}",
            why_late(callers, context.interval, context.now()) if gone is None else gone[1],
        )
    usual = _usual_interval(passes)
    if usual is None or _is_steady(context, usual):
        return ok("passes", f"{ago}; there should be one every {wanted}")
    words = f"passes have run every {in_words(usual)}, but schedule.retry_interval_minutes says {wanted}"
    remedy = "run `retrycli cron check` to compare the schedule with this setting"
    if (when := _configured_schedule(context, callers)) is not None:
        remedy = f"do nothing if you have just changed the schedule: it now starts passes at {when}, as configured"
    return warning("passes", words, remedy)


def _configured_schedule(context: Context, callers: list[cron_line.Caller]) -> str | None:
    if len(callers) != 1:
        return None
    try:
        wanted = cron_line.schedule(context.interval) if callers[0].kind == "cron" else systemd.when(context.interval)
    except ConfigurationError:
        return None
    return wanted if callers[0].when == wanted else None


def _usual_interval(passes: list[PassRecord]) -> timedelta | None:
    """Return the median interval between passes; None if there are fewer than three passes."""
    gaps = [(later.started_at - earlier.started_at).total_seconds() for later, earlier in pairwise(passes)]
    return timedelta(seconds=median(gaps)) if len(gaps) > 1 else None


def _is_steady(context: Context, usual: timedelta | None) -> bool:
    return usual is not None and context.interval / UNEVEN <= usual <= context.interval * UNEVEN


def _is_late(context: Context, last: PassRecord) -> bool:
    return is_late(last.started_at, context.now(), context.interval)
