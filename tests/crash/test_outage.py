"""An outage of the ticketing API uses up retries of only a few messages, however long it lasts."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

import pytest

from retrycli.domain.passes import PassResult, StopReason
from retrycli.operations.sandbox import Behaviour, Sandbox
from retrycli.operations.wiring import utc_now
from tests.cli.command import LONGEST
from tests.crash import scene
from tests.crash.gate import FREE, Gate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from retrycli.operations.sandbox import Received
    from tests.crash.scene import Scene

pytestmark = pytest.mark.databases("sqlite", "postgresql", once=True)

DUE = 1000
OUTAGE_ENDS_A_PASS = 69
PROBES = (15, 30, 60, 60)
"""Minutes from the pass that opens the breaker to the first probe, and between successive probes."""
TICK = timedelta(minutes=15)
BREAKER_FAILURES = 5


@dataclass
class Attempts:
    """A reader of a database's attempts that returns each attempt once."""

    stage: Scene
    seen: int = 0

    def new(self) -> list[tuple[int, str]]:
        """Return the message and the outcome of each attempt since the last call."""
        found = self.stage.rows(
            "SELECT id, message_id, outcome FROM retrycli_attempts WHERE id > ? ORDER BY id", self.seen
        )
        self.seen = max((row[0] for row in found), default=self.seen)
        return [(message_id, outcome) for _, message_id, outcome in found]


class Sharing(Sandbox):
    """An API on a port that another socket keeps for it."""

    allow_reuse_port = True


@contextmanager
def closed_port() -> Iterator[tuple[int, str, Recover]]:
    """Bind a port without listening on it, so that it refuses connections."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        yield port, "unreachable", lambda: Sharing(Behaviour(), rng=Random(0), port=port)


@contextmanager
def answers_503() -> Iterator[tuple[int, str, Recover]]:
    with Sandbox(Behaviour(down=True), rng=Random(0)) as server:

        @contextmanager
        def recover() -> Iterator[Sandbox]:
            server.behaviour = Behaviour()
            yield server

        yield server.server_address[1], "transient", recover


Recover = Callable[[], AbstractContextManager[Sandbox]]
Outage = Callable[[], AbstractContextManager[tuple[int, str, Recover]]]
"""A function whose context manager yields a port that accepts no delivery, the outcome of each attempt, and a function
that ends the outage.
"""


@pytest.mark.slow
@pytest.mark.parametrize("outage", [closed_port, answers_503])
def test_an_outage_charges_five_messages_and_probes_until_the_server_is_back(
    outage: Outage, tmp_path: Path, url: str
) -> None:
    with outage() as (port, outcome, recover):
        stage = scene.set_up(tmp_path, f"http://127.0.0.1:{port}", failed=DUE, url=url, concurrency=16)
        now = utc_now()
        assert stage.run_once_at(now).exit_status == OUTAGE_ENDS_A_PASS
        attempts = Attempts(stage)
        first = attempts.new()
        assert [attempt for _, attempt in first] == [outcome] * BREAKER_FAILURES
        _check_charged(stage, [message_id for message_id, _ in first])

        probed = []
        for minutes in PROBES:
            early = stage.run_once_at(now + timedelta(minutes=minutes - 5))
            assert (early.result, early.reason) == (PassResult.STOPPED, StopReason.BREAKER_OPEN)
            assert attempts.new() == []
            now += timedelta(minutes=minutes)
            probe = stage.run_once_at(now)
            assert (probe.result, probe.reason) == (PassResult.STOPPED, StopReason.BREAKER_OPEN)
            [(message_id, came_of_it)] = attempts.new()
            assert came_of_it == outcome
            probed.append(message_id)
        assert len({*probed, *(message_id for message_id, _ in first)}) == len(probed) + len(first)
        _check_charged(stage, [message_id for message_id, _ in first])

        with recover() as server:
            back = stage.run_once_at(now + timedelta(minutes=60))
            assert (back.result, back.sent) == (PassResult.COMPLETED, DUE)
            _check_each_arrived_once(server.received, DUE)
    assert stage.count("pending_messages WHERE status = 'failed'") == stage.count("retrycli_queue") == 0
    assert stage.count("retrycli_breakers") == 0


def test_a_server_that_fails_under_load_charges_five_messages(tmp_path: Path, url: str) -> None:
    """The breaker opens while other requests are in flight. They fail too, but use up no retry."""
    gate, failed, in_flight = Gate(), 300, 16
    with Sandbox(Behaviour(latency=timedelta(milliseconds=1)), rng=Random(0), sleep=gate.pass_through) as server:
        stage = scene.set_up(tmp_path, server.url, failed=failed, url=url, concurrency=in_flight)
        with stage.start("-m", "retrycli", "run-once") as process, gate:
            gate.wait_until_held(in_flight, process)
            server.behaviour = Behaviour(down=True)
            gate.let_through()
            _, errors = process.communicate(timeout=LONGEST)
        assert process.returncode == OUTAGE_ENDS_A_PASS, errors
        outcomes = stage.rows("SELECT outcome, count(*) FROM retrycli_attempts GROUP BY outcome ORDER BY outcome")
        assert outcomes == [("delivered", FREE), ("transient", in_flight)]
        assert stage.count("pending_messages WHERE retry_count > 0") == BREAKER_FAILURES
        assert stage.count("retrycli_queue WHERE state = 'waiting'") == failed - FREE

        server.behaviour = Behaviour()
        now = utc_now()
        assert stage.run_once_at(now + TICK).sent == failed - FREE - BREAKER_FAILURES
        assert stage.run_once_at(now + 2 * TICK).sent == BREAKER_FAILURES
        _check_each_arrived_once(server.received, failed)


def _check_charged(stage: Scene, ids: list[int]) -> None:
    counts_as_retry = stage.rows("SELECT id, retry_count FROM pending_messages WHERE retry_count > 0 ORDER BY id")
    assert counts_as_retry == [(message_id, 1) for message_id in sorted(ids)]


def _check_each_arrived_once(received: tuple[Received, ...], count: int) -> None:
    assert len({request.ticket_id for request in received}) == len(received) == count
    assert {request.times for request in received} == {1}
