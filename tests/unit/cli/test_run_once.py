"""The signals that ask a pass to stop."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from retrycli.cli.run_once import Signals

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ALL}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ALL)
def test_a_signal_requests_an_end(number: signal.Signals) -> None:
    """When a terminal closes, both the shell and the kernel send SIGHUP, so the second SIGHUP must not end the pass."""
    signals = Signals()
    assert not signals.stop_requested()
    signal.raise_signal(number)
    assert signals.stop_requested()
    signal.raise_signal(signal.SIGHUP)
    assert signals.received == number


def test_under_nohup_a_pass_continues() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals = Signals()
    signal.raise_signal(signal.SIGHUP)
    assert not signals.stop_requested()
