"""A pass is killed with SIGKILL at a commit or request, and the application then reuses ids and rewrites its rows."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from retrycli.domain.identity import REBIRTHS
from retrycli.operations.wiring import utc_now
from tests.cli.application import Application
from tests.cli.story import Api
from tests.crash import scene
from tests.crash.forked import Wanted, forking, kill_at_each_point
from tests.crash.invariants import clear_up, wait_until_forgotten
from tests.crash.points import AFTER_AN_ANSWER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.crash.forked import Run
    from tests.crash.scene import Scene
    from tests.store.conftest import Factory

pytestmark = [pytest.mark.slow, pytest.mark.databases("sqlite-wal", "postgresql", once=True)]

MESSAGES = 6
NOBODY = "http://127.0.0.1:9"
LATER = timedelta(hours=1)
"""The time after which the claims of a killed pass have expired and all waiting messages are due."""
NEW_TICKET = scene.FIRST_TICKET + 100
REUSED: dict[int, dict[str, object]] = {1: {"body": "new 1"}, 2: {}, 3: {"body": "new 3", "ticket_id": NEW_TICKET}}
"""By id: the values of the new message that differ from the old one, except its times. Message 2 has the same text."""
EDITED, FAILED_AGAIN = 4, 5
CREATED_AT = "2025-03-04 05:06:07.000000"


def rewrite(stage: Scene) -> None:
    """Delete some rows and reuse their ids, edit one row, and mark one as failed again, whatever their statuses are."""
    for message_id, other in REUSED.items():
        row = scene.message(message_id, "failed") | {"created_at": CREATED_AT, "updated_at": CREATED_AT, **other}
        stage.application.execute("DELETE FROM pending_messages WHERE id = ?", message_id)
        stage.application.insert("pending_messages", [row])
    stage.change(f"UPDATE pending_messages SET body = 'edited', status = 'failed' WHERE id = {EDITED}")
    stage.change(f"UPDATE pending_messages SET status = 'approved' WHERE id = {FAILED_AGAIN}")
    stage.change(f"UPDATE pending_messages SET status = 'failed', last_error = 'HTTP 500' WHERE id = {FAILED_AGAIN}")


def check(stage: Scene, api: Api, before: int) -> None:
    """Check that each row has the result of its own text.

    Args:
        stage: the database.
        api: the API.
        before: the number of requests before the application rewrote its rows.
    """
    rows = {row["id"]: row for row in stage.application.execute("SELECT * FROM pending_messages ORDER BY id")}
    reasons = dict(stage.rows("SELECT message_id, escalation_reason FROM retrycli_queue"))
    anew = [each.body for each in api.requests[before:]]
    for message_id in range(1, MESSAGES + 1):
        sent = rows[message_id]["status"] == "sent"
        assert sent or message_id in reasons, f"message {message_id} is lost"
        if message_id in REUSED:
            assert sent, f"message {message_id} is another one than before, and is {reasons[message_id]}"
        if sent and message_id in {*REUSED, EDITED}:
            assert rows[message_id]["body"] in anew, f"message {message_id} is marked for another text"
    assert set(reasons) <= {EDITED, FAILED_AGAIN}
    assert set(reasons.values()) <= {"changed"}
    texts: dict[str, set[str]] = {}
    for request in api.requests:
        texts.setdefault(request.key, set()).add(f"{request.ticket} {request.body}")
    assert all(len(text) == 1 for text in texts.values()), f"a key was used for two texts: {texts}"
    _check_sent_once(stage, api)


def _check_sent_once(stage: Scene, api: Api) -> None:
    """Check that a text was sent again only after attempts with an unknown outcome."""
    unknown = Counter(
        attempt for (attempt,) in stage.rows("SELECT message_id FROM retrycli_attempts WHERE outcome = 'unknown'")
    )
    for key, times in Counter(api.keys).items():
        [ticket] = {request.ticket for request in api.requests if request.key == key}
        message_id = int(ticket) - scene.FIRST_TICKET if ticket != str(NEW_TICKET) else 3
        assert times <= 1 + unknown[message_id], f"message {message_id} was sent {times} times under one key"


@dataclass
class Ground:
    """A folder for copies of databases, and a function that runs passes on them."""

    folder: Path
    engine: Factory
    run: Run
    scenes: int = 0

    @contextmanager
    def empty(self) -> Iterator[str]:
        """Yield the URL of a database that no pass has seen yet."""
        folder = self.folder / "start"
        folder.mkdir()
        with self.engine(folder, None) as url:
            stage = scene.set_up(folder, NOBODY, failed=MESSAGES, url=url, journal_mode=None)
            stage.application.insert("ticket_states", [{"ticket_id": NEW_TICKET, "state": "open"}])
            yield url

    @contextmanager
    def copy(self, url: str) -> Iterator[tuple[Scene, Api]]:
        """Copy a database, and start an API for it."""
        self.scenes += 1
        folder = self.folder / f"{self.scenes}"
        folder.mkdir()
        with self.engine(folder, url) as copied, Api() as api:
            there = Application(copied, tables=None)
            yield scene.configure(folder, there, api.url, concurrency=4), api


@pytest.fixture
def ground(engine: Factory, tmp_path: Path) -> Iterator[Ground]:
    with forking(tmp_path) as run:
        yield Ground(tmp_path, engine, run)


@pytest.mark.parametrize("thorough", [False, pytest.param(True, marks=pytest.mark.long)], ids=["some", "all"])
def test_rows_may_be_rewritten_after_a_pass_was_killed_at_any_point(ground: Ground, *, thorough: bool) -> None:
    met: set[str] = set()
    wanted = Wanted("", 0, thorough=thorough)
    with ground.empty() as url:
        for (stage, api), _ in kill_at_each_point(ground.run, wanted, met, partial(ground.copy, url)):
            wait_until_forgotten(stage)
            rewrite(stage)
            before = len(api.requests)
            clear_up(stage, utc_now() + LATER)
            check(stage, api, before)
    assert AFTER_AN_ANSWER in met


@pytest.mark.long
def test_a_pass_that_finds_rewritten_rows_may_be_killed_at_any_point(ground: Ground) -> None:
    """The previous pass was killed with requests in flight, and its claims have expired."""
    met: set[str] = set()

    @contextmanager
    def rewritten(url: str) -> Iterator[tuple[Scene, Api, int]]:
        with ground.copy(url) as (stage, api):
            assert ground.run(Wanted(str(stage.config), 0, point=AFTER_AN_ANSWER)).killed
            wait_until_forgotten(stage)
            rewrite(stage)
            yield stage, api, len(api.requests)

    wanted = Wanted("", LATER.total_seconds(), thorough=True)
    with ground.empty() as url:
        for (stage, api, before), _ in kill_at_each_point(ground.run, wanted, met, partial(rewritten, url)):
            wait_until_forgotten(stage)
            clear_up(stage, utc_now() + 2 * LATER)
            check(stage, api, before)
    assert AFTER_AN_ANSWER in met


def test_a_row_whose_birth_changes_at_each_request_is_not_sent_forever_though_each_pass_is_killed(
    ground: Ground,
) -> None:
    with ground.empty() as url, ground.copy(url) as (stage, api):
        stage.change("UPDATE pending_messages SET status = 'sent' WHERE id > 1")
        for number in range(REBIRTHS + 2):
            ground.run(Wanted(str(stage.config), number * LATER.total_seconds(), point=AFTER_AN_ANSWER))
            wait_until_forgotten(stage)
            stage.change(f"UPDATE pending_messages SET created_at = '2025-03-04 05:06:0{number}' WHERE id = 1")
        assert stage.rows("SELECT escalation_reason FROM retrycli_queue") == [("invalid",)]
        outcomes = stage.rows("SELECT outcome FROM retrycli_attempts")
    assert (len(api.requests), outcomes) == (REBIRTHS, [("unknown",)] * REBIRTHS)
