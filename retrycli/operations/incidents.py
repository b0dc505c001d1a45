"""Warnings of what stays wrong from pass to pass: when it begins, now and then while it lasts, and when it is over.

Cron mails each warning, and the same one every 15 minutes would teach people to delete those mails unread.
"""

from __future__ import annotations

import socket
from datetime import datetime, timedelta

from retrycli.store.counters import Totals
from retrycli.store.database import Database
from retrycli.views.log_lines import logger


def warn(database: Database, what: str, done: str, problem: str | None, now: datetime, remind: timedelta) -> None:
    """Warn that something a pass does besides could not be done, or say that it can be again, where that is news.

    Args:
        database: where it is remembered what was said.
        what: ``The report was``, and the like.
        done: ``renewed``, and the like.
        problem: why it could not be done; None where it could.
        now: the time.
        remind: how long to wait until the same is warned of again.

    Raises:
        DatabaseUnavailable: it can't be found out what was said.
    """
    totals, label = Totals(database), f"{what} {done} on {socket.gethostname()}"
    last = totals.warned(label)
    if problem is None and last is not None:
        totals.set_warned(label, None)
        logger.warning("%s %s again", what, done)
    elif problem is not None and (last is None or now - last >= remind):
        totals.set_warned(label, now)
        logger.warning("%s not %s: %s", what, done, problem)
