"""Passes that are killed while they send the messages of another application's table: UUIDs, and counts of our own."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from retrycli import load_settings
from retrycli.operations import table
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
FATAL = (1, 7, 3, 5, 2, 0, 0)
"""The requests at which successive passes are killed; the last two are not. Before each pass, more messages are due."""
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
    gateway = f'[gateway]\nbase_url = "{api.url}"\nrequest_timeout_seconds = 120\nunknown_limit = {len(FATAL)}\n'
    file = folder / "retrycli.toml"
    settings = SETTINGS.replace("[database]\n", database)
    file.write_text(f"{settings}{gateway}[run]\nconcurrency = 4\n{lock}", encoding="utf-8")
    table.accept(load_settings(file))
    return outbox


def states(outbox: Outbox) -> set[object]:
    return {row["state"] for row in outbox.application.rows('"message outbox"').values()}


def test_a_killed_pass_loses_nothing_and_sends_nothing_twice(engine: Factory, tmp_path: Path, api: Killing) -> None:
    with engine(tmp_path, None) as url, forking(tmp_path) as run:
        outbox = make(tmp_path, url, api)
        for number, request in enumerate(FATAL):
            wanted = Wanted(str(tmp_path / "retrycli.toml"), number * ALL_DUE)
            assert api.kill_at(request, run, wanted, accepts=request % 2 > 0).killed == (request > 0)
            assert states(outbox) <= {FAILED, SENT}
        assert states(outbox) == {SENT}
    assert len({str(request.content) for request in api.received}) == len(api.received) == MESSAGES
