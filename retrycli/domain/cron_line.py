"""Format the crontab block that runs passes, and find the lines of a crontab that run a pass; see crontab(5).

`cron install` writes a block between two marks, so that `cron remove` removes exactly this block.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import dropwhile, groupby, takewhile
from typing import Literal

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

HOUR, DAY = 60, 24 * 60
OPERATORS = frozenset("();<>|&")
# Programs that run a command line given as an argument.
SHELLS = frozenset({"sh", "bash", "dash", "ash", "ksh", "zsh", "su", "runuser", "ssh"})
# Shell keywords that may precede a command.
KEYWORDS = frozenset({"if", "elif", "then", "else", "while", "until", "do", "!", "{"})
# Programs that never run a command given in their arguments. Any other program may run one.
SPEAKERS = frozenset(
    {
        *("echo", "printf", "logger", "wall", "mail", "mailx", "true", "false", ":"),
        *("test", "[", "cat", "ls", "grep", "egrep", "fgrep", "zgrep", "pgrep"),
    }
)


@dataclass(frozen=True, slots=True)
class Job:
    """The settings with which a scheduler starts passes."""

    interval: timedelta
    interpreter: str
    config: str  # full path of the settings file, because cron starts jobs in another directory
    user: str  # the user who runs the passes
    longest: timedelta  # maximum duration of a pass
    reads: tuple[str, ...] = ()  # full paths of other files and directories that the pass reads
    writes: tuple[str, ...] = ()  # full paths of the directories that the pass writes to

    def arguments(self, starter: StartedBy, *options: str) -> tuple[str, ...]:
        """Return the program and its arguments.

        Args:
            starter: what starts the pass, for the option ``--started-by``.
            options: options before ``run-once``.
        """
        # -P keeps Python from importing modules from the current directory, which is the user's home in cron.
        program = (self.interpreter, "-P", "-m", "retrycli", "--config", self.config)
        return (*program, *options, "run-once", "--started-by", starter.value)


@dataclass(frozen=True, slots=True)
class Caller:
    """A crontab line, a timer, or an application with a `retrycli.Scheduler` that runs passes."""

    kind: Literal["cron", "timer", "application"]
    title: str  # name of the crontab or unit, or pid and host of the application, for operators
    line: int | None
    when: str
    command: str
    config: str | None  # settings file that the command names with ``--config``, if any
    user: str | None  # user that the line, crontab or unit names; None means the owner
    installed: bool  # `cron install` wrote the line or unit
    owner: str = "root"  # user who wrote the line or unit, judged by its location
    running: bool | None = None  # whether cron or the timer is active; None if not checked, or unknown
    mail_to: str | None = None  # recipient of the output; None means the line's user, and empty means nobody
    # The time zone that the crontab sets with CRON_TZ, which not every cron supports; None means the system's zone.
    zone: str | None = None
    # When cron began to use the line in its current form: when cron started, or when the crontab was last modified,
    # whichever is later. When the application began to make the passes. None if unknown.
    since: datetime | None = None

    # How the line or unit differs from what `cron install` would write; None if it does not differ, or was not checked.
    objection: str | None = None

    @property
    def place(self) -> str:
        """Describe the location of the line or unit to operators."""
        return self.title if self.line is None else f"{self.title}, line {self.line}"


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
        "divide an hour, or of whole hours that divide a day. Change the interval, or use a timer: "
        "`retrycli cron install --systemd`"
    )


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
    return "umask 077; exec " + shlex.join(job.arguments(StartedBy.CRON)).replace("%", r"\%")


def block(job: Job, *, system: bool) -> str:
    """Return the block for a crontab.

    Args:
        job: the pass to run.
        system: whether the crontab is in /etc, where each line names its user.
    """
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


def calls(text: str, *, system: bool, title: str = "", user: str | None = None, owner: str = "root") -> list[Caller]:
    """Return the lines of a crontab that run a pass.

    Args:
        text: the crontab.
        system: whether the crontab is in /etc, where each line names its user.
        title: the crontab's name for operators.
        user: the user of lines that don't name one; None for the current user.
        owner: the user who wrote the crontab.
    """
    found = []
    installed = False
    variables: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, _lines(text)), 1):
        if line.startswith(BEGIN) or line == END:
            installed = line != END
        if not line or line.startswith("#"):
            continue
        if variable := VARIABLE.fullmatch(line):
            variables[variable["name"]] = variable["value"]
            continue
        fields = 1 if line.startswith("@") else 5
        *before, command = line.split(maxsplit=fields + (1 if system else 0))
        words = _words(command)
        if len(before) == fields + (1 if system else 0) and names_pass(words):
            found.append(
                Caller(
                    "cron",
                    title,
                    number,
                    " ".join(before[:fields]),
                    command,
                    named_config(words),
                    before[-1] if system else user,
                    installed,
                    owner,
                    mail_to=variables.get("MAILTO"),
                    zone=variables.get("CRON_TZ"),
                )
            )
    return found


def names_pass(words: Sequence[str]) -> bool:
    """Return whether a command line runs a pass. A command that only prints or reads such a line does not count."""
    uncommented = takewhile(lambda word: not word.startswith("#"), words)
    commands = groupby(uncommented, lambda word: word != "" and OPERATORS.issuperset(word))
    return any(_runs_pass([*command]) for is_operator, command in commands if not is_operator)


def _runs_pass(command: Sequence[str]) -> bool:
    rest = [*dropwhile(lambda word: word in KEYWORDS or re.match(r"\w+=", word), command)]
    programs = [word.rpartition("/")[2] for word in rest]
    if not rest or programs[0] in SPEAKERS:
        return False
    if not SHELLS.isdisjoint(programs) and any(names_pass(_words(word)) for word in rest if " " in word):
        return True
    return "run-once" in dropwhile(lambda program: program != "retrycli", programs)


def named_config(arguments: list[str]) -> str | None:
    """Return the settings file that a command names with ``--config``; None without this option."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == "--config" and following:
            return following
        if word.startswith("--config="):
            return word.removeprefix("--config=")
    return None


def _words(text: str) -> list[str]:
    """Split a command as the shell does. If that fails, as with an unclosed quote, split it at whitespace."""
    plain = re.sub(r"\\([%\\])", r"\1", text)
    try:
        lexer = shlex.shlex(plain, posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, ""
        return list(lexer)
    except ValueError:
        return plain.split()


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
