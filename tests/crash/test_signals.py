"""Signals to a pass that has requests in flight, and requests without a timely answer."""

from __future__ import annotations

import signal
import time
from collections import Counter
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

from retrycli.gateway.delivery import GRACE_SECONDS
from retrycli.operations.sandbox import Behaviour, Sandbox
from retrycli.operations.wiring import utc_now
from tests.cli.command import LONGEST, wait_until
from tests.conftest import on_both, on_sqlite
from tests.crash import scene
from tests.crash.gate import FREE, Gate

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.scene import Scene

pytestmark = on_both

MESSAGES = 200
CONCURRENCY = 8
SHORT = {"gateway.request_timeout_seconds": 2}
FAILURES = 5
"""The number of failures in a row that open the breaker. Later ones use up no retry."""
ROUNDS = 10


def gated(gate: Gate) -> Sandbox:
    return Sandbox(Behaviour(latency=timedelta(milliseconds=1)), rng=Random(0), sleep=gate.pass_through)


def test_a_request_without_an_answer_in_time_is_recorded_as_unknown(tmp_path: Path, url: str) -> None:
    """On a slow machine, some of the free requests may take too long, and the pass may end before the signal."""
    gate = Gate()
    with gated(gate) as server:
        stage = scene.set_up(tmp_path, server.url, failed=MESSAGES, url=url, concurrency=CONCURRENCY)
        with stage.start("-m", "retrycli", "run-once", settings=SHORT) as process, gate:
            wait_until(lambda: gate.held == CONCURRENCY or process.poll() is not None)
            process.terminate()
            _, errors = process.communicate(timeout=LONGEST)
    assert process.returncode in {143, 69}, errors

    outcomes = _outcomes(stage)
    assert outcomes.keys() <= {"delivered", "unknown"}
    assert outcomes["unknown"] >= gate.held > 0
    _check_all_else_waits_untouched(stage, outcomes.total())
    assert stage.count("retrycli_queue WHERE unknown_count = 1") == outcomes["unknown"]
    slow = outcomes["unknown"] - gate.held
    assert min(FAILURES, gate.held) <= stage.count("pending_messages WHERE retry_count = 1") <= FAILURES + slow


@on_sqlite
def test_answers_that_arrived_during_a_suspension_are_recorded(tmp_path: Path) -> None:
    """A virtual machine that is moved, or a slow disk, may delay the reading of answers until after the timeout.

    A slow machine may be late to suspend the pass, or to read the answers afterwards. Then the next pass is suspended.
    """
    assert any(_records_answers_of_a_suspension(tmp_path / f"{number}") for number in range(ROUNDS))


def _records_answers_of_a_suspension(folder: Path) -> bool:
    folder.mkdir()
    gate, messages = Gate(), FREE + CONCURRENCY
    with gated(gate) as server:
        stage = scene.set_up(folder, server.url, failed=messages, concurrency=CONCURRENCY)
        with stage.start("-m", "retrycli", "run-once", settings=SHORT) as process, gate:
            wait_until(lambda: gate.held == CONCURRENCY or process.poll() is not None)
            process.send_signal(signal.SIGSTOP)
            gate.let_through()
            time.sleep(SHORT["gateway.request_timeout_seconds"] + 1)
            resumed = utc_now()
            process.send_signal(signal.SIGCONT)
            process.communicate(timeout=LONGEST)
        outcomes = _outcomes(stage)
        assert outcomes.keys() <= {"delivered", "unknown"}
        at_once = "retrycli_attempts WHERE outcome = 'unknown' AND finished_at BETWEEN ? AND ?"
        times = (f"{at:%Y-%m-%d %H:%M:%S.%f}" for at in (resumed, resumed + timedelta(seconds=GRACE_SECONDS)))
        assert stage.count(at_once, *times) == 0, "an answer was not read before the request timed out"
        return outcomes["delivered"] == messages


def _outcomes(stage: Scene) -> Counter[str | None]:
    return Counter(outcome for (outcome,) in stage.rows("SELECT outcome FROM retrycli_attempts"))


def _check_all_else_waits_untouched(stage: Scene, tried: int) -> None:
    assert stage.count("retrycli_queue WHERE state != 'waiting' OR claimed_by IS NOT NULL") == 0
    untried = "message_id NOT IN (SELECT message_id FROM retrycli_attempts)"
    assert stage.count(f"retrycli_queue WHERE {untried}") == MESSAGES - tried
    changed = "(retry_count > 0 OR last_error != 'HTTP 503')"
    assert stage.count(f"pending_messages JOIN retrycli_queue ON message_id = id WHERE {untried} AND {changed}") == 0
