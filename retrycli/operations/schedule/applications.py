"""Find the application that makes the passes in its own process, with `retrycli.Scheduler`."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from retrycli.config.settings import Settings
from retrycli.domain.cron_line import Caller
from retrycli.domain.duration import in_words, utc_text
from retrycli.domain.errors import LockUnusable
from retrycli.domain.passes import PassRecord, StartedBy, is_late
from retrycli.system.host import owner_of
from retrycli.system.pass_lock import PassLock


def applications(settings: Settings) -> list[Caller]:
    """Return the application on this machine whose `retrycli.Scheduler` makes the passes, if any. It holds a lock."""
    from retrycli.operations.wiring import scheduler_lock_path  # lazy, because only this function needs the database

    path = scheduler_lock_path(settings)
    try:
        holder = PassLock(path).holder()
    except LockUnusable:
        return []  # another user's application
    if holder is None:
        return []
    user = owner_of(path)
    return [
        Caller(
            kind="application",
            title=f"pid {holder.pid} on {holder.host}",
            line=None,
            when=f"every {in_words(settings.schedule.interval)}",
            command="retrycli.Scheduler",
            config=None,
            user=user,
            installed=False,
            owner=user or "root",
            running=True,
            since=holder.since,
        )
    ]


def last_of_application(passes: Sequence[PassRecord]) -> PassRecord | None:
    """Return the newest pass that no operator started, if an application's scheduler made it."""
    newest = next((record for record in passes if record.started_by is not StartedBy.PERSON), None)
    return newest if newest is not None and newest.started_by is StartedBy.APPLICATION else None


def why_gone(passes: Sequence[PassRecord], interval: timedelta, now: datetime) -> tuple[str, str] | None:
    """Return that the application that made the passes has stopped making them, and the remedy; None if no application
    made the newest pass, or if it is not late.
    """
    last = last_of_application(passes)
    if last is None or not is_late(last.started_at, now, interval):
        return None
    return (
        f"the application that made the passes (pid {last.pid} on {last.host}, last pass at "
        f"{utc_text(last.started_at)}) has stopped making them",
        "restart the application",
    )


def beside_application(found: Sequence[Caller]) -> tuple[str, str]:
    """Return that an application and other schedulers start passes, and the remedy."""
    places = ", ".join(caller.place for caller in found)
    return (
        f"both an application and a cron line or timer start passes: {places}",
        "keep only one: remove retrycli.Scheduler from the application, or the others with `retrycli cron remove`",
    )
