"""The repair after a clock was a month ahead: times from the wrong clock must delay nothing."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import select

from retrycli.domain.circuit_breaker import Breaker, BreakerState
from retrycli.domain.incidents import Told, Topic
from retrycli.domain.message import EscalationReason
from retrycli.domain.operator_action import OperatorAction
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.passes import ClockWasAhead, Hold, HoldKind, PassResult, PassSummary, Pause
from retrycli.domain.transition import ActionKind, Claim, Decision, Transition
from retrycli.store.claims import Claims
from retrycli.store.clock_repair import repair_clock_skew
from retrycli.store.database import Database
from retrycli.store.enrolment import Enrolment
from retrycli.store.holds import Holds
from retrycli.store.operator_actions import Acts
from retrycli.store.own_tables import LEEWAY, NEWEST_PASSES
from retrycli.store.passes import Ledger, Targets
from retrycli.store.schema import escalations
from tests.store.application import HOUR, MINUTE, NOON, TICKET, Application
from tests.store.own_tables import attempt_rows, pass_rows, queue_rows

LEASE = timedelta(seconds=90)
AHEAD = NOON + timedelta(days=30)
"""The time that the wrong clock showed at noon."""
NOW = NOON + 15 * MINUTE
"""The time of the repair, according to the corrected clock."""
JUST_BEFORE = NOW - timedelta.resolution
BUSY = Outcome(OutcomeKind.TRANSIENT, 503, "HTTP 503")
API = "https://tickets.example.com"


LATEST = NOW + 6 * HOUR
"""The latest due time after the repair, for the longest wait of four hours."""


def repair(database: Database, now: datetime = NOW, longest: timedelta = 4 * HOUR) -> ClockWasAhead | None:
    return repair_clock_skew(database, now, LEASE, longest)


def began(ledger: Ledger, pass_id: str = "ahead", *, at: datetime = AHEAD) -> None:
    ledger.start_pass(pass_id, host="box", pid=4711, now=at)


def enrol(database: Database, message_id: int, *, failed_at: datetime, due: datetime) -> None:
    entry = (Decision(message_id, Transition.enrolled(due)), failed_at, TICKET)
    Enrolment(database).enrol([entry], failed_at)


def try_it(
    database: Database,
    message_id: int,
    *,
    at: datetime,
    due: datetime | None = None,
    pass_id: str | None = "ahead",
    throttled: bool = False,
) -> None:
    """Attempt a queued message. Release it if it is throttled or attempted manually. Otherwise, reschedule it to `due`,
    or escalate it if `due` is None.
    """
    claims, claim = Claims(database), Claim("somebody", at + LEASE)
    claims.claim_one(claim, message_id, at)
    begun = claims.results.begin(claim, [message_id], made_by="somebody", pass_id=pass_id, now=at, fit=lambda _: True)
    if throttled or pass_id is None:
        transition = Transition.released()
    elif due is None:
        transition = Transition.escalated(EscalationReason.EXHAUSTED, last_error="HTTP 503")
    else:
        transition = Transition.rescheduled(due, retry_count=1, unknown_count=0, last_error="HTTP 503")
    claims.results.record(claim, [Decision(message_id, transition, BUSY, finished_at=at, message=begun[0])], at)


def due_of(database: Database) -> dict[int, datetime | None]:
    return {message_id: row["next_attempt_at"] for message_id, row in queue_rows(database).items()}


def test_small_clock_differences_are_ignored(database: Database, ledger: Ledger, application: Application) -> None:
    """If two hosts' clocks differ by a minute, a repair would shorten the claims of a running pass."""
    assert repair(database) is None
    message = application.add()
    began(ledger, at=NOW + MINUTE)
    enrol(database, message, failed_at=NOON, due=NOW)
    Claims(database).claim(Claim("alive", NOW + MINUTE + LEASE), NOW, 1)
    before = queue_rows(database), pass_rows(database)
    assert repair(database) is None
    assert repair(database, NOW + MINUTE - LEEWAY) is None
    assert (queue_rows(database), pass_rows(database)) == before
    assert repair(database, NOW - LEEWAY) == ClockWasAhead(LEEWAY + MINUTE, 1, 1)


def test_a_pass_with_a_wrong_clock_is_found_behind_others(database: Database, ledger: Ledger) -> None:
    began(ledger, at=NOON)
    ledger.finish_pass(PassSummary("ahead", PassResult.COMPLETED), AHEAD)
    for number in range(1, NEWEST_PASSES):
        began(ledger, f"right-{number}", at=NOON + number * timedelta(seconds=1))
    assert repair(database) == ClockWasAhead(AHEAD - NOW, 0, 0)
    assert repair(database) is None


def test_a_manual_attempt_reveals_a_wrong_clock_and_its_claim_lapses(
    database: Database, application: Application
) -> None:
    """The process of the manual attempt has died, and no pass has run."""
    message = application.add()
    enrol(database, message, failed_at=NOON - HOUR, due=NOON)
    claims, claim = Claims(database), Claim("by hand", AHEAD + LEASE)
    claims.claim_one(claim, message, AHEAD)
    claims.results.begin(claim, [message], made_by="anna", pass_id=None, now=AHEAD, fit=lambda _: True)
    assert repair(database) == ClockWasAhead(AHEAD - NOW, 0, 1)
    row = queue_rows(database)[message]
    assert (row["state"], row["claimed_by"], row["claim_expires_at"]) == ("sending", "by hand", NOW + LEASE)
    assert attempt_rows(database, message)[0]["started_at"] == JUST_BEFORE


def test_an_action_reveals_a_wrong_clock(database: Database, application: Application) -> None:
    message, change = application.add(), {"subject": "Re: tea"}
    enrol(database, message, failed_at=AHEAD - MINUTE, due=AHEAD + 14 * MINUTE)
    edited = OperatorAction.edited({}, change, ticket="4711", by="anna", at=AHEAD)
    Acts(database).edit(message, edited, read={}, changes=change)
    assert repair(database) == ClockWasAhead(AHEAD - NOW, 1, 0)
    assert due_of(database) == {message: NOW + 15 * MINUTE}


@pytest.fixture
def wrong(database: Database, ledger: Ledger) -> Database:
    began(ledger)
    return database


@pytest.mark.parametrize("longest", [4 * HOUR, 30 * HOUR])
def test_waits_begin_again_and_last_at_most_as_long_as_the_schedule_lets_them(
    wrong: Database, application: Application, longest: timedelta
) -> None:
    """Waits that a clock may have set correctly stay, also those after a Retry-After of six hours."""
    taken_in, tried, by_hand, right, almost, unknown = (application.add() for _ in range(6))
    latest = NOW + max(longest, 6 * HOUR)
    enrol(wrong, taken_in, failed_at=AHEAD, due=AHEAD + HOUR)
    enrol(wrong, almost, failed_at=NOON, due=latest)
    enrol(wrong, unknown, failed_at=NOON, due=AHEAD + HOUR)
    for message_id in (tried, by_hand, right):
        enrol(wrong, message_id, failed_at=NOON - HOUR, due=NOON)
    try_it(wrong, tried, at=AHEAD, due=AHEAD + 4 * HOUR)
    try_it(wrong, right, at=NOON, due=NOON + 4 * HOUR)
    try_it(wrong, by_hand, at=NOON, due=NOON + HOUR)
    try_it(wrong, by_hand, at=AHEAD, due=AHEAD, pass_id=None)
    assert repair(wrong, longest=longest) == ClockWasAhead(AHEAD - NOW, 3, 0)
    assert due_of(wrong) == {
        taken_in: NOW + HOUR,
        tried: NOW + 4 * HOUR,
        by_hand: NOON + HOUR,
        right: NOON + 4 * HOUR,
        almost: latest,
        unknown: latest,
    }
    assert queue_rows(wrong)[taken_in]["first_failed_at"] == AHEAD, "a clock that is behind must not make it look older"


@pytest.mark.parametrize(
    ("requeued_at", "tried_at", "spread", "due"),
    [
        (NOON, None, 24 * HOUR, NOON + 24 * HOUR),
        (NOON, AHEAD, 24 * HOUR, LATEST),
        (AHEAD, None, 24 * HOUR, LATEST),
        (AHEAD, None, HOUR, NOW + HOUR),
    ],
)
def test_only_a_spread_that_an_operator_has_chosen_is_longer(
    wrong: Database,
    application: Application,
    requeued_at: datetime,
    tried_at: datetime | None,
    spread: timedelta,
    due: datetime,
) -> None:
    message, chosen = application.add(), requeued_at + spread
    enrol(wrong, message, failed_at=NOON - HOUR, due=NOON - HOUR)
    try_it(wrong, message, at=NOON - MINUTE, due=None)
    Acts(wrong).perform(ActionKind.REQUEUED, {message: OperatorAction.requeued(chosen, by="anna", at=requeued_at)})
    if tried_at is not None:
        try_it(wrong, message, at=tried_at, due=tried_at + 24 * HOUR)
    repair(wrong)
    assert due_of(wrong) == {message: due}


def test_a_dead_pass_loses_its_claim_and_a_live_one_keeps_it(wrong: Database, application: Application) -> None:
    dead, alive = application.add(), application.add()
    for message_id, expires in ((dead, AHEAD + LEASE), (alive, NOW + LEASE - MINUTE)):
        enrol(wrong, message_id, failed_at=NOON, due=NOON)
        Claims(wrong).claim_one(Claim("somebody", expires), message_id, NOON)
    assert repair(wrong) == ClockWasAhead(AHEAD - NOW, 0, 1)
    rows = queue_rows(wrong)
    assert (rows[dead]["claim_expires_at"], rows[alive]["claim_expires_at"]) == (NOW + LEASE, NOW + LEASE - MINUTE)


@pytest.mark.parametrize(
    ("breaker", "probe_at"),
    [
        (Breaker(API, BreakerState.OPEN, 6, AHEAD, AHEAD + 15 * MINUTE), NOW + 15 * MINUTE),
        (Breaker(API, BreakerState.RESTING, 0, None, AHEAD + HOUR), NOW + 6 * HOUR),
        (Breaker(API, BreakerState.RESTING, 0, None, NOW + HOUR), NOW + HOUR),
        (Breaker(API, BreakerState.CLOSED, 3), None),
    ],
)
def test_a_destination_is_probed_within_six_hours(
    wrong: Database, ledger: Ledger, breaker: Breaker, probe_at: datetime | None
) -> None:
    ledger.save_breaker(breaker)
    repair(wrong)
    found = ledger.breaker(API)
    assert found.probe_at == probe_at
    assert found.opened_at == (JUST_BEFORE if breaker.opened_at else None)


def test_reminders_are_sent_and_no_other_pass_is_thought_to_be_notifying(wrong: Database) -> None:
    targets = Targets(wrong)
    targets.begin_telling(AHEAD, AHEAD + MINUTE)
    targets.remember("anna", {}, {Topic.DOWN: Told(AHEAD, AHEAD)})
    repair(wrong)
    assert targets.begin_telling(NOW, NOW + MINUTE)
    assert targets.memory("anna") == {Topic.DOWN: Told(JUST_BEFORE, JUST_BEFORE)}


def test_an_escalation_is_not_in_the_future(wrong: Database, application: Application) -> None:
    """Notifications use this time, and a repeated escalation keeps it."""
    application.add()
    enrol(wrong, 1, failed_at=AHEAD, due=AHEAD)
    try_it(wrong, 1, at=AHEAD, pass_id="ahead", due=None)
    repair(wrong)
    with wrong.read() as connection:
        assert connection.execute(select(escalations.c.at)).scalars().all() == [JUST_BEFORE]
    assert queue_rows(wrong)[1]["escalated_at"] == JUST_BEFORE


def test_a_pause_and_a_hold_that_began_with_the_wrong_clock_last_as_long_as_they_were_to(
    wrong: Database, ledger: Ledger
) -> None:
    """The ends of others stay, because an operator chose them."""
    ledger.set_pause(Pause(AHEAD, AHEAD + HOUR, "anna", None))
    ticket = Hold(HoldKind.TICKET, "17", AHEAD, AHEAD + 2 * HOUR, "anna", None)
    earlier = ticket._replace(target="18", since=NOON)
    Holds(wrong).begin([ticket, earlier], {})
    repair(wrong)
    assert ledger.pause(NOW) == Pause(JUST_BEFORE, NOW + HOUR, "anna", None)
    assert {hold.target: hold.until for hold in ledger.pause_and_holds(NOW)[1]} == {
        "17": NOW + 2 * HOUR,
        "18": AHEAD + 2 * HOUR,
    }


def test_the_pass_that_corrects_the_clock_is_the_newest(wrong: Database, ledger: Ledger) -> None:
    """The other passes keep their order, because `last_passes` sorts by time."""
    ledger.finish_pass(PassSummary("ahead", PassResult.COMPLETED), AHEAD, swept_to=7)
    began(ledger, "before", at=NOON - MINUTE)
    began(ledger, "now", at=NOW)
    repair(wrong)
    assert [summary.pass_id for summary in ledger.last_passes(9)] == ["now", "ahead", "before"]
    ahead = pass_rows(wrong)["ahead"]
    assert [ahead[name] for name in ("started_at", "heartbeat_at", "finished_at")] == [JUST_BEFORE] * 3
