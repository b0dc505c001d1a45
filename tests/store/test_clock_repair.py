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
"""The time that the wrong clock showed at noon."""
NOW = NOON + 15 * MINUTE
"""The time of the repair, according to the corrected clock."""
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


def test_does_nothing_if_no_time_is_in_the_future(database: Database, ledger: Ledger) -> None:
    assert repair_clock_skew(database, NOW, LEASE) is None
    began(ledger, at=NOON)
    assert repair_clock_skew(database, NOON, LEASE) is None


def test_small_clock_differences_are_ignored(database: Database, ledger: Ledger, application: Application) -> None:
    """If two hosts' clocks differ by a minute, a repair would shorten the claims of a running pass."""
    message = application.add()
    began(ledger, at=NOW + MINUTE)
    enrol(database, message, failed_at=NOON, due=NOW)
    Claims(database).claim(Claim("alive", NOW + MINUTE + LEASE), NOW, 1)
    before = queue_rows(database), pass_rows(database)
    assert repair_clock_skew(database, NOW, LEASE) is None
    assert repair_clock_skew(database, NOW + MINUTE - LEEWAY, LEASE) is None
    assert (queue_rows(database), pass_rows(database)) == before
    assert repair_clock_skew(database, NOW - LEEWAY, LEASE) == ClockWasAhead(LEEWAY + MINUTE, 1, 1)


def test_a_pass_with_a_wrong_clock_is_found_behind_others(database: Database, ledger: Ledger) -> None:
    began(ledger, at=NOON)
    ledger.finish_pass(PassSummary("ahead", PassResult.COMPLETED), AHEAD)
    for number in range(1, NEWEST_PASSES):
        began(ledger, f"right-{number}", at=NOON + number * timedelta(seconds=1))
    assert repair_clock_skew(database, NOW, LEASE) == ClockWasAhead(AHEAD - NOW, 0, 0)
    assert repair_clock_skew(database, NOW, LEASE) is None


def test_a_manual_attempt_reveals_a_wrong_clock_and_its_claim_lapses(
    database: Database, application: Application
) -> None:
    """The process of the manual attempt has died, and no pass has run."""
    message = application.add()
    enrol(database, message, failed_at=NOON - HOUR, due=NOON)
    claims, claim = Claims(database), Claim("by hand", AHEAD + LEASE)
    claims.claim_one(claim, message, AHEAD)
    claims.results.begin(claim, [message], made_by="anna", pass_id=None, now=AHEAD, fit=lambda _: True)
    assert repair_clock_skew(database, NOW, LEASE) == ClockWasAhead(AHEAD - NOW, 0, 1)
    row = queue_rows(database)[message]
    assert (row["state"], row["claimed_by"], row["claim_expires_at"]) == ("sending", "by hand", NOW + LEASE)
    assert attempt_rows(database, message)[0]["started_at"] == JUST_BEFORE


def test_an_action_reveals_a_wrong_clock(database: Database, application: Application) -> None:
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


@pytest.fixture
def wrong(database: Database, ledger: Ledger) -> Database:
    began(ledger)
    return database


def test_an_attempted_message_waits_its_intended_time(wrong: Database, application: Application) -> None:
    message = application.add()
    enrol(wrong, message, failed_at=NOON - HOUR, due=NOON)
    try_it(wrong, message, at=AHEAD, due=AHEAD + 4 * HOUR)
    assert repair_clock_skew(wrong, NOW, LEASE) == ClockWasAhead(AHEAD - NOW, 1, 0)
    assert due_of(wrong) == {message: NOW + 4 * HOUR}


def test_an_enrolled_message_waits_its_intended_time(wrong: Database, application: Application) -> None:
    """The application's clock may also have been ahead, or its table may have no times."""
    dated, undated = application.add(), application.add()
    enrol(wrong, dated, failed_at=AHEAD - MINUTE, due=AHEAD + 14 * MINUTE)
    enrol(wrong, undated, failed_at=AHEAD, due=AHEAD)
    assert repair_clock_skew(wrong, NOW, LEASE) == ClockWasAhead(AHEAD - NOW, 2, 0)
    assert due_of(wrong) == {dated: NOW + 15 * MINUTE, undated: NOW}


def test_a_message_waits_its_intended_time_also_after_its_pass_was_pruned(
    wrong: Database, application: Application
) -> None:
    message = application.add()
    enrol(wrong, message, failed_at=NOON - HOUR, due=NOON)
    try_it(wrong, message, at=AHEAD, due=AHEAD + 4 * HOUR, pass_id="forgotten")
    repair_clock_skew(wrong, NOW, LEASE)
    assert due_of(wrong) == {message: NOW + 4 * HOUR}


def test_a_message_attempted_without_success_waits_its_intended_time(
    wrong: Database, ledger: Ledger, application: Application
) -> None:
    """The API throttled the requests, so new, earlier and rescheduled messages kept their due times."""
    fresh, taken_in, tried = (application.add() for _ in range(3))
    for message_id in (fresh, taken_in, tried):
        enrol(wrong, message_id, failed_at=AHEAD, due=AHEAD)
    try_it(wrong, fresh, at=AHEAD + timedelta(seconds=4), throttled=True)
    try_it(wrong, tried, at=AHEAD + timedelta(seconds=4), due=AHEAD + 30 * MINUTE)
    began(ledger, "later", at=AHEAD + HOUR)
    for message_id in (taken_in, tried):
        try_it(wrong, message_id, at=AHEAD + HOUR + MINUTE, throttled=True, pass_id="later")
    assert repair_clock_skew(wrong, NOW, LEASE) == ClockWasAhead(AHEAD + HOUR + MINUTE - NOW, 3, 0)
    waits = 30 * MINUTE - timedelta(seconds=4)
    assert due_of(wrong) == {fresh: NOW, taken_in: NOW, tried: NOW + waits}


def test_a_wait_that_ended_only_by_the_wrong_clock_continues(wrong: Database, application: Application) -> None:
    message = application.add()
    enrol(wrong, message, failed_at=NOON, due=NOON + 4 * HOUR)
    try_it(wrong, message, at=AHEAD, throttled=True)
    assert repair_clock_skew(wrong, NOW, LEASE) == ClockWasAhead(AHEAD - NOW, 0, 0)
    assert due_of(wrong) == {message: NOON + 4 * HOUR}


def test_a_wait_shorter_than_its_pass_is_kept(wrong: Database, application: Application) -> None:
    """A wait is counted from the start of its pass, so it may end before the attempt does."""
    message = application.add()
    enrol(wrong, message, failed_at=NOON - HOUR, due=NOON)
    try_it(wrong, message, at=AHEAD + 5 * MINUTE, due=AHEAD + MINUTE)
    repair_clock_skew(wrong, NOW, LEASE)
    assert due_of(wrong) == {message: NOW + MINUTE}


def test_a_wait_set_by_a_correct_clock_is_kept(wrong: Database, application: Application) -> None:
    """Neither a manual attempt nor the application's clock affects a wait that a pass set correctly."""
    taken_in, tried, by_hand, theirs = (application.add() for _ in range(4))
    enrol(wrong, taken_in, failed_at=NOON, due=NOON + 5 * HOUR)
    for message_id in (tried, by_hand):
        enrol(wrong, message_id, failed_at=NOON, due=NOON)
        try_it(wrong, message_id, at=NOON, due=NOON + 4 * HOUR)
    try_it(wrong, by_hand, at=AHEAD, due=AHEAD, pass_id=None)
    enrol(wrong, theirs, failed_at=AHEAD, due=NOON + 30 * MINUTE)
    before = due_of(wrong)
    assert repair_clock_skew(wrong, NOW, LEASE) == ClockWasAhead(AHEAD - NOW, 0, 0)
    assert due_of(wrong) == before


def test_a_later_manual_attempt_does_not_hide_the_wait(wrong: Database, application: Application) -> None:
    message = application.add()
    enrol(wrong, message, failed_at=NOON, due=NOON)
    try_it(wrong, message, at=AHEAD, due=AHEAD + HOUR)
    try_it(wrong, message, at=NOW, due=NOW, pass_id=None)
    repair_clock_skew(wrong, NOW, LEASE)
    assert due_of(wrong) == {message: NOW + HOUR}


@pytest.mark.parametrize("requeued_at", [NOON, AHEAD])
def test_a_time_set_by_an_operator_is_kept(wrong: Database, application: Application, requeued_at: datetime) -> None:
    """Only a due time that means "now" is corrected."""
    at_once, later = application.add(), application.add()
    named = AHEAD + 24 * HOUR
    for message_id, due in ((at_once, requeued_at), (later, named)):
        enrol(wrong, message_id, failed_at=NOON - HOUR, due=NOON - HOUR)
        try_it(wrong, message_id, at=NOON - MINUTE, due=None)
        Acts(wrong).perform(ActionKind.REQUEUED, {message_id: OperatorAction.requeued(due, by="anna", at=requeued_at)})
    repair_clock_skew(wrong, NOW, LEASE)
    assert due_of(wrong) == {at_once: min(NOW, requeued_at), later: named}


@pytest.mark.parametrize("requeued", [True, False])
def test_a_message_that_failed_again_waits_from_then(
    wrong: Database, application: Application, *, requeued: bool
) -> None:
    """An earlier failure, or an earlier message with the same id, must not count."""
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


def test_a_message_claimed_by_a_dead_pass_gets_claim_and_wait_corrected(
    wrong: Database, application: Application
) -> None:
    message = application.add()
    enrol(wrong, message, failed_at=AHEAD - HOUR, due=AHEAD - MINUTE)
    Claims(wrong).claim(Claim("dead", AHEAD + LEASE), AHEAD, 1)
    assert repair_clock_skew(wrong, NOW, LEASE) == ClockWasAhead(AHEAD - NOW, 1, 1)
    row = queue_rows(wrong)[message]
    assert (row["next_attempt_at"], row["claim_expires_at"]) == (NOW + 59 * MINUTE, NOW + LEASE)


def test_corrects_more_than_one_page(wrong: Database, application: Application) -> None:
    ids = application.add_all({} for _ in range(AT_ONCE + 3))
    entries = [(Decision(message_id, Transition.enrolled(AHEAD)), AHEAD, TICKET) for message_id in ids]
    Enrolment(wrong).enrol(entries, AHEAD)
    assert repair_clock_skew(wrong, NOW, LEASE) == ClockWasAhead(AHEAD - NOW, len(ids), 0)
    assert set(due_of(wrong).values()) == {NOW}


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
def test_a_destination_is_probed_after_its_intended_time(
    wrong: Database, ledger: Ledger, breaker: Breaker, probe_at: datetime | None
) -> None:
    ledger.save_breaker(breaker)
    repair_clock_skew(wrong, NOW, LEASE)
    found = ledger.breaker(API)
    assert found.probe_at == probe_at
    assert found.opened_at == (JUST_BEFORE if breaker.opened_at else None)


def test_reminders_are_sent_and_no_other_pass_is_thought_to_be_notifying(wrong: Database) -> None:
    targets = Targets(wrong)
    targets.begin_telling(AHEAD, AHEAD + MINUTE)
    targets.remember("anna", {}, {Topic.DOWN: Told(AHEAD, AHEAD)})
    repair_clock_skew(wrong, NOW, LEASE)
    assert targets.begin_telling(NOW, NOW + MINUTE)
    assert targets.memory("anna") == {Topic.DOWN: Told(JUST_BEFORE, JUST_BEFORE)}


def test_an_escalation_is_not_in_the_future(wrong: Database, application: Application) -> None:
    """Notifications use this time, and a repeated escalation keeps it."""
    application.add()
    enrol(wrong, 1, failed_at=AHEAD, due=AHEAD)
    try_it(wrong, 1, at=AHEAD, pass_id="ahead", due=None)
    repair_clock_skew(wrong, NOW, LEASE)
    with wrong.read() as connection:
        assert connection.execute(select(escalations.c.at)).scalars().all() == [JUST_BEFORE]
    assert queue_rows(wrong)[1]["escalated_at"] == JUST_BEFORE


def test_a_pause_ends_at_its_intended_time(wrong: Database, ledger: Ledger) -> None:
    ledger.set_pause(Pause(AHEAD, AHEAD + HOUR, "anna", None))
    repair_clock_skew(wrong, NOW, LEASE)
    assert ledger.pause(NOW) == Pause(JUST_BEFORE, AHEAD + HOUR, "anna", None)


def test_the_pass_that_corrects_the_clock_is_the_newest(wrong: Database, ledger: Ledger) -> None:
    """The other passes keep their order, because `last_passes` sorts by time."""
    ledger.finish_pass(PassSummary("ahead", PassResult.COMPLETED), AHEAD, swept_to=7)
    began(ledger, "before", at=NOON - MINUTE)
    began(ledger, "now", at=NOW)
    repair_clock_skew(wrong, NOW, LEASE)
    assert [summary.pass_id for summary in ledger.last_passes(9)] == ["now", "ahead", "before"]
    ahead = pass_rows(wrong)["ahead"]
    assert [ahead[name] for name in ("started_at", "heartbeat_at", "finished_at")] == [JUST_BEFORE] * 3
