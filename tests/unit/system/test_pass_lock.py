"""The pass lock, with real files and, if needed, a second process."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from retrycli.domain.errors import LockHeld, LockUnusable
from retrycli.system.pass_lock import POLL_SECONDS, Holder, PassLock
from tests.cli.command import wait_until
from tests.users import OURS, as_user, open_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
ME = Holder(4711, "mill", NOON)
NOBODY = 65534
"""A user other than the one that runs the tests."""

HOLD = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from retrycli.system.pass_lock import Holder, PassLock

me = Holder(os.getpid(), "barn", datetime.fromisoformat("2025-03-03T11:59:30+00:00"))
PassLock(Path(sys.argv[1])).acquire(me, wait_seconds=0, now=lambda: datetime.now(UTC), sleep=print)
print("held", flush=True)
sys.stdin.read()
"""

FORK = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from retrycli.system.pass_lock import Holder, PassLock

lock, now = PassLock(Path(sys.argv[1])), datetime.now(UTC)
lock.acquire(Holder(os.getpid(), "barn", now), wait_seconds=0, now=lambda: now, sleep=print)
if child := os.fork():
    print(child, flush=True)
    sys.stdin.readline()
    lock.release()
    print("released", flush=True)
signal.pause()  # not a read: the child would take what is written for the parent
"""


def never(_: float) -> None:
    pytest.fail("it waited")


def acquire(
    lock: PassLock, *, me: Holder = ME, wait_seconds: float = 0, sleep: Callable[[float], None] = never
) -> None:
    lock.acquire(me, wait_seconds=wait_seconds, now=lambda: NOON, sleep=sleep)


@contextmanager
def held(path: Path, me: Holder = ME) -> Iterator[PassLock]:
    lock = PassLock(path)
    acquire(lock, me=me)
    try:
        yield lock
    finally:
        lock.release()


@contextmanager
def another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a process that has held the lock since 11:59:30, until its input ends or it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.db.retrycli.lock"


def test_a_lock_is_acquired_and_released_in_one_private_file(path: Path) -> None:
    """All who wait share the file. Who only looks creates and changes nothing."""
    assert PassLock(path).holder() is None
    assert not path.exists()
    before, inodes = os.umask(0), set()
    try:
        for me in (Holder(1, "a" * 200, NOON), ME):
            with held(path, me) as lock:
                text = path.read_text()
                assert PassLock(path).holder() == lock.holder() == me
                assert path.read_text() == text
                assert path.stat().st_mode & 0o777 == 0o600
                inodes.add(path.stat().st_ino)
            assert lock.holder() is None
    finally:
        os.umask(before)
    assert inodes == {path.stat().st_ino}


def test_a_lock_held_by_another_process_is_refused_with_pid_host_and_age(path: Path) -> None:
    with another_process(path) as other:
        with pytest.raises(LockHeld) as refused:
            acquire(PassLock(path))
        assert str(refused.value) == f"another pass holds the lock {path}: pid {other.pid} on barn, for 30 s"
        assert PassLock(path).holder() == Holder(other.pid, "barn", NOON - timedelta(seconds=30))


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
def test_a_refused_lock_leaves_no_file_open(path: Path) -> None:
    with held(path):
        before = open_files()
        lock = PassLock(path)
        lock.release()  # it was not acquired
        with pytest.raises(LockHeld):
            acquire(lock)
        PassLock(path).holder()
        PassLock(path).check()
        assert open_files() == before


def test_waits_at_most_the_given_time_and_stops_on_request(path: Path) -> None:
    """A signal only sets a flag and does not end a sleep, so the flag must be checked between sleeps."""
    waits: list[float] = []
    with held(path):
        with pytest.raises(LockHeld):
            acquire(PassLock(path), wait_seconds=2, sleep=waits.append)
        assert set(waits) == {POLL_SECONDS}
        assert sum(waits) == pytest.approx(2)
        waits.clear()
        with pytest.raises(LockHeld):
            PassLock(path).acquire(
                ME, wait_seconds=3600, now=lambda: NOON, sleep=waits.append, give_up=lambda: len(waits) == 2
            )
        assert len(waits) == 2


def test_a_lock_released_meanwhile_is_acquired(path: Path) -> None:
    waits: list[float] = []
    with held(path) as other:

        def end_the_other(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 3:
                other.release()

        lock = PassLock(path)
        acquire(lock, wait_seconds=2, sleep=end_the_other)
        assert len(waits) == 3
        assert lock.holder() == ME
        lock.release()


def test_a_killed_process_leaves_no_lock(path: Path) -> None:
    """The file still exists and names the killed process, but the kernel has released the lock."""
    with another_process(path) as other:
        other.kill()
        other.wait()
    assert json.loads(path.read_text())["pid"] == other.pid
    assert PassLock(path).holder() is None
    with held(path) as lock:
        assert lock.holder() == ME


@pytest.mark.parametrize("how", ["releases it", "is killed"])
def test_a_forked_child_does_not_keep_the_lock(path: Path, how: str) -> None:
    """An application may fork workers during a pass in one of its threads."""
    with subprocess.Popen(
        [sys.executable, "-c", FORK, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin
        assert parent.stdout
        child = int(parent.stdout.readline())
        assert PassLock(path).holder() == Holder.read(path.read_text())
        if how == "is killed":
            os.kill(parent.pid, signal.SIGKILL)
            parent.wait()
        else:
            parent.stdin.write("\n")
            parent.stdin.flush()
            assert parent.stdout.readline() == "released\n"
        wait_until(lambda: PassLock(path).holder() is None)
        os.kill(child, signal.SIGKILL)  # raises if the child is not alive any more
        parent.kill()


def test_an_invalid_text_in_the_file_only_omits_the_holder(path: Path) -> None:
    for text in (
        b"",
        b"4711",
        b"\xff\xfe\x00garbage",
        b"[]",
        b"{}",
        b'{"pid": null, "host": "mill", "since": "2025-03-03T12:00:00+00:00"}',
        b'{"pid": Infinity, "host": "mill", "since": "2025-03-03T12:00:00+00:00"}',
        b'{"pid": 1, "host": "mill", "since": "yesterday"}',
        b'{"pid": 1, "host": "mill", "since": 5}',
        b'{"pid": 1, "host": "mill", "since": "0001-01-01T00:00:00+14:00"}',
        b"[" * 4096,
    ):
        with held(path):
            path.write_bytes(text)
            with pytest.raises(LockHeld, match="an unidentified process"):
                acquire(PassLock(path))
            assert PassLock(path).holder() == Holder()


@pytest.mark.parametrize(("since", "age"), [("2025-03-01T12:00:00", ""), ("2025-03-03T13:00:00+00:00", "0 s")])
def test_a_time_without_a_zone_is_accepted_and_one_in_the_future_has_no_age(path: Path, since: str, age: str) -> None:
    """The clock may have been set back after the holder acquired the lock."""
    with held(path):
        path.write_text(json.dumps({"pid": 1, "host": "mill", "since": since}))
        with pytest.raises(LockHeld, match=f"pid 1 on mill, for {age}"):
            acquire(PassLock(path))


def test_a_full_disk_does_not_prevent_a_pass(path: Path) -> None:
    """The lock works without the file's text. A file size limit of zero simulates the full disk."""
    script = (
        "import resource, sys; from datetime import datetime; from pathlib import Path\n"
        "from retrycli.system.pass_lock import Holder, PassLock\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "lock = PassLock(Path(sys.argv[1]))\n"
        "lock.acquire(Holder(1, 'mill', None), wait_seconds=0, now=datetime.now, sleep=print)\n"
        "print(lock.holder())"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (str(Holder()), "")


def test_two_concurrent_inspections_do_not_report_each_other(path: Path) -> None:
    with held(path):
        pass
    with path.open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert PassLock(path).holder() is None


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.symlink_to("precious"), r"can't open the lock file .*; set run\.lock_file to a path"),
        (lambda path: path.symlink_to("not there"), r"can't open the lock file .*; set run\.lock_file to a path"),
        (lambda path: path.hardlink_to(path.with_name("precious")), "has several hard links"),
        (os.mkfifo, "is not a regular file"),
    ],
    ids=["link", "broken link", "hard link", "pipe"],
)
def test_a_link_or_a_pipe_is_refused_and_its_target_left_alone(
    path: Path, make: Callable[[Path], None], why: str
) -> None:
    """In a folder that others can write to, the link could point to any file of this user."""
    path.with_name("precious").write_text("of ours")
    make(path)
    with pytest.raises(LockUnusable, match=why):
        acquire(PassLock(path))
    assert path.with_name("precious").read_text() == "of ours"
    assert not path.with_name("not there").exists()


@pytest.mark.parametrize("place", ["no/such/folder/lock", "file/lock", "folder", "lock" * 100])
def test_a_path_at_which_no_file_can_be_created_is_named(tmp_path: Path, place: str) -> None:
    """The name that is too long can't even be looked up."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    lock = PassLock(tmp_path / place)
    for use in (lambda: acquire(lock), lock.check, *([lock.holder] if len(place) > 255 else [])):
        with pytest.raises(LockUnusable, match=f"can't open the lock file {tmp_path / place}: "):
            use()


def test_a_file_too_long_for_a_lock_is_left_alone(path: Path) -> None:
    """An operator may have set run.lock_file to the database itself."""
    content = b"SQLite format 3\0" + bytes(4096)
    path.write_bytes(content)
    with pytest.raises(LockUnusable, match=r"contains other data; set run\.lock_file to another path"):
        acquire(PassLock(path))
    assert path.read_bytes() == content


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's file")
@pytest.mark.parametrize(("mode", "refused"), [(0o1777, True), (0o777, True), (0o775, False)])
def test_another_users_file_is_refused_in_a_world_writable_directory(
    tmp_path: Path, mode: int, *, refused: bool
) -> None:
    """The file's owner could hold the lock forever. Elsewhere, the folder's owner has given that user write access."""
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    path = folder / "lock"
    path.touch(0o666)
    os.chown(path, NOBODY, NOBODY)
    for use in (lambda: acquire(PassLock(path)), PassLock(path).check, PassLock(path).holder):
        with pytest.raises(LockUnusable) if refused else nullcontext():
            use()
    os.chown(folder, NOBODY, NOBODY)
    PassLock(path).check()


def test_a_pass_made_by_root_does_not_exclude_the_directorys_owner() -> None:
    with open_place() as place:
        os.chown(place, OURS, OURS)
        with held(place / "lock"):
            pass
        as_user(OURS, lambda: acquire(PassLock(place / "lock")))


def test_a_lock_left_by_root_is_reported_with_its_owner_and_a_remedy() -> None:
    """An earlier version may have left such a lock. Root must not chown an existing file, which may not be a lock."""
    with open_place() as place:
        os.chown(place, OURS, OURS)
        (place / "lock").touch(0o600)
        with held(place / "lock"):
            pass
        with pytest.raises(LockUnusable) as refused:
            as_user(OURS, PassLock(place / "lock").check)
        told = f"can't open the lock file {place}/lock: it belongs to root. Run retrycli as root"
        remedy = "If the current user should run the passes instead, run as root:"
        assert str(refused.value) == f"{told}. {remedy} chown -h {OURS} {place}/lock"


def test_a_child_that_outlives_the_pass_does_not_keep_its_lock(path: Path) -> None:
    """The child inherits every inheritable file, so the lock's file must not be inheritable."""
    with held(path):
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
    with child, held(path) as lock:
        assert child.poll() is None
        assert lock.holder() == ME
