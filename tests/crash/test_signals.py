"""Signals to a pass that has requests in flight, and requests without a timely answer."""

from __future__ import annotations

import signal
import time
from collections import Counter
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

import pytest

from retrycli.domain.passes import PassResult
from retrycli.engine.pace import AHEAD_AT_MOST
from retrycli.operations.sandbox import Behaviour, Sandbox
from retrycli.operations.wiring import utc_now
from tests.conftest import on_both
from tests.crash import scene
from tests.crash.gate import FREE, LONGEST_SECONDS, Gate

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.crash.scene import Scene

pytestmark = on_both

MESSAGES = 200
CONCURRENCY = 8
NEXT_TICK = timedelta(minutes=15)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.let_through()


@pytest.fixture
def server(gate: Gate) -> Iterator[Sandbox]:
    behaviour = Behaviour(latency=timedelta(milliseconds=1))
    with Sandbox(behaviour, rng=Random(0), sleep=gate.pass_through) as running:
        yield running
        gate.let_through()


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_waits_for_requests_in_flight_records_them_and_starts_no_more(
    number: signal.Signals, exit_code: int, gate: Gate, server: Sandbox, tmp_path: Path, url: str
) -> None:
    stage = scene.set_up(tmp_path, server.url, failed=MESSAGES, url=url, concurrency=CONCURRENCY)
    with stage.start("-m", "retrycli", "run-once") as process:
        gate.wait_until_held(CONCURRENCY)
        process.send_signal(number)
        gate.let_through(1)
        _poll_until(lambda: _outcomes(stage)["delivered"] == FREE + 1)  # the pass keeps waiting for the other requests
        gate.let_through()
        _, errors = process.communicate(timeout=LONGEST_SECONDS)
    assert process.returncode == exit_code, errors

    sent = FREE + CONCURRENCY
    assert len(server.received) == sent
    assert _outcomes(stage) == {"delivered": sent}
    _check_all_else_waits_untouched(stage, sent)
    assert stage.rows("SELECT result, reason, sent FROM retrycli_passes") == [("interrupted", "signal", sent)]

    assert stage.run_once_at(utc_now()).sent == MESSAGES - sent
    assert [request for request in server.received if request.times > 1] == []


def test_a_request_without_an_answer_in_time_is_recorded_as_unknown(
    gate: Gate, server: Sandbox, tmp_path: Path, url: str
) -> None:
    stage = scene.set_up(tmp_path, server.url, failed=MESSAGES, url=url, concurrency=CONCURRENCY)
    with stage.start("-m", "retrycli", "run-once", settings={"gateway.request_timeout_seconds": 2}) as process:
        gate.wait_until_held(CONCURRENCY)
        process.terminate()
        _, errors = process.communicate(timeout=LONGEST_SECONDS)
    assert process.returncode == 143, errors

    assert _outcomes(stage) == {"delivered": FREE, "unknown": CONCURRENCY}
    _check_all_else_waits_untouched(stage, FREE + CONCURRENCY)
    # After five failures the breaker is open, and later ones use up no retry. But all eight outcomes are unknown.
    assert stage.count("pending_messages WHERE retry_count = 1") == 5
    assert stage.count("retrycli_queue WHERE unknown_count = 1") == CONCURRENCY


def test_answers_that_arrived_during_a_suspension_are_recorded(
    gate: Gate, server: Sandbox, tmp_path: Path, url: str
) -> None:
    """A virtual machine that is moved, or a slow disk, may delay the reading of answers until after the timeout."""
    stage = scene.set_up(tmp_path, server.url, failed=MESSAGES, url=url, concurrency=CONCURRENCY)
    timeout = {"gateway.request_timeout_seconds": 1}
    with stage.start("-m", "retrycli", "run-once", settings=timeout) as process:
        gate.wait_until_held(CONCURRENCY)
        process.send_signal(signal.SIGSTOP)
        gate.let_through()
        time.sleep(2)  # twice the timeout
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate(timeout=LONGEST_SECONDS)
    assert process.returncode == 0, errors
    assert _outcomes(stage) == {"delivered": MESSAGES}


def test_a_second_signal_leaves_claims_to_lapse(gate: Gate, server: Sandbox, tmp_path: Path, url: str) -> None:
    stage = scene.set_up(tmp_path, server.url, failed=MESSAGES, url=url, concurrency=CONCURRENCY)
    with stage.start("-m", "retrycli", "run-once") as process:
        gate.wait_until_held(CONCURRENCY)
        _poll_until(lambda: _has_ended_by_another_sigterm(process))
    assert process.returncode == 143
    unfinished = _outcomes(stage)[None]  # the pass may have withdrawn the attempts that it had recorded ahead
    assert _outcomes(stage) == {"delivered": FREE, None: unfinished}
    assert CONCURRENCY <= unfinished <= CONCURRENCY + AHEAD_AT_MOST
    claimed = stage.count("retrycli_queue WHERE state = 'sending' AND claim_expires_at IS NOT NULL")
    assert claimed >= unfinished
    others = MESSAGES - FREE - claimed
    assert stage.count("retrycli_queue WHERE state = 'waiting'") == others > 0

    gate.let_through()
    now = utc_now()
    assert stage.run_once_at(now).sent == others, "the claims still hold"
    after = stage.run_once_at(now + NEXT_TICK)
    assert (after.result, after.sent, after.unknown) == (PassResult.COMPLETED, claimed - unfinished, unfinished)
    assert stage.run_once_at(now + 3 * NEXT_TICK).sent == unfinished
    assert _outcomes(stage) == {"delivered": MESSAGES, "unknown": unfinished}
    _poll_until(lambda: sum(request.times == 2 for request in server.received) == CONCURRENCY)
    assert len(server.received) == MESSAGES


def _has_ended_by_another_sigterm(process: subprocess.Popen[str]) -> bool:
    process.terminate()  # does nothing to a process that has ended
    return process.poll() is not None


def _outcomes(stage: Scene) -> Counter[str | None]:
    return Counter(outcome for (outcome,) in stage.rows("SELECT outcome FROM retrycli_attempts"))


def _check_all_else_waits_untouched(stage: Scene, tried: int) -> None:
    assert stage.count("retrycli_queue WHERE state != 'waiting' OR claimed_by IS NOT NULL") == 0
    untried = "message_id NOT IN (SELECT message_id FROM retrycli_attempts)"
    assert stage.count(f"retrycli_queue WHERE {untried}") == MESSAGES - tried
    changed = "(retry_count > 0 OR last_error != 'HTTP 503')"
    assert stage.count(f"pending_messages JOIN retrycli_queue ON message_id = id WHERE {untried} AND {changed}") == 0


def _poll_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
