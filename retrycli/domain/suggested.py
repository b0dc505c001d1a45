"""Commands that a text suggests, so that they work when pasted: with the program as it was called, and its settings.

A text calls the program ``retrycli``. The command line says once how it was called; a library says nothing, and its
texts stay as they are.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

NAME = "retrycli"


@dataclass(frozen=True)
class Invocation:
    """How the program was called."""

    program: Sequence[str] = (NAME,)
    """The words before the command, such as sudo, an interpreter and its options."""
    full: Sequence[str] = (NAME,)
    """The program by its full path and without sudo: another user's search path is another."""
    config: str | None = None
    """The configuration file, if one was given."""
    commands: frozenset[str] = frozenset()
    """The names of all commands. Other words after the program's name are prose."""
    machine: Callable[[], Mapping[str, str]] = dict
    """What to call in place of commands of the machine's; asked only for a text that may have one."""

    @cached_property
    def start(self) -> str:
        """What a command begins with, quoted for a shell."""
        return shlex.join([*self.program, *(["--config", self.config] if self.config is not None else [])])

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Finds where a command begins; the group says if it stands in backticks."""
        names = "|".join(map(re.escape, sorted(self.commands, key=len, reverse=True)))
        return re.compile(rf"(`|(?<![\w/.-])){NAME} (?=(?:--debug )?(?:{names})(?![\w-]))")


class _Now:
    call = Invocation()


def called_as(
    program: Sequence[str], commands: Iterable[str], *, full: Sequence[str], machine: Callable[[], Mapping[str, str]]
) -> None:
    """Remember how the program was called, and what its commands are.

    Args:
        program: the words before the command.
        commands: their names.
        full: the program by its full path and without sudo.
        machine: tells what to call in place of commands of the machine's, such as those of systemd.
    """
    _Now.call = Invocation(program, full, commands=frozenset(commands), machine=cache(machine))


def program() -> str:
    """Return the words before a command, quoted for a shell."""
    return shlex.join(_Now.call.program)


def with_config(file: str | None) -> None:
    """Remember the configuration file that was given, if any."""
    if file != _Now.call.config:
        _Now.call = replace(_Now.call, config=file)


def as_user(user: str, command: str, config: str | None) -> str:
    """Return a command that another user is to run, in backticks.

    Args:
        user: the user's name.
        command: the words after the program.
        config: the full path of the configuration file, if there is one. Another user may find another one.
    """
    sudo = ["sudo"] if user == "root" else ["sudo", "-u", user]
    named = [] if config is None else ["--config", config]
    return f"`{shlex.join([*sudo, *_Now.call.full, *named])} {command}`"


def is_by_sudo() -> bool:
    """Return whether the program was called through sudo."""
    return _Now.call.program[0] == "sudo"


def own(text: str) -> str:
    """Complete all commands in a text that has none but our own words."""
    return _completed(text, "")


def quoted(text: str) -> str:
    """Complete the commands in backticks. The text may have words of others, such as an answer."""
    return _completed(text, "`")


def _completed(text: str, least: str) -> str:
    call = _Now.call
    if "cron`" in text:
        for command, here in call.machine().items():
            text = text.replace(f"`{command}`", f"`{here}`")
    if not call.commands or call.start == NAME or NAME not in text:
        return text
    return call.pattern.sub(lambda at: at[1] + call.start + " " if at[1] >= least else at[0], text)
