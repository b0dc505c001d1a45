"""Simulate two users on one machine. Only root can do so; for other users these tests are skipped, with a reason.

The users' ids belong to no account or group, so that the machine's accounts do not change a result.
"""

from __future__ import annotations

import encodings.utf_8_sig  # noqa: F401  a user who may not read the interpreter's folder can't import it later
import os
import pickle
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from retrycli.operations.reliance import relied_on
from retrycli.system.trust import find_weakness, trusted_users

Result = TypeVar("Result")

OURS, THEIRS = 61_234, 61_235
"""The ids of the user who runs retrycli and of an attacker. Each user's primary group has the same id."""
SHARED = 61_236
"""The id of a group that is not a user's primary group."""


def need_root() -> None:
    """Skip a test that needs two users unless root runs it."""
    if os.geteuid() != 0:
        pytest.skip("only root can become two users")


def need_own_program() -> None:
    """Skip a test in which `doctor` must find no problem, if other users can change the program under test."""
    for path in relied_on():
        if (weakness := find_weakness(path, trusted_users())) is not None:
            pytest.skip(f"what these tests run can be changed by another user: {weakness}")


@contextmanager
def open_place() -> Iterator[Path]:
    """Create a folder owned by root that every user may read, unlike pytest's own folders. It is deleted at the end.

    It is not in a folder for temporary files, because `cron install` refuses a program there.
    """
    need_root()
    with tempfile.TemporaryDirectory(prefix="retrycli-place-", dir="/srv") as folder:
        Path(folder).chmod(0o755)
        made = Path(folder, "place")
        made.mkdir(0o755)
        yield made


def as_user(uid: int, act: Callable[[], Result]) -> Result:
    """Call a function as another user, in a child process; return its result or raise its exception."""
    ours, theirs = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            said: object = (True, act())
        except BaseException as error:  # noqa: BLE001  the parent raises it
            said = (False, error)
        with os.fdopen(theirs, "wb") as pipe:
            pickle.dump(said, pipe)
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        done, value = pickle.load(pipe)
    os.waitpid(child, 0)
    if not done:
        raise value
    result: Result = value
    return result


def wrapper(uid: int) -> tuple[str, ...]:
    """Return a command prefix that runs a command as another user, who may still read every file.

    Without this right, an interpreter in /root could not run. No test with the prefix depends on read permissions.
    """
    if (setpriv := shutil.which("setpriv")) is None:
        pytest.skip("setpriv is not installed: apt-get install util-linux")
    ids = (f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
    return (setpriv, *ids, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


def mounted(folder: Path, at: str) -> tuple[str, ...]:
    """Return a command prefix that mounts a folder at ``at``. Only the command itself sees the mount."""
    need_root()
    run = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    program = ("unshare", "--mount", "sh", "-c", run, "sh", str(folder), at)
    if (
        shutil.which("unshare") is None
        or subprocess.run([*program, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("can't create a mount namespace (CAP_SYS_ADMIN)")
    return program


def with_private_etc(etc: Path) -> tuple[str, ...]:
    """Return a command prefix with which root finds a folder as /etc, where `OURS` is the user ``ticketing``."""
    need_root()
    for name in ("passwd", "group"):
        entry = f"ticketing:x:{OURS}:{OURS}::/nonexistent:/bin/sh" if name == "passwd" else f"ticketing:x:{OURS}:"
        (etc / name).write_text(f"{Path('/etc', name).read_text().rstrip()}\n{entry}\n")
    return mounted(etc, "/etc")
