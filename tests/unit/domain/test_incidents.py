"""The incidents that cron's mail reports, and how long an incident lasts."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from retrycli.domain.incidents import OVER, TROUBLE, is_known, lasting, late_start, news, works_again
from retrycli.domain.passes import PassResult, StartedBy, StopReason
from tests.unit.domain.passes import NOON, TICK, Past

DOWN, REFUSED, LATE = StopReason.BREAKER_OPEN, StopReason.CREDENTIALS_REFUSED, StopReason.DEADLINE


def stopped(reason: str) -> Past:
    return Past(result=PassResult.STOPPED, reason=reason, rescheduled=5)


BUSY = Past(sent=3)
IDLE = Past()
SKIPPED = Past(result=PassResult.SKIPPED, reason=StopReason.LOCK_HELD)
PAUSED = Past(result=PassResult.PAUSED, reason=StopReason.PAUSED)
DIED = Past(result=PassResult.INTERRUPTED, reason=StopReason.DIED)
FAILED = Past(result=PassResult.FAILED, reason=StopReason.FAULT, detail="agent.db: its disk has 68 KiB free")
FULLER = replace(FAILED, detail="agent.db: its disk has 8 KiB free")
LOCKED = replace(FAILED, detail="agent.db: database is locked")
RUNNING = Past(result=None)


def over(reason: str, when: str) -> str:
    return OVER[reason].format(when=when)


def history(*newest_first: Past) -> list[Past]:
    """Return these passes, a tick apart."""
    return [replace(summary, started_at=NOON - number * TICK) for number, summary in enumerate(newest_first)]


@pytest.mark.parametrize("reason", TROUBLE)
def test_an_incident_is_announced_at_its_start_every_six_hours_and_at_its_end(reason: str) -> None:
    trouble = replace(stopped(reason), detail="detail")
    told = [(n, line) for n in range(1, 60) for line in news(history(*[trouble] * n, BUSY))]
    assert told == [(n, TROUBLE[reason].format(detail="detail")) for n in (1, 25, 49)]
    assert news(history(BUSY, trouble, BUSY)) == [over(reason, "at 2025-03-03 11:45 UTC")]
    assert news(history(BUSY, BUSY, trouble)) == []


@pytest.mark.parametrize("nothing", [SKIPPED, PAUSED, DIED, FAILED, RUNNING])
@pytest.mark.parametrize("reason", TROUBLE)
def test_passes_that_did_not_get_to_sending_neither_end_nor_restart_it(reason: str, nothing: Past) -> None:
    trouble = stopped(reason)
    assert news(history(nothing, trouble, BUSY)) == []
    assert news(history(trouble, nothing, trouble, BUSY)) == []
    assert news(history(BUSY, nothing, trouble, BUSY)) == [over(reason, "at 2025-03-03 11:30 UTC")]


@pytest.mark.parametrize("nothing", [IDLE, Past(rescheduled=1)])
@pytest.mark.parametrize("reason", [DOWN, REFUSED, StopReason.SAME_ANSWER])
def test_a_pass_that_delivered_nothing_does_not_show_that_the_api_is_back(reason: str, nothing: Past) -> None:
    """Such a pass had nothing to send, or only rescheduled its message."""
    trouble = stopped(reason)
    assert news(history(nothing, trouble, BUSY)) == []
    assert news(history(trouble, nothing, trouble, BUSY)) == []
    when = "from 2025-03-03 11:00 UTC to 2025-03-03 11:15 UTC"
    assert news(history(BUSY, nothing, nothing, trouble, trouble, BUSY)) == [over(reason, when)]


def test_passes_of_one_minute_are_reported_by_that_minute() -> None:
    passes = [
        replace(summary, started_at=NOON + n * TICK / 60)
        for n, summary in zip((60, 1, 0), (BUSY, stopped(DOWN), stopped(DOWN)), strict=True)
    ]
    assert news(passes) == ["The ticketing API accepts messages again (it was down at 2025-03-03 12:00 UTC)"]


def test_two_incidents_that_end_together_are_both_reported() -> None:
    assert len(news(history(BUSY, stopped(DOWN), stopped(REFUSED), BUSY))) == 2
    assert news([]) == []


def test_a_pass_with_nothing_left_ends_a_lack_of_time() -> None:
    assert news(history(IDLE, stopped(LATE), BUSY)) == [over(LATE, "at 2025-03-03 11:45 UTC")]


def test_an_unreachable_api_has_not_accepted_our_credentials() -> None:
    passes = history(stopped(DOWN), stopped(REFUSED), BUSY)
    assert len(lasting(REFUSED, passes)) == 1
    assert lasting(REFUSED, history(BUSY, *passes)) == []


def test_the_same_error_is_repeated_every_six_hours_whatever_its_numbers() -> None:
    told = [n for n in range(1, 60) if not is_known(history(FULLER, *[FAILED] * (n - 1), BUSY))]
    assert told == [1, 25, 49]


def test_another_error_is_reported_at_once_and_alternation_is_not() -> None:
    assert not is_known(history(LOCKED, FAILED, BUSY))
    assert is_known(history(FAILED, LOCKED, FAILED, BUSY))
    assert not is_known(history(FAILED, BUSY, FAILED))


WAITS_FOR_PROBE = replace(stopped(DOWN), rescheduled=0)


@pytest.mark.parametrize("nothing", [SKIPPED, PAUSED, RUNNING, WAITS_FOR_PROBE])
def test_passes_that_ended_earlier_neither_end_nor_restart_it(nothing: Past) -> None:
    assert works_again(history(nothing, FAILED)) is None
    assert is_known(history(FAILED, nothing, FAILED, BUSY))
    assert works_again(history(BUSY, nothing, FAILED)) is not None


@pytest.mark.parametrize("good", [BUSY, IDLE, stopped(DOWN)])
def test_working_passes_are_announced_once(good: Past) -> None:
    line = works_again(history(good, LOCKED, FAILED, BUSY, FAILED))
    assert line == (
        "Message retry passes no longer fail. They failed from 2025-03-03 11:30 UTC to 2025-03-03 11:45 UTC: "
        "agent.db: database is locked"
    )
    assert works_again(history(BUSY, good, LOCKED, FAILED, BUSY)) is None


def test_a_dead_pass_is_reported_likewise() -> None:
    line = works_again(history(BUSY, replace(DIED, detail="the process was killed"), BUSY))
    assert line == "Message retry passes no longer fail. They failed at 2025-03-03 11:45 UTC: the process was killed"


def test_missing_passes_are_reported_once_by_the_next_scheduled_one() -> None:
    """On a full disk, no pass can be recorded, so the next recorded pass must report the gap."""
    back, before = replace(IDLE, started_at=NOON), replace(IDLE, started_at=NOON - timedelta(hours=3))
    line = late_start([back, before], TICK)
    assert line is not None
    assert line.startswith("No pass was recorded between 2025-03-03 09:00 UTC and 2025-03-03 12:00 UTC: ")
    assert late_start([replace(IDLE, started_at=NOON + TICK), back, before], TICK) is None
    assert late_start([replace(back, started_by=StartedBy.PERSON), before], TICK) is None
    assert late_start(history(IDLE, IDLE), TICK) is None
    assert late_start([back], TICK) is None
