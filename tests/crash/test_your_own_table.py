"""Passes that are killed while they send the messages of another application's table: UUIDs, and counts of our own."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from retrycli import load_settings
from retrycli.operations import acceptance
from tests.cli.command import Cli
from tests.cli.outbox import FAILED, SENT, SETTINGS, Outbox
from tests.conftest import on_both
from tests.crash.forked import Wanted, forking
from tests.crash.killing import Killing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.store.conftest import Factory

pytestmark = on_both

MESSAGES = 40
FATAL = (1, 7, 3, 5, 2)
"""The requests at which successive passes are killed. Before each pass, more messages than this are due."""
ALL_DUE = timedelta(hours=5).total_seconds()
"""The time after which all claims have expired and all messages are due."""


@pytest.fixture
def api() -> Iterator[Killing]:
    with Killing(timedelta(milliseconds=20)) as server:
        yield server


def make(folder: Path, url: str, api: Killing) -> Outbox:
    """Create the table with failed messages, and settings for it that are accepted."""
    outbox = Outbox(url, folder, Cli(folder))
    for _ in range(MESSAGES):
        outbox.add()
    database = f'[database]\nurl = "{url}"\n'
    lock = "" if outbox.application.is_sqlite else f'lock_file = "{folder}/pass.lock"\n'
    run = f'[gateway]\nbase_url = "{api.url}"\nunknown_limit = {len(FATAL)}\n[run]\nconcurrency = 4\n{lock}'
    file = folder / "retrycli.toml"
    file.write_text(SETTINGS.replace("[database]\n", database) + run, encoding="utf-8")
    acceptance.accept(load_settings(file))
    return outbox


def states(outbox: Outbox) -> set[object]:
    return {row["state"] for row in outbox.application.rows('"message outbox"').values()}


def test_a_killed_pass_loses_nothing_and_sends_nothing_twice(engine: Factory, tmp_path: Path, api: Killing) -> None:
    with engine(tmp_path, None) as url, forking(tmp_path) as run:
        outbox = make(tmp_path, url, api)
        ahead = (number * ALL_DUE for number in range(20))  # until no message is stuck

        def is_killed_at(request: int) -> bool:
            wanted = Wanted(str(tmp_path / "retrycli.toml"), next(ahead))
            return api.kill_at(request, run, wanted, accepts=request % 2 > 0).killed

        for request in FATAL:
            assert is_killed_at(request)
            assert states(outbox) <= {FAILED, SENT}
        while FAILED in states(outbox):
            assert not is_killed_at(0)
    assert len({str(request.content) for request in api.received}) == len(api.received) == MESSAGES
