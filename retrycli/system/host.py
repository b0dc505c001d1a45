"""Access this machine: its user, programs, processes, files and time zones.

`Host` locates files and runs programs. Tests pass a host with its own folders and its own function to run programs.
"""

import os
import pwd
import re
import secrets
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, timedelta, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

from retrycli.domain.errors import ConfigurationError
from retrycli.system.trust import PRIVATE, open_folder, user_name, user_number

DEFUNCT = ("Z", "X")  # states of a process that has ended but has not been reaped yet (proc(5))
NOT_THERE = 127  # a shell's exit status for an unknown program
TIMED_OUT = 124  # exit status of timeout(1)
SECONDS = 120  # default timeout of a program
ANSWER_SECONDS = 3  # timeout of a program that a read-only command runs
MAY_READ_OR_WRITE = 0o666  # without the bits that let a file be run
READABLE_BY_ALL = 0o644  # mode of files that other users' programs read, regardless of cron's umask
# File systems whose locks SQLite can't rely on.
NETWORK_FILE_SYSTEMS = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "9p", "ceph", "glusterfs", "lustre", "vboxsf", "prl_fs"),
    *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.davfs", "fuse.vmhgfs-fuse", "fuse.rclone", "fuse.s3fs"),
}

Finished = subprocess.CompletedProcess[bytes]
Runner = Callable[[Sequence[str], bytes], Finished]


def run(command: Sequence[str], given: bytes = b"", *, seconds: float = SECONDS) -> Finished:
    """Run a program. If it can't be run or times out, return `NOT_THERE` or `TIMED_OUT` as its exit status."""
    try:
        return subprocess.run(  # noqa: S603  retrycli chooses the programs, and passes arguments as a list
            command, input=given, capture_output=True, check=False, timeout=seconds, env={**os.environ, "LC_ALL": "C"}
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
        raise ConfigurationError(f"`{name}` failed: {' '.join(decoded(done.stderr).split())}{remedy}")
    return done


def uptime() -> timedelta:
    """Return how long ago this machine started."""
    return timedelta(seconds=time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)))


class Asker:
    """A `Runner` with a short timeout, for read-only commands. A program that has timed out is not run again.

    Args:
        seconds: the timeout of a program.
    """

    def __init__(self, seconds: float = ANSWER_SECONDS) -> None:
        self._seconds = seconds
        self.silent: dict[str, Finished] = {}  # results of programs that timed out

    def __call__(self, command: Sequence[str], given: bytes) -> Finished:
        """Run a program. If it has timed out before, return that result instead."""
        program = command[0]
        done = self.silent.get(program) or run(command, given, seconds=self._seconds)
        if done.returncode == TIMED_OUT:
            self.silent[program] = done
        return done


def _system_home() -> str:
    """Return the user's home in the password database, where cron starts jobs; "/" if the user has no entry. Ignore
    $HOME: after sudo, it may still be another user's home.
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
    number: Callable[[str], int | None] = user_number  # returns a user's id; None if the user does not exist
    uptime: Callable[[], timedelta] = uptime  # returns how long ago the machine started

    @property
    def login(self) -> str:
        """Return the current user's name."""
        return user_name(self.uid)


@dataclass(frozen=True, slots=True)
class File:
    """A file that `cron install` may change: a crontab in /etc, or the settings."""

    path: Path
    keeps_mode: bool = False  # `write` keeps the mode and owner; otherwise everybody may read the file

    @property
    def title(self) -> str:
        """Return the name to show to operators."""
        return str(self.path)

    def read(self) -> str:
        """Return the file's text; empty if the file does not exist.

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

        If the new text is empty, remove the file.

        Raises:
            ConfigurationError: the file can't be written.
        """
        try:
            if text:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # Cron ignores the new file's temporary name, so it never reads an incomplete file.
                like = self.path.stat() if self.keeps_mode else None
                replace_file(self.path, text, errors="surrogateescape", like=like)
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"can't write {self.path}: {error.strerror}; "
                "check the permissions of its folder and the free disk space"
            ) from error


def system_zone(root: Path = Path("/")) -> tzinfo:
    """Return the system's time zone, which cron uses. Ignore ``$TZ``, which an operator may have set."""
    try:
        with (root / "etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError):
        return UTC


def processes(proc: Path) -> Iterator[tuple[Path, str]]:
    """Yield each live process of this machine, except those in containers: its folder in ``proc``, and its name.

    Yield nothing if other users' processes are hidden.
    """
    if not (proc / "1/status").exists():
        return
    for path in proc.glob("[0-9]*/status"):
        with suppress(OSError):
            status = dict(re.findall(r"^(Name|State|NSpid):\t(.*)$", path.read_text(errors="replace"), re.MULTILINE))
            if status.get("State", "")[:1] not in DEFUNCT and len(status.get("NSpid", "").split()) <= 1:
                yield path.parent, status.get("Name", "")


def under_cron(host: Host, command: Sequence[str]) -> Finished:
    """Run a program as cron does: in the user's home, with an almost empty environment."""
    variables = ["PATH=/usr/bin:/bin", f"HOME={host.home}", f"LOGNAME={host.login}", "SHELL=/bin/sh"]
    return host.run(["env", "-i", *variables, "sh", "-c", 'cd && exec "$@"', "sh", *command], b"")


def decoded(text: bytes) -> str:
    """Decode UTF-8. Keep invalid bytes as surrogates, so that `encoded` can restore them."""
    return text.decode("utf-8", "surrogateescape")


def encoded(text: str) -> bytes:
    """Encode a text that `decoded` returned."""
    return text.encode("utf-8", "surrogateescape")


# -- files ----------------------------------------------------------------------------------------------------


def replace_file(path: Path, text: str, *, errors: str = "strict", like: os.stat_result | None = None) -> None:
    """Replace a file with one that everybody may read. Readers see either the complete old or the complete new content.

    Args:
        path: the file.
        text: the content.
        errors: how to encode invalid Unicode, as for `str.encode`.
        like: the status of a file; the new file gets its owner instead, and its rights to read and write.

    Raises:
        Untrusted: a link on the way belongs to another user.
        OSError: the file can't be written; the old file is unchanged.
        ValueError: the path is invalid.
    """
    # The temporary file needs another suffix, because programs such as node_exporter read every .prom file.
    name = f".{path.name[:100]}.{secrets.token_hex(8)}.tmp"
    folder = open_folder(path.parent)
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE, dir_fd=folder)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors=errors) as file:
            if like is not None and (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, like.st_uid, like.st_gid)
            os.fchmod(descriptor, READABLE_BY_ALL if like is None else stat.S_IMODE(like.st_mode) & MAY_READ_OR_WRITE)
            file.write(text)
        os.replace(name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(name, dir_fd=folder)
        raise
    finally:
        os.close(folder)


def others_may_read(path: Path) -> bool:
    """Return whether users other than a file's owner and group may read the file; False if this can't be determined."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def owner_of(path: Path) -> str | None:
    """Return a file's owner, by name if the owner has a name; None if the owner can't be determined."""
    try:
        return user_name(path.stat().st_uid)
    except OSError:
        return None


def file_system_of(path: Path, mounts: str) -> str | None:
    """Return the type of a file's file system, such as ``ext4``, given the text of /proc/self/mounts, or None if it
    does not show it. Follow links.
    """
    real = path.resolve()
    best: tuple[int, str] | None = None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) > 2 and real.is_relative_to(point := _unescape(fields[1])):  # noqa: PLR2004  the type is third
            depth = len(Path(point).parts)
            if best is None or depth >= best[0]:  # a later mount hides an earlier one at the same point
                best = depth, fields[2]
    return best and best[1]


def _unescape(field: str) -> str:
    """Decode a mount point, in which characters such as spaces are written in octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
