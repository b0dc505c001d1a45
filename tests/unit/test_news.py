"""What cron's mail is told of passes, and how long a trouble is taken to last."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from retrycli.events import PassResult, StopReason
from retrycli.news import TROUBLE, lasting, news

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
TICK = timedelta(minutes=15)
DOWN, REFUSED, LATE = StopReason.BREAKER_OPEN, StopReason.CREDENTIALS_REFUSED, StopReason.DEADLINE
BACK = "Message retry passes go on as usual; the one before had stopped: "


@dataclass(frozen=True)
class Past:
    """A pass that has been."""

    started_at: datetime = NOON
    result: PassResult | None = PassResult.COMPLETED
    reason: str | None = None
    sent: int = 0
    rescheduled: int = 0


def stopped(reason: str) -> Past:
    return Past(result=PassResult.STOPPED, reason=reason, rescheduled=5)


BUSY = Past(sent=3)
IDLE = Past()
SKIPPED = Past(result=PassResult.SKIPPED, reason=StopReason.LOCK_HELD)
PAUSED = Past(result=PassResult.PAUSED, reason=StopReason.PAUSED)
DIED = Past(result=PassResult.INTERRUPTED, reason=StopReason.DIED)
FAILED = Past(result=PassResult.FAILED, reason=StopReason.FAULT)
RUNNING = Past(result=None)


def history(*newest_first: Past) -> list[Past]:
    """These passes, a tick apart."""
    return [
        Past(NOON - number * TICK, each.result, each.reason, each.sent, each.rescheduled)
        for number, each in enumerate(newest_first)
    ]


@pytest.mark.parametrize("reason", TROUBLE)
def test_a_trouble_is_told_when_it_begins(reason: str) -> None:
    line = news("detail", history(stopped(reason), BUSY))
    assert line == TROUBLE[reason].format(detail="detail")


@pytest.mark.parametrize("reason", TROUBLE)
def test_it_is_told_again_every_six_hours(reason: str) -> None:
    told = [n for n in range(1, 60) if news(None, history(*[stopped(reason)] * n, BUSY))]
    assert told == [1, 25, 49]


@pytest.mark.parametrize("reason", TROUBLE)
def test_it_is_told_when_it_is_over_and_once(reason: str) -> None:
    assert news(None, history(BUSY, stopped(reason), BUSY)) == BACK + reason
    assert news(None, history(BUSY, BUSY, stopped(reason))) is None


@pytest.mark.parametrize("nothing", [SKIPPED, PAUSED, DIED, FAILED, RUNNING])
@pytest.mark.parametrize("reason", TROUBLE)
def test_passes_that_never_got_to_send_neither_end_a_trouble_nor_begin_it_anew(reason: str, nothing: Past) -> None:
    trouble = stopped(reason)
    assert news(None, history(nothing, trouble, BUSY)) is None
    assert news(None, history(trouble, nothing, trouble, BUSY)) is None
    assert news(None, history(BUSY, nothing, trouble, BUSY)) == BACK + reason


@pytest.mark.parametrize("reason", [DOWN, REFUSED])
def test_a_pass_with_nothing_to_send_has_not_found_out_that_the_api_is_back(reason: str) -> None:
    trouble = stopped(reason)
    assert news(None, history(IDLE, trouble, BUSY)) is None
    assert news(None, history(trouble, IDLE, trouble, BUSY)) is None
    assert news(None, history(BUSY, IDLE, IDLE, trouble, BUSY)) == BACK + reason


def test_a_pass_with_nothing_left_ends_a_lack_of_time() -> None:
    assert news(None, history(IDLE, stopped(LATE), BUSY)) == BACK + LATE


def test_an_api_that_is_down_has_not_accepted_our_credentials() -> None:
    passes = history(stopped(DOWN), stopped(REFUSED), BUSY)
    assert len(lasting(REFUSED, passes)) == 1
    assert lasting(REFUSED, history(BUSY, *passes)) == []


def test_there_is_nothing_to_tell_where_there_was_no_pass() -> None:
    assert news(None, []) is None
