"""What cron is told, by the rules of crontab(5): a pass as a line, the block that line stands in, and which lines of a
crontab call a pass already.

A block is what `cron install` writes, between two marks, so that `cron remove` takes away exactly that.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import dropwhile, takewhile

from retrycli.domain.errors import ConfigurationError
from retrycli.domain.pass_summary import StartedBy

BEGIN, END = "# retrycli: begin, for ", "# retrycli: end"
PATH = "PATH=/usr/local/bin:/usr/bin:/bin"
"""For a file of our own: in a user's crontab it would hold for every line below."""

VARIABLE = re.compile(
    r"""(?P<quote>["']?)(?P<name>[^\s"'=]+)(?P=quote)\s*=\s*(?P<quotes>["']?)(?P<value>.*?)(?P=quotes)"""
)
"""A line that sets a variable for those below it."""

HOUR, DAY = 60, 24 * 60
OPERATORS = frozenset("();<>|&")
SHELLS = frozenset({"sh", "bash", "dash", "ash", "ksh", "zsh", "su", "runuser", "ssh"})
"""Programs that run a command line that is one of their arguments."""
KEYWORDS = frozenset({"if", "elif", "then", "else", "while", "until", "do", "!", "{"})
"""Words of the shell that a command may follow."""
SPEAKERS = frozenset(
    {
        *("echo", "printf", "logger", "wall", "mail", "mailx", "true", "false", ":"),
        *("test", "[", "cat", "ls", "grep", "egrep", "fgrep", "zgrep", "pgrep"),
    }
)
"""Programs that only speak of a command, or read. Any other program may run the command in its arguments."""


@dataclass(frozen=True, slots=True)
class Job:
    """A pass, as a scheduler is to begin it."""

    interval: timedelta
    interpreter: str
    config: str
    """The settings' file, in full: cron starts a job in a folder of its own."""
    user: str
    """Who makes the passes."""
    longest: timedelta
    """A pass has ended by then."""
    reads: tuple[str, ...] = ()
    """What it reads beside these, in full."""
    writes: tuple[str, ...] = ()
    """The folders in which it writes, in full."""

    def arguments(self, starter: StartedBy, *options: str) -> tuple[str, ...]:
        """Return the command.

        Args:
            starter: who starts the pass; it is told so.
            options: those before ``run-once``.
        """
        # -P keeps Python from importing what happens to lie in the user's home.
        program = (self.interpreter, "-P", "-m", "retrycli", "--config", self.config)
        return (*program, *options, "run-once", "--started-by", starter.value)


@dataclass(frozen=True, slots=True)
class CronCommand:
    """A line of a crontab that makes a pass."""

    number: int
    schedule: str
    user: str | None
    command: str
    """As it stands there."""
    config: str | None
    """The settings' file that it names; None where it names none."""
    installed: bool
    """Whether it stands in a block."""
    mail_to: str | None = None
    """To whom cron mails what it prints; None if that is the line's user, and nothing if it is thrown away."""
    zone: str | None = None
    """The time zone that CRON_TZ names above it. Not every cron heeds that."""


def schedule(interval: timedelta) -> str:
    """How cron is told to call so often.

    Raises:
        ConfigurationError: cron can't, for its grid is the clock's.
    """
    minutes = interval / timedelta(minutes=1)
    if minutes == 1:
        return "* * * * *"
    if minutes.is_integer() and HOUR % minutes == 0 and minutes < HOUR:
        return f"*/{minutes:.0f} * * * *"
    if minutes == HOUR:
        return "0 * * * *"
    if minutes % HOUR == 0 and DAY % minutes == 0 and minutes < DAY:
        return f"0 */{minutes / HOUR:.0f} * * *"
    if minutes == DAY:
        return "0 0 * * *"
    raise ConfigurationError(
        f"schedule.retry_interval_minutes is {minutes:g}, which cron can't keep evenly: its minutes must divide an "
        "hour, or its whole hours a day. Set it so, or use a timer: `retrycli cron install --systemd`"
    )


def command(job: Job) -> str:
    """A job's command as a crontab holds it: quoted for the shell, and then each % for cron, which it would end.

    ``umask 077``: what a pass creates is nobody else's to open. ``exec``: a signal reaches the pass, and no shell.

    Raises:
        ConfigurationError: a path that no crontab can hold.
    """
    for path in (job.interpreter, job.config):
        if "\\" in path or not path.isprintable():
            raise ConfigurationError(f"{path!r} can't stand in a crontab; move it to a path without \\ and line breaks")
    return "umask 077; exec " + shlex.join(job.arguments(StartedBy.CRON)).replace("%", r"\%")


def block(job: Job, *, system: bool) -> str:
    """What is put into a crontab.

    Args:
        job: what is to be called.
        system: whether it is a crontab of /etc, whose lines name the user.
    """
    user = f"{job.user} " if system else ""
    return "\n".join(
        [
            begin(job.config),
            "# Written by `retrycli cron install`; `retrycli cron remove` takes it away.",
            "# Cron mails what a pass prints, which is nothing when all is well. MAILTO= above this says to whom.",
            *([PATH] if system else []),
            f"{schedule(job.interval)} {user}{command(job)}",
            END,
            "",
        ]
    )


def begin(config: str) -> str:
    """The mark that a block for these settings begins with."""
    return BEGIN + config


def with_block(text: str, config: str, new: str) -> str:
    """A crontab with a block in the place of the one for the same settings, or at its end; all else as it was.

    Raises:
        ConfigurationError: somebody has taken away a mark.
    """
    lines = _lines(text)
    found = _span(lines, config)
    if found is not None:
        return "".join([*lines[: found.start], new, *lines[found.stop :]])
    return text + ("\n" if text and not text.endswith("\n") else "") + new


def without_block(text: str, config: str) -> str:
    """A crontab without the block for these settings; all else as it was.

    Raises:
        ConfigurationError: somebody has taken away a mark.
    """
    return with_block(text, config, "") if _span(_lines(text), config) is not None else text


def calls(text: str, *, system: bool) -> list[CronCommand]:
    """The lines of a crontab that make a pass, whoever wrote them.

    Args:
        text: the crontab.
        system: whether it is a crontab of /etc, whose lines name the user.
    """
    return list(_calls(_lines(text), system=system))


def names_pass(words: Sequence[str]) -> bool:
    """Whether a command line makes a pass: one of its commands runs retrycli, and not one that only speaks of it."""
    commands: list[list[str]] = [[]]
    for word in takewhile(lambda word: not word.startswith("#"), words):
        if word and set(word) <= OPERATORS:
            commands.append([])
        else:
            commands[-1].append(word)
    return any(map(_runs_pass, commands))


def _runs_pass(command: Sequence[str]) -> bool:
    rest = [*dropwhile(lambda word: word in KEYWORDS or re.match(r"\w+=", word), command)]
    programs = [word.rpartition("/")[2] for word in rest]
    if not rest or programs[0] in SPEAKERS:
        return False
    if not SHELLS.isdisjoint(programs) and any(names_pass(_words(word)) for word in rest if " " in word):
        return True
    return "run-once" in dropwhile(lambda program: program != "retrycli", programs)


def named_config(arguments: list[str]) -> str | None:
    """The settings' file that a command names."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == "--config" and following:
            return following
        if word.startswith("--config="):
            return word.removeprefix("--config=")
    return None


def _calls(lines: list[str], *, system: bool) -> Iterator[CronCommand]:
    installed = False
    variables: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith(BEGIN) or text == END:
            installed = text != END
        if not text or text.startswith("#"):
            continue
        if variable := VARIABLE.fullmatch(text):
            variables[variable["name"]] = variable["value"]
            continue
        fields = 1 if text.startswith("@") else 5
        parts = text.split(maxsplit=fields + (1 if system else 0))
        if len(parts) <= fields + (1 if system else 0):
            continue
        words = _words(parts[-1])
        if names_pass(words):
            user = parts[fields] if system else None
            when = " ".join(parts[:fields])
            above = (variables.get("MAILTO"), variables.get("CRON_TZ"))
            yield CronCommand(number, when, user, parts[-1], named_config(words), installed, *above)


def _words(text: str) -> list[str]:
    """A command's words, as the shell would take them, or by its spaces where its quotes don't close."""
    plain = re.sub(r"\\([%\\])", r"\1", text)
    try:
        lexer = shlex.shlex(plain, posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, ""
        return list(lexer)
    except ValueError:
        return plain.split()


def _lines(text: str) -> list[str]:
    """With their ends, and split at nothing else: `str.splitlines` knows line ends that cron doesn't."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _span(lines: list[str], config: str) -> range | None:
    """Where the block for these settings is."""
    marks = [line.rstrip("\r\n") for line in lines]
    mark = begin(config)
    if mark not in marks:
        return None
    first = marks.index(mark)
    rest = marks[first + 1 :]
    last = next((number for number, mark in enumerate(rest) if mark.startswith(BEGIN) or mark == END), None)
    if last is None or rest[last] != END:
        raise ConfigurationError(
            f"line {first + 1} of the crontab, {mark!r}, has lost its end, {END!r}; put it back below what "
            "`retrycli cron install` wrote, or take those lines away by hand"
        )
    return range(first, first + last + 2)
