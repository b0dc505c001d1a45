"""What a pass leaves behind when it is over: a word in the log, notifications, metrics, the report.

The messages are sent by then, so nothing here can fail the pass. What is not set is not even imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from retrycli import logs, news
from retrycli.errors import DatabaseUnavailable
from retrycli.events import PassSummary, StopReason
from retrycli.settings import Settings
from retrycli.store.database import Database
from retrycli.store.ledger import Ledger

A_FEW = 20
"""A pass with nothing to send looks no further back for the one before it: between them are skipped ones and those of
other hosts."""


def leave(settings: Settings, database: Database, summary: PassSummary, now: datetime) -> None:
    """Tell whoever wants to know how the pass went."""
    with _or_warn("The log does not tell what has changed"):
        _tell_the_news(Ledger(database), summary)
    if settings.logging.file is not None:
        from retrycli import standing

        with _or_warn("The log file was not checked"):
            standing.warn(database, "The log file was", "written", logs.file_problem(), now)
    about_to_expire = None
    if any(each.expires_after for each in settings.policies.values()):
        from retrycli import expiry

        with _or_warn("No messages about to expire were looked for"):
            about_to_expire = expiry.expiring(settings, database, summary, now)
            if about_to_expire is not None:
                expiry.warn(database, about_to_expire, now)
    if settings.notify.urls:
        from retrycli.tell import notify

        notify(settings, database, summary, now, about_to_expire)
    if settings.metrics.path is not None:
        from retrycli.measure import write_metrics

        write_metrics(settings, database, settings.metrics.path, now)
    if settings.report.path is not None:
        from retrycli.reporting import renew

        renew(settings, database, settings.report.path, summary, now)


@contextmanager
def _or_warn(what: str) -> Iterator[None]:
    """Warn that the database could not be read or written, in place of failing the pass."""
    try:
        yield
    except DatabaseUnavailable as error:
        logs.logger.warning("%s: %s", what, error)


def _tell_the_news(ledger: Ledger, summary: PassSummary) -> None:
    """Warn of what is new, so that cron mails it."""
    if summary.reason == StopReason.LOCK_HELD:
        logs.logger.warning("Message retry pass skipped: %s", summary.detail)
    eventful = summary.reason in news.TROUBLE or summary.sent or summary.rescheduled
    line = news.news(summary.detail, ledger.passes_up_to(summary.pass_id, news.LOOKBACK if eventful else A_FEW))
    if line is not None:
        logs.logger.warning(line)
