"""The pass lock: one pass at a time on one host.

The kernel releases the lock (flock(2)) when the process that holds it ends for any reason. The file's text only shows
operators which process holds the lock. The file is never deleted, because a process that waits for a deleted file would
get a lock that no other process can see.
"""

import fcntl
import json
import os
import shlex
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from retrycli.domain.errors import LockHeld, LockUnusable
from retrycli.system import process
from retrycli.system.trust import is_planted, open_private, user_name

OWN_STATE = Path(".local/state/retrycli")  # a user's state folder, in the user's home; `PassLock` creates it
POLL_SECONDS = 0.1
LONGEST = 4096  # maximum size of a lock file in bytes; a larger file contains other data, so it is not overwritten


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds, or last held, a lock. If the lock file does not identify it, all fields are None."""

    pid: int | None = None
    host: str | None = None
    since: datetime | None = None

    @classmethod
    def read(cls, text: str) -> Self:
        """Parse the text of a lock file."""
        try:
            values = json.loads(text)
            return cls(int(values["pid"]), str(values["host"]), datetime.fromisoformat(values["since"]).astimezone(UTC))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return cls()

    def in_words(self, now: datetime) -> str:
        """Describe the holder for an error message: pid, host, and how long it has held the lock."""
        if self.since is None:
            return "an unidentified process"
        return f"pid {self.pid} on {self.host}, for {max((now - self.since).total_seconds(), 0):.0f} s"


class PassLock:
    """A lock file, held from `acquire` until `release` or until the process ends.

    Args:
        path: the lock file. If it is missing, it is created with access only for its owner.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def acquire(
        self,
        me: Holder,
        *,
        wait_seconds: float,
        now: Callable[[], datetime],
        sleep: Callable[[float], None],
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        """Acquire the lock. Wait at most ``wait_seconds``, and only until ``give_up`` returns True.

        Raises:
            LockHeld: another process holds the lock; the error names that process.
            LockUnusable: the file can't be opened, or is not a lock file.
        """
        file = self._open()
        waited = 0.0
        while not _try_lock(file):
            if waited >= wait_seconds or give_up():
                holder = _holder_in(file)
                os.close(file)
                raise LockHeld(f"another pass holds the lock {self._path}: {holder.in_words(now())}")
            sleep(POLL_SECONDS)
            waited += POLL_SECONDS
        self._file = file
        _held.add(self)
        with suppress(OSError):  # on a full disk the lock works, but does not name its holder
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(asdict(me), default=str).encode(), 0)

    def release(self) -> None:
        """Release the lock if `acquire` has acquired it."""
        _held.discard(self)
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def check(self) -> None:
        """Check that the lock file can be opened. Create a missing file.

        Raises:
            LockUnusable: the file can't be opened, or is not a lock file.
        """
        os.close(self._open())

    def holder(self) -> Holder | None:
        """Return the process that holds the lock now; None if the lock is free.

        Raises:
            LockUnusable: the lock file can't be examined or opened, or is not a lock file.
        """
        try:
            if not self._path.exists():
                return None
        except OSError as error:  # the lock's folder is not accessible
            raise self._unusable(error) from error
        file = self._open()
        try:
            # Use a shared lock, so that two processes that only examine the lock do not mistake each other for a pass.
            return None if _try_lock(file, fcntl.LOCK_SH) else _holder_in(file)
        finally:
            os.close(file)

    def _open(self) -> int:
        try:
            self._make_own_folder()
            file = open_private(self._path, os.O_RDWR)
        except OSError as error:
            raise self._unusable(error) from error
        if (objection := _objection(os.fstat(file), self._path.parent)) is not None:
            os.close(file)
            raise LockUnusable(f"the lock file {self._path} {objection}; set run.lock_file to another path")
        return file

    def _make_own_folder(self) -> None:
        folder = self._path.parent
        if folder.match(str(OWN_STATE)) and not folder.exists():
            for parent in (*reversed(folder.parents[: len(OWN_STATE.parts) - 1]), folder):
                parent.mkdir(0o700, exist_ok=True)

    def _other_owner(self) -> str | None:
        try:
            owner = self._path.lstat().st_uid
        except OSError:
            return None
        return None if owner == os.geteuid() else user_name(owner)

    def _unusable(self, error: OSError) -> LockUnusable:
        if lack := process.shortage(error):
            return LockUnusable(f"can't open the lock file {self._path}: {lack}")
        if isinstance(error, PermissionError) and (owner := self._other_owner()) is not None:
            remedy = f"chown -h {shlex.quote(user_name(os.geteuid()))} {shlex.quote(str(self._path))}"
            return LockUnusable(
                f"can't open the lock file {self._path}: it belongs to {owner}. Run retrycli as {owner}. "
                f"If the current user should run the passes instead, run as root: {remedy}"
            )
        return LockUnusable(
            f"can't open the lock file {self._path}: {error.strerror}; set run.lock_file to a path that "
            "the user who runs retrycli can write to"
        )


# The locks that this process holds. A forked child closes its copies of their descriptors. Otherwise it would keep a
# lock after this process has released it or died. Closing a copy does not release the lock.
_held: set[PassLock] = set()


def _close_copies() -> None:
    for lock in [*_held]:
        lock.release()


os.register_at_fork(after_in_child=_close_copies)


def _objection(found: os.stat_result, folder: Path) -> str | None:
    """Return why a file can't be the lock: writing to it might destroy other data, or another user may have planted
    it.
    """
    if not stat.S_ISREG(found.st_mode):
        return "is not a regular file"
    if found.st_nlink > 1:
        return "has several hard links, so it may be used for something else"
    if found.st_size > LONGEST:
        return "contains other data"
    if is_planted(found, folder.stat()):
        return "belongs to another user, in a folder that anybody can write to"
    return None


def _holder_in(file: int) -> Holder:
    return Holder.read(os.pread(file, LONGEST, 0).decode(errors="replace"))


def _try_lock(file: int, how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
