"""A clock that a test moves, and a scheduler's wait that follows this clock, so that no test waits for a tick."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Condition, Event
from typing import TYPE_CHECKING

import retrycli
from retrycli.domain import outlook
from retrycli.operations import wiring
from retrycli.system.host import system_zone
from tests.cli.command import LONGEST

if TYPE_CHECKING:
    from retrycli.config.settings import Settings

TICK = timedelta(minutes=15)
BY_THEN = timedelta(seconds=15)
"""The time after a tick by which a scheduler has begun its pass."""


def next_tick() -> datetime:
    """Return the next quarter of an hour."""
    now = datetime.now(UTC)
    return outlook.by_clock(TICK, now, system_zone()).next(now)


class Steered:
    """A clock that stands still until a test moves it, and the ``wait`` of one scheduler."""

    def __init__(self, at: datetime) -> None:
        self._at = at
        self._moves = 0
        self._is_waiting = False
        self._changed = Condition()
        self.waits: list[float] = []
        """The seconds of each wait."""

    def now(self) -> datetime:
        return self._at

    def wait(self, stop: Event, seconds: float) -> None:
        """Wait until the clock is moved, or the event is set."""
        with self._changed:
            self.waits.append(seconds)
            self._is_waiting, before = True, self._moves
            self._changed.notify_all()
            while self._moves == before and not stop.is_set():
                self._changed.wait(0.01)  # poll, because an event notifies nobody
            self._is_waiting = False

    def move(self, at: datetime) -> None:
        """Set the time."""
        with self._changed:
            self._at = at
            self._moves += 1
            self._is_waiting = False
            self._changed.notify_all()

    def settle(self) -> None:
        """Wait until the scheduler waits for a later time, so that its pass has ended."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._is_waiting, LONGEST)

    def settle_at(self, at: datetime) -> None:
        """Set the time, and wait until the pass that begins at this time has ended."""
        self.settle()
        self.move(at)
        self.settle()


@contextmanager
def scheduler_of(settings: Settings, clock: Steered) -> Iterator[retrycli.Scheduler]:
    """Start a scheduler that follows a clock. Stop it at the end."""
    runtime = replace(wiring.DEFAULT_RUNTIME, now=clock.now)
    with retrycli.Scheduler(settings, runtime=runtime, wait=clock.wait) as scheduler:
        clock.settle()
        yield scheduler
