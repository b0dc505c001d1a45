"""This machine: who is at work on it, its programs, processes, files and time zones.

Where they are, and how programs are run, is `Host`'s to say: tests give another one.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Literal, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from retrycli.domain.errors import ConfigurationError
from retrycli.system import atomic
from retrycli.system.trust import user_name, user_number

DEFUNCT = ("Z", "X")
"""The states of a process that has ended, and that its parent has not reaped yet (proc(5))."""
NOT_THERE = 127
"""What a shell says of a program that it can't find."""
TIMED_OUT = 124
"""What timeout(1) says of a program that has not ended in time."""
SECONDS = 120
"""After which a program of this machine has failed."""
ANSWER_SECONDS = 3
"""So long a command that only reads waits for one."""

Finished = subprocess.CompletedProcess[bytes]
Runner = Callable[[Sequence[str], bytes], Finished]


def run(command: Sequence[str], given: bytes = b"", *, seconds: float = SECONDS) -> Finished:
    """Run a program of this machine; one that is not there, or does not end, has failed."""
    try:
        return subprocess.run(  # noqa: S603  our own words and paths, and no shell
            command,
            input=given,
            capture_output=True,
            check=False,
            timeout=seconds,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as error:
        return subprocess.CompletedProcess(command, NOT_THERE, b"", (error.strerror or "can't be run").encode())
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, TIMED_OUT, b"", f"no answer within {seconds:g} s".encode())


class Asker:
    """Asks programs of this machine for a command that only reads: waits a little, and for a silent one only once.

    Args:
        seconds: after which a program has failed.
    """

    def __init__(self, seconds: float = ANSWER_SECONDS) -> None:
        self._seconds = seconds
        self._unanswered: dict[str, Finished] = {}

    @property
    def silent(self) -> set[str]:
        """The programs that gave no answer."""
        return {*self._unanswered}

    def __call__(self, command: Sequence[str], given: bytes) -> Finished:
        """Run a program, unless it has kept silent before."""
        program = command[0]
        if program in self._unanswered:
            return self._unanswered[program]
        done = run(command, given, seconds=self._seconds)
        if done.returncode == TIMED_OUT:
            self._unanswered[program] = done
        return done


def _home() -> str:
    """Where cron begins a job: what the system says, and not $HOME, which sudo may leave at another's."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/"


@dataclass(frozen=True, slots=True)
class Host:
    """The machine, and who is at work on it."""

    root: Path = Path("/")
    home: Path = field(default_factory=lambda: Path(_home()))
    uid: int = field(default_factory=os.getuid)
    run: Runner = run
    number: Callable[[str], int | None] = user_number
    """The number of the user of that name; None if there is no such user."""

    @property
    def login(self) -> str:
        """The name of who is at work."""
        return user_name(self.uid)

    @property
    def unit_folder(self) -> Path:
        """Where the user's own units are."""
        return self.home / ".config/systemd/user"


@dataclass(frozen=True, slots=True)
class Caller:
    """Something on this machine that calls a pass."""

    kind: Literal["cron", "timer"]
    title: str
    """The title of the `Target` that it stands in."""
    line: int | None
    when: str
    command: str
    config: str | None
    """The settings' file that it names; None where it names none."""
    user: str | None
    """Whose it is, where that is written beside it."""
    installed: bool
    """Whether `cron install` wrote it."""
    owner: str = "root"
    """Who wrote it, as far as that shows in where it is."""
    running: bool | None = None
    """Whether the daemon or timer that heeds it is at work; None where that was not looked at, or can't be seen."""
    mail_to: str | None = None
    """To whom cron mails what it prints; None if that is the line's user, and nothing if it is thrown away."""
    zone: str | None = None
    """The time zone that it goes by; None if that is the system's."""
    since: datetime | None = None
    """When cron began to heed it as it is, because cron or the line is no older; None if that can't be seen."""

    @property
    def place(self) -> str:
        """Where it is written, for people."""
        return self.title if self.line is None else f"{self.title}, line {self.line}"


class Target(Protocol):
    """A text of the machine's in which a pass is called."""

    @property
    def title(self) -> str:
        """What it is, for people."""

    def read(self) -> str:
        """What it holds; nothing where there is none."""

    def write(self, text: str) -> None:
        """Put another text in its place; it is taken away when nothing is left."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of root's, or of the user's own: a crontab of /etc, a unit, or the settings."""

    path: Path
    keeps_mode: bool = False
    """Whether it keeps its mode and owner; else everybody may read it."""

    @property
    def title(self) -> str:
        """What it is, for people."""
        return str(self.path)

    def read(self) -> str:
        """What it holds; nothing where there is none.

        Raises:
            ConfigurationError: it can't be read.
        """
        try:
            return decoded(self.path.read_bytes())
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise ConfigurationError(f"can't read {self.path}: {error.strerror}") from error

    def write(self, text: str) -> None:
        """Put another in its place, whole or not at all: cron may read it at any moment.

        Raises:
            ConfigurationError: it can't be written.
        """
        try:
            if text:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                like = self.path.stat() if self.keeps_mode else None
                atomic.replace(self.path, text, errors="surrogateescape", like=like)  # by a name that cron passes over
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"can't write {self.path}: {error.strerror}; as root, or with --user for a schedule of your own"
            ) from error


def system_zone(root: Path = Path("/")) -> tzinfo:
    """Return the system's time zone, which cron and timers go by; that of ``$TZ`` is an operator's own."""
    try:
        with (root / "etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError):
        return UTC


def named_zone(name: str | None) -> tzinfo | None:
    """Return the time zone of that name; None if there is no such zone here."""
    with suppress(OSError, ValueError, ZoneInfoNotFoundError):
        return None if name is None else ZoneInfo(name)
    return None


def processes(proc: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folder and name of each live process of this machine, but for those in its containers.

    There is none if those of others are hidden.
    """
    if not (proc / "1/status").exists():
        return
    for path in proc.glob("[0-9]*/status"):
        with suppress(OSError):
            status = dict(re.findall(r"^(Name|State|NSpid):\t(.*)$", path.read_text(errors="replace"), re.MULTILINE))
            has_ended = status.get("State", "")[:1] in DEFUNCT
            if not has_ended and len(status.get("NSpid", "").split()) <= 1:
                yield path.parent, status.get("Name", "")


def under_cron(host: Host, command: Sequence[str]) -> Finished:
    """Run a program as cron would: in the user's home, with hardly anything in its environment."""
    variables = ["PATH=/usr/bin:/bin", f"HOME={host.home}", f"LOGNAME={host.login}", "SHELL=/bin/sh"]
    return host.run(["env", "-i", *variables, "sh", "-c", 'cd && exec "$@"', "sh", *command], b"")


def files_in(folder: Path, name: str, unread: dict[str, str]) -> list[Path]:
    """Return a folder's plain files with such names; none if it can't be read."""
    try:
        found = sorted(path for path in folder.iterdir() if re.fullmatch(name, path.name))
        return [path for path in found if path.is_file()]
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        unread[str(folder)] = error.strerror or str(error)
    return []


def read_text(path: Path, unread: dict[str, str]) -> str:
    """Return a file's text, empty if it does not exist or can't be read; ``unread`` takes why."""
    try:
        return decoded(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        unread[str(path)] = error.strerror or str(error)
    return ""


def decoded(text: bytes) -> str:
    """A text of whatever encoding, so that it can be written back as it was."""
    return text.decode("utf-8", "surrogateescape")


def encoded(text: str) -> bytes:
    """Return what `decoded` was made of."""
    return text.encode("utf-8", "surrogateescape")
