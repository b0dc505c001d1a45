"""A pass killed while it hands messages over, or records their results: nothing is lost or sent twice."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from retrycli import load_settings
from retrycli.operations import acceptance
from retrycli.operations.wiring import utc_now
from tests.cli.application import Application
from tests.crash import scene
from tests.crash.forked import Wanted, forking, kill_at_each_point
from tests.crash.invariants import wait_until_forgotten

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.crash.forked import Run
    from tests.crash.scene import Scene
    from tests.store.conftest import Factory

MESSAGES = 6
BOUNCE = {2, 5}
"""Messages that the application's sender can't send at first."""
LATER = timedelta(hours=1)
STATUS = '[database.status]\nfailed = "failed"\nsent = "sent"\nqueued = "queued"\n'


@dataclass
class Sender:
    """The application's own sender. It shows no message that it has begun, like django-post-office."""

    stage: Scene
    mails: Counter[int] = field(default_factory=Counter)
    bounced: set[int] = field(default_factory=set)

    def work(self, now: datetime) -> None:
        """Send all queued messages."""
        for (message_id,) in self.stage.rows("SELECT id FROM pending_messages WHERE status = 'queued' ORDER BY id"):
            fails = message_id in BOUNCE - self.bounced
            if fails:
                self.bounced.add(message_id)
            else:
                self.mails[message_id] += 1
            status, at = "failed" if fails else "sent", str(now.replace(tzinfo=None))
            self.stage.application.execute(
                "UPDATE pending_messages SET status = ?, last_error = ?, retry_count = 0, updated_at = ? WHERE id = ?",
                *(status, "550" if fails else None, at, message_id),
            )


@dataclass
class Field:
    folder: Path
    engine: Factory
    run: Run
    scenes: int = 0

    @contextmanager
    def copied(self, url: str) -> Iterator[tuple[Scene]]:
        self.scenes += 1
        folder = self.folder / f"{self.scenes}"
        folder.mkdir()
        with self.engine(folder, url) as copy:
            stage = scene.configure(folder, Application(copy, tables=None), "", concurrency=4)
            text = stage.config.read_text().replace('base_url = ""', 'kind = "application"')
            stage.config.write_text(text.replace("[gateway]", f"{STATUS}[gateway]"))
            acceptance.accept(load_settings(stage.config), by="anna")
            yield (stage,)


@pytest.fixture
def ground(engine: Factory, tmp_path: Path) -> Iterator[Field]:
    with forking(tmp_path) as run:
        yield Field(tmp_path, engine, run)


def assert_nothing_is_half_done(stage: Scene) -> None:
    """Check that each message is queued in the table, handed over in the queue and under way in the history, or none of
    these.
    """
    queued = stage.rows("SELECT id FROM pending_messages WHERE status = 'queued' ORDER BY id")
    handed_over = "SELECT message_id FROM retrycli_queue WHERE state = 'handed_over' ORDER BY message_id"
    assert stage.rows(handed_over) == queued
    assert stage.rows("SELECT message_id FROM retrycli_attempts WHERE finished_at IS NULL ORDER BY 1") == queued


def assert_all_end_well(stage: Scene, sender: Sender, now: datetime) -> None:
    """Let passes and the sender work in turn, and check what they did."""
    for _ in range(4):
        stage.run_once_at(now)
        sender.work(now + timedelta(minutes=1))
        now += 5 * LATER
    assert stage.run_once_at(now).sent == 0
    assert sender.mails == dict.fromkeys(range(1, MESSAGES + 1), 1)
    assert stage.count(f"pending_messages WHERE status = 'sent' AND id <= {MESSAGES}") == MESSAGES
    assert stage.count("retrycli_queue") == 0
    found = stage.rows("SELECT message_id, outcome FROM retrycli_attempts ORDER BY id")
    outcomes = {number: [outcome for of, outcome in found if of == number] for number in range(1, MESSAGES + 1)}
    assert outcomes == {number: ["refused", "delivered"] if number in BOUNCE else ["delivered"] for number in outcomes}


@pytest.mark.slow
@pytest.mark.databases("sqlite-wal", "postgresql", once=True)
@pytest.mark.parametrize("answers", [False, True], ids=["handing over", "recording"])
def test_a_pass_killed_at_any_point_hands_each_message_over_once(
    ground: Field, tmp_path: Path, *, answers: bool
) -> None:
    folder = tmp_path / "start"
    folder.mkdir()
    with ground.engine(folder, None) as url:
        scene.set_up(folder, "http://127.0.0.1:9", failed=MESSAGES, url=url, journal_mode=None).make_tables()
        ahead = LATER if answers else timedelta(0)
        before: Counter[int] = Counter()
        bounced: set[int] = set()
        if answers:
            with ground.copied(url) as (stage,):
                assert not ground.run(Wanted(str(stage.config), 0)).killed
                sender = Sender(stage)
                sender.work(utc_now())
                before, bounced = sender.mails, sender.bounced
                kill_everywhere(ground, stage.application.url, ahead, before, bounced)
        else:
            kill_everywhere(ground, url, ahead, before, bounced)


def kill_everywhere(ground: Field, url: str, ahead: timedelta, before: Counter[int], bounced: set[int]) -> None:
    met: set[str] = set()
    for (stage,), _ in kill_at_each_point(
        ground.run, Wanted("", ahead.total_seconds()), met, partial(ground.copied, url)
    ):
        wait_until_forgotten(stage)
        if ahead == timedelta(0):
            assert_nothing_is_half_done(stage)
        sender = Sender(stage, Counter(before), set(bounced))
        sender.work(utc_now() + ahead)
        assert_all_end_well(stage, sender, utc_now() + ahead + 5 * LATER)
    assert any("pending_messages" in visit for visit in met), "the pass writes to the application's table"
