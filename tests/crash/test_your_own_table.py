"""Passes that are killed while they send the messages of another application's table: UUIDs, and counts of our own."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

import pytest

from retrycli import load_settings
from retrycli.operations import acceptance, wiring
from retrycli.operations.sandbox import Behaviour, Sandbox
from tests.cli.command import Cli
from tests.cli.outbox import FAILED, SENT, SETTINGS, Outbox
from tests.conftest import on_both
from tests.crash.forked import Wanted, forking

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.crash.forked import Ended
    from tests.store.conftest import Factory

pytestmark = on_both

MESSAGES = 40
MOMENTS = (0.2, 0.35, 0.5, 0.65, 0.8)
"""Seconds after which passes are killed."""


@pytest.fixture
def api() -> Iterator[Sandbox]:
    with Sandbox(Behaviour(latency=timedelta(milliseconds=20)), rng=Random(0)) as server:
        yield server


def make(folder: Path, url: str, api: Sandbox) -> Outbox:
    """Create the table with failed messages, and settings for it that are accepted."""
    outbox = Outbox(url, folder, Cli(folder))
    for _ in range(MESSAGES):
        outbox.add()
    database = f'[database]\nurl = "{url}"\n'
    lock = "" if outbox.application.is_sqlite else f'lock_file = "{folder}/pass.lock"\n'
    run = f'[gateway]\nbase_url = "{api.url}"\n[run]\nconcurrency = 4\n{lock}'
    file = folder / "retrycli.toml"
    file.write_text(SETTINGS.replace("[database]\n", database) + run, encoding="utf-8")
    acceptance.accept(load_settings(file))
    return outbox


def states(outbox: Outbox) -> set[object]:
    return {row["state"] for row in outbox.application.rows('"message outbox"').values()}


def test_a_killed_pass_loses_nothing_and_sends_nothing_twice(engine: Factory, tmp_path: Path, api: Sandbox) -> None:
    file = tmp_path / "retrycli.toml"
    with engine(tmp_path, None) as url, forking(tmp_path) as run:
        outbox = make(tmp_path, url, api)
        lease = wiring.pass_rules(load_settings(file)).lease.total_seconds()
        ahead, killed = 0.0, 0

        def go(after: float | None) -> Ended:
            return run(Wanted(str(file), ahead, after_seconds=after))

        for moment in MOMENTS:
            killed += go(moment).killed
            ahead += lease + 1
            assert states(outbox) <= {FAILED, SENT}
        while FAILED in states(outbox):
            assert not go(None).killed
            ahead += lease + timedelta(hours=5).total_seconds()
            assert ahead < timedelta(days=5).total_seconds(), "some messages are stuck"
    assert killed > 1
    assert len({str(request.content) for request in api.received}) == len(api.received) == MESSAGES
