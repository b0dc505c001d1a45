"""A disk that is full, read-only or failing: no message is lost, and nothing is sent that cannot be recorded."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from datetime import timedelta
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from retrycli.domain.errors import DatabaseUnavailable
from retrycli.operations.sandbox import Behaviour, Sandbox
from retrycli.operations.wiring import utc_now
from retrycli.store.write_check import MIN_FREE
from tests.channels import webhook
from tests.cli.application import Application
from tests.crash import scene
from tests.crash.conftest import PAGE
from tests.crash.invariants import check_messages, check_nothing_is_lost, clear_up

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from retrycli.operations.sandbox import Answer
    from tests.crash.conftest import Disk
    from tests.crash.scene import Scene

MESSAGES = 6
LATER = timedelta(hours=1)
ENOUGH = MIN_FREE // PAGE + 100
"""Enough free pages for a pass over these few messages: it uses fewer than 100 before it checks for `MIN_FREE`."""

both_modes = pytest.mark.parametrize("mode", ["wal", pytest.param("delete", marks=pytest.mark.long)])


class Filling(Sandbox):
    """An API that accepts everything, and changes the disk at one of the requests."""

    def __init__(self, number: int, what: Callable[[], None]) -> None:
        super().__init__(Behaviour(), rng=Random(0))
        self._until = number
        self._what = what

    def answer(self, method: str, path: str, key: str | None, body: bytes) -> Answer:
        self._until -= 1
        if self._until == 0:
            self._what()
        return super().answer(method, path, key, body)


@pytest.fixture
def template(mode: str, tmp_path: Path) -> Scene:
    made = scene.set_up(tmp_path, "http://127.0.0.1:9", failed=MESSAGES, journal_mode=mode)
    made.make_tables()
    return made


def _on(disk: Disk, template: Scene, api: Sandbox, **run: object) -> Scene:
    disk.free()
    shutil.copy(template.database, disk.folder)
    there = Application(f"sqlite:///{disk.folder / template.database.name}", tables=None)
    return scene.configure(template.folder, there, api.url, **run)


WHY_FAILED = "SELECT detail FROM retrycli_passes WHERE result = 'failed'"


def _outcomes(stage: Scene) -> Counter[tuple[int, str | None]]:
    return Counter(stage.rows("SELECT message_id, outcome FROM retrycli_attempts"))


@both_modes
def test_nothing_is_sent_if_there_is_no_space_to_record_the_outcome(
    mode: str, disk: Disk, template: Scene, api: Sandbox
) -> None:
    stage = _on(disk, template, api)
    for pages in (0, 1, 4, 8, 9, 12, 16, 24, 32, 64, 128, 512, MIN_FREE // PAGE - 1):
        disk.fill(pages)
        with pytest.raises(DatabaseUnavailable, match="free some space") as raised:
            stage.run_once_at(utc_now())
        assert "\n" not in str(raised.value)
        assert api.received == ()
    disk.fill(ENOUGH)
    clear_up(stage, utc_now() + LATER)
    check_messages(stage, api, MESSAGES)
    assert [request for request in api.received if request.times > 1] == []


READING = ("status", "list-failed", "escalations", "show 1", "explain 1", "stats", "passes", "run-once --dry-run")


@pytest.mark.parametrize("mode", ["wal"])
def test_a_wal_file_that_needs_space_to_be_read_is_reported_with_the_reason(
    mode: str, disk: Disk, template: Scene, api: Sandbox
) -> None:
    """If no process has the file open, SQLite must first create the -shm file."""
    stage = _on(disk, template, api)
    disk.fill(0)
    for command in READING:
        with stage.start("-m", "retrycli", *command.split()) as process:
            output, errors = process.communicate()
        assert (process.returncode, output) == (69, ""), command
        assert errors == (
            f"retrycli: {stage.database}: disk I/O error: SQLite can't write the -shm file, which it needs even to "
            "read in WAL mode; free some space, or check the kernel log\n"
        )
    disk.free()
    assert _asked(stage, "status")[0] == 0


def _asked(stage: Scene, *command: str) -> tuple[int, dict[str, Any]]:
    with stage.start("-m", "retrycli", *command, "--json") as process:
        output, _ = process.communicate()
    return process.returncode, json.loads(output)


@both_modes
def test_status_and_explain_report_a_full_disk(mode: str, disk: Disk, template: Scene, api: Sandbox) -> None:
    """A pass without due messages does not fail, so the disk must be reported even after a successful pass."""
    stage = _on(disk, template, api)
    disk.fill(MIN_FREE // PAGE - 1)
    with pytest.raises(DatabaseUnavailable):
        stage.run_once_at(utc_now())
    code, explained = _asked(stage, "explain", "1")
    assert (code, explained["next_attempt_at"]) == (0, None)
    gates = {gate["name"]: gate for gate in explained["gates"]}
    assert gates["last_pass"]["open"]
    assert "the last pass failed: " in gates["last_pass"]["figure"]
    assert not gates["disk"]["open"]
    stage.change("UPDATE pending_messages SET status = 'rejected'")
    stage.run_once_at(utc_now())
    code, told = _asked(stage, "status", "--check")
    assert (code, told["state"]) == (3, "down")
    assert told["disk"].endswith("; free some space")
    assert told["disk"] == gates["disk"]["figure"]
    disk.free()
    code, told = _asked(stage, "status", "--check")
    assert (told["state"], told["disk"]) == ("ok", None)


@both_modes
@pytest.mark.parametrize("pages", [0, 64])
def test_doctor_reports_a_full_disk_once(mode: str, pages: int, disk: Disk, template: Scene, api: Sandbox) -> None:
    """The full disk must not make other checks fail. Checks that it makes impossible are skipped."""
    stage = _on(disk, template, api)
    _, told = _asked(stage, "doctor")
    before = {finding["name"] for finding in told["findings"] if finding["level"] == "failure"}
    disk.fill(pages)
    code, told = _asked(stage, "doctor")
    new = [finding for finding in told["findings"] if finding["level"] == "failure" and finding["name"] not in before]
    assert (code, [row["name"] for row in new]) == (3, ["disk"])
    assert re.search(r"the disk of .+ has \d+ KiB free, but 4096 KiB are needed", new[0]["found"])
    assert new[0]["remedy"] == "free some space"
    assert {"api", "scheduler"} <= {finding["name"] for finding in told["findings"]}


def _mail(stage: Scene, **settings: object) -> list[str]:
    """Run a pass; return the lines that cron would mail."""
    with stage.start("-m", "retrycli", "run-once", settings=settings) as process:
        _, errors = process.communicate()
    lines: list[str] = errors.splitlines()
    return lines


@both_modes
def test_a_full_disk_and_its_end_are_reported_once_if_there_is_space_to_record_it(
    mode: str, disk: Disk, template: Scene, api: Sandbox
) -> None:
    stage = _on(disk, template, api)
    mails = []
    with webhook() as hook:
        settings = {"notify.urls": f"json://{hook.host}/x"}
        for pages in (200, 150, 100):
            disk.fill(pages)
            mails.append(_mail(stage, **settings))
        assert [len(mail) for mail in mails] == [1, 0, 0]
        disk.free()
        [over] = _mail(stage, **settings)
        assert re.search(r"WARNING Message retry passes no longer fail\. They failed (at|from .* to) .* UTC: ", over)
        assert _mail(stage, **settings) == []
        titles = [request.json["title"] for request in hook.requests]
    assert [title.partition(": ")[2] for title in titles] == ["passes fail", "passes no longer fail"]
    assert "the disk of" in hook.requests[0].json["message"]
    disk.fill(0)
    assert [len(_mail(stage)) for _ in range(2)] == [1, 1], "there is no space to record that it was reported"


@both_modes
@pytest.mark.parametrize("number", [1, 3])
def test_a_disk_that_fills_up_during_a_pass_costs_no_message_and_no_outcome(
    mode: str, number: int, disk: Disk, template: Scene
) -> None:
    """Requests are sent one at a time, so at most one attempt may lack its outcome."""
    failed = 0
    for pages in (0, 1, 2, 3, 5, 8, 13):
        with Filling(number, partial(disk.fill, pages)) as api:
            stage = _on(disk, template, api, concurrency=1)
            now = utc_now()
            try:
                stage.run_once_at(now)
            except DatabaseUnavailable:
                failed += 1
            check_nothing_is_lost(stage, api, MESSAGES)
            assert all("free some space" in why for (why,) in stage.rows(WHY_FAILED))
            before = _outcomes(stage)
            under_way = Counter(of_id for of_id, outcome in before if outcome is None)
            assert under_way.total() <= 1, "a request went out when the one before it could not be recorded"
            disk.free()
            clear_up(stage, now + LATER)
            check_messages(stage, api, MESSAGES)
            after = _outcomes(stage)
            assert all(after[of_id, outcome] >= times for (of_id, outcome), times in before.items() if outcome)
            assert Counter(of_id for of_id, outcome in after if outcome == "unknown") == under_way
    assert failed


@both_modes
def test_a_read_only_disk_is_reported_before_anything_is_sent(
    mode: str, disk: Disk, template: Scene, api: Sandbox
) -> None:
    stage = _on(disk, template, api)
    disk.remount("ro")
    with pytest.raises(DatabaseUnavailable, match=f"^{stage.database}: .*: .*check .*mount"):
        stage.run_once_at(utc_now())
    assert api.received == ()
    disk.remount("rw")
    clear_up(stage, utc_now() + LATER)
    check_messages(stage, api, MESSAGES)


@pytest.mark.parametrize("error", ["EROFS", "EIO", "ENOSPC"])
def test_a_disk_that_fails_during_a_pass_costs_no_message(
    error: str, strace: Sequence[str], api: Sandbox, tmp_path: Path
) -> None:
    """A file system may become read-only after an error. All later writes then fail."""
    stage = scene.set_up(tmp_path, api.url, failed=MESSAGES, concurrency=1)
    stage.make_tables()
    fails = ["-o", str(tmp_path / "trace"), "-e", "trace=pwrite64", "-e", f"inject=pwrite64:error={error}:when=70+"]
    with stage.start("-m", "retrycli", "run-once", under=[*strace, *fails]) as process:
        output, errors = process.communicate()
    assert (process.returncode, output) == (69, "")
    [line] = errors.splitlines()
    assert line.startswith(f"retrycli: {stage.database}: ")
    assert "free some space" in line
    check_nothing_is_lost(stage, api, MESSAGES)
    assert 0 < len(api.received) < MESSAGES
    clear_up(stage, utc_now() + LATER)
    check_messages(stage, api, MESSAGES)
