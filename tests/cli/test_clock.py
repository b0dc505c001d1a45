"""Wrong clocks: set ahead and back, different on two hosts, daylight saving time, leap seconds."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from retrycli.domain.circuit_breaker import BreakerState
from retrycli.operations.wiring import never_set_back, open_database
from retrycli.store.passes import Ledger
from tests.cli.api import BUSY, TAKES, Scripted
from tests.cli.test_explain import MINUTE, NOON, TICK, Desk
from tests.conftest import on_both

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.application import Application
    from tests.cli.command import Cli

MONTH = timedelta(days=30)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
FAKETIME = shutil.which("faketime")


@pytest.fixture
def at(application: Application) -> Iterator[Desk]:
    with Scripted(BUSY) as api:
        made = Desk(application, api)
        made.have(schedule={"backoff": "fixed", "base_minutes": 30, "max_retries": 100}, breaker={"failures": 1000})
        yield made


def tried(at: Desk, ticks: range, *, ahead: timedelta = timedelta(0)) -> dict[int, list[int]]:
    """Run cron's passes with a clock that is ahead; return the attempted ids, keyed by the true tick."""
    found = {}
    for tick in ticks:
        now = NOON + tick * TICK + ahead
        at.run_at(now)
        found[tick] = sorted(at.tried_at(now))
    return found


def attempted(at: Desk, ticks: range, *, ahead: timedelta = timedelta(0)) -> dict[int, list[int]]:
    """Do the same, but leave out the passes that attempt nothing."""
    return {tick: ids for tick, ids in tried(at, ticks, ahead=ahead).items() if ids}


@on_both
def test_after_a_clock_was_a_month_ahead_the_waits_begin_again(at: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """Message 1 is first attempted with the right clock, 2 with the wrong one. 3 has future timestamps, 4 has none."""
    at.add(1)
    at.add(2, failed_at=NOON)
    assert tried(at, range(1)) == {0: [1]}
    at.add(4, created_at=None, updated_at=None)
    assert tried(at, range(1, 2), ahead=MONTH) == {1: [1, 2, 4]}
    at.add(3, failed_at=NOON + 20 * MINUTE + MONTH)
    assert tried(at, range(2, 3), ahead=MONTH) == {2: []}
    [gap] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert gap.getMessage().startswith("No pass was recorded between 2026-03-02 12:00 UTC and 2026-04-01 12:15 UTC: ")
    caplog.clear()
    assert attempted(at, range(3, 8)) == {5: [1, 2, 3, 4], 7: [1, 2, 3, 4]}
    [warned] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert warned.getMessage() == (
        "The clock was at least 29 days, 23:45:00 ahead in earlier passes; the wrong times of waiting messages (4) "
        "and claims (0) were corrected"
    )


@on_both
@pytest.mark.parametrize("ahead", [HOUR, 4 * HOUR, 10 * HOUR, 3650 * DAY], ids=str)
def test_a_wait_begins_again_with_its_length_if_it_began_with_a_clock_that_was_ahead(
    at: Desk, ahead: timedelta
) -> None:
    at.add(1)
    assert attempted(at, range(1, 2), ahead=ahead) == {1: [1]}
    assert attempted(at, range(2, 9)) == {tick: [1] for tick in (4, 6, 8)}


@on_both
def test_a_clock_that_is_set_back_during_a_pass_causes_no_second_request(at: Desk) -> None:
    for message_id in range(1, 7):
        at.add(message_id)
    at.clock = lambda now: lambda: now - HOUR if at.api.paths else now
    at.run_at(NOON)
    assert len(at.api.paths) == 6
    at.clock = lambda now: lambda: now
    for tick in range(-3, 2):
        at.run_at(NOON + tick * TICK + MINUTE)
    assert len(at.api.paths) == 6
    assert attempted(at, range(2, 3)) == {2: [1, 2, 3, 4, 5, 6]}


@on_both
def test_an_outage_that_began_with_a_wrong_clock_ends_with_the_next_probe(at: Desk) -> None:
    at.have(breaker={"failures": 3})
    for message_id in range(1, 5):
        at.add(message_id)
    assert tried(at, range(1), ahead=MONTH) == {0: [1, 2, 3]}
    at.answers(TAKES)
    assert attempted(at, range(1, 4)) == {2: [4], 3: [1, 2, 3]}
    with open_database(at.settings) as database:
        assert Ledger(database).breaker(at.api.url).state is BreakerState.CLOSED


@on_both
def test_status_and_explain_foresee_what_the_next_pass_corrects(at: Desk) -> None:
    at.add(1)
    tried(at, range(1))
    tried(at, range(1, 2), ahead=MONTH)
    found = at.status(NOON + TICK + MINUTE)
    assert (found.state, found.next_run) == ("ok", NOON + 2 * TICK)
    assert found.last_pass is not None
    assert found.last_pass.started_at == NOON
    assert [host.started_at for host in found.hosts] == [NOON]
    assert at.status(NOON + 10 * TICK).state == "late"
    assert at.explain(1, NOON + TICK + MINUTE).next_attempt_at == NOON + 4 * TICK
    assert attempted(at, range(2, 5)) == {4: [1]}


@on_both
def test_after_a_clock_was_set_back_a_day_nothing_is_sent_early(at: Desk) -> None:
    """The messages must not wait a day for the clock to catch up either."""
    at.add(1)
    assert tried(at, range(1)) == {0: [1]}
    at.add(2, failed_at=NOON + 5 * MINUTE - DAY)
    assert attempted(at, range(1, 9), ahead=-DAY) == {tick: [1, 2] for tick in (3, 5, 7)}


def test_a_pass_ignores_a_clock_that_is_set_back() -> None:
    """Otherwise a pass would wait a day for its deadline or for its next request."""
    times = iter([NOON, NOON + MINUTE, NOON - DAY, NOON + DAY, NOON])
    seconds = iter([7.0, 67.0, 68.5, 69.0, 70.0])
    clock = never_set_back(lambda: next(times), lambda: next(seconds))
    assert [clock() - NOON for _ in range(4)] == [MINUTE, timedelta(seconds=61.5), DAY, timedelta(seconds=63)]


def test_of_hosts_a_minute_apart_one_attempts_a_message_per_tick(at: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """A minute is within the tolerance, so neither host corrects the other's times."""
    at.have(schedule={"base_minutes": 15})
    at.add(1)
    tries: list[datetime] = []
    for tick in range(12):
        for ahead in (timedelta(0), MINUTE) if tick % 3 else (MINUTE, timedelta(0)):
            now = NOON + tick * TICK
            before = at.application.asked("SELECT count(*) FROM retrycli_attempts")
            at.run_at(now + ahead)
            if at.application.asked("SELECT count(*) FROM retrycli_attempts") != before:
                tries.append(now)
    assert [later - earlier for earlier, later in pairwise(tries)] == [TICK] * 11
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


CHANGES = {"it begins": datetime(2025, 3, 30, 1, tzinfo=UTC), "it ends": datetime(2025, 10, 26, 1, tzinfo=UTC)}
THROUGH_THE_CHANGE = """
import sys
from datetime import datetime
from tests.cli.application import Application
from tests.cli.test_clock import passes_around
passes_around(Application(f"sqlite:///{sys.argv[1]}", tables=None), datetime.fromisoformat(sys.argv[2]))
"""


def passes_around(application: Application, change: datetime) -> None:
    """Run passes for two hours before and after a change to or from daylight saving time, and deliver nothing."""
    with Scripted(BUSY) as api:
        there = Desk(application, api)
        there.have(schedule={"backoff": "linear", "max_retries": 100}, breaker={"failures": 1000})
        for tick in range(-8, 8):
            now = change + tick * TICK
            there.add(100 + tick, failed_at=now)
            there.run_at(now)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_daylight_saving_time_makes_no_message_early_or_late(application: Application, change: datetime) -> None:
    """The application writes UTC without an offset. Code that reads it as local time would skip or repeat an hour."""
    subprocess.run(
        [sys.executable, "-c", THROUGH_THE_CHANGE, application.path, change.isoformat()],
        env=os.environ | {"TZ": "Europe/Berlin"},
        check=True,
        capture_output=True,
        timeout=60,
    )
    begun = application.asked("SELECT message_id, started_at FROM retrycli_attempts ORDER BY id")
    found = {(attempt, datetime.fromisoformat(started).replace(tzinfo=UTC)) for attempt, started in begun}
    assert found == {(100 + made, change + tick * TICK) for made in range(-8, 8) for tick in range(made + 1, 8)}


@pytest.mark.skipif(FAKETIME is None, reason="faketime is not installed")
@on_both
def test_with_a_clock_from_before_this_program_nothing_is_done(at_work: Cli, application: Application) -> None:
    """A machine without a battery begins at 1970. It would take every message for new."""
    application.add(1)
    before = application.dump()
    refused = at_work.under(str(FAKETIME), "-f", "@1999-12-31 23:00:00")("run-once")
    if application.is_sqlite:
        assert (refused.returncode, application.dump()) == (69, before)
        assert refused.stderr.startswith("retrycli: the clock of this machine shows 1999-12-31T")
    else:
        assert refused.returncode == 0, "the server's clock decides"
