"""A pass decides whether error answers concern the whole destination or only their messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random
from typing import TYPE_CHECKING

import pytest

from retrycli.domain.circuit_breaker import LONG_REST
from retrycli.operations import run_pass, wiring
from retrycli.operations.sandbox import Answer, Behaviour, Sandbox
from tests.channels import webhook
from tests.cli.api import BUSY, TAKES, Gate
from tests.conftest import on_both

if TYPE_CHECKING:
    from retrycli.config.settings import Settings
    from retrycli.domain.passes import PassSummary
    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = on_both

TICK = timedelta(minutes=15)
BROKEN: Answer = (500, {"messages": ["NullPointerException"]})
CLOSED: Answer = (403, {"messages": ["the ticket is closed"]})
MOVED: Answer = (302, {})
MISSING: Answer = (404, {})
THROTTLES: Answer = (429, {})

FIRST = 4701
"""The ticket of message 1. The tickets of later messages follow in order."""


class ByTicket(Sandbox):
    """An API that answers each delivery by its ticket, and records the tickets."""

    def __init__(self, answer: Callable[[int], Answer], gate: Gate | None = None) -> None:
        super().__init__(Behaviour(), rng=Random(0))
        self.says = answer
        self.tickets: list[int] = []
        self._gate = gate

    def answer(self, method: str, path: str, key: str | None, body: bytes) -> Answer:
        ticket = int(path.split("/")[2])
        self.tickets.append(ticket)
        if self._gate is not None and self.says(ticket) == TAKES:
            self._gate.hold(0)
        return self.says(ticket)


@contextmanager
def api(answer: Answer | Callable[[int], Answer], gate: Gate | None = None) -> Iterator[ByTicket]:
    with ByTicket(answer if callable(answer) else lambda _: answer, gate) as server:
        yield server


@dataclass
class Passes:
    """Passes started from Python, with a clock that a test moves."""

    settings: Settings
    now: datetime

    def run(self, *, probe: bool = False) -> PassSummary:
        here = replace(wiring.DEFAULT_RUNTIME, now=lambda: self.now)
        return run_pass.run_once(self.settings, probe=probe, runtime=here)

    def wait(self, time: timedelta) -> Passes:
        self.now += time
        return self


def queue(application: Application) -> dict[object, tuple[object, object]]:
    """Return the state and the escalation reason of each message in the queue."""
    rows = application.rows("retrycli_queue").items()
    return {message_id: (row["state"], row["escalation_reason"]) for message_id, row in rows}


def attempts(application: Application) -> list[tuple[object, object, object]]:
    rows = application.rows("retrycli_attempts").values()
    return [(row["message_id"], row["outcome"], row["status_code"]) for row in rows]


def test_a_message_that_always_gets_a_500_is_eventually_escalated(application: Application) -> None:
    application.add(1)
    with api(BROKEN) as server:
        passes = Passes(application.settings(server.url), wiring.utc_now())
        while application.state(1) != "escalated" and len(server.tickets) < 25:
            passes.wait(timedelta(hours=6)).run()
    assert len(server.tickets) == 10
    assert queue(application) == {1: ("escalated", "exhausted")}
    assert {row["state"] for row in application.rows("retrycli_breakers").values()} == {"closed"}


def test_the_only_message_of_an_outage_is_escalated_by_its_answers(application: Application) -> None:
    """Five refused connections open the breaker. Then an API answers each probe with a 500."""
    application.add(1)
    with api(BROKEN) as server:
        down = server.url
    passes = Passes(application.settings(down), wiring.utc_now())
    while not application.rows("retrycli_breakers") or len(attempts(application)) < 5:
        passes.wait(timedelta(hours=6)).run()
    assert application.row(1)["retry_count"] == 5
    with api(BROKEN) as server:
        passes.settings = application.settings(server.url)
        application.execute("UPDATE retrycli_breakers SET destination = ?", server.url)
        for _ in range(12):
            passes.wait(timedelta(hours=6)).run()
    assert queue(application) == {1: ("escalated", "exhausted")}
    assert len(server.tickets) == 2 + 5, "two probes are free, and each one after them uses up a retry"


def test_a_long_night_with_one_answer_to_every_message_escalates_none(application: Application) -> None:
    """However many passes meet it: 30 requests for a message whose answers concern it would be the bound."""
    for message_id in range(1, 15):
        application.add(message_id)
    with api(MISSING) as server:
        settings = application.settings(server.url)
        rare = settings.model_copy(update={"schedule": settings.schedule.model_copy(update={"max_retries": 1})})
        passes = Passes(rare, wiring.utc_now())
        assert {passes.wait(TICK).run().reason for _ in range(14)} == {"same_answer"}
        assert {(outcome, status) for _, outcome, status in attempts(application)} == {("unauthorized", 404)}
        assert len(server.tickets) > 3 * 14
        server.says = lambda _: TAKES
        assert passes.wait(TICK).run().sent == 14
    assert queue(application) == {}


STOPS = [
    (MOVED, 69, "same_answer", "responds with HTTP 302 to every request"),
    (MISSING, 69, "same_answer", "responds with HTTP 404 to every request"),
    (CLOSED, 77, "credentials_refused", ": HTTP 403 to every request"),
]
"""Answers to every request, as of a server under maintenance, a wrong proxy, and an account without rights."""


@pytest.mark.parametrize(("answer", "status", "reason", "said"), STOPS)
def test_one_answer_to_all_requests_escalates_nothing_and_is_notified_once(
    cli: Cli, application: Application, answer: Answer, status: int, reason: str, said: str
) -> None:
    for message_id in range(1, 26):
        application.add(message_id, hours_ago=30 - message_id)
    with api(answer) as server, webhook() as hook:
        urls = {"RETRYCLI_NOTIFY__URLS": f"json://{hook.host}/x"}
        command = cli.having(application.variables(server.url) | urls)
        first = command("run-once")
        assert (first.returncode, application.last_pass()["reason"]) == (status, reason)
        assert len(server.tickets) == len(set(server.tickets)) == 13
        assert queue(application) == dict.fromkeys(range(1, 26), ("waiting", None))
        assert {row["retry_count"] for row in application.rows().values()} == {0}
        assert command.json("status")["state"] == "down"
        second = command("run-once")
        assert [said in done.stderr for done in (first, second)] == [True, False]
        [request] = hook.requests
        assert said in request.json["message"]
        server.says = lambda _: TAKES
        assert command("run-once", "--probe").returncode == 0
    assert queue(application) == {}


def test_answers_in_doubt_survive_the_death_of_their_pass(cli: Cli, application: Application) -> None:
    for message_id in range(1, 5):
        application.add(message_id, hours_ago=30 - message_id)
    gate = Gate()
    with api(lambda ticket: CLOSED if ticket < FIRST + 3 else TAKES, gate) as server:
        try:
            process = cli.having(application.variables(server.url)).start("run-once")
            assert gate.reached.wait(60)
            process.kill()
            process.communicate()
        finally:
            gate.opened.set()
        assert attempts(application) == [*((message_id, "permanent", 403) for message_id in (1, 2, 3)), (4, None, None)]
        later = replace(wiring.DEFAULT_RUNTIME, now=lambda: wiring.utc_now() + timedelta(hours=1))
        summary = run_pass.run_once(application.settings(server.url), runtime=later)
    assert (summary.escalated, summary.released) == (3, 3)
    assert queue(application)[1] == ("escalated", "permanent")
    assert [row["unknown_count"] for row in application.rows("retrycli_queue").values()] == [0, 0, 0, 1]


def test_two_hours_of_429_count_as_an_outage(cli: Cli, application: Application) -> None:
    """No message uses up a retry, so nothing else would tell an operator that nothing arrives."""
    application.add(1)
    with api(THROTTLES) as server:
        command = cli.having(application.variables(server.url))
        passes = Passes(application.settings(server.url), wiring.utc_now() - LONG_REST - TICK)
        reasons = [passes.wait(TICK).run().reason for _ in range(8)]
        assert (command.json("status")["state"], set(reasons)) == ("ok", {"throttled"})
        assert [passes.wait(TICK).run().reason for _ in range(2)] == ["breaker_open"] * 2
        state = command.json("status")
        assert (state["state"], state["breaker"][0]["state"]) == ("down", "resting")
        assert "has asked retrycli to wait since" in command("status").stdout
        assert re.search("no delivery to .* has succeeded since .*: it only asks retrycli", command("doctor").stdout)
        server.says = lambda _: TAKES
        assert passes.wait(TICK).run().reason is None
        assert command.json("status")["state"] == "ok"
    assert application.row(1)["retry_count"] == 0


def test_run_once_probes_immediately_if_requested(cli: Cli, application: Application) -> None:
    for message_id in range(1, 8):
        application.add(message_id)
    with api(BUSY) as server:
        command = cli.having(application.variables(server.url))
        assert command("run-once").returncode == 69
        assert command("run-once", "--probe").returncode == 69
        assert len(server.tickets) == 6
        server.says = lambda _: TAKES
        assert command("run-once").returncode == 69
        assert command("run-once", "--probe").returncode == 0
    assert set(queue(application)) == {1, 2, 3, 4, 5}
    assert application.rows("retrycli_breakers") == {}
