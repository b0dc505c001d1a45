"""A database that is replaced, truncated, restored or locked. A pass delivers what it can, or reports the problem."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import TYPE_CHECKING

import pytest

from retrycli import load_settings
from retrycli.domain.errors import DatabaseUnavailable, SchemaMismatch
from retrycli.operations import run_pass, wiring
from retrycli.operations.sandbox import Behaviour, Sandbox
from retrycli.operations.wiring import utc_now
from tests.crash import scene
from tests.crash.forked import Wanted, forking
from tests.crash.invariants import check_messages, check_nothing_is_lost, clear_up
from tests.crash.killing import Killing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from retrycli.operations.sandbox import Answer
    from tests.crash.scene import Scene

MESSAGES = 12
LATER = timedelta(hours=1)
PAGE = 4096

TOLD = "the file is damaged; restore it|no table pending_messages in"

both_modes = pytest.mark.parametrize("mode", ["wal", pytest.param("delete", marks=pytest.mark.long)])


@pytest.fixture
def api() -> Iterator[Killing]:
    with Killing(timedelta(0)) as server:
        yield server


@pytest.fixture
def stage(mode: str, api: Killing, tmp_path: Path) -> Scene:
    """Provide a database that no pass has seen yet."""
    return scene.set_up(tmp_path, api.url, failed=MESSAGES, journal_mode=mode)


def _back_up(stage: Scene) -> Path:
    """Copy the database with SQLite's backup API, as an operator does."""
    copy = stage.folder / "backup.db"
    with closing(sqlite3.connect(stage.database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


def _restore(stage: Scene, backup: Path) -> None:
    """Restore a backup with SQLite's backup API."""
    with closing(sqlite3.connect(backup)) as source, closing(sqlite3.connect(stage.database)) as target:
        source.backup(target)


def _die_in_flight(stage: Scene, api: Killing) -> None:
    """Kill a pass after the API has accepted a message, but before the answer is recorded."""
    with forking(stage.folder) as run:
        assert api.kill_at(1, run, Wanted(str(stage.config), 0), accepts=True).killed


class Locking(Sandbox):
    """An API that accepts everything. At the first request it locks the database, like an application that hangs."""

    def __init__(self) -> None:
        super().__init__(Behaviour(), rng=Random(0))
        self.locks: Path | None = None
        self._held: sqlite3.Connection | None = None

    def answer(self, method: str, path: str, key: str | None, body: bytes) -> Answer:
        if self.locks is not None:
            self._held = sqlite3.connect(self.locks, isolation_level=None, check_same_thread=False)
            self._held.execute("BEGIN IMMEDIATE")
            self.locks = None
        return super().answer(method, path, key, body)

    def unlock(self) -> None:
        assert self._held is not None
        self._held.close()


# -- replaced, cut off ------------------------------------------------------------------------------------------------


@both_modes
def test_a_replacement_database_is_processed_from_the_start(
    mode: str, stage: Scene, api: Killing, tmp_path: Path
) -> None:
    stage.run_once_at(utc_now())
    folder = tmp_path / "other"
    folder.mkdir()
    other = scene.set_up(folder, api.url, failed=2, journal_mode=mode)
    shutil.move(other.database, stage.database)
    assert stage.run_once_at(utc_now()).sent == 2
    assert stage.rows("SELECT result, sent FROM retrycli_passes") == [("completed", 2)]


def test_creates_no_tables_in_a_file_without_the_applications_table(api: Killing, tmp_path: Path) -> None:
    stage = scene.set_up(tmp_path, api.url, failed=MESSAGES)
    stage.run_once_at(utc_now())
    stage.database.unlink()
    stage.database.touch()
    with pytest.raises(SchemaMismatch, match="no table pending_messages in "):
        stage.run_once_at(utc_now())
    assert stage.application.tables() == set()


@both_modes
def test_a_truncated_file_is_reported_in_words(mode: str, stage: Scene, api: Killing) -> None:
    stage.make_tables()
    stage.change("VACUUM")  # a missing page without content would not be noticed
    whole = stage.database.read_bytes()
    for size in [*range(0, len(whole), PAGE), *range(PAGE // 2, len(whole), 7 * PAGE)]:
        stage.database.write_bytes(whole[:size])
        with pytest.raises((DatabaseUnavailable, SchemaMismatch), match=TOLD):
            stage.run_once_at(utc_now())
    assert api.received == ()
    stage.database.write_bytes(whole)
    clear_up(stage, utc_now())
    check_messages(stage, api, MESSAGES)


# -- restored ---------------------------------------------------------------------------------------------------------


@both_modes
@pytest.mark.parametrize("times", [("created_at", "updated_at"), ()])
def test_messages_that_a_backup_marks_failed_are_sent_again_with_the_same_key(
    mode: str, times: tuple[str, ...], stage: Scene, api: Killing
) -> None:
    """The key depends only on the message, so the backup may even be older than retrycli's own tables.

    Without times, the key depends on the ticket and the text.
    """
    for column in {"created_at", "updated_at"} - {*times}:
        stage.change(f"ALTER TABLE pending_messages DROP COLUMN {column}")
    backup = _back_up(stage)
    clear_up(stage, utc_now())
    _restore(stage, backup)
    clear_up(stage, utc_now() + LATER)
    assert [request.times for request in api.received] == [2] * MESSAGES


@both_modes
def test_a_backup_made_during_a_request_knows_that_the_message_may_have_arrived(
    mode: str, stage: Scene, api: Killing
) -> None:
    _die_in_flight(stage, api)
    [(sending,)] = stage.rows("SELECT message_id FROM retrycli_attempts WHERE finished_at IS NULL")
    backup = _back_up(stage)
    clear_up(stage, utc_now() + LATER)
    _restore(stage, backup)
    clear_up(stage, utc_now() + LATER)
    history = "SELECT outcome FROM retrycli_attempts WHERE message_id = ? ORDER BY number"
    assert stage.rows(history, sending) == [("unknown",), ("delivered",)]
    assert sorted(request.times for request in api.received) == [2] * (MESSAGES - 1) + [3]


# -- what SQLite keeps beside the file --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["wal"])
def test_the_shared_memory_of_a_write_ahead_log_is_recreated(mode: str, stage: Scene, api: Killing) -> None:
    _die_in_flight(stage, api)
    stage.database.with_name("agent.db-shm").unlink()
    check_nothing_is_lost(stage, api, MESSAGES)
    clear_up(stage, utc_now() + LATER)
    check_messages(stage, api, MESSAGES)


@pytest.mark.parametrize("mode", ["wal"])
def test_a_database_without_its_write_ahead_log_is_like_an_old_backup(mode: str, stage: Scene, api: Killing) -> None:
    """A delivered message is sent again with the same key, so that the API can recognise it."""
    _die_in_flight(stage, api)
    for left in ("agent.db-wal", "agent.db-shm"):
        stage.database.with_name(left).unlink()
    assert not stage.has_tables()
    clear_up(stage, utc_now() + LATER)
    assert sorted(request.times for request in api.received) == [1] * (MESSAGES - 1) + [2]
    assert stage.rows("SELECT outcome, count(*) FROM retrycli_attempts GROUP BY 1") == [("delivered", MESSAGES)]


# -- locked -----------------------------------------------------------------------------------------------------------


@both_modes
@pytest.mark.parametrize("patience", ["?timeout=0.1", pytest.param("", marks=pytest.mark.long)], ids=["short", "real"])
def test_claims_outlive_the_wait_for_the_applications_write_lock(mode: str, patience: str, tmp_path: Path) -> None:
    """A pass that gives up keeps its claims, so that no other pass sends its messages before the claims expire.

    The clock of the pass jumps by an hour as soon as the database is locked, so that the test need not wait.
    """
    with Locking() as api:
        stage = scene.set_up(tmp_path, api.url, failed=MESSAGES, journal_mode=mode, concurrency=1)
        stage.config.write_text(stage.config.read_text().replace("agent.db", f"agent.db{patience}"))
        api.locks = stage.database

        def now() -> datetime:
            return utc_now() + (timedelta(0) if api.locks else LATER)

        with pytest.raises(DatabaseUnavailable, match="held a lock for too long; end it"):
            run_pass.run_once(load_settings(stage.config), runtime=replace(wiring.DEFAULT_RUNTIME, now=now))
        api.unlock()
        check_nothing_is_lost(stage, api, MESSAGES)
        run_pass.run_once(load_settings(stage.config))
        assert [request.times for request in api.received] == [1], "another pass touched what was claimed"
        clear_up(stage, utc_now() + LATER)
        check_messages(stage, api, MESSAGES)
