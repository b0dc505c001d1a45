"""Make the passes in a thread of the application, instead of cron."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from socket import gethostname
from threading import Event, Lock, Thread
from typing import Self, TypedDict

from retrycli.config.settings import Settings
from retrycli.domain import outlook
from retrycli.domain.errors import LockHeld, RetrycliError
from retrycli.domain.passes import SCHEDULERS, StartedBy
from retrycli.operations import run_pass
from retrycli.operations.wiring import DEFAULT_RUNTIME, Runtime, clock, open_database, scheduler_lock_path
from retrycli.store.passes import Ledger
from retrycli.system.host import system_zone
from retrycli.system.pass_lock import Holder, PassLock
from retrycli.views import log_lines

# A pass begins between a third of this time and this time after its tick: cron's pass of the same tick, if there is
# one, has begun by then. The time is random, so that the processes of several hosts do not begin at the same moment.
LONGEST_DELAY = timedelta(seconds=15)
SHORTEST_DELAY_SHARE = 1 / 3
LARGEST_DELAY_SHARE = 1 / 4  # maximum delay as a share of a short interval
# Read the clock at least this often, because it may be set, and because a suspended machine stops the wait.
LONGEST_WAIT = timedelta(seconds=30)
RECORDING = timedelta(seconds=15)  # time for a stopped pass to record and report its results


class SchedulerStatus(TypedDict):
    """The state of a `Scheduler`."""

    running: bool  # the thread is alive, and was not asked to stop
    retry_interval_minutes: float  # an int if the interval is a whole number of minutes
    max_retries: int
    next_run: datetime | None  # the next tick, in UTC; None if the scheduler is not running


class Scheduler:
    """Make the passes in a thread of the application, instead of cron.

    A pass begins every ``schedule.retry_interval_minutes`` by the clock, within 15 seconds after the tick. Several
    processes and hosts may each run a scheduler: one of them makes the pass of each tick. If cron or a timer has begun
    a pass at the tick, no scheduler makes one.

    A failed pass is logged (logger ``retrycli``), and the next tick tries again. The thread is a daemon: call `stop`
    before the application ends, so that a pass records its results. A scheduler is also a context manager.

    Args:
        settings: from `retrycli.load_settings`, or created directly.
        runtime: clock, randomness, and a request to stop a pass early.
        wait: waits until an event is set or a number of seconds has passed.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        runtime: Runtime = DEFAULT_RUNTIME,
        wait: Callable[[Event, float], object] = Event.wait,
    ) -> None:
        self._settings = settings
        self._runtime = runtime
        self._wait = wait
        self._changing = Lock()
        self._stop = Event()
        self._thread: Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the thread, unless it is running. The first pass begins after the next tick."""
        with self._changing:
            if not self._is_running:
                stop = Event()
                thread = Thread(target=self._run, args=(stop,), name="retrycli", daemon=True)
                thread.start()
                self._thread, self._stop = thread, stop

    def stop(self, timeout: float | None = None) -> bool:
        """Stop the thread, and wait until it has ended.

        The current pass sends no further message. It waits for the answers of requests in flight and records them. This
        call blocks meanwhile: in a coroutine, await ``asyncio.to_thread(scheduler.stop)``.

        Args:
            timeout: maximum number of seconds to wait; by default the longest request timeout plus 15 s.

        Returns:
            True if the thread has ended or never ran. False if it is still ending: if the process ends first, a later
            pass recovers the messages in flight, as after a crash.
        """
        with self._changing:
            thread = self._thread
            self._stop.set()
        if thread is None:
            return True
        thread.join((self._settings.gateway.longest + RECORDING).total_seconds() if timeout is None else timeout)
        return not thread.is_alive()

    def get_status(self) -> SchedulerStatus:
        """Return whether the thread is running, and when the next pass is due. Read no database.

        `retrycli.status` also shows pauses, late passes and the passes of other hosts.
        """
        minutes = self._settings.schedule.retry_interval_minutes
        is_running = self._is_running
        return SchedulerStatus(
            running=is_running,
            retry_interval_minutes=int(minutes) if minutes.is_integer() else minutes,
            max_retries=self._settings.schedule.max_retries,
            next_run=self._tick_after(self._runtime.now()) if is_running else None,
        )

    @property
    def _is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive() and not self._stop.is_set()

    # -- in the thread ----------------------------------------------------------------------------------------

    def _run(self, stop: Event) -> None:
        lock = _SchedulerLock(self._settings, self._runtime.now)
        try:
            self._survive(lock.acquire)  # at once, so that `doctor` sees the application before its first pass
            while (tick := self._next_tick(stop)) is not None:
                self._survive(partial(self._make_pass, tick, lock, stop))
        finally:
            lock.release()

    def _next_tick(self, stop: Event) -> datetime | None:
        """Wait for the next tick, and for the delay after it. Return the tick; None if the scheduler is stopped."""
        share = self._runtime.rng.uniform(SHORTEST_DELAY_SHARE, 1)
        delay = share * min(LONGEST_DELAY, LARGEST_DELAY_SHARE * self._settings.schedule.interval)
        now = self._runtime.now()
        tick = self._tick_after(now)
        while not stop.is_set():
            if now >= tick + delay:
                return tick
            self._wait(stop, min(tick + delay - now, LONGEST_WAIT).total_seconds())
            now = self._runtime.now()
            tick = min(tick, self._tick_after(now))  # an earlier tick comes first if the clock was set back
        return None

    def _tick_after(self, now: datetime) -> datetime:
        return outlook.by_clock(self._settings.schedule.interval, now, system_zone()).next(now)

    def _make_pass(self, tick: datetime, lock: "_SchedulerLock", stop: Event) -> None:
        """Make the pass of a tick, unless another process makes it."""
        if not lock.acquire() or self._is_made(tick):
            return
        runtime = replace(self._runtime, stop_requested=lambda: stop.is_set() or self._runtime.stop_requested())
        run_pass.run_once(self._settings, runtime=runtime, started_by=StartedBy.APPLICATION)

    def _is_made(self, tick: datetime) -> bool:
        """Return whether cron, a timer or another application has begun the pass of a tick, on any host."""
        with suppress(RetrycliError), open_database(self._settings) as database:
            upto = clock(database, self._runtime.now)() + outlook.MAX_CLOCK_SKEW
            passes = Ledger(database).last_passes(outlook.PASSES_LOOKED_AT, until=upto)
            starts = [record.started_at for record in passes if record.started_by in SCHEDULERS]
            return outlook.is_made(tick, starts, self._settings.schedule.interval)
        return False  # the pass reports the error

    @staticmethod
    def _survive(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  later passes must be made, whatever this one raises
            log_lines.log_failure(error)


class _SchedulerLock:
    """The lock of the process that makes the passes of this host. It is held until the thread or the process ends."""

    def __init__(self, settings: Settings, now: Callable[[], datetime]) -> None:
        self._settings = settings
        self._now = now
        self._held: PassLock | None = None

    def acquire(self) -> bool:
        """Acquire the lock, unless it is held already. Return False if another process holds it.

        Raises:
            LockUnusable: the lock file can't be opened, or is not a lock file.
        """
        if self._held is None:
            lock = PassLock(scheduler_lock_path(self._settings))
            me = Holder(os.getpid(), gethostname(), self._now())
            try:
                lock.acquire(me, wait_seconds=0, now=self._now, sleep=lambda _: None)
            except LockHeld:
                return False
            self._held = lock
        return True

    def release(self) -> None:
        if self._held is not None:
            self._held.release()
