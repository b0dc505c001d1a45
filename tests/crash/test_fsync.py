"""An attempt is on the disk before its request is sent, and a kill during a sync loses nothing.

strace(1) observes and controls the system calls of the pass.
"""

from __future__ import annotations

import re
import signal
from datetime import timedelta
from itertools import count
from random import Random
from typing import TYPE_CHECKING

import pytest

from retrycli.operations.sandbox import Behaviour, Sandbox
from retrycli.operations.wiring import utc_now
from tests.crash import scene
from tests.crash.invariants import check_messages, check_nothing_is_lost, clear_up

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.crash.scene import Scene

MESSAGES = 3
WAITS = "fsync,fdatasync"
WRITTEN = re.compile(r"pwrite64\(\d+<(.*?)>")
ON_DISK = re.compile(r"f(?:data)?sync\(\d+<(.*?)>")
REMOVED = re.compile(r'unlink\("(.*?)/([^/]*)"\) = 0')
SENT = re.compile(r'sendto\(.*"POST /tickets/')
STEP = timedelta(hours=5)


def _traced(stage: Scene, strace: Sequence[str], *how: str) -> tuple[int, list[str]]:
    """Run a pass under strace; return its exit code and its system calls."""
    trace = stage.folder / "trace"
    with stage.start("-m", "retrycli", "run-once", under=[*strace, "-y", "-o", str(trace), *how]) as process:
        _, errors = process.communicate()
    assert process.returncode in {0, -signal.SIGKILL}, errors
    return process.returncode, trace.read_text().splitlines()


def _scene(folder: Path, api: Sandbox, mode: str) -> Scene:
    folder.mkdir()
    made = scene.set_up(folder, api.url, failed=MESSAGES, journal_mode=mode, concurrency=1)
    made.make_tables()
    return made


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_an_attempt_is_on_disk_before_its_request_is_sent(
    mode: str, strace: Sequence[str], api: Sandbox, tmp_path: Path
) -> None:
    """The journal must be removed too. After a power failure, SQLite would use it to undo the attempt."""
    stage = _scene(tmp_path / mode, api, mode)
    code, trace = _traced(stage, strace, "-e", f"trace={WAITS},pwrite64,unlink,sendto")
    assert code == 0
    files = {str(stage.database), f"{stage.database}-wal"}
    not_yet, written, requests = set[str](), False, 0
    for line in trace:
        if (found := WRITTEN.search(line)) and found[1] in files:
            not_yet.add(found[1])
            written = True
        elif (found := REMOVED.search(line)) and found[2] == f"{stage.database.name}-journal":
            not_yet.add(found[1])  # the directory entry of the journal may survive a power failure
        elif found := ON_DISK.search(line):
            not_yet.discard(found[1])
        elif SENT.search(line):
            requests += 1
            assert (written, not_yet) == (True, set())
            written = False
    assert requests == MESSAGES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "every"),
    [
        pytest.param("wal", 5),
        pytest.param("wal", 1, marks=pytest.mark.long),
        pytest.param("delete", 1, marks=pytest.mark.long),
    ],
)
def test_a_pass_killed_while_it_waits_for_the_disk_loses_nothing(
    mode: str, every: int, strace: Sequence[str], tmp_path: Path
) -> None:
    """Kill passes at later and later waits, until a pass ends before."""
    under_way = twice = kills = 0
    for number in count(1, every):
        with Sandbox(Behaviour(), rng=Random(0)) as api:
            stage = _scene(tmp_path / f"{number}", api, mode)
            kill = f"inject={WAITS}:signal=KILL:when={number}"
            code, _ = _traced(stage, strace, "-e", f"trace={WAITS}", "-e", kill)
            if code == 0:
                break
            kills += 1
            check_nothing_is_lost(stage, api, MESSAGES)
            under_way += stage.count("retrycli_attempts WHERE finished_at IS NULL")
            clear_up(stage, utc_now() + STEP)
            check_messages(stage, api, MESSAGES)
            assert stage.rows("PRAGMA integrity_check") == [("ok",)]
            twice += sum(request.times > 1 for request in api.received)
    print(f"\n{mode}: killed at {kills} waits; {under_way} under way, {twice} arrived twice")
    assert kills * every >= 2 * MESSAGES, "an attempt and its outcome are two commits"
