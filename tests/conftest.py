"""Hooks and fixtures for all tests: the databases they run on, their limits, and the end of what they start."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
from collections.abc import Generator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests import watchdog
from tests.environment import forget_settings, in_memory, until_the_end
from tests.limits import pytest_exception_interact, pytest_timeout_cancel_timer, pytest_timeout_set_timer
from tests.store.conftest import ENGINES, FACTORIES, Factory

__all__ = ["pytest_exception_interact", "pytest_timeout_cancel_timer", "pytest_timeout_set_timer"]

on_both, on_sqlite = pytest.mark.databases(*ENGINES), pytest.mark.databases("sqlite")
"""Marks that select a test's databases. ``on_sqlite`` overrides ``on_both`` for single tests of a module."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that records what the program shows (`tests/recorded.py`)."""
    parser.addoption("--record", action="store_true", help="write tests/golden and the manual's tables, do not compare")


def pytest_configure(config: pytest.Config) -> None:
    """Start a watchdog, ignore settings from the environment, put the tests' folders in memory, and enable signals.

    A shell makes background processes ignore SIGINT and SIGQUIT, and ``nohup`` makes them ignore SIGHUP. The commands
    under test would inherit the ignored signals.
    """
    settings.register_profile("here", deadline=None)  # a busy machine may take any time for an example
    settings.load_profile("here")
    if not hasattr(config, "workerinput") and not watchdog.started:
        watchdog.start()
    faulthandler.cancel_dump_traceback_later()  # another session in the same process
    forget_settings()
    if (memory := in_memory()) is not None:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Set ``-n auto`` to twice the number of cores: many tests wait for a lock or a server."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    return 2 * len(os.sched_getaffinity(0))


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Make each worker start its imports at a different test module.

    Pytest rewrites the assertions of a module once, and keeps the result for the other workers. Workers that import
    the modules in the same order all rewrite the same module at the same time.
    """
    worker: dict[str, Any] | None = getattr(session.config, "workerinput", None)
    if worker is None:
        return
    chosen = [Path(each.partition("::")[0]).resolve() for each in session.config.args]
    files = [each for each in sorted(TESTS.rglob("test_*.py")) if any(map(each.is_relative_to, chosen))]
    number = int(worker["workerid"].removeprefix("gw"))
    begin = len(files) * number // worker["workercount"]
    for each in files[begin:] + files[:begin]:
        with suppress(Exception, pytest.skip.Exception):  # pytest's own collection reports the error
            import_module(".".join(each.relative_to(TESTS.parent).with_suffix("").parts))


TESTS = Path(__file__).parent
SLOW_FOLDERS = {TESTS / name for name in ("crash", "cron", "model", "systems")}
SLOW_SECONDS, LONG_SECONDS, END_SECONDS = 300, 1800, 60


def pytest_collection_finish() -> None:
    """Exclude the thousands of collected tests from garbage collection, which would take half a second each time."""
    gc.collect()
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test marked ``databases`` once on each database that the mark names.

    By default, one test of each module runs on all its databases: the first that is not marked ``once=True``. The rest
    run on the first database, and on the others with ``-m long``.
    """
    marker = metafunc.definition.get_closest_marker("databases")
    if marker is None or "engine" not in metafunc.fixturenames:
        return
    first, *others = marker.args
    once = marker.kwargs.get("once", False)
    stands_for_all = not others or (
        not once and STANDING.setdefault(metafunc.module, metafunc.function) is metafunc.function
    )
    marks = () if stands_for_all else (pytest.mark.long,)
    engines = [first, *(pytest.param(engine, marks=marks) for engine in others)]
    metafunc.parametrize("engine", engines, indirect=True, scope="session")


STANDING: dict[object, object] = {}
"""The test of each module that runs on all databases."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests ``long`` and ``alone``, and set the limits that differ from the usual one.

    A test is long if its ``long_except`` mark names neither the function nor this parametrized case.
    """
    for item in items:
        marker = item.get_closest_marker("long_except")
        if marker is not None and not {item.name, getattr(item, "originalname", "")} & {*marker.args}:
            item.add_marker(pytest.mark.long)
        if item.path.parent == TESTS / "benchmarks":
            item.add_marker(pytest.mark.alone)
        if item.get_closest_marker("long") is not None:
            item.add_marker(pytest.mark.timeout(LONG_SECONDS))
        elif item.path.parent in SLOW_FOLDERS and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Stop the tests' servers, and fail a run that leaves processes. A minute is the limit for the end of pytest."""
    faulthandler.dump_traceback_later(END_SECONDS, exit=True, file=2)
    yield
    until_the_end.close()
    if hasattr(session.config, "workerinput"):
        faulthandler.cancel_dump_traceback_later()  # a worker waits for the others
    elif left := {run: found for run in watchdog.started if (found := watchdog.left(run))}:
        pytest.exit(f"the tests have left processes: {left}", returncode=session.exitstatus or 1)


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> Factory:
    """Provide a factory of databases for a test."""
    return FACTORIES[getattr(request, "param", "sqlite")]
