"""Log a warning about a problem that lasts over several passes.

Cron mails each warning. The same warning every 15 minutes would teach operators to delete these mails unread.
"""

import socket
from datetime import datetime, timedelta

from retrycli.domain.incidents import Incident, Topic, Turn, follow
from retrycli.store.database import Database
from retrycli.store.passes import Targets, target_name
from retrycli.views.log_lines import logger

# Secondary tasks of a pass, each with the beginning of its warnings and its participle.
TASKS = {
    Topic.LOG_FILE: ("The log file was", "written"),
    Topic.METRICS: ("The metrics were", "written"),
    Topic.REPORT: ("The report was", "updated"),
}


def change_of(
    database: Database, target: str, topic: Topic, incident: Incident | None, at: datetime, remind: timedelta
) -> Turn | None:
    """Return what to report about an incident to a target, and store it as reported.

    Raises:
        DatabaseUnavailable: the last report can't be read or written.
    """
    targets = Targets(database)
    before = targets.memory(target)
    turn, told = follow(incident, before.get(topic), at, remind)
    if told is not None:
        targets.remember(target, before, {**before, topic: told})
    return turn


def warn(database: Database, topic: Topic, problem: str | None, now: datetime, remind: timedelta) -> None:
    """Warn that one of `TASKS` fails on this host, or works again, unless the log already says so.

    Args:
        database: stores the last warning.
        topic: the topic of the task.
        problem: why the task failed; None if it succeeded.
        now: the time.
        remind: the interval between two warnings of the same problem.

    Raises:
        DatabaseUnavailable: the last warning can't be read or written.
    """
    what, done = TASKS[topic]
    log = target_name(f"the log of {socket.gethostname()}")
    turn = change_of(database, log, topic, Incident(now) if problem else None, now, remind)
    if turn is Turn.ENDED:
        logger.warning("%s %s again", what, done)
    elif turn is not None:
        logger.warning("%s not %s: %s", what, done, problem)
