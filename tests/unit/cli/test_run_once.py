"""Which signals end a command, and how often they have to be said."""

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
    """Leave those of the tests as they were, which may themselves run under nohup."""
    before = {each: signal.getsignal(each) for each in ALL}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("number", ALL)
def test_a_signal_asks_for_an_end(number: signal.Signals) -> None:
    signals = Signals()
    assert not signals.stop_requested()
    signal.raise_signal(number)
    assert signals.stop_requested()
    assert signals.received == number


@pytest.mark.parametrize("first", ALL)
def test_a_terminal_that_is_closed_does_not_have_a_pass_leave_at_once(first: signal.Signals) -> None:
    """The shell says it, and the kernel says it again."""
    signals = Signals()
    signal.raise_signal(first)
    signal.raise_signal(signal.SIGHUP)
    assert signals.received == first


def test_under_nohup_a_pass_goes_on() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals = Signals()
    signal.raise_signal(signal.SIGHUP)
    assert not signals.stop_requested()
