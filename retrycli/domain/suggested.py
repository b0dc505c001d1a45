"""Complete the commands in texts with the program and the ``--config`` that the user gave, so that they work when
pasted.

Texts name the program ``retrycli``. The command line registers how the user called the program. An application that
uses retrycli as a library registers nothing, and texts stay unchanged.
"""

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from retrycli.domain.sanitize import masked_url

NAME = "retrycli"
QUOTES = "'\\`"


@dataclass(frozen=True)
class Invocation:
    """The words and options with which the user called the program."""

    program: Sequence[str] = (NAME,)  # words before the command, such as sudo or an interpreter and its options
    # The program by its full path and without sudo, because another user may have a different search path.
    full: Sequence[str] = (NAME,)
    arguments: Sequence[str] = ()  # all words after the program
    config: str | None = None
    # The names of all commands. If any other word follows the program's name, the text is prose.
    commands: frozenset[str] = frozenset()

    @cached_property
    def start(self) -> str:
        """Return the program and its ``--config`` option, quoted for a shell."""
        return shlex.join([*self.program, *(["--config", self.config] if self.config is not None else [])])

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Return the pattern of a command's start; its group is the backtick before the command, if any."""
        names = "|".join(map(re.escape, sorted(self.commands, key=len, reverse=True)))
        return re.compile(rf"(`|(?<![\w/.-])){NAME} (?=(?:--debug )?(?:{names})(?![\w-]))")


class _Now:
    call = Invocation()


def called_as(
    program: Sequence[str], commands: Iterable[str], *, full: Sequence[str], arguments: Sequence[str] = ()
) -> None:
    """Register how the user called the program: the words before the command, the names of all commands, the program by
    its full path and without sudo, and its arguments.
    """
    _Now.call = Invocation(program, full, arguments, commands=frozenset(commands))


def as_argument(message_id: object) -> str:
    """Return a message's id for a command, quoted for a shell. The ids of some tables come from other systems.

    Characters that can't be shown, and backticks, are octal in $'…', which bash, ksh and zsh read. No argument can
    contain a NUL, so an id with one stays escaped, and names no message. An id that begins with a hyphen gets ``--``,
    which ends the options.
    """
    text = str(message_id).replace("\0", "\\x00")
    end_of_options = "-- " if _is_like_option(message_id) else ""
    if text.isprintable() and "`" not in text:
        return end_of_options + shlex.quote(text)
    return f"{end_of_options}$'{''.join(c if c.isprintable() and c not in QUOTES else _octal(c) for c in text)}'"


def _is_like_option(word: object) -> bool:
    return isinstance(word, int) and str(word).startswith("-")  # a message's id, also one of text, is an int


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode(errors="surrogateescape"))


def line(*words: object) -> str:
    """Return a command of retrycli, with its words quoted for a shell, for a text that contains nothing else."""
    return f"{NAME} {' '.join(map(as_argument, sorted(words, key=_is_like_option)))}"


def command(*words: object) -> str:
    """Return a command of retrycli in backticks, with its words quoted for a shell."""
    return f"`{line(*words)}`"


def program() -> str:
    """Return the words before a command, quoted for a shell."""
    return shlex.join(_Now.call.program)


def full_program() -> Sequence[str]:
    """Return the words before a command, with the program's full path and without sudo."""
    return _Now.call.full


def with_config(file: str | None) -> None:
    """Register the configuration file that the user gave, if any."""
    if file != _Now.call.config:
        _Now.call = replace(_Now.call, config=file)


def as_user(user: str, command: str, config: str | None) -> str:
    """Return a command for another user, in backticks.

    Args:
        user: the user's name, or the id of a user without a name.
        command: the words after the program.
        config: the full path of the configuration file, if any. Another user's default may differ.
    """
    sudo = ["sudo"] if user == "root" else ["sudo", "-u", f"#{user}" if user.isdecimal() else user]
    named = [] if config is None else ["--config", config]
    return f"`{shlex.join([*sudo, *_Now.call.full, *named])} {command}`"


def again_as(user: str) -> str:
    """Return what to do so that another user makes this call: the command for it, in backticks, or an instruction.

    Args:
        user: the user's name, or the id of a user without a name, for whom sudo may be missing, as in a container.
    """
    if user.isdecimal() or not _Now.call.commands:
        return f"run this as the user {user}"
    command = shlex.join(["sudo", "-u", user, *_Now.call.full, *map(masked_url, _Now.call.arguments)])
    return f"run `{command}`"


def is_by_sudo() -> bool:
    """Return whether the user called the program through sudo."""
    return _Now.call.program[0] == "sudo"


def own(text: str) -> str:
    """Complete all commands in a text that retrycli wrote."""
    return _complete(text, "")


def quoted(text: str) -> str:
    """Complete only the commands in backticks. The rest of the text may be quoted, for example from a response."""
    return _complete(text, "`")


def _complete(text: str, least: str) -> str:
    call = _Now.call
    if not call.commands or call.start == NAME or NAME not in text:
        return text
    return call.pattern.sub(lambda at: at[1] + call.start + " " if at[1] >= least else at[0], text)
