"""What a pass leaves behind when it is over: a word in the log, notifications, metrics, the report.

The messages are sent by then, so nothing here can fail the pass. What is not set is not even imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

from retrycli.config.settings import Settings
from retrycli.domain import incidents
from retrycli.domain.errors import DatabaseUnavailable, RetrycliError
from retrycli.domain.pass_summary import PassResult, PassSummary, StopReason
from retrycli.store.database import Database
from retrycli.store.passes import Ledger
from retrycli.views import log_lines

A_FEW = 20
"""A pass with nothing to send looks no further back for the one before it: between them are skipped ones and those of
other hosts."""


def leave(settings: Settings, database: Database, summary: PassSummary, now: datetime) -> None:
    """Tell whoever wants to know how the pass went."""
    with _or_warn("The log does not tell what has changed"):
        _tell_the_news(settings, Ledger(database), summary)
    if settings.logging.file is not None:
        from retrycli.operations import standing

        with _or_warn("The log file was not checked"):
            standing.warn(
                database, "The log file was", "written", log_lines.file_problem(), now, settings.notify.remind
            )
    about_to_expire = None
    if any(each.expires_after for each in settings.policies.values()):
        from retrycli.operations import expiry

        with _or_warn("No messages about to expire were looked for"):
            about_to_expire = expiry.expiring(settings, database, summary, now)
            if about_to_expire is not None:
                expiry.warn(database, about_to_expire, now, settings.notify.remind)
    if settings.notify.urls:
        from retrycli.operations.notifications import notify

        notify(settings, database, summary, now, about_to_expire)
    if settings.metrics.path is not None:
        from retrycli.operations.metrics import write_metrics

        write_metrics(settings, database, settings.metrics.path, now)
    if settings.report.path is not None:
        from retrycli.operations.report import renew

        renew(settings, database, settings.report.path, summary, now)


def leave_failed(settings: Settings, database: Database, pass_id: str, error: Exception, now: datetime) -> None:
    """Tell whoever wants to know that a pass failed, and note in its error if that is known, unless it is internal.

    If the pass could not be written down, nothing is known of it: then it is told by its error alone, each time.
    """
    with suppress(DatabaseUnavailable):
        passes = Ledger(database).passes_up_to(pass_id, incidents.LOOKBACK)
        if not passes or passes[0].result is not PassResult.FAILED:
            return
        if isinstance(error, RetrycliError):
            error.is_known = incidents.is_known(incidents.as_mailed(passes), settings.notify.remind)
        if settings.notify.urls:
            from retrycli.operations.notifications import notify

            summary = PassSummary(pass_id, PassResult.FAILED, reason=StopReason.FAULT, detail=passes[0].detail)
            notify(settings, database, summary, now, None)


@contextmanager
def _or_warn(what: str) -> Iterator[None]:
    """Warn that the database could not be read or written, in place of failing the pass."""
    try:
        yield
    except DatabaseUnavailable as error:
        log_lines.logger.warning("%s: %s", what, error)


def _tell_the_news(settings: Settings, ledger: Ledger, summary: PassSummary) -> None:
    """Warn of what is new, so that cron mails it."""
    if summary.reason == StopReason.LOCK_HELD:
        log_lines.logger.warning("Message retry pass skipped: %s", summary.detail)
    eventful = summary.reason in incidents.TROUBLE or summary.sent or summary.rescheduled
    passes = ledger.passes_up_to(summary.pass_id, incidents.LOOKBACK if eventful else A_FEW)
    remind = settings.notify.remind
    if incidents.failed(passes[1:]) or incidents.news(summary.detail, incidents.as_mailed(passes), remind):
        passes = ledger.passes_up_to(summary.pass_id, incidents.LOOKBACK)
    interval = timedelta(minutes=settings.schedule.retry_interval_minutes)
    mailed = incidents.as_mailed(passes)
    lines = (
        incidents.missing(passes, interval),
        incidents.works_again(mailed),
        *incidents.news(summary.detail, mailed, remind),
    )
    for line in filter(None, lines):
        log_lines.logger.warning("%s", line)
