"""Format the crontab block that runs passes, and find it in a crontab; see crontab(5).

`cron install` writes a block between two marks, so that `cron remove` removes exactly this block.
"""

import re
import shlex
from dataclasses import dataclass
from datetime import datetime, timedelta

from retrycli.domain.errors import ConfigurationError
from retrycli.domain.passes import StartedBy

BEGIN, END = "# retrycli: begin, for ", "# retrycli: end"
MARK = re.compile(rf"^({BEGIN}[^\n]*?|{END})\r*(?:\n|\Z)", re.MULTILINE)
# The search path. It is written only to a file that contains nothing but retrycli's blocks, because in a user's crontab
# it would also apply to all later lines.
PATH = "PATH=/usr/local/bin:/usr/bin:/bin"
# A crontab line that sets a variable for all later lines.
VARIABLE = re.compile(
    r"""(?P<quote>["']?)(?P<name>[^\s"'=]+)(?P=quote)\s*=\s*(?P<quotes>["']?)(?P<value>.*?)(?P=quotes)"""
)
FIELDS = 5  # number of fields of a crontab line before its command or, in /etc, its user
# The cron fields of each interval that cron can express, because cron's fields select times of the day.
SCHEDULES = {
    **{timedelta(minutes=step): f"*/{step} * * * *" for step in range(2, 60) if not 60 % step},
    **{timedelta(hours=step): f"0 */{step} * * *" for step in range(2, 24) if not 24 % step},
    timedelta(minutes=1): "* * * * *",
    timedelta(hours=1): "0 * * * *",
    timedelta(days=1): "0 0 * * *",
}
INTERVALS = {fields: interval for interval, fields in SCHEDULES.items()}


@dataclass(frozen=True, slots=True)
class Job:
    """The settings with which cron starts passes."""

    interval: timedelta
    interpreter: str
    config: str  # full path of the settings file, because cron starts jobs in another directory
    user: str  # the user who runs the passes
    system: bool = False  # the crontab is in /etc, where each line names its user


@dataclass(frozen=True, slots=True)
class Block:
    """retrycli's own block in a crontab, as the crontab contains it."""

    title: str  # name of the crontab, for operators
    text: str
    system: bool  # the crontab is in /etc, where each line names its user
    when: str  # the five fields of its line; empty if it has no line, or several, or if the crontab sets CRON_TZ
    user: str  # user who runs the passes
    mail_to: str | None  # recipient of the output; None means the user, and empty means nobody
    written: datetime | None = None  # when the crontab was last modified; None if unknown


def schedule(interval: timedelta) -> str:
    """Return the cron fields for an interval.

    Raises:
        ConfigurationError: cron can't express the interval.
    """
    if interval in SCHEDULES:
        return SCHEDULES[interval]
    raise ConfigurationError(
        f"schedule.retry_interval_minutes is {interval / timedelta(minutes=1):g}, but cron supports only intervals of "
        "whole minutes that divide an hour, or of whole hours that divide a day. Change the interval, or use a systemd "
        "timer: see `retrycli manual cron`"
    )


def command(job: Job) -> str:
    """Return a job's command for a crontab, quoted for the shell.

    Each % is escaped, because cron ends a command at a %. With ``umask 077`` no other user can open the files that a
    pass creates. With ``exec`` signals reach the pass instead of a shell. With ``-P`` Python imports no modules from
    the current directory, which is the user's home in cron.

    Raises:
        ConfigurationError: one of the paths can't be written in a crontab.
    """
    for path in (job.interpreter, job.config):
        if "\\" in path or not path.isprintable():
            raise ConfigurationError(
                f"{path!r} can't be used in a crontab; "
                "move the file to a path without backslashes or unprintable characters"
            )
    program = (job.interpreter, "-P", "-m", "retrycli", "--config", job.config)
    arguments = (*program, "run-once", "--started-by", StartedBy.CRON.value)
    return "umask 077; exec " + shlex.join(arguments).replace("%", r"\%")


def block(job: Job) -> str:
    """Return the block for a crontab. In the system's crontab, in /etc, each line names its user."""
    user = f"{job.user} " if job.system else ""
    return "\n".join(
        [
            BEGIN + job.config,
            "# Written by `retrycli cron install`; `retrycli cron remove` removes it.",
            "# Cron mails what a pass prints: nothing if all is well. To set the recipient, add MAILTO= above.",
            *([PATH] if job.system else []),
            f"{schedule(job.interval)} {user}{command(job)}",
            END,
            "",
        ]
    )


def with_block(text: str, config: str, new: str) -> str:
    """Return a crontab with a block for a settings file: replace the existing block for this file, or append the block.

    An empty block removes the existing one.

    Raises:
        ConfigurationError: the existing block has no end mark.
    """
    found = _find(text, config)
    if found is not None:
        return text[: found.start] + new + text[found.stop :]
    return text + ("\n" if new and text and not text.endswith("\n") else "") + new


def block_in(
    text: str, config: str, *, system: bool, title: str, owner: str, written: datetime | None = None
) -> Block | None:
    """Return the block for a settings file; None if a crontab has none. If the crontab is not the system's, its owner
    runs the passes.

    Raises:
        ConfigurationError: the block has no end mark.
    """
    found = _find(text, config)
    if found is None:
        return None
    above, inside = ([line.strip() for line in part.split("\n")] for part in (text[: found.start], text[found]))
    variables = {each["name"]: each["value"] for line in above + inside if (each := VARIABLE.fullmatch(line))}
    jobs = [line for line in inside if line and not line.startswith("#") and not VARIABLE.fullmatch(line)]
    fields = jobs[0].split(maxsplit=FIELDS + 1) if len(jobs) == 1 else []
    return Block(
        title,
        text[found],
        system,
        when="" if "CRON_TZ" in variables else " ".join(fields[:FIELDS]),
        user=fields[FIELDS] if system and len(fields) > FIELDS else owner,
        mail_to=variables.get("MAILTO"),
        written=written,
    )


def _find(text: str, config: str) -> slice | None:
    begin = next((mark for mark in MARK.finditer(text) if mark[1] == BEGIN + config), None)
    if begin is None:
        return None
    end = MARK.search(text, begin.end())
    if end is None or end[1] != END:
        line = text.count("\n", 0, begin.start()) + 1
        raise ConfigurationError(
            f"line {line} of the crontab, {begin[1]!r}, has no matching end, {END!r}; restore the end after the lines "
            "that `retrycli cron install` wrote, or remove these lines"
        )
    return slice(begin.start(), end.end())
