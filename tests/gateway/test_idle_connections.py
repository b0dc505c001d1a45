"""A connection that the server may be about to close is not used: the message's outcome could become unknown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.gateway.http.gateway import HttpGateway
from retrycli.gateway.http.transport import IDLE_SECONDS
from tests.gateway.deliveries import COLUMNS, NOON, gateway_settings, queued
from tests.gateway.hostile import SUCCEEDED, Connection, Hostile, answer, http

MESSAGES = 5
LIMITS = {"Starman": 1, "gunicorn": 2, "Apache": 5, "Jetty": 30, "nginx": 75}
"""The default idle timeouts of some servers, in seconds."""


@dataclass
class Clock:
    """A clock that a test moves."""

    seconds: float = 1000.0

    def read(self) -> float:
        return self.seconds


@dataclass
class Impatient:
    """A behaviour that closes a connection idle for ``limit`` seconds, just when the next request arrives."""

    clock: Clock
    limit: float
    since: dict[int, float] = field(default_factory=dict)

    def __call__(self, connection: Connection) -> None:
        since = self.since.get(connection.number, self.clock.seconds)
        if self.clock.seconds - since >= self.limit:
            connection.close()
            return
        connection.send(http(200, SUCCEEDED))
        self.since[connection.number] = self.clock.seconds


def deliver_every(seconds: float, clock: Clock, url: str) -> list[Outcome]:
    """Deliver messages, and move the clock forward after each."""

    async def all_of_them() -> list[Outcome]:
        outcomes = []
        settings = gateway_settings(url)
        made = HttpGateway(settings, columns=COLUMNS, connections=1, now=lambda: NOON, elapsed=clock.read)
        async with made as gateway:
            for _ in range(MESSAGES):
                outcomes.append(await gateway.deliver(queued()))
                clock.seconds += seconds
        return outcomes

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("gap", [lambda limit: limit, lambda limit: limit + 0.43, lambda limit: limit * 0.99])
@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
def test_a_server_that_closes_idle_connections_makes_no_outcome_unknown(
    limit: float, gap: Callable[[float], float]
) -> None:
    clock = Clock()
    with Hostile(Impatient(clock, limit)) as server:
        assert deliver_every(gap(limit), clock, server.url) == [Outcome(OutcomeKind.DELIVERED, 200)] * MESSAGES
        assert len(server.requests) == MESSAGES


def test_a_connection_is_reused_for_half_of_the_shortest_limit() -> None:
    assert min(LIMITS.values()) / 2 >= IDLE_SECONDS


@pytest.mark.parametrize(("seconds", "connections"), [(0, 1), (IDLE_SECONDS, 1), (IDLE_SECONDS + 0.001, MESSAGES)])
def test_a_connection_idle_for_longer_is_replaced(seconds: float, connections: int) -> None:
    clock = Clock()
    with Hostile(answer(200, SUCCEEDED)) as server:
        deliver_every(seconds, clock, server.url)
        assert len(server.connections) == connections
