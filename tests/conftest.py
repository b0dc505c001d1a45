"""Tests run side by side in several processes, but for those that measure: these have the machine to themselves."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, how)
        yield


@pytest.fixture(autouse=True)
def _room(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[None]:
    """Room for one test: beside the others', or, for one that is marked ``alone``, when they have left.

    Whoever comes waits at the door until those before it are in, so that one that wants to be alone has its turn.
    """
    if worker_id == "master":  # no other process is at work
        yield
        return
    shared = tmp_path_factory.getbasetemp().parent
    alone = request.node.get_closest_marker("alone") is not None
    with ExitStack() as until_the_end:
        door = until_the_end.enter_context(ExitStack())
        door.enter_context(_locked(shared / "door.lock", fcntl.LOCK_EX))
        until_the_end.enter_context(_locked(shared / "room.lock", fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
        if not alone:
            door.close()
        yield
