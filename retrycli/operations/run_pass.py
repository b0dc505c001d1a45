"""Run one pass, then report it: log, notifications, metrics, HTML report.

All results are recorded before the report, so an error in the report loses no result. Modules of features that are not
configured are not imported.
"""

import asyncio
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

from retrycli import operations
from retrycli.config.settings import Settings
from retrycli.domain import incidents
from retrycli.domain.errors import DatabaseUnavailable, RetrycliError
from retrycli.domain.passes import COUNTS, Event, PassResult, PassSummary, StartedBy, StopReason
from retrycli.engine import runner
from retrycli.engine.ports import PassIdentity
from retrycli.operations.wiring import DEFAULT_RUNTIME, Runtime, lock_path, ready_to_send
from retrycli.store.database import Database
from retrycli.store.passes import Ledger, Targets
from retrycli.system.pass_lock import Holder, PassLock
from retrycli.views import log_lines

# Number of newest passes that an idle pass reads at first, to find changes. Reading all of `incidents.LOOKBACK` would
# slow each idle pass.
SHORT_LOOKBACK = 20
# Maximum age of the report's page. An older page is updated even if nothing has changed, to show operators that passes
# still run.
STALE = timedelta(hours=1)

# Secondary tasks of a pass, each with the two parts of its warnings, such as "The log file is not being written".
TASKS = {
    incidents.Topic.LOG_FILE: ("The log file is", "being written"),
    incidents.Topic.METRICS: ("The metrics are", "being written"),
    incidents.Topic.REPORT: ("The report is", "being updated"),
}


def run_once(
    settings: Settings,
    *,
    limit: int | None = None,
    probe: bool = False,
    wait_lock_seconds: float | None = None,
    listen: Callable[[Event], None] | None = None,
    runtime: Runtime = DEFAULT_RUNTIME,
    started_by: StartedBy = StartedBy.LIBRARY,
) -> PassSummary:
    """Run one pass: deliver the messages that are due.

    The pass acquires the same lock as the command, so that passes of an application's own scheduler and of cron can't
    overlap on one host. The call blocks until the pass has ended. In a coroutine, await
    ``asyncio.to_thread(retrycli.run_once, settings)``.

    Args:
        settings: from `retrycli.load_settings`, or created directly.
        limit: the maximum number of attempts; by default ``run.limit``.
        probe: immediately probe a ticketing API that is down, even if its next probe is not due.
        wait_lock_seconds: how long to wait for another pass to end; by default ``run.wait_lock_seconds``.
        listen: called with each event of the pass, in the thread that runs the pass.
        runtime: clock, randomness, and a request to stop early.
        started_by: what starts the pass; the next run is predicted from passes that a scheduler started.

    Returns:
        The result of the pass. A lock held by another pass, a pause and an outage of the ticketing API are results,
        not errors.

    Raises:
        DatabaseUnavailable: the database can't be opened, read or written.
        ConfigurationError: a setting, the preset, the application's table or the lock's folder is wrong.
        EventLoopRunning: this thread runs an event loop.
    """
    me = PassIdentity(str(uuid.uuid4()), socket.gethostname(), os.getpid(), started_by)
    wait = settings.run.wait_lock_seconds if wait_lock_seconds is None else wait_lock_seconds
    lock = _Lock(PassLock(lock_path(settings)), me, wait, runtime.now, runtime.stop_requested)
    make = partial(_make_pass, settings, lock, me, limit, runtime, probe=probe)
    if settings.notify.ping_url is None:
        return make(listen)
    return operations.notifications.with_heartbeat(settings, me.pass_id, make, listen, runtime.now)


def _make_pass(
    settings: Settings,
    lock: "_Lock",
    me: PassIdentity,
    limit: int | None,
    runtime: Runtime,
    listen: Callable[[Event], None] | None,
    *,
    probe: bool,
) -> PassSummary:
    with ready_to_send(settings, runtime, listen, limit=limit, probe=probe) as (deps, rules, database):
        try:
            summary = asyncio.run(runner.run_pass(deps, lock, rules, me))
        except Exception as error:
            report_failed_pass(settings, database, me.pass_id, error, deps.now())
            raise
        report_pass(settings, database, summary, deps.now())
        return summary


class _Lock(NamedTuple):
    """The pass lock, with a limited wait for another pass to end. A stop request ends the wait early."""

    lock: PassLock
    me: PassIdentity
    wait_seconds: float
    now: Callable[[], datetime]
    stop_requested: Callable[[], bool]

    def acquire(self) -> None:
        self.lock.acquire(
            Holder(self.me.pid, self.me.host, self.now()),
            wait_seconds=self.wait_seconds,
            now=self.now,
            sleep=time.sleep,
            give_up=self.stop_requested,
        )

    def release(self) -> None:
        self.lock.release()


def report_pass(settings: Settings, database: Database, summary: PassSummary, now: datetime) -> None:
    """Report a pass in the log, to notification targets, in the metrics file and in the HTML report."""
    with _or_warn("Changes since the previous pass could not be logged"):
        _warn_of_changes(settings, Ledger(database), summary)
    if settings.logging.file is not None:
        with _or_warn("The state of the log file could not be recorded"):
            _warn_of_task(settings, database, incidents.Topic.LOG_FILE, log_lines.file_problem(), now)
    about_to_expire = None
    if any(policy.expires_after for policy in settings.policies.values()):
        with _or_warn("The check for messages that are about to expire failed"):
            about_to_expire = operations.expiry.expiring(settings, database, summary, now)
            if about_to_expire is not None:
                operations.expiry.warn(database, about_to_expire, now, settings.notify.remind)
    if settings.notify.urls:
        operations.notifications.notify(settings, database, summary, now, about_to_expire)
    if (path := settings.metrics.path) is not None:
        with _or_warn("The metrics may be out of date"):
            problem = operations.metrics.write_metrics(settings, database, path, now)
            _warn_of_task(settings, database, incidents.Topic.METRICS, problem, now)
    if (path := settings.report.path) is not None and not _is_current(path, summary, now):
        with _or_warn("The report may be out of date"):
            problem = operations.report.renew(settings, database, path, summary, now)
            _warn_of_task(settings, database, incidents.Topic.REPORT, problem, now)


def _is_current(path: Path, summary: PassSummary, now: datetime) -> bool:
    """Return whether a pass leaves the report's page unchanged. A pass that did nothing updates the page only if it is
    missing or older than an hour, because rendering would slow idle passes.
    """
    if summary.result is PassResult.SKIPPED:
        return True
    if any(getattr(summary, name) for name in COUNTS):
        return False
    try:
        return now.timestamp() - path.stat().st_mtime <= STALE.total_seconds()
    except (OSError, ValueError):
        return False


def report_failed_pass(settings: Settings, database: Database, pass_id: str, error: Exception, now: datetime) -> None:
    """Report a failed pass to notification targets. Mark its error as known if it was reported less than
    ``notify.remind`` ago, unless it is an internal error.

    If the failure could not be recorded, do neither. Earlier failures may not be recorded either, so each pass reports
    its error.
    """
    with suppress(DatabaseUnavailable):
        passes = Ledger(database).passes_up_to(pass_id, incidents.LOOKBACK)
        if not passes or passes[0].result is not PassResult.FAILED:
            return
        if isinstance(error, RetrycliError):
            error.is_known = incidents.is_known(incidents.as_mailed(passes), settings.notify.remind)
        if settings.notify.urls:
            summary = PassSummary(pass_id, PassResult.FAILED, reason=StopReason.FAULT, detail=passes[0].detail)
            operations.notifications.notify(settings, database, summary, now, None)


def _warn_of_task(
    settings: Settings, database: Database, topic: incidents.Topic, problem: str | None, now: datetime
) -> None:
    """Warn that one of `TASKS` fails on this host, or works again, unless the log says so and no reminder is due.

    Cron mails each warning. The same warning every 15 minutes would teach operators to delete these mails unread.
    """
    what, done = TASKS[topic]
    log = incidents.target_name(f"the log of {socket.gethostname()}")
    incident = incidents.Incident(now) if problem else None
    turn = Targets(database).follow(log, topic, incident, now, settings.notify.remind)
    if turn is incidents.Turn.ENDED:
        log_lines.logger.warning("%s %s again", what, done)
    elif turn is not None:
        log_lines.logger.warning("%s not %s: %s", what, done, problem)


@contextmanager
def _or_warn(what: str) -> Iterator[None]:
    try:
        yield
    except DatabaseUnavailable as error:
        log_lines.logger.warning("%s: %s", what, error)


def _warn_of_changes(settings: Settings, ledger: Ledger, summary: PassSummary) -> None:
    """Log warnings of a skipped pass, missing passes, and problems that began, ended or need a reminder.

    Cron mails these warnings to operators.
    """
    if summary.reason == StopReason.LOCK_HELD:
        log_lines.logger.warning("Message retry pass skipped: %s", summary.detail)
    eventful = summary.reason in incidents.TROUBLE or summary.sent or summary.rescheduled
    passes = ledger.passes_up_to(summary.pass_id, incidents.LOOKBACK if eventful else SHORT_LOOKBACK)
    remind = settings.notify.remind
    if incidents.failed(passes[1:]) or incidents.news(incidents.as_mailed(passes), remind):
        passes = ledger.passes_up_to(summary.pass_id, incidents.LOOKBACK)
    mailed = incidents.as_mailed(passes)
    lines = (
        incidents.late_start(passes, settings.schedule.interval),
        incidents.works_again(mailed),
        *incidents.news(mailed, remind),
    )
    for line in filter(None, lines):
        log_lines.logger.warning("%s", line)
