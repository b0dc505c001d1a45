"""A clock that was a month ahead and has been put right: what was written by it holds nobody up."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import select

from retrycli.domain.circuit_breaker import Breaker, BreakerState
from retrycli.domain.incidents import Told, Topic
from retrycli.domain.message import EscalationReason
from retrycli.domain.operator_action import OperatorAction
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.passes import ClockWasAhead, PassResult, PassSummary, Pause
from retrycli.domain.transition import ActionKind, Claim, Decision, IdRange, Transition
from retrycli.store.claims import Claims
from retrycli.store.clock_repair import AT_ONCE, repair_clock_skew
from retrycli.store.database import Database
from retrycli.store.enrolment import Enrolment
from retrycli.store.operator_actions import Acts
from retrycli.store.own_tables import LEEWAY, NEWEST_PASSES
from retrycli.store.passes import Ledger, Targets
from retrycli.store.schema import escalations
from tests.store.application import HOUR, MINUTE, NOON, TICKET, Application
from tests.store.own_tables import attempt_rows, pass_rows, queue_rows, retire

LEASE = timedelta(seconds=90)
AHEAD = NOON + timedelta(days=30)
"""What the clock said at noon."""
NOW = NOON + 15 * MINUTE
"""When it has been put right."""
JUST_BEFORE = NOW - timedelta.resolution
BUSY = Outcome(OutcomeKind.TRANSIENT, 503, "HTTP 503")
API = "https://tickets.example.com"
EVERYTHING = IdRange(None, None)


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
    """Try a message that is in the queue, with what came of it: it waits until it is due, or for a person."""
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
    return {each: row["next_attempt_at"] for each, row in queue_rows(database).items()}


# What shows it.


def test_nothing_is_done_where_nothing_is_to_come(database: Database, ledger: Ledger) -> None:
    assert repair_clock_skew(database, NOW, LEASE) is None
    began(ledger, at=NOON)
    assert repair_clock_skew(database, NOON, LEASE) is None


def test_clocks_that_differ_a_little_are_left_alone(
    database: Database, ledger: Ledger, application: Application
) -> None:
    """Also those of hosts a minute apart: nothing is taken from a pass that is alive."""
    message = application.add()
    began(ledger, at=NOW + MINUTE)
    enrol(database, message, failed_at=NOON, due=NOW)
    Claims(database).claim(Claim("alive", NOW + MINUTE + LEASE), NOW, 1)
    before = queue_rows(database), pass_rows(database)
    assert repair_clock_skew(database, NOW, LEASE) is None
    assert repair_clock_skew(database, NOW + MINUTE - LEEWAY, LEASE) is None
    assert (queue_rows(database), pass_rows(database)) == before
    assert repair_clock_skew(database, NOW - LEEWAY, LEASE) == ClockWasAhead(LEEWAY + MINUTE, 1, 1)


def test_a_pass_that_met_the_wrong_clock_on_its_way_is_found_behind_others(database: Database, ledger: Ledger) -> None:
    began(ledger, at=NOON)
    ledger.finish_pass(PassSummary("ahead", PassResult.COMPLETED), AHEAD)
    for number in range(1, NEWEST_PASSES):
        began(ledger, f"right-{number}", at=NOON + number * timedelta(seconds=1))
    assert repair_clock_skew(database, NOW, LEASE) == ClockWasAhead(AHEAD - NOW, 0, 0)
    assert repair_clock_skew(database, NOW, LEASE) is None


def test_an_attempt_by_hand_shows_it_and_its_claim_lapses(database: Database, application: Application) -> None:
    """Its process died, and there was no pass."""
    message = application.add()
    enrol(database, message, failed_at=NOON - HOUR, due=NOON)
    claims, claim = Claims(database), Claim("by hand", AHEAD + LEASE)
    claims.claim_one(claim, message, AHEAD)
    claims.results.begin(claim, [message], made_by="anna", pass_id=None, now=AHEAD, fit=lambda _: True)
    assert repair_clock_skew(database, NOW, LEASE) == ClockWasAhead(AHEAD - NOW, 0, 1)
    row = queue_rows(database)[message]
    assert (row["state"], row["claimed_by"], row["claim_expires_at"]) == ("sending", "by hand", NOW + LEASE)
    assert attempt_rows(database, message)[0]["started_at"] == JUST_BEFORE


def test_an_act_shows_it(database: Database, application: Application) -> None:
    message = application.add()
    enrol(database, message, failed_at=AHEAD - MINUTE, due=AHEAD + 14 * MINUTE)
    Acts(database).edit(
        message,
        OperatorAction.edited({}, {"subject": "Re: tea"}, ticket="4711", by="anna", at=AHEAD),
        read={},
        changes={"subject": "Re: tea"},
    )
    assert repair_clock_skew(database, NOW, LEASE) == ClockWasAhead(AHEAD - NOW, 1, 0)
    assert due_of(database) == {message: NOW + 15 * MINUTE}


# Waits.


@pytest.fixture
def wrong(database: Database, ledger: Ledger) -> Database:
    """A database that a pass has worked on by the wrong clock."""
    began(ledger)
    return database


def test_a_message_that_was_tried_waits_as_long_as_it_was_to(wrong: Database, application: Application) -> None:
    message = application.add()
    enrol(wrong, message, failed_at=NOON - HOUR, due=NOON)
    try_it(wrong, message, at=AHEAD, due=AHEAD + 4 * HOUR)
    assert repair_clock_skew(wrong, NOW, LEASE) == ClockWasAhead(AHEAD - NOW, 1, 0)
    assert due_of(wrong) == {message: NOW + 4 * HOUR}


def test_a_message_that_was_taken_in_waits_as_long_as_it_was_to(wrong: Database, application: Application) -> None:
    """The application's clock was ahead too, or its table tells no time."""
    dated, undated = application.add(), application.add()
    enrol(wrong, dated, failed_at=AHEAD - MINUTE, due=AHEAD + 14 * MINUTE)
    enrol(wrong, undated, failed_at=AHEAD, due=AHEAD)
    assert repair_clock_skew(wrong, NOW, LEASE) == ClockWasAhead(AHEAD - NOW, 2, 0)
    assert due_of(wrong) == {dated: NOW + 15 * MINUTE, undated: NOW}


def test_a_message_waits_so_also_where_its_pass_has_been_forgotten(wrong: Database, application: Application) -> None:
    message = application.add()
    enrol(wrong, message, failed_at=NOON - HOUR, due=NOON)
    try_it(wrong, message, at=AHEAD, due=AHEAD + 4 * HOUR, pass_id="forgotten")
    repair_clock_skew(wrong, NOW, LEASE)
    assert due_of(wrong) == {message: NOW + 4 * HOUR}


def test_what_was_tried_in_vain_after_it_was_due_waits_as_long_as_it_was_to(
    wrong: Database, ledger: Ledger, application: Application
) -> None:
    """The API asked for a rest, and each kept its time: just taken in, taken in by an earlier pass, tried before."""
    fresh, taken_in, tried = (application.add() for _ in range(3))
    for each in (fresh, taken_in, tried):
        enrol(wrong, each, failed_at=AHEAD, due=AHEAD)
    try_it(wrong, fresh, at=AHEAD + timedelta(seconds=4), throttled=True)
    try_it(wrong, tried, at=AHEAD + timedelta(seconds=4), due=AHEAD + 30 * MINUTE)
    began(ledger, "later", at=AHEAD + HOUR)
    for each in (taken_in, tried):
        try_it(wrong, each, at=AHEAD + HOUR + MINUTE, throttled=True, pass_id="later")
    assert repair_clock_skew(wrong, NOW, LEASE) == ClockWasAhead(AHEAD + HOUR + MINUTE - NOW, 3, 0)
    waits = 30 * MINUTE - timedelta(seconds=4)
    assert due_of(wrong) == {fresh: NOW, taken_in: NOW, tried: NOW + waits}


def test_a_wait_that_was_over_by_the_wrong_clock_alone_goes_on(wrong: Database, application: Application) -> None:
    message = application.add()
    enrol(wrong, message, failed_at=NOON, due=NOON + 4 * HOUR)
    try_it(wrong, message, at=AHEAD, throttled=True)
    assert repair_clock_skew(wrong, NOW, LEASE) == ClockWasAhead(AHEAD - NOW, 0, 0)
    assert due_of(wrong) == {message: NOON + 4 * HOUR}


def test_a_wait_that_is_shorter_than_its_pass_is_kept(wrong: Database, application: Application) -> None:
    """It counts from the pass's start, and the attempt ended later than that."""
    message = application.add()
    enrol(wrong, message, failed_at=NOON - HOUR, due=NOON)
    try_it(wrong, message, at=AHEAD + 5 * MINUTE, due=AHEAD + MINUTE)
    repair_clock_skew(wrong, NOW, LEASE)
    assert due_of(wrong) == {message: NOW + MINUTE}


def test_what_waits_by_a_clock_that_was_right_keeps_its_time(wrong: Database, application: Application) -> None:
    """Taken in, tried, or tried again by hand after its pass; also where the application alone had a wrong clock."""
    taken_in, tried, by_hand, theirs = (application.add() for _ in range(4))
    enrol(wrong, taken_in, failed_at=NOON, due=NOON + 5 * HOUR)
    for each in (tried, by_hand):
        enrol(wrong, each, failed_at=NOON, due=NOON)
        try_it(wrong, each, at=NOON, due=NOON + 4 * HOUR)
    try_it(wrong, by_hand, at=AHEAD, due=AHEAD, pass_id=None)
    enrol(wrong, theirs, failed_at=AHEAD, due=NOON + 30 * MINUTE)
    before = due_of(wrong)
    assert repair_clock_skew(wrong, NOW, LEASE) == ClockWasAhead(AHEAD - NOW, 0, 0)
    assert due_of(wrong) == before


def test_an_attempt_by_hand_since_does_not_hide_the_wait(wrong: Database, application: Application) -> None:
    message = application.add()
    enrol(wrong, message, failed_at=NOON, due=NOON)
    try_it(wrong, message, at=AHEAD, due=AHEAD + HOUR)
    try_it(wrong, message, at=NOW, due=NOW, pass_id=None)
    repair_clock_skew(wrong, NOW, LEASE)
    assert due_of(wrong) == {message: NOW + HOUR}


@pytest.mark.parametrize("requeued_at", [NOON, AHEAD])
def test_a_time_that_a_person_has_named_stays(wrong: Database, application: Application, requeued_at: datetime) -> None:
    """Unless it was: at once."""
    at_once, later = application.add(), application.add()
    named = AHEAD + 24 * HOUR
    for each, due in ((at_once, requeued_at), (later, named)):
        enrol(wrong, each, failed_at=NOON - HOUR, due=NOON - HOUR)
        try_it(wrong, each, at=NOON - MINUTE, due=None)
        Acts(wrong).perform(ActionKind.REQUEUED, {each: OperatorAction.requeued(due, by="anna", at=requeued_at)})
    repair_clock_skew(wrong, NOW, LEASE)
    assert due_of(wrong) == {at_once: min(NOW, requeued_at), later: named}


@pytest.mark.parametrize("requeued", [True, False])
def test_a_message_that_has_failed_anew_waits_from_then(
    wrong: Database, application: Application, *, requeued: bool
) -> None:
    """Whatever was done when it failed before, or with the message that had its id."""
    message = application.add()
    enrol(wrong, message, failed_at=NOON - HOUR, due=NOON - HOUR)
    try_it(wrong, message, at=NOON - MINUTE, due=None)
    if requeued:
        Acts(wrong).perform(ActionKind.REQUEUED, {message: OperatorAction.requeued(NOON, by="anna", at=NOON)})
    application.change(message, status="approved")
    assert retire(Enrolment(wrong), EVERYTHING) == 1
    application.change(message, status="failed")
    enrol(wrong, message, failed_at=AHEAD, due=AHEAD + MINUTE)
    assert repair_clock_skew(wrong, NOW, LEASE) == ClockWasAhead(AHEAD - NOW, 1, 0)
    assert due_of(wrong) == {message: NOW + MINUTE}


def test_a_message_that_is_held_by_a_dead_pass_gets_both_put_right(wrong: Database, application: Application) -> None:
    message = application.add()
    enrol(wrong, message, failed_at=AHEAD - HOUR, due=AHEAD - MINUTE)
    Claims(wrong).claim(Claim("dead", AHEAD + LEASE), AHEAD, 1)
    assert repair_clock_skew(wrong, NOW, LEASE) == ClockWasAhead(AHEAD - NOW, 1, 1)
    row = queue_rows(wrong)[message]
    assert (row["next_attempt_at"], row["claim_expires_at"]) == (NOW + 59 * MINUTE, NOW + LEASE)


def test_more_than_one_page_is_put_right(wrong: Database, application: Application) -> None:
    ids = application.add_all({} for _ in range(AT_ONCE + 3))
    entries = [(Decision(each, Transition.enrolled(AHEAD)), AHEAD, TICKET) for each in ids]
    Enrolment(wrong).enrol(entries, AHEAD)
    assert repair_clock_skew(wrong, NOW, LEASE) == ClockWasAhead(AHEAD - NOW, len(ids), 0)
    assert set(due_of(wrong).values()) == {NOW}


# What passes remember.


@pytest.mark.parametrize(
    ("breaker", "probe_at"),
    [
        (Breaker(API, BreakerState.OPEN, 6, AHEAD, AHEAD + 15 * MINUTE), NOW + 15 * MINUTE),
        (Breaker(API, BreakerState.OPEN, 6, AHEAD - HOUR, AHEAD - MINUTE), NOW),
        (Breaker(API, BreakerState.RESTING, 0, None, AHEAD + HOUR), NOW + HOUR),
        (Breaker(API, BreakerState.RESTING, 0, None, NOW + HOUR), NOW + HOUR),
        (Breaker(API, BreakerState.CLOSED, 3), None),
    ],
)
def test_a_destination_is_probed_after_its_time(
    wrong: Database, ledger: Ledger, breaker: Breaker, probe_at: datetime | None
) -> None:
    ledger.save_breaker(breaker)
    repair_clock_skew(wrong, NOW, LEASE)
    found = ledger.breaker(API)
    assert found.probe_at == probe_at
    assert found.opened_at == (JUST_BEFORE if breaker.opened_at else None)


def test_reminders_come_and_nobody_is_taken_to_be_telling(wrong: Database) -> None:
    targets = Targets(wrong)
    targets.begin_telling(AHEAD, AHEAD + MINUTE)
    targets.remember("anna", {}, {Topic.DOWN: Told(AHEAD, AHEAD)})
    repair_clock_skew(wrong, NOW, LEASE)
    assert targets.begin_telling(NOW, NOW + MINUTE)
    assert targets.memory("anna") == {Topic.DOWN: Told(JUST_BEFORE, JUST_BEFORE)}


def test_an_escalation_did_not_happen_in_the_future(wrong: Database, application: Application) -> None:
    """Notifications go by that time, and a second escalation for the reason under the key has it too."""
    application.add()
    enrol(wrong, 1, failed_at=AHEAD, due=AHEAD)
    try_it(wrong, 1, at=AHEAD, pass_id="ahead", due=None)
    repair_clock_skew(wrong, NOW, LEASE)
    with wrong.read() as connection:
        assert connection.execute(select(escalations.c.at)).scalars().all() == [JUST_BEFORE]
    assert queue_rows(wrong)[1]["escalated_at"] == JUST_BEFORE


def test_a_pause_ends_when_it_was_to(wrong: Database, ledger: Ledger) -> None:
    ledger.set_pause(Pause(AHEAD, AHEAD + HOUR, "anna", None))
    repair_clock_skew(wrong, NOW, LEASE)
    assert ledger.pause(NOW) == Pause(JUST_BEFORE, AHEAD + HOUR, "anna", None)


def test_the_pass_that_puts_it_right_is_the_newest(wrong: Database, ledger: Ledger) -> None:
    """And what is told of the others has been, in the order it was in."""
    ledger.finish_pass(PassSummary("ahead", PassResult.COMPLETED), AHEAD, swept_to=7)
    began(ledger, "before", at=NOON - MINUTE)
    began(ledger, "now", at=NOW)
    repair_clock_skew(wrong, NOW, LEASE)
    assert [each.pass_id for each in ledger.last_passes(9)] == ["now", "ahead", "before"]
    ahead = pass_rows(wrong)["ahead"]
    assert [ahead[name] for name in ("started_at", "heartbeat_at", "finished_at")] == [JUST_BEFORE] * 3
