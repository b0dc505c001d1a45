"""Simulated nights compared with real ones: the same arrivals and the same outage, by real passes and a stepped clock.

The record is a night with the default schedule. The simulation of another schedule on this record must agree with real
passes by that schedule over the same night.
"""

from __future__ import annotations

import shutil
from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import pytest

from retrycli.config.settings import DatabaseSettings, Settings
from retrycli.operations.simulate import simulate
from tests.fakes import CUT_OFF, DELIVERED, DOWN, NOT_FOUND, REFUSED, RULES, START, TICK, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from retrycli.domain.message import QueuedMessage
    from retrycli.domain.outcome import Outcome

pytestmark = pytest.mark.slow

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
MESSAGES = 300
GOES_DOWN = START + 9 * HOUR + 50 * MINUTE
COMES_BACK = GOES_DOWN + 9 * HOUR
POINTS, SHARE = 5, 0.1
"""The allowed differences: in points of all messages, and as a share of the requests."""

SCHEDULES: dict[str, dict[str, object]] = {
    "unchanged": {},
    "fixed": {"backoff": "fixed", "base_minutes": 15},
    "linear": {"backoff": "linear", "base_minutes": 15},
    "list": {"backoff": "list", "waits_minutes": [20, 60, 360]},
    "few retries": {"max_retries": 2},
}


class Night(NamedTuple):
    """An outage, and what the API answers during it."""

    ends: datetime
    down: Outcome

    def answer(self, number: int, tries: int, at: datetime) -> Outcome:
        """Answer a request. Some messages are refused at first, and a few whenever they are sent."""
        if GOES_DOWN <= at < self.ends:
            return self.down
        if number % 67 == 3:
            return NOT_FOUND
        return REFUSED if number % 53 == 5 or (number % 7 == 2 and tries <= number % 3) else DELIVERED

    def live_through(self, file: Path, changes: Mapping[str, object]) -> Stage:
        """Run real passes until each message is delivered or escalated. A message fails every five minutes."""
        settings = Settings.model_validate({"schedule": dict(changes)})
        rules = RULES._replace(policies=settings.policies)
        stage, tries = Stage(file), Counter[int]()

        def answer(queued: QueuedMessage) -> Outcome:
            at = stage.clock.now
            tries[queued.message_id] += not GOES_DOWN <= at < self.ends
            return self.answer(queued.message_id, tries[queued.message_id], at)

        failed = 0
        while failed < MESSAGES or "waiting" in stage.states().values():
            tick = stage.clock.now
            while failed < MESSAGES and (at := START + (failed * 5 + 1) * MINUTE) <= tick:
                failed += 1
                text = str(at.replace(tzinfo=None))
                stage.add(failed, created_at=text, updated_at=text)
            stage.run(answer, rules, takes=timedelta(seconds=0.1))
            stage.clock.now = tick + TICK
        return stage


class Figures(NamedTuple):
    """What happened in a night, or in its simulation."""

    within_4h: int
    escalated: int
    requests_in_outages: int
    requests: int


def happened(stage: Stage, night: Night) -> Figures:
    """Return what really happened, from the attempts in the database."""

    def count(condition: str, *values: object) -> int:
        [(number,)] = stage.sql(f"SELECT count(*) FROM retrycli_attempts WHERE {condition}", *values)
        return int(number)

    outage = [str(at.replace(tzinfo=None)) for at in (GOES_DOWN, night.ends)]
    return Figures(
        within_4h=count("outcome = 'delivered' AND waited_s <= 4 * 3600"),
        escalated=list(stage.states().values()).count("escalated"),
        requests_in_outages=count("started_at >= ? AND started_at < ?", *outage),
        requests=count("1"),
    )


def simulated(stage: Stage, changes: Mapping[str, object], *, ends: str = "value") -> Figures:
    """Return the figures of a simulation: the medians or, with ``ends``, the lowest or highest values."""
    found = simulate(
        Settings(database=DatabaseSettings(url=f"sqlite:///{stage.path}")),
        changes,
        span=stage.clock.now - START + HOUR,
        now=lambda: stage.clock.now,
    )
    figures = {name: getattr(estimate, ends) for name, estimate in (found.proposed or found.today).figures.items()}
    assert figures["messages"] == MESSAGES
    return Figures(
        figures["delivered_within_4h"], figures["escalated"], figures["requests_in_outages"], figures["requests"]
    )


def new_file(blank_database: Path, folder: Path) -> Path:
    shutil.copy(blank_database, folder / "agent.db")
    return folder / "agent.db"


@pytest.fixture(scope="module", params=[DOWN, CUT_OFF], ids=["503", "unreachable"])
def night(request: pytest.FixtureRequest) -> Night:
    return Night(COMES_BACK, request.param)


@pytest.fixture(scope="module")
def record(blank_database: Path, tmp_path_factory: pytest.TempPathFactory, night: Night) -> Iterator[Stage]:
    stage = night.live_through(new_file(blank_database, tmp_path_factory.mktemp("record")), {})
    yield stage
    stage.database.close()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_simulated_schedule_agrees_with_real_passes_over_the_same_night(
    record: Stage, night: Night, blank_database: Path, tmp_path: Path, schedule: str
) -> None:
    changes = SCHEDULES[schedule]
    stage = night.live_through(new_file(blank_database, tmp_path), changes)
    real, found = happened(stage, night), simulated(record, changes)
    stage.database.close()
    assert abs(found.within_4h - real.within_4h) <= MESSAGES * POINTS / 100
    assert abs(found.escalated - real.escalated) <= MESSAGES * POINTS / 100
    assert abs(found.requests_in_outages - real.requests_in_outages) <= real.requests_in_outages * SHARE
    assert abs(found.requests - real.requests) <= real.requests * SHARE
