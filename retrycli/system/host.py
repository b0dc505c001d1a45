"""This machine: its user, programs, processes, files and time zones.

`Host` knows where these are, and how to run programs. Tests pass a different host.
"""

import os
import pwd
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from retrycli.domain.errors import ConfigurationError
from retrycli.system import filesystem
from retrycli.system.trust import user_name, user_number

DEFUNCT = ("Z", "X")  # states of a process that has ended but has not been reaped yet (proc(5))
NOT_THERE = 127  # a shell's exit status for an unknown program
TIMED_OUT = 124  # exit status of timeout(1)
SECONDS = 120  # time after which a program counts as failed
ANSWER_SECONDS = 3  # the same for commands that only read

Finished = subprocess.CompletedProcess[bytes]
Runner = Callable[[Sequence[str], bytes], Finished]


def run(command: Sequence[str], given: bytes = b"", *, seconds: float = SECONDS) -> Finished:
    """Run a program. It counts as failed if it is missing, or if it does not end in time."""
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
        return subprocess.CompletedProcess(command, TIMED_OUT, b"", f"no response within {seconds:g} s".encode())


def checked(done: Finished, name: str, remedy: str = "") -> Finished:
    """Return the result of a program that has succeeded.

    Raises:
        ConfigurationError: the program has failed.
    """
    if done.returncode:
        said = " ".join(decoded(done.stderr).split())
        raise ConfigurationError(f"`{name}` failed: {said}{remedy}")
    return done


class Asker:
    """Run programs for a command that only reads. Wait only briefly, and only once for a program that does not answer.

    Args:
        seconds: the time after which a program has failed.
    """

    def __init__(self, seconds: float = ANSWER_SECONDS) -> None:
        self._seconds = seconds
        self.silent: dict[str, Finished] = {}  # programs that did not answer

    def __call__(self, command: Sequence[str], given: bytes) -> Finished:
        """Run a program, unless it has already failed to answer."""
        program = command[0]
        done = self.silent.get(program) or run(command, given, seconds=self._seconds)
        if done.returncode == TIMED_OUT:
            self.silent[program] = done
        return done


def _system_home() -> str:
    """Return the folder in which cron starts a job: the user's home in the system's database, and not $HOME, which sudo
    may leave unchanged.
    """
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/"


@dataclass(frozen=True, slots=True)
class Host:
    """The machine and its current user."""

    root: Path = Path("/")
    home: Path = field(default_factory=lambda: Path(_system_home()))
    uid: int = field(default_factory=os.getuid)
    run: Runner = run
    number: Callable[[str], int | None] = user_number  # returns a user's number; None if there is no such user

    @property
    def login(self) -> str:
        """Return the current user's name."""
        return user_name(self.uid)

    @property
    def unit_folder(self) -> Path:
        """Return the folder of the user's own systemd units."""
        return self.home / ".config/systemd/user"


@dataclass(frozen=True, slots=True)
class File:
    """A file that belongs to root or the user: a crontab in /etc, a unit, or the settings."""

    path: Path
    keeps_mode: bool = False  # it keeps its mode and owner; otherwise everybody may read it

    @property
    def title(self) -> str:
        """Return the name to show to operators."""
        return str(self.path)

    def read(self) -> str:
        """Return the text; empty if there is none.

        Raises:
            ConfigurationError: the file can't be read.
        """
        try:
            return decoded(self.path.read_bytes())
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise ConfigurationError(f"can't read {self.path}: {error.strerror}") from error

    def write(self, text: str) -> None:
        """Replace the file's text atomically, because cron may read it at any moment.

        Raises:
            ConfigurationError: the file can't be written.
        """
        try:
            if text:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                like = self.path.stat() if self.keeps_mode else None
                filesystem.replace(
                    self.path, text, errors="surrogateescape", like=like
                )  # a file with a name that cron ignores
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"can't write {self.path}: {error.strerror}; run this as root, or use --user for your own schedule"
            ) from error


def system_zone(root: Path = Path("/")) -> tzinfo:
    """Return the system's time zone, which cron and timers use. Ignore ``$TZ``, which an operator may have set."""
    try:
        with (root / "etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError):
        return UTC


def named_zone(name: str | None) -> tzinfo | None:
    """Return a time zone by name; None if it does not exist on this machine."""
    with suppress(OSError, ValueError, ZoneInfoNotFoundError):
        return None if name is None else ZoneInfo(name)
    return None


def processes(proc: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folder and name of each live process of this machine, except those in containers.

    Yield none if other users' processes are hidden.
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
    """Run a program as cron does: in the user's home, with an almost empty environment."""
    variables = ["PATH=/usr/bin:/bin", f"HOME={host.home}", f"LOGNAME={host.login}", "SHELL=/bin/sh"]
    return host.run(["env", "-i", *variables, "sh", "-c", 'cd && exec "$@"', "sh", *command], b"")


def files_in(folder: Path, name: str, unread: dict[str, str]) -> list[Path]:
    """Return a folder's regular files whose names match; none if the folder can't be read."""
    try:
        found = sorted(path for path in folder.iterdir() if re.fullmatch(name, path.name))
        return [path for path in found if path.is_file()]
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        unread[str(folder)] = error.strerror or str(error)
    return []


def read_text(path: Path, unread: dict[str, str]) -> str:
    """Return a file's text; empty if it does not exist or can't be read. ``unread`` receives the reason."""
    try:
        return decoded(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        unread[str(path)] = error.strerror or str(error)
    return ""


def decoded(text: bytes) -> str:
    """Decode text in any encoding, so that `encoded` can restore its bytes."""
    return text.decode("utf-8", "surrogateescape")


def encoded(text: str) -> bytes:
    """Encode a text that `decoded` returned."""
    return text.encode("utf-8", "surrogateescape")
