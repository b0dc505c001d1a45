"""What all tests have in common: which databases they run on, and room for those that measure."""

from __future__ import annotations

import fcntl
import gc
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.environment import forget_settings
from tests.store.conftest import ENGINES, FACTORIES, Factory

on_both, on_sqlite = pytest.mark.databases(*ENGINES), pytest.mark.databases("sqlite")
"""For tests of the command, which run on SQLite where nothing is said; the second is for single ones of a module."""


def pytest_configure() -> None:
    """Take no settings from the environment, and heed Ctrl-C.

    A shell has what it starts in the background ignore SIGINT, and so all that this starts would.
    """
    forget_settings()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Have no garbage collection go through the thousands of tests there are: it stops one for half a second."""
    gc.collect()
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that is marked ``databases`` once on each of them."""
    marker = metafunc.definition.get_closest_marker("databases")
    if marker is not None and "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", marker.args, indirect=True, scope="session")


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> Factory:
    """What makes the databases that a test runs on."""
    return FACTORIES[getattr(request, "param", "sqlite")]


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
