"""Information about this process: who and what started it, its standard streams, and how many requests its file
descriptors allow.
"""

from __future__ import annotations

import errno
import getpass
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import BufferedWriter, FileIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from retrycli.domain.errors import ConfigurationError, OutputFailed
from retrycli.domain.message import LONGEST_NAME
from retrycli.domain.passes import StartedBy
from retrycli.domain.sanitize import encodable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

CRONS = frozenset({"cron", "crond", "fcron", "anacron"})
LOGINS = frozenset({"login", "sshd", "sshd-session", "sudo", "su", "doas", "runuser"})
# Programs that only start another program. `started_by` skips them to find what started the pass.
WRAPPERS = frozenset({"sh", "bash", "dash", "flock", "timeout", "nice", "ionice", "env", "chronic"})
MANAGER = "systemd"
# systemd sets this variable for a unit's processes (systemd.exec(5)), and their children inherit it.
INVOCATION = "INVOCATION_ID"
STDIN = 0
HIGHEST = 64  # maximum number of parents to examine


def started_by(environment: Mapping[str, str], parents: Sequence[str], *, at_terminal: bool) -> StartedBy:
    """Return what started a process, judged by its environment, the names of its parent, its parent's parent and so on,
    and whether it has a controlling terminal, which a scheduler's job does not have.
    """
    if at_terminal:
        return StartedBy.PERSON
    starter = next((name for name in parents if name not in WRAPPERS), None)
    if INVOCATION in environment and starter == MANAGER:
        return StartedBy.TIMER
    above = [name for name in parents if name in CRONS | LOGINS]
    if above:
        return StartedBy.CRON if above[0] in CRONS else StartedBy.PERSON
    return StartedBy.UNKNOWN


def login_name() -> str:
    """Return the operator's name: the user who ran sudo, or the login name; the uid if neither name is usable."""
    names = [os.environ.get("SUDO_USER", "")]
    with suppress(KeyError, OSError):
        names.append(getpass.getuser())
    usable = (name for name in names if 0 < len(name) <= LONGEST_NAME and encodable(name) and name.isprintable())
    return next(usable, f"uid {os.getuid()}")


def parents(proc: Path = Path("/proc")) -> list[str]:
    """Return the names of this process's parent, its parent's parent and so on; an empty list if the system does not
    show them.
    """
    found: list[str] = []
    with suppress(OSError, ValueError, IndexError):
        parent = _status(proc / "self")[1]
        while parent != "0" and len(found) < HIGHEST:
            name, parent, _ = _status(proc / parent)
            found.append(name)
    return found


def has_terminal(proc: Path = Path("/proc")) -> bool:
    """Return whether this process has a terminal as its input or, if its input is redirected, a controlling
    terminal.
    """
    if os.isatty(STDIN):
        return True
    with suppress(OSError, ValueError, IndexError):
        return _status(proc / "self")[2] != "0"
    return False


def _status(process: Path) -> tuple[str, str, str]:
    """Return a process's name, its parent's id and its terminal's device number, from its stat file
    (proc_pid_stat(5)).

    Raises:
        OSError, ValueError, IndexError: the process does not exist, or can't be read.
    """
    head, _, rest = (process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")
    fields = rest.split()
    return head.partition("(")[2], fields[1], fields[4]


def install(extra: str) -> str:
    """Return the command that installs an extra for the running Python. The first `pip` in the search path may belong
    to another Python.
    """
    return f"{sys.executable} -m pip install 'retrycli[{extra}]'"


# -- standard streams -----------------------------------------------------------------------------------------


def prepare_streams() -> None:
    """Open closed streams on the null device, and make stdout and stderr accept any text.

    Output that nobody can see must neither stop a delivery nor change the exit code.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed, for example by `>&-` in a crontab
            # Keep the descriptor in use. Otherwise the next file that is opened would get it, and receive this output.
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(nowhere, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    sys.stdout = _through(_Stdout, sys.stdout)
    sys.stderr = _through(_Stderr, sys.stderr)


def _through(kind: type[FileIO], stream: TextIO) -> TextIOWrapper:
    raw = BufferedWriter(kind(stream.fileno(), "w", closefd=False))
    lines = bool(stream.line_buffering or getattr(stream, "write_through", False))  # the latter with PYTHONUNBUFFERED
    return TextIOWrapper(raw, stream.encoding, "backslashreplace", line_buffering=lines)


class _Stdout(FileIO):
    """A stdout that raises its first error and then discards output, so that Python's flush at exit can't fail."""

    _failed = False

    def write(self, data: ReadableBuffer, /) -> int:
        if self._failed:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except BrokenPipeError:
            self._failed = True
            raise
        except OSError as error:
            self._failed = True
            raise OutputFailed(f"can't write the output: {error.strerror}") from error


class _Stderr(FileIO):
    """A stderr that ignores every error, because there is nowhere else to report it."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


# -- file descriptors -----------------------------------------------------------------------------------------

# Number of file descriptors that connections must leave free for what a pass opens while requests are in flight:
# - the database's journal, write-ahead log, shared memory, folder and temporary files, or a connection to its server;
# - a name look-up's configuration and hosts file, and a socket to each name server;
# - log files, and a module that is imported.
RESERVE = 24
# Number of file descriptors that a pass keeps open: the database and its log, the lock, the event loop, a ping in
# progress.
OVERHEAD = 16
# Number of file descriptors for each request. HTTP: a connection, a second one in parallel (RFC 8305), an attached file
# and its folder. SMTP: a connection, a duplicate descriptor with which it can be aborted, a file and its folder. The
# name look-up uses some of them before there is a connection.
PER_REQUEST = 4

RAISE = "raise the limit (`ulimit -n`, LimitNOFILE= of a systemd unit) or lower run.concurrency"
REMEDIES = {
    errno.EMFILE: RAISE,
    errno.ENFILE: "the whole system has too many open files; raise the kernel's fs.file-max",
}


def affordable(wanted: int) -> int:
    """Return how many of the wanted requests may be in flight. Raise the soft limit if the requests need more
    descriptors.

    Raises:
        ConfigurationError: the limit is too low for a single request.
    """
    used = _in_use()
    besides = used + OVERHEAD + RESERVE
    limit = _raise_soft_limit(besides + PER_REQUEST * wanted)
    found = min(wanted, (limit - besides) // PER_REQUEST)
    if found < 1:
        raise ConfigurationError(
            f"too few file descriptors (EMFILE): the limit is {limit}, {used} are in use, and a delivery needs "
            f"{besides - used + PER_REQUEST} more; raise the limit (`ulimit -n`, LimitNOFILE= of a systemd unit)"
        )
    return found


def require_low(number: int, *, requests: int) -> None:
    """Reject a connection that has one of the last file descriptors, which are reserved for files and for recording
    outcomes.

    Args:
        number: the connection's descriptor, the lowest free number.
        requests: the maximum number of requests in flight; each of them may need another descriptor, for an attached
            file.

    Raises:
        OSError: EMFILE, because too few descriptors are left.
    """
    if number >= _limit(resource.getrlimit(resource.RLIMIT_NOFILE)[0]) - RESERVE - requests:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def shortage(error: BaseException) -> str | None:
    """Describe the shortage of descriptors that caused an error; None for any other error."""
    number = error.errno if isinstance(error, OSError) else None
    return (
        None if number not in REMEDIES else f"too few file descriptors ({errno.errorcode[number]}): {REMEDIES[number]}"
    )


def shortage_now() -> str | None:
    """Describe the shortage if no descriptor is left, otherwise None. Use this for libraries that hide the cause."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return shortage(error)
    return None


def _raise_soft_limit(needed: int) -> int:
    """Return the soft limit, raised towards the hard limit if it is too low. Raise it only as far as needed, because
    select() fails with high descriptor numbers.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = min(needed, _limit(hard))
    if _limit(soft) < possible:
        with suppress(OSError, ValueError):  # macOS reports a higher hard limit than it accepts
            resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
            return possible
    return _limit(soft)


def _limit(value: int) -> int:
    return sys.maxsize if value == resource.RLIM_INFINITY else value


def _in_use() -> int:
    try:
        return sum(1 for _ in Path("/dev/fd").iterdir()) - 1  # without the descriptor of this listing
    except OSError as error:
        if lack := shortage(error):
            raise ConfigurationError(lack) from error
        return OVERHEAD  # no /dev/fd, as in a bare chroot
