"""Check what starts the passes, and that passes begin."""

from collections.abc import Iterator

from retrycli.domain.duration import in_words, utc_text
from retrycli.domain.outlook import NO_SCHEDULER
from retrycli.domain.passes import PassRecord, is_late
from retrycli.operations.doctor.context import CLOCK_TOLERANCE, Context, Finding, failure, ok, warning
from retrycli.operations.doctor.database import newest_passes
from retrycli.operations.schedule.next_run import Verdict, as_user, check, next_run
from retrycli.operations.setup import short_windows
from retrycli.store.database import Database


def calling(context: Context, database: Database | None) -> Iterator[Finding]:
    """Check retrycli's cron line and its user, and name other schedulers. With a database, check that passes begin."""
    passes = [] if database is None else newest_passes(database, until=context.now() + CLOCK_TOLERANCE)
    found = check(context.loaded, context.host, passes, context.now())
    yield _scheduler(context, found)
    for problem, remedy in found.warnings:
        yield warning("scheduler", problem, remedy)
    for block in found.blocks:
        if block.user != context.host.login:
            yield warning(
                "user",
                f"passes run as {block.user}, but doctor runs as {context.host.login}, whose permissions may differ",
                as_user(block.user, "doctor", context.loaded),
            )
    if database is not None:
        yield _cadence(context, database, passes)


def windows(context: Context) -> Iterator[Finding]:
    """Check that passes do not miss a delivery window. Report nothing if deliveries have no windows."""
    if context.settings.schedule.delivery_windows:
        problem = short_windows(context.settings)
        if problem is None:
            yield ok("windows", "each delivery window is at least as long as the interval between passes")
        else:
            yield warning("windows", problem, "lengthen the window, or start passes more often")


def _scheduler(context: Context, found: Verdict) -> Finding:
    own = [f"cron starts passes at {block.when} as {block.user}: {block.title}" for block in found.blocks]
    described = "; ".join([*own, *found.elsewhere])
    if found.problem is not None:
        problem, remedy = found.problem
        unread = f"; {found.unread}" if found.unread and not own else ""
        return failure("scheduler", f"{described}{'; but ' if described else ''}{problem}{unread}", remedy)
    if found.blocks and found.running is None:
        return warning(
            "scheduler",
            f"{described}; can't tell whether cron is running",
            f"run as root: {as_user('root', 'doctor', context.loaded)}",
        )
    return ok("scheduler", described)


def _cadence(context: Context, database: Database, passes: list[PassRecord]) -> Finding:
    now, interval = context.now(), context.settings.schedule.interval
    silence = next_run(context.settings, database, passes, now, context.host).silence
    if not passes and silence in {None, NO_SCHEDULER}:
        return warning("passes", "no pass has run yet", "`retrycli run-once`")
    if silence is not None:
        remedy = "see cron's log, the mail from cron, or the log of what else started them"
        return failure("passes", silence.words(utc_text), remedy)
    ago = f"the last one began {in_words(now - passes[0].started_at)} ago"
    wanted = f"there should be one every {in_words(interval)}"
    if is_late(passes[0].started_at, now, interval):
        return warning("passes", f"{ago}, but {wanted}", "run `retrycli cron check` to compare it with the schedule")
    return ok("passes", f"{ago}; {wanted}")
