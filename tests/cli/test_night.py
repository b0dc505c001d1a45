"""A nightly outage: the ticketing API is down for nine hours while 300 messages fail, three of them permanently.

The test covers the notifications, the messages, and the statistics and the report of the next morning.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING

import pytest

from retrycli.config.settings import Settings
from retrycli.domain.delivery_stats import GroupBy
from retrycli.domain.passes import PassResult, StopReason
from retrycli.operations import listing, report, run_pass
from retrycli.operations.sandbox import Behaviour, Sandbox
from retrycli.operations.wiring import Runtime
from tests.channels import webhook

if TYPE_CHECKING:
    from retrycli.operations.sandbox import Answer
    from tests.cli.application import Application

EVENING = datetime(2025, 3, 3, 21, 0, 2, tzinfo=UTC)
GOES_DOWN = datetime(2025, 3, 3, 21, 50, tzinfo=UTC)
COMES_BACK = GOES_DOWN + timedelta(hours=9)
MORNING = datetime(2025, 3, 4, 9, tzinfo=UTC)
TICK = timedelta(minutes=15)
MESSAGES = 300
PERMANENT = (50, 150, 250)
NOTIFICATIONS_AT_MOST = 5


@dataclass
class Clock:
    """A clock that advances a little at every reading."""

    time: datetime

    def now(self) -> datetime:
        self.time += timedelta(milliseconds=2)
        return self.time


class Api(Sandbox):
    """An API that is down for nine hours, and never accepts three of the messages."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(Behaviour(), rng=Random(0))
        self._clock_of_the_night = clock

    def answer(self, method: str, path: str, key: str | None, body: bytes) -> Answer:
        if GOES_DOWN <= self._clock_of_the_night.time < COMES_BACK:
            return 503, {"messages": ["upstream is away"]}
        if any(f"/tickets/{10_000 + message_id}/" in path for message_id in PERMANENT):
            return 422, {"messages": ["recipient unknown"]}
        return super().answer(method, path, key, body)


def fail(application: Application, number: int, at: datetime) -> None:
    """Add a failed message with its own ticket, as the application does."""
    made = str(at.replace(tzinfo=None))
    application.execute(f"INSERT INTO ticket_states VALUES ({10_000 + number}, 'open')")
    application.add(number, ticket_id=10_000 + number, created_at=made, updated_at=made)


@pytest.mark.databases("sqlite", "postgresql", once=True)
def test_a_nightly_outage_sends_few_notifications_and_loses_no_message(application: Application) -> None:
    clock = Clock(EVENING)
    jitter = Random(1)
    told: list[tuple[datetime, str]] = []
    failed = 0
    with webhook() as hook, Api(clock) as api:
        settings = Settings.model_validate(
            application.settings(api.url).model_dump() | {"notify": {"urls": [hook.slack_shaped]}}
        )
        runtime = Runtime(now=clock.now, rng=Random(2))
        tick = EVENING
        while tick < MORNING:
            wanted = int(MESSAGES * (tick - GOES_DOWN) / (COMES_BACK - GOES_DOWN))
            while failed < min(wanted, MESSAGES):
                failed += 1
                fail(application, failed, tick - timedelta(minutes=7))
            clock.time = tick + timedelta(seconds=jitter.uniform(0, 3))
            summary = run_pass.run_once(settings, runtime=runtime)
            assert summary.result in {PassResult.COMPLETED, PassResult.STOPPED}
            assert summary.reason in {None, StopReason.BREAKER_OPEN}
            told += [(tick, each) for each in hook.texts[len(told) :]]
            tick += TICK
    titles = [(f"{at:%H:%M}", text.splitlines()[0].partition(": ")[2]) for at, text in told]
    assert titles == [
        ("22:15", "the ticketing API is down"),
        ("04:15", "the ticketing API is still down"),
        ("07:00", "the ticketing API is back; 3 messages need an operator"),
    ]
    assert len(told) <= NOTIFICATIONS_AT_MOST
    assert "3 × HTTP 422: recipient unknown" in told[-1][1]
    assert "tickets 10050, 10150, 10250;" in told[-1][1]
    rows = application.rows()
    assert {message_id for message_id, row in rows.items() if row["status"] != "sent"} == set(PERMANENT)
    assert {each for each in rows if application.state(int(str(each))) == "escalated"} == set(PERMANENT)
    [outage] = listing.stats(settings, GroupBy.OUTCOME, span=timedelta(days=1), limit=9, now=lambda: MORNING)[0].outages
    assert abs(outage.began_at - GOES_DOWN) <= 2 * TICK
    assert outage.ended_at is not None
    assert timedelta(0) <= outage.ended_at - COMES_BACK <= timedelta(hours=1), "the last probe fails an hour before"
    page = report.report(settings, span=timedelta(days=1), now=lambda: MORNING)
    assert "The ticketing API was down from" in page
    assert "3 messages need an operator" in page
    assert "HTTP 422: recipient unknown" in page
