"""Limit each test, with pytest-timeout's settings and messages: `tests.conftest` adds these hooks.

The plugin raises once, in the main thread, and stops its timer if a test fails. Here the failure is raised again and
again, because code may swallow it, and because each block that is left may wait for what hangs. The limit also holds
for the cleanup of a test that failed.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from pytest_timeout import Settings, timeout_sigalrm  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from types import FrameType

limit = pytest.StashKey[float]()


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Settings) -> bool:
    def give_up(_number: int, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code is not RUNS_A_PHASE:
            frame = frame.f_back
        if frame is not None:  # not between two phases, where the failure would end pytest
            timeout_sigalrm(item, settings)

    item.stash[limit] = settings.timeout
    signal.signal(signal.SIGALRM, give_up)
    _start(item)
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_cancel_timer() -> bool:
    signal.setitimer(signal.ITIMER_REAL, 0)
    return True


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """Limit the cleanup, too. The plugin has stopped its timer, in case a debugger starts."""
    if limit in node.stash and not node.config.getoption("usepdb"):
        _start(node)


def _start(node: pytest.Item | pytest.Collector) -> None:
    signal.setitimer(signal.ITIMER_REAL, node.stash[limit], node.stash[limit] / 10)


RUNS_A_PHASE = pytest.CallInfo.from_call.__func__.__code__  # type: ignore[attr-defined]
"""The code that runs the setup, call or cleanup of a test, and catches what they raise."""
