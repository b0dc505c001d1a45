"""Warn of a problem that lasts over several passes: when it begins, at intervals while it lasts, and when it ends.

cron mails each warning. The same one every 15 minutes would teach operators to delete them unread.
"""

from __future__ import annotations

import socket
from datetime import datetime, timedelta

from retrycli.store.counters import Totals
from retrycli.store.database import Database
from retrycli.views.log_lines import logger


def warn(database: Database, what: str, done: str, problem: str | None, now: datetime, remind: timedelta) -> None:
    """Warn that a side task of a pass fails, or works again, if the log does not say so yet.

    Args:
        database: remembers the time of the last warning.
        what: the subject, such as ``The report was``.
        done: the participle, such as ``renewed``.
        problem: why the task failed; None if it succeeded.
        now: the time.
        remind: the interval between two warnings of the same problem.

    Raises:
        DatabaseUnavailable: the last warning can't be read or written.
    """
    totals, label = Totals(database), f"{what} {done} on {socket.gethostname()}"
    last = totals.warned(label)
    if problem is None and last is not None:
        totals.set_warned(label, None)
        logger.warning("%s %s again", what, done)
    elif problem is not None and (last is None or now - last >= remind):
        totals.set_warned(label, now)
        logger.warning("%s not %s: %s", what, done, problem)
