"""`retrycli.Scheduler`: the passes in a thread of an application."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

import retrycli
from retrycli.config.settings import ScheduleSettings
from retrycli.domain.passes import StartedBy
from retrycli.operations import run_pass, wiring
from tests.cli.api import held_back
from tests.cli.command import LONGEST, end, wait_until
from tests.cli.steered import BY_THEN, TICK, Steered, next_tick, scheduler_of
from tests.cli.worker import Worker, a_worker
from tests.conftest import on_both
from tests.environment import BARE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application

pytestmark = on_both

SECOND = timedelta(seconds=1)


def passes(application: Application) -> list[tuple[object, object]]:
    """Return what started each pass, and its result, oldest first."""
    return application.asked("SELECT started_by, result FROM retrycli_passes ORDER BY started_at")


def threads() -> list[threading.Thread]:
    """Return the threads of all schedulers in this process."""
    return [thread for thread in threading.enumerate() if thread.name == "retrycli"]


def test_a_pass_begins_after_each_tick_and_delivers_what_is_due(application: Application, sandbox: Sandbox) -> None:
    application.fill()
    tick = next_tick()
    clock = Steered(tick - 3 * SECOND)
    with scheduler_of(application.settings(sandbox.url), clock) as scheduler:
        assert clock.waits[-1] <= 3 + BY_THEN.total_seconds()
        assert passes(application) == []
        clock.settle_at(tick + 4 * SECOND)
        assert passes(application) == [], "cron's pass of this tick may begin until then"
        clock.settle_at(tick + BY_THEN)
        assert passes(application) == [("application", "completed")]
        assert len(sandbox.received) == 3
        clock.settle_at(tick + TICK - SECOND)
        application.add(9)
        assert len(passes(application)) == 1
        clock.settle_at(tick + TICK + BY_THEN)
        assert (len(passes(application)), application.row(9)["status"]) == (2, "sent")
        assert scheduler.stop() is True


def test_the_status_has_whole_minutes_and_the_next_tick(application: Application) -> None:
    settings = application.settings("http://127.0.0.1:9")
    tick = next_tick()
    clock = Steered(tick - SECOND)
    stopped = {"running": False, "retry_interval_minutes": 15, "max_retries": 10, "next_run": None}
    assert retrycli.Scheduler(settings).get_status() == stopped
    with scheduler_of(settings, clock) as scheduler:
        status = scheduler.get_status()
        assert status == {**stopped, "running": True, "next_run": tick}
        assert isinstance(status["retry_interval_minutes"], int)
        assert status["next_run"] is not None
        assert status["next_run"].utcoffset() == timedelta(0)
        clock.settle_at(tick + BY_THEN)
        assert scheduler.get_status()["next_run"] == tick + TICK
    assert scheduler.get_status() == stopped
    short = settings.model_copy(update={"schedule": ScheduleSettings(retry_interval_minutes=2.5)})
    assert retrycli.Scheduler(short).get_status()["retry_interval_minutes"] == 2.5


def test_a_second_start_starts_no_second_thread_and_a_start_after_a_stop_works(application: Application) -> None:
    settings = application.settings("http://127.0.0.1:9")
    assert retrycli.Scheduler(settings).stop() is True, "it never ran"
    clock = Steered(next_tick() - SECOND)
    with scheduler_of(settings, clock) as scheduler:
        [first] = threads()
        assert first.daemon
        scheduler.start()
        assert threads() == [first]
        assert (scheduler.stop(), threads()) == (True, [])
        scheduler.start()
        clock.settle_at(next_tick() + BY_THEN)
        assert len(passes(application)) == 1
    assert threads() == []


def test_missed_ticks_are_not_made_up_and_the_clock_may_be_set_back(application: Application) -> None:
    """The machine was suspended: one pass, and then the ticks as before. The clock is read twice a minute."""
    tick = next_tick()
    clock = Steered(tick - TICK / 2)
    with scheduler_of(application.settings("http://127.0.0.1:9"), clock) as scheduler:
        assert clock.waits == [30]
        clock.settle_at(tick - 2 * TICK - SECOND)
        assert scheduler.get_status()["next_run"] == tick - 2 * TICK
        awake = tick + 12 * TICK + 7 * timedelta(minutes=1)
        back = tick - 2 * TICK + BY_THEN
        for at, made in ((back, 1), (awake, 2), (awake + SECOND, 2), (tick + 13 * TICK + BY_THEN, 3)):
            clock.settle_at(at)
            assert len(passes(application)) == made


# -- stopping --------------------------------------------------------------------------------------------------------


def test_a_stop_during_a_slow_request_records_its_answer_and_sends_nothing_more(application: Application) -> None:
    first, second = application.add_due(2)
    tick = next_tick()
    clock = Steered(tick - SECOND)
    with held_back() as (api, gate), ThreadPoolExecutor(1) as pool:
        settings = application.settings(api.url)
        one_at_a_time = settings.model_copy(update={"run": settings.run.model_copy(update={"concurrency": 1})})
        with scheduler_of(one_at_a_time, clock) as scheduler:
            clock.move(tick + BY_THEN)
            assert gate.reached.wait(LONGEST)
            assert scheduler.stop(timeout=0) is False
            assert scheduler.get_status()["running"] is False
            stopping = pool.submit(scheduler.stop)
            assert application.state(first) == "sending"
            gate.opened.set()
            assert stopping.result(LONGEST) is True
    assert [row["status"] for row in application.rows().values()] == ["sent", "failed"]
    assert application.state(second) == "waiting"
    assert passes(application) == [("application", "interrupted")]


def test_a_scheduler_that_is_stopping_does_not_prevent_a_new_start(application: Application) -> None:
    application.add(101)
    tick = next_tick()
    clock = Steered(tick - SECOND)
    with held_back() as (api, gate), scheduler_of(application.settings(api.url), clock) as scheduler:
        clock.move(tick + BY_THEN)
        assert gate.reached.wait(LONGEST)
        assert scheduler.stop(timeout=0) is False
        scheduler.start()
        assert scheduler.get_status()["running"] is True
        gate.opened.set()
        wait_until(lambda: len(threads()) == 1)
        assert passes(application) == [("application", "interrupted")]
        clock.settle_at(tick + TICK + BY_THEN)
        assert len(passes(application)) == 2


# -- failures --------------------------------------------------------------------------------------------------------


def test_a_failed_pass_is_logged_and_the_next_tick_tries_again(
    application: Application, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    application.add(101)
    tick = next_tick()
    clock = Steered(tick - SECOND)
    application.execute("ALTER TABLE pending_messages RENAME TO elsewhere")
    with caplog.at_level(logging.ERROR, "retrycli"), scheduler_of(application.settings(sandbox.url), clock):
        clock.settle_at(tick + BY_THEN)
        application.execute("ALTER TABLE elsewhere RENAME TO pending_messages")
        clock.settle_at(tick + TICK + BY_THEN)
    [record] = caplog.records
    assert record.getMessage().startswith("Message retry pass failed: no table pending_messages in ")
    assert application.row(101)["status"] == "sent"


@pytest.mark.parametrize("error", [ZeroDivisionError("Dear Ana"), SystemExit(3)])
def test_an_internal_error_is_logged_without_its_text_and_ends_nothing(
    application: Application, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """The text may quote a customer."""
    application.add(101)
    tick = next_tick()
    clock = Steered(tick - SECOND)
    faulty = [error]

    def stop_requested() -> bool:
        if faulty:
            raise faulty.pop()
        return False

    runtime = replace(wiring.DEFAULT_RUNTIME, now=clock.now, stop_requested=stop_requested)
    settings = application.settings("http://127.0.0.1:9")
    with (
        caplog.at_level(logging.ERROR, "retrycli"),
        retrycli.Scheduler(settings, runtime=runtime, wait=clock.wait) as scheduler,
    ):
        clock.settle_at(tick + BY_THEN)
        clock.settle_at(tick + TICK + BY_THEN)
        assert scheduler.get_status()["running"] is True
    [record] = caplog.records
    assert record.getMessage() == (
        f"Message retry pass failed: internal error: {type(error).__name__}. "
        "Run `retrycli --debug run-once` to show the traceback"
    )
    assert [result for _, result in passes(application)] == ["failed", "completed"]


UNDISTURBED = """
import gc, logging, os, signal, sys, time, warnings
import retrycli

def state():
    loggers = [logging.getLogger(name) for name in (None, "retrycli")]
    return {
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "logging": [(logger.handlers, logger.level, logger.propagate, logger.disabled) for logger in loggers],
        "folder": os.getcwd(),
        "gc": (gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()),
        "warnings": [*warnings.filters],
        "environment": dict(os.environ),
        "streams": (sys.stdin, sys.stdout, sys.stderr, sys.excepthook),
    }

before = state()
with retrycli.Scheduler(retrycli.load_settings()) as scheduler:
    for _ in sys.stdin:
        break
    during = state()
assert (before, before) == (during, state())
"""


def test_the_host_application_is_not_disturbed(application: Application, sandbox: Sandbox) -> None:
    """No signal handler, logging, folder, garbage collection, warning filter or variable is changed."""
    application.add(101)
    often = {"RETRYCLI_SCHEDULE__RETRY_INTERVAL_MINUTES": "0.01"}
    with subprocess.Popen(
        [sys.executable, "-c", UNDISTURBED],
        env={**BARE, **application.variables(sandbox.url), **often, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until(lambda: application.row(101)["status"] == "sent", process)
        done = end(process)
    assert (done.returncode, done.stderr) == (0, "")


# -- several schedulers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("starter", "offset", "made"),
    [
        (StartedBy.TIMER, -SECOND, 1),
        (StartedBy.APPLICATION, 9 * SECOND, 1),
        (StartedBy.CRON, -2 * timedelta(minutes=1), 2),
        (StartedBy.PERSON, SECOND, 2),
        (StartedBy.CRON, timedelta(days=30), 2),
    ],
)
def test_a_tick_whose_pass_another_scheduler_has_begun_gets_no_second_pass(
    application: Application, starter: StartedBy, offset: timedelta, made: int
) -> None:
    """The other scheduler may be on another host. One pass was recorded while a clock was a month ahead."""
    settings = application.settings("http://127.0.0.1:9")
    tick = next_tick()
    clock = Steered(tick - SECOND)
    with scheduler_of(settings, clock):
        runtime = replace(wiring.DEFAULT_RUNTIME, now=lambda: tick + offset)
        run_pass.run_once(settings, runtime=runtime, started_by=starter)
        clock.settle_at(tick + BY_THEN)
        assert len(passes(application)) == made
        clock.settle_at(tick + TICK + BY_THEN)
        assert len(passes(application)) == made + 1


@pytest.fixture
def workers(application: Application, sandbox: Sandbox) -> Iterator[Callable[[datetime], Worker]]:
    """Provide a function that starts a `Worker`. Kill all of them at the end."""
    with ExitStack() as until_the_end:

        def start(at: datetime) -> Worker:
            return until_the_end.enter_context(a_worker(application.variables(sandbox.url), at))

        yield start


def test_one_of_two_processes_makes_each_pass_and_the_other_takes_over_if_it_is_killed(
    application: Application, workers: Callable[[datetime], Worker]
) -> None:
    """A web server starts its application in several processes, each with a scheduler."""
    tick = next_tick()
    both = [workers(tick - SECOND) for _ in range(2)]

    def makers(after: int) -> list[object]:
        """Move the clock past that many ticks, and return the process of each pass."""
        for worker in both:
            worker.tell((tick + after * TICK + BY_THEN).isoformat())
        for worker in both:
            worker.expect("waits")
        return [pid for (pid,) in application.asked("SELECT pid FROM retrycli_passes ORDER BY started_at")]

    found = [makers(after) for after in range(3)][-1]
    assert len(found) == 3
    [maker] = {*found}
    [first] = [worker for worker in both if worker.process.pid == maker]
    first.kill()
    both.remove(first)
    assert makers(3) == [*found, both[0].process.pid]
    both[0].tell("stop")
    both[0].expect("True")


FORKED = """
import os, sys
import retrycli

scheduler = retrycli.Scheduler(retrycli.load_settings())
scheduler.start()
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0
    assert scheduler.get_status()["running"]
else:
    before = scheduler.get_status()["running"], scheduler.stop()
    scheduler.start()
    after = scheduler.get_status()["running"], scheduler.stop()
    os._exit(0 if (before, after) == ((False, True), (True, True)) else 1)
assert scheduler.stop()
"""


def test_a_forked_process_has_no_thread_and_may_start_its_own(application: Application) -> None:
    """A web server may load the application before it forks its workers."""
    done = subprocess.run(
        # Python 3.12 and newer warn of a fork beside a thread, which is what this test tries.
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", FORKED],
        env={**BARE, **application.variables("http://127.0.0.1:9"), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
