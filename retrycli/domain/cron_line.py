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
# The search path. It is written only to a file that contains nothing but retrycli's blocks, because in a user's crontab
# it would also apply to all later lines.
PATH = "PATH=/usr/local/bin:/usr/bin:/bin"
# A crontab line that sets a variable for all later lines.
VARIABLE = re.compile(
    r"""(?P<quote>["']?)(?P<name>[^\s"'=]+)(?P=quote)\s*=\s*(?P<quotes>["']?)(?P<value>.*?)(?P=quotes)"""
)
FIELDS = 5  # number of fields of a crontab line before its command or, in /etc, its user
HOUR, DAY = 60, 24 * 60


@dataclass(frozen=True, slots=True)
class Job:
    """The settings with which cron starts passes."""

    interval: timedelta
    interpreter: str
    config: str  # full path of the settings file, because cron starts jobs in another directory
    user: str  # the user who runs the passes

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return the program and its arguments."""
        # -P keeps Python from importing modules from the current directory, which is the user's home in cron.
        program = (self.interpreter, "-P", "-m", "retrycli", "--config", self.config)
        return (*program, "run-once", "--started-by", StartedBy.CRON.value)


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
        ConfigurationError: cron can't express the interval, because cron's fields select times of the day.
    """
    minutes = interval / timedelta(minutes=1)
    if minutes.is_integer() and HOUR % minutes == 0 and minutes < HOUR:
        return f"{_every(minutes)} * * * *"
    if minutes % HOUR == 0 and DAY % minutes == 0 and minutes < DAY:
        return f"0 {_every(minutes / HOUR)} * * *"
    if minutes == DAY:
        return "0 0 * * *"
    raise ConfigurationError(
        f"schedule.retry_interval_minutes is {minutes:g}, but cron supports only intervals of whole minutes that "
        "divide an hour, or of whole hours that divide a day. Change the interval, or use a systemd timer: see "
        "`retrycli manual cron`"
    )


def interval_of(when: str) -> timedelta | None:
    """Return the interval of five cron fields; None if `schedule` would not write these fields."""
    for minutes in (*range(1, HOUR), *range(HOUR, DAY + 1, HOUR)):
        interval = timedelta(minutes=minutes)
        if not (DAY if minutes >= HOUR else HOUR) % minutes and schedule(interval) == when:
            return interval
    return None


def _every(number: float) -> str:
    return "*" if number == 1 else f"*/{number:.0f}"


def command(job: Job) -> str:
    """Return a job's command for a crontab, quoted for the shell.

    Each % is escaped, because cron ends a command at a %. With ``umask 077`` no other user can open the files that a
    pass creates. With ``exec`` signals reach the pass instead of a shell.

    Raises:
        ConfigurationError: one of the paths can't be written in a crontab.
    """
    for path in (job.interpreter, job.config):
        if "\\" in path or not path.isprintable():
            raise ConfigurationError(
                f"{path!r} can't be used in a crontab; "
                "move the file to a path without backslashes or unprintable characters"
            )
    return "umask 077; exec " + shlex.join(job.arguments).replace("%", r"\%")


def block(job: Job, *, system: bool) -> str:
    """Return the block for a crontab. In the system's crontab, in /etc, each line names its user."""
    user = f"{job.user} " if system else ""
    return "\n".join(
        [
            BEGIN + job.config,
            "# Written by `retrycli cron install`; `retrycli cron remove` removes it.",
            "# Cron mails what a pass prints: nothing if all is well. To set the recipient, add MAILTO= above.",
            *([PATH] if system else []),
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
    lines = _lines(text)
    found = _block_lines(lines, config)
    if found is not None:
        return "".join([*lines[: found.start], new, *lines[found.stop :]])
    return text + ("\n" if new and text and not text.endswith("\n") else "") + new


def block_in(text: str, config: str, *, system: bool, title: str, owner: str) -> Block | None:
    """Return the block for a settings file; None if a crontab has none, or if its end is missing. If the crontab is not
    the system's, its owner runs the passes.
    """
    lines = _lines(text)
    try:
        found = _block_lines(lines, config)
    except ConfigurationError:
        return None
    if found is None:
        return None
    before = [line.strip() for line in lines[: found.stop]]
    variables = {each["name"]: each["value"] for line in before if (each := VARIABLE.fullmatch(line))}
    jobs = [
        line for line in before[found.start :] if line and not line.startswith("#") and not VARIABLE.fullmatch(line)
    ]
    fields = jobs[0].split(maxsplit=FIELDS + 1) if len(jobs) == 1 else []
    return Block(
        title,
        "".join(lines[found.start : found.stop]),
        system,
        when="" if "CRON_TZ" in variables else " ".join(fields[:FIELDS]),
        user=fields[FIELDS] if system and len(fields) > FIELDS else owner,
        mail_to=variables.get("MAILTO"),
    )


def _lines(text: str) -> list[str]:
    """Split a text at line feeds and keep the line feeds.

    `str.splitlines` also splits at characters that cron does not treat as line breaks.
    """
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _block_lines(lines: list[str], config: str) -> range | None:
    marks = [line.rstrip("\r\n") for line in lines]
    mark = BEGIN + config
    if mark not in marks:
        return None
    first = marks.index(mark)
    rest = marks[first + 1 :]
    last = next((number for number, mark in enumerate(rest) if mark.startswith(BEGIN) or mark == END), None)
    if last is None or rest[last] != END:
        raise ConfigurationError(
            f"line {first + 1} of the crontab, {mark!r}, has no matching end, {END!r}; restore the end after the lines "
            "that `retrycli cron install` wrote, or remove these lines"
        )
    return range(first, first + last + 2)
