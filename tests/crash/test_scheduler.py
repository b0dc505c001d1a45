"""An application that is killed while its `retrycli.Scheduler` makes a pass."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

from retrycli.operations.sandbox import Behaviour, Sandbox
from tests.cli.steered import BY_THEN, TICK, next_tick
from tests.cli.worker import a_worker
from tests.conftest import on_both
from tests.crash import scene
from tests.crash.gate import Gate
from tests.crash.invariants import (
    MOST_PASSES,
    STEP,
    check_messages,
    check_nothing_is_lost,
    check_passes,
    left_alone,
    nothing_is_left,
    phase_of,
    wait_until_forgotten,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = on_both

MESSAGES = 120
CONCURRENCY = 8


def test_no_message_is_lost_if_the_application_is_killed_and_the_next_scheduler_recovers(
    tmp_path: Path, url: str
) -> None:
    """Another process of the application takes over at the next tick. The recorded attempts count as unknown."""
    gate, tick = Gate(), next_tick()
    behaviour = Behaviour(latency=timedelta(milliseconds=1))
    with Sandbox(behaviour, rng=Random(0), sleep=gate.pass_through) as server, gate:
        stage = scene.set_up(tmp_path, server.url, failed=MESSAGES, url=url, concurrency=CONCURRENCY)
        before = left_alone(stage, MESSAGES)
        variables = {"RETRYCLI_CONFIG": str(stage.config)}
        before_tick = tick - BY_THEN
        with a_worker(variables, before_tick) as first, a_worker(variables, before_tick) as second:
            for worker in (second, first):
                worker.tell((tick + BY_THEN).isoformat())
            second.expect("waits")
            gate.wait_until_held(CONCURRENCY)
            first.kill()
            wait_until_forgotten(stage)
            phase, unfinished = phase_of(stage, first.process.pid)
            assert phase == "6 with attempts in flight"
            assert CONCURRENCY <= unfinished <= 2 * CONCURRENCY
            check_nothing_is_lost(stage, server, MESSAGES)
            gate.let_through()

            passes, at = 0, tick + TICK + BY_THEN
            while not nothing_is_left(stage):
                assert passes < MOST_PASSES
                second.tell(at.isoformat())
                second.expect("waits")
                passes, at = passes + 1, at + STEP
        check_messages(stage, server, MESSAGES)
        check_passes(stage, {first.process.pid: phase})
        assert left_alone(stage, MESSAGES) == before
        assert stage.count("retrycli_passes WHERE started_by = 'application' AND pid = ?", second.process.pid) == passes
