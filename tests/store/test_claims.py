"""Claims: the exclusive right to send a message, and the record of each attempt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
from sqlalchemy import CHAR, Column, DateTime, String, Text, update
from sqlalchemy.types import TypeEngine

from retrycli.domain.errors import NoSuchMessage, NotActionable
from retrycli.domain.fingerprint import fingerprint
from retrycli.domain.identity import BY_TICKET, OF_ANY_TICKET, digest_of
from retrycli.domain.message import EscalationReason, QueuedMessage, UnusableMessage
from retrycli.domain.operator_action import OperatorAction
from retrycli.domain.outcome import PROCESS_DIED, Outcome, OutcomeKind
from retrycli.domain.transition import ActionKind, Claim, Decision, ExpiredClaim, IdRange, Transition, WriteResult
from retrycli.store import schema
from retrycli.store.claims import Claims
from retrycli.store.database import Database
from retrycli.store.enrolment import Enrolment
from retrycli.store.history import message_details
from retrycli.store.identity import delivery_key
from retrycli.store.operator_actions import Acts
from tests.store.application import HOUR, MINUTE, NOON, TICKET, Application, is_sqlite, naive, opened
from tests.store.conftest import Factory, application_with, in_every_mode, on_default_table
from tests.store.heard import told_of
from tests.store.own_tables import FAILED_AT, PASS, attempt_rows, begin, enrol, escalate, queue_rows

OTHER = Claim("another-pass", NOON + 40 * MINUTE)
HAND = Claim("a-hand", NOON + MINUTE)
ANSWERED_AT = NOON + timedelta(seconds=3, milliseconds=250)
DOWN = Outcome(OutcomeKind.TRANSIENT, 503, "HTTP 503", timedelta(minutes=2))
DELIVERED = Outcome(OutcomeKind.DELIVERED, 200)
OTHER_STATUSES = ["pending", "approved", "rejected", "sent"]


def send(database: Database, ids: Sequence[int], claim: Claim = PASS) -> Claims:
    """Enrol, claim and begin messages, as if their requests were in flight."""
    claims = Claims(database)
    enrol(database, ids)
    assert sorted(claims.claim(claim, NOON, len(ids))) == sorted(ids)
    assert len(begin(claims, ids, claim)) == len(ids)
    return claims


def ids_of(messages: Sequence[QueuedMessage | UnusableMessage]) -> list[int]:
    return [message.message_id for message in messages]


def test_only_the_own_open_attempts_are_withdrawn_and_leave_no_trace(
    application: Application, database: Database
) -> None:
    application.add_all([{}] * 3)
    claims = send(database, [1, 2, 3])
    claims.results.record_answers(PASS, [Decision(1, Transition.released(), DELIVERED, MINUTE, NOON)], NOON)
    before = queue_rows(database)
    claims.results.withdraw(OTHER, [1, 2, 3])
    assert [len(attempt_rows(database, message_id)) for message_id in (1, 2, 3)] == [1, 1, 1]
    claims.results.withdraw(PASS, [1, 3])
    assert [len(attempt_rows(database, message_id)) for message_id in (1, 2, 3)] == [1, 1, 0]
    assert queue_rows(database) == before
    assert len(begin(claims, [3])) == 1
    assert [row["number"] for row in attempt_rows(database, 3)] == [1]


def test_the_messages_that_have_waited_longest_are_claimed_first_and_at_most_the_requested_number(
    application: Application, database: Database, claims: Claims
) -> None:
    application.add_all([{}] * 6)
    enrol(database, [5, 2], at=NOON - MINUTE)
    enrol(database, [4, 1], at=NOON - 2 * MINUTE)
    enrol(database, [6, 3], at=NOON)
    assert [claims.claim(PASS, NOON, limit) for limit in (0, 3, 10)] == [[], [1, 4, 2], [5, 3, 6]]


def test_due_messages_of_any_time_zone_are_claimed_and_counted(
    application: Application, database: Database, claims: Claims
) -> None:
    east = timezone(timedelta(hours=5, minutes=30))
    application.add_all([{}] * 4)
    for message_id, late in enumerate((-HOUR, timedelta(0), timedelta(microseconds=1), HOUR), 1):
        enrol(database, [message_id], at=(NOON + late).astimezone(east))
    assert claims.count_due(NOON) == claims.count_due(NOON.astimezone(east)) == 2
    assert claims.claim(PASS, NOON, 10) == [1, 2]


def test_a_claim_records_its_owner_and_its_lease_and_is_never_repeated(
    application: Application, database: Database, claims: Claims
) -> None:
    """An expired claim may have an unfinished attempt, so only `take_over_expired` may claim its message again."""
    application.add_all([{}] * 3)
    enrol(database, [1])
    enrol(database, [2], at=NOON + 99 * HOUR)
    escalate(database, 3)
    before = queue_rows(database)
    with application.watched() as changed:
        assert claims.claim(PASS, NOON, 10) == [1]
    assert changed == {}
    claimed = {"state": "sending", "claimed_by": "the-pass", "claim_expires_at": PASS.expires_at}
    assert queue_rows(database) == before | {1: before[1] | claimed}
    assert claims.claim(PASS, NOON + 10 * HOUR, 10) == claims.claim(OTHER, NOON + 10 * HOUR, 10) == []
    assert claims.count_due(NOON + 10 * HOUR) == 0


@contextmanager
def two_sides(application: Application) -> Iterator[list[Database]]:
    """Open the same database twice, with separate connections."""
    with ExitStack() as stack:
        yield [stack.enter_context(opened(application)) for _ in range(2)]


def side_by_side(work: Callable[[int], None]) -> None:
    """Run the same work in two threads that start at the same time, and raise the first error."""
    start, failures = Barrier(2), []

    def run(side: int) -> None:
        try:
            start.wait()
            work(side)
        except BaseException as error:  # noqa: BLE001  raised again below
            failures.append(error)

    threads = [Thread(target=run, args=(side,)) for side in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@in_every_mode
def test_two_concurrent_claims_or_recoveries_never_get_the_same_message(application: Application) -> None:
    claimed: list[list[int]] = [[], []]
    recovered: list[list[int]] = [[], []]
    application.add_all([{}] * 60)
    with two_sides(application) as sides:
        enrol(sides[0], range(1, 61))
        for each in sides:
            assert each.messages is not None

        def claim_all(side: int) -> None:
            claims, claim = Claims(sides[side]), Claim(f"side-{side}", NOON + HOUR)
            while ids := claims.claim(claim, NOON, 3):
                claimed[side] += ids

        def take_all(side: int) -> None:
            claims, claim = Claims(sides[side]), Claim(f"heir-{side}", NOON + 10 * HOUR)
            while lapsed := claims.take_over_expired(claim, NOON + HOUR, 3):
                recovered[side] += ids_of([claim.message for claim in lapsed])

        for work, got, name in ((claim_all, claimed, "side"), (take_all, recovered, "heir")):
            side_by_side(work)
            assert sorted(got[0] + got[1]) == list(range(1, 61))
            holders = {message_id: row["claimed_by"] for message_id, row in queue_rows(sides[0]).items()}
            assert holders == {message_id: f"{name}-{side}" for side in range(2) for message_id in got[side]}


@in_every_mode
def test_two_concurrent_manual_claims_never_both_get_one_message(application: Application) -> None:
    """If both sides read the message as free, the later claim changes no row, and `begin` returns no message."""
    ids = range(1, 21)
    begun: list[list[int]] = [[], []]
    refused: list[list[int]] = [[], []]
    application.add_all([{}] * len(ids))
    with two_sides(application) as sides:
        enrol(sides[0], ids)
        in_step = Barrier(2)

        def claim_each(side: int) -> None:
            claims, claim = Claims(sides[side]), Claim(f"side-{side}", NOON + HOUR)
            for message_id in ids:
                in_step.wait()
                try:
                    claims.claim_one(claim, message_id, NOON)
                except NotActionable:
                    refused[side].append(message_id)
                begun[side] += ids_of(begin(claims, [message_id], claim, made_by="ada"))

        side_by_side(claim_each)
        assert sorted(begun[0] + begun[1]) == list(ids)
        assert all(not set(begun[side]) & set(refused[side]) for side in range(2))
        assert all(len(attempt_rows(sides[0], message_id)) == 1 for message_id in ids)


@in_every_mode
def test_two_concurrent_enrolments_enrol_each_message_once(application: Application) -> None:
    """An operator's `retry` and a pass may both try to enrol a new message."""
    application.add_all([{}] * 30)
    with two_sides(application) as sides:

        def enrol_all(side: int) -> None:
            for message_id in range(1, 31):
                enrol(sides[side], [message_id], at=NOON + side * HOUR)

        side_by_side(enrol_all)
        assert queue_rows(sides[0]).keys() == set(range(1, 31))


def test_a_manual_claim_ignores_the_wait(application: Application, database: Database, claims: Claims) -> None:
    application.add_all([{}] * 3)
    enrol(database, [1, 2], at=NOON + HOUR)
    before = queue_rows(database)
    claims.claim_one(HAND, 1, NOON)
    claims.claim_one(HAND, 3, NOON)  # is not in the queue
    claimed = {"state": "sending", "claimed_by": "a-hand", "claim_expires_at": HAND.expires_at}
    assert queue_rows(database) == {1: before[1] | claimed, 2: before[2]}
    assert begin(claims, [3], HAND, made_by="ada") == []
    with pytest.raises(NoSuchMessage, match=r"no message 4711\b"):
        claims.claim_one(HAND, 4711, NOON)


def test_a_message_that_is_not_failed_or_being_sent_is_not_claimed(
    application: Application, database: Database
) -> None:
    """Even an expired claim is left to the next pass, because the message may have been delivered."""
    application.add_all([{}, {}])
    claims = send(database, [1])
    enrol(database, [2])
    before = queue_rows(database)
    for status in OTHER_STATUSES:
        application.change(2, status=status)
        with pytest.raises(NotActionable, match=f"message 2 is {application.word(status)}, not failed"):
            claims.claim_one(HAND, 2, NOON)
    for now, words in (
        (PASS.expires_at - timedelta.resolution, r"being sent now \(claimed by the-pass\)"),
        (PASS.expires_at, "has not renewed its claim"),
    ):
        with pytest.raises(NotActionable, match=words):
            claims.claim_one(HAND, 1, now)
    assert queue_rows(database) == before


def test_an_attempt_is_recorded_before_anything_is_sent(
    application: Application, database: Database, claims: Claims
) -> None:
    application.add_all([{}, {}])
    enrol(database, [1, 2])
    claims.claim(PASS, NOON, 1)
    claims.claim_one(HAND, 2, NOON)
    held = queue_rows(database)
    with application.watched() as changed:
        begin(claims, [1])
        begin(claims, [2], HAND, made_by="Zoë")
    assert changed == {}
    assert queue_rows(database) == held
    (row,) = attempt_rows(database, 1)
    unfinished = ("finished_at", "outcome", "status_code", "error", "retry_after_s", "duration_ms", "external_id")
    begun = {"message_id": 1, "pass_id": "the-pass", "number": 1, "made_by": "pass", "started_at": NOON}
    begun |= {"waited_s": 15 * 60, "ticket": str(TICKET), "message_type": "supplier", "deliveries": 0}
    begun |= {"birth": (NOON - HOUR).isoformat(timespec="microseconds"), "probe": None}
    begun |= {"destination": None, "preset": None}
    begun |= {"digest": digest_of(application.row(1)), "delivered_to": None}
    begun["delivery_key"] = delivery_key(application.id_of(1), str(begun["birth"]), str(begun["digest"]), 0)
    assert {name: value for name, value in row.items() if name != "id"} == begun | dict.fromkeys(unfinished)
    (by_hand,) = attempt_rows(database, 2)
    assert (by_hand["made_by"], by_hand["pass_id"], by_hand["probe"]) == ("Zoë", None, None)


def test_messages_are_loaded_completely_in_the_requested_order(
    application: Application, database: Database, claims: Claims
) -> None:
    application.add(body="Where is it?\nIt was due on Monday.", retry_count=4, attachments='["invoice.pdf"]')
    application.add(id=7, message_type="customer")
    enrol(database, [1, 7])
    claims.claim(PASS, NOON, 10)
    first, second = begin(claims, [7, 1])
    assert isinstance(first, QueuedMessage)
    assert isinstance(second, QueuedMessage)
    assert (first.message_id, second.message_id) == (7, 1)
    assert second.message.fields["body"] == "Where is it?\nIt was due on Monday."
    assert second.message.fields["attachments"] == ["invoice.pdf"]
    assert second.message.fields["priority"] == 1
    assert not [name for name in second.message.fields if name.startswith("retrycli_")]
    # Without an attempt at this text, a count that retrycli keeps itself is that of another text.
    assert second.message.retry_count == (0 if "retry_count" in database.table.own else 4)
    assert (second.birth, second.digest) == (
        (NOON - HOUR).isoformat(timespec="microseconds"),
        digest_of(application.row(1)),
    )
    its_key = delivery_key(application.id_of(1), second.birth, second.digest, 0)
    assert (second.delivery_key, second.first_failed_at) == (its_key, FAILED_AT)
    assert (second.unknown_count, second.attempt_number) == (0, 1)


def test_attempts_are_numbered_per_message(application: Application, database: Database, claims: Claims) -> None:
    """Numbering continues after a message has left the queue and returned."""
    application.add_all([{}, {}])
    numbers = []
    enrol(database, [2])
    for due in (NOON, NOON, NOON):
        enrol(database, [1])
        claims.claim(PASS, due, 10)
        loaded = begin(claims, [1, 2])
        numbers.append([message.attempt_number for message in loaded if isinstance(message, QueuedMessage)])
        claims.results.record(PASS, [Decision(message_id, Transition.released(), DOWN) for message_id in (1, 2)], NOON)
        application.change(1, status="sent")
        Enrolment(database).retire(IdRange(0, 1))
        application.change(1, status="failed")
    assert numbers == [[1, 1], [2, 2], [3, 3]]
    assert [row["number"] for row in attempt_rows(database, 1)] == [1, 2, 3]


def test_a_message_that_the_application_took_back_is_not_begun_and_leaves_the_queue(
    application: Application, database: Database, claims: Claims
) -> None:
    taken_back = [*OTHER_STATUSES, "deleted"]
    left = len(taken_back) + 1
    application.add_all([{}] * left)
    enrol(database, range(1, left + 1))
    claims.claim(PASS, NOON, 10)
    for message_id, status in enumerate(taken_back, 1):
        take_back(application, message_id, status)
    assert ids_of(begin(claims, range(1, left + 1))) == [left]
    assert queue_rows(database).keys() == {left}
    assert [len(attempt_rows(database, message_id)) for message_id in range(1, left + 1)] == [0] * (left - 1) + [1]


def take_back(application: Application, message_id: int, status: str) -> None:
    if status == "deleted":
        application.delete(message_id)
    else:
        application.change(message_id, status=status)


def test_an_invalid_message_gets_no_attempt_and_is_reported(
    application: Application, database: Database, claims: Claims
) -> None:
    application.add_all([{}, {}, {"body": None}])
    enrol(database, [1, 2, 3])
    claims.claim(PASS, NOON, 10)
    loaded = begin(claims, [1, 2, 3], fit=lambda each: each.message_id != 1)
    assert ids_of(loaded) == [1, 2, 3]
    assert isinstance(loaded[2], UnusableMessage)
    assert loaded[2].problem == "body is missing"
    assert [len(attempt_rows(database, message_id)) for message_id in (1, 2, 3)] == [0, 1, 0]
    assert {row["claimed_by"] for row in queue_rows(database).values()} == {"the-pass"}
    assert begin(claims, []) == []


def test_a_lost_claim_begins_nothing_and_drops_nothing(
    application: Application, database: Database, claims: Claims
) -> None:
    application.add_all([{}] * 4)
    enrol(database, [1, 2, 3, 4])
    claims.claim(PASS, NOON, 3)
    assert len(claims.take_over_expired(OTHER, PASS.expires_at, 2)) == 2
    before = queue_rows(database)
    [own] = [number for number, row in before.items() if row["claimed_by"] == "the-pass"]
    lost = [number for number in before if number != own]
    application.change(lost[0], status="sent")
    assert ids_of(begin(claims, [1, 2, 3, 4])) == [own]
    assert queue_rows(database) == before
    assert [attempt_rows(database, number) for number in lost] == [[], [], []]


FREE: dict[str, Any] = {"claimed_by": None, "claim_expires_at": None}
WAITING = FREE | {"state": "waiting"}
ESCALATED = FREE | {"state": "escalated", "next_attempt_at": None, "escalated_at": ANSWERED_AT}
LATER = NOON + HOUR

TRANSITIONS: list[tuple[Transition, dict[str, Any], dict[str, Any] | None]] = [
    (Transition.delivered(), {"status": "sent", "last_error": None, "sent_at": ANSWERED_AT}, None),
    (
        Transition.rescheduled(LATER, retry_count=4, unknown_count=1, last_error="HTTP 502"),
        {"retry_count": 4, "last_error": "HTTP 502"},
        WAITING | {"next_attempt_at": LATER, "unknown_count": 1},
    ),
    (
        Transition.rescheduled(LATER, retry_count=4, unknown_count=0, last_error=None),
        {"retry_count": 4},
        WAITING | {"next_attempt_at": LATER},
    ),
    (
        Transition.escalated(EscalationReason.EXHAUSTED, last_error="Max", retry_count=10, unknown_count=2),
        {"retry_count": 10, "last_error": "Max"},
        ESCALATED | {"escalation_reason": "exhausted", "unknown_count": 2},
    ),
    (
        Transition.escalated(EscalationReason.PERMANENT, last_error="HTTP 404: 'Ünknown' %s :x"),
        {"last_error": "HTTP 404: 'Ünknown' %s :x"},
        ESCALATED | {"escalation_reason": "permanent"},
    ),
    (
        Transition.escalated(EscalationReason.PERMANENT, last_error=None),
        {},
        ESCALATED | {"escalation_reason": "permanent"},
    ),
    (
        Transition.invalid("body is missing"),
        {"last_error": "Can't be sent: body is missing"},
        ESCALATED | {"escalation_reason": "invalid"},
    ),
    (Transition.released(), {}, WAITING),
    (Transition.released(LATER), {}, WAITING | {"next_attempt_at": LATER}),
    (Transition.released(LATER, unknown_count=1), {}, WAITING | {"next_attempt_at": LATER, "unknown_count": 1}),
    (Transition.released(unknown_count=2), {}, WAITING | {"unknown_count": 2}),
]


def settled(message_id: int, transition: Transition, outcome: Outcome | None = DOWN) -> Decision:
    return Decision(message_id, transition, outcome, timedelta(milliseconds=3250), ANSWERED_AT)


def with_fingerprint(
    application: Application, message_id: int, queued: dict[str, Any] | None, transition: Transition
) -> dict[str, Any] | None:
    """Add the columns that `record` stores for an escalated message: its fingerprint, and the values of its row."""
    if queued is None or transition.reason is None:
        return queued
    seen = "retry_count AS seen_count, last_error AS seen_error, CAST(updated_at AS TEXT) AS seen_updated_at"
    [row] = application.asked(f"SELECT {seen} FROM pending_messages WHERE id = {message_id}")
    return queued | {"fingerprint": fingerprint(settled(1, transition))} | row


def as_written(application: Application, changes: dict[str, Any]) -> dict[str, Any]:
    """Return values as the database returns them after the application has written them."""
    if "sent_at" not in changes:
        return changes
    model = application.add(status="sent", sent_at=naive(changes["sent_at"]))
    written = application.row(model)["sent_at"]
    application.delete(model)
    return changes | {"sent_at": written}


TRIED: dict[str, object] = {"retry_count": 3, "last_error": "HTTP 503"}


def test_a_transition_sets_only_its_own_fields(application: Application, database: Database) -> None:
    """One transaction may record different transitions for many messages. Other messages are unchanged."""
    ids = range(1, len(TRANSITIONS) + 1)
    other = len(ids) + 1
    application.add_all([*[TRIED] * other, {"status": "sent"}])
    expected = {number: as_written(application, row) for number, (_, row, _) in zip(ids, TRANSITIONS, strict=True)}
    claims = send(database, [*ids, other])
    before = queue_rows(database)
    company = [settled(number, transition) for number, (transition, _, _) in zip(ids, TRANSITIONS, strict=True)]
    with application.watched() as changed:
        assert claims.results.record(PASS, company, ANSWERED_AT).lost == set()
    assert changed == {number: row for number, row in expected.items() if row}
    after = {other: before[other]}
    for number, (transition, _, queued) in zip(ids, TRANSITIONS, strict=True):
        found = with_fingerprint(application, number, queued, transition)
        if found is not None:
            after[number] = before[number] | found
    assert queue_rows(database) == after


@on_default_table
def test_a_null_retry_count_stays_null_until_a_retry_is_counted(application: Application, database: Database) -> None:
    application.add(retry_count=None)
    claims = send(database, [1])
    claims.results.record(
        PASS, [settled(1, Transition.escalated(EscalationReason.PERMANENT, last_error="HTTP 404"))], NOON
    )
    assert application.row(1)["retry_count"] is None


OUTCOMES: list[tuple[Outcome, timedelta | None, dict[str, Any]]] = [
    (DELIVERED, timedelta(seconds=1, microseconds=499), {"status_code": 200, "error": None, "duration_ms": 1000}),
    (DOWN, timedelta(milliseconds=3250), {"status_code": 503, "retry_after_s": 120, "duration_ms": 3250}),
    (PROCESS_DIED, None, {"error": PROCESS_DIED.error, "duration_ms": None}),
    (Outcome(OutcomeKind.REFUSED, None, "x" * 500), timedelta(0), {"error": "x" * 500, "duration_ms": 0}),
]


def test_an_attempt_receives_its_outcome(application: Application, database: Database) -> None:
    """An outcome without a time gets the time of its record."""
    ids = range(1, len(OUTCOMES) + 1)
    application.add_all([{}] * (len(ids) + 1))
    claims = send(database, [*ids, len(ids) + 1])
    expected = {number: attempt_rows(database, number) for number in ids}
    nothing = {"status_code": None, "error": "HTTP 503", "retry_after_s": None}
    for number, (outcome, duration, written) in zip(ids, OUTCOMES, strict=True):
        claims.results.record(
            PASS, [Decision(number, Transition.released(), outcome, duration, ANSWERED_AT)], NOON + HOUR
        )
        [begun] = expected[number]
        ended = {"outcome": outcome.kind.value, "finished_at": ANSWERED_AT}
        expected[number] = [begun | nothing | written | ended]
        assert {each: attempt_rows(database, each) for each in ids} == expected, outcome
    claims.results.record(PASS, [Decision(len(ids) + 1, Transition.released(), DOWN)], LATER)
    assert [row["finished_at"] for row in attempt_rows(database, len(ids) + 1)] == [LATER]


def test_a_finished_attempt_is_never_rewritten(application: Application, database: Database) -> None:
    application.add()
    claims = send(database, [1])
    claims.results.record(PASS, [settled(1, Transition.released(), DOWN)], ANSWERED_AT)
    history = attempt_rows(database, 1)
    claims.claim(PASS, NOON, 1)
    begin(claims, [1])
    claims.results.record(PASS, [settled(1, Transition.delivered(), DELIVERED)], ANSWERED_AT)
    first, second = attempt_rows(database, 1)
    assert [first] == history
    assert second["outcome"] == "delivered"


def test_a_lost_claim_changes_nothing(application: Application, database: Database) -> None:
    """Another pass owns the message and its attempt, so a late result must not overwrite them."""
    ids = range(1, len(TRANSITIONS) + 1)
    application.add_all([{}] * len(ids))
    claims = send(database, ids)
    claims.take_over_expired(OTHER, PASS.expires_at, len(ids))
    held, history = queue_rows(database), {number: attempt_rows(database, number) for number in ids}
    for number, (transition, _, _) in zip(ids, TRANSITIONS, strict=True):
        with application.watched() as changed:
            assert claims.results.record(PASS, [settled(number, transition)], ANSWERED_AT).lost == {number}, transition
        assert changed == {}, transition
        assert queue_rows(database) == held, transition
        assert attempt_rows(database, number) == history[number], transition


def test_a_lost_claim_leaves_a_message_to_its_owner(application: Application, database: Database) -> None:
    """The new owner's attempt may still be in progress, or the message waits again."""
    application.add_all([{}] * 3)
    claims = send(database, [1, 2, 3])
    claims.take_over_expired(OTHER, PASS.expires_at, 10)
    take_back(application, 1, "sent")
    take_back(application, 2, "deleted")
    claims.results.record(OTHER, [settled(3, Transition.released(LATER), PROCESS_DIED)], ANSWERED_AT)
    held, history = queue_rows(database), [attempt_rows(database, number) for number in (1, 2, 3)]
    with application.watched() as changed:
        late = [settled(number, Transition.delivered(), DELIVERED) for number in (1, 2, 3)]
        assert claims.results.record(PASS, late, ANSWERED_AT).lost == {1, 2, 3}
        assert claims.results.record(PASS, [], NOON).lost == set()
    assert changed == {}
    assert queue_rows(database) == held
    assert [attempt_rows(database, number) for number in (1, 2, 3)] == history


def test_a_delivery_ends_an_unknown_outcome_although_the_claim_is_lost(
    application: Application, database: Database
) -> None:
    """The pass was suspended while another one took over its messages, and made them wait."""
    application.add_all([{}] * 5)
    claims, ids = Claims(database), [1, 2, 3, 4, 5]
    enrol(database, ids)
    claims.claim(PASS, NOON, len(ids))
    sent = {message.message_id: message for message in begin(claims, ids)}
    claims.take_over_expired(OTHER, PASS.expires_at, len(ids))
    died = settled(0, Transition.released(LATER), PROCESS_DIED)
    claims.results.record(OTHER, [died._replace(message_id=n, message=sent[n]) for n in ids], NOON)
    claims.claim_one(HAND, 2, NOON)
    application.change(3, body="Another text.")
    with database.write() as connection:
        connection.execute(update(schema.queue).where(schema.queue.c.message_id == 4).values(delivery_key="of another"))
    delivered = Outcome(OutcomeKind.DELIVERED, 201, external_id="77")
    late = [settled(number, Transition.delivered(), delivered)._replace(message=sent[number]) for number in ids[:4]]
    late.append(settled(5, Transition.released(), DOWN)._replace(message=sent[5]))
    assert claims.results.record(PASS, late, ANSWERED_AT).lost == {2, 4, 5}
    told = [
        [(row["outcome"], row["status_code"], row["external_id"]) for row in attempt_rows(database, n)] for n in ids
    ]
    assert told == [[("delivered", 201, "77")]] * 4 + [[("unknown", None, None)]]
    assert [application.row(n)["status"] for n in ids] == ["sent", "failed", "failed", "failed", "failed"]
    queued = queue_rows(database)
    assert {n: queued[n]["state"] for n in queued} == {2: "sending", 3: "escalated", 4: "waiting", 5: "waiting"}
    assert queued[2]["claimed_by"] == HAND.owner


TAKEN_BACK = [
    *product(OTHER_STATUSES, [Transition.delivered()]),
    *product(["approved"], [transition for transition, _, _ in TRANSITIONS[1:]]),
    *product(["deleted"], [transition for transition, _, _ in TRANSITIONS]),
]
"""A status that the application wrote during an attempt, and the transition that the pass then tries to record."""


def test_a_status_written_by_the_application_meanwhile_is_kept(application: Application, database: Database) -> None:
    """The message has left retrycli's control, but its history still shows the outcome of the attempt."""
    ids = range(1, len(TAKEN_BACK) + 1)
    other = len(TAKEN_BACK) + 1
    application.add_all([{}] * other)
    claims = send(database, [*ids, other])
    for number, (status, _) in zip(ids, TAKEN_BACK, strict=True):
        take_back(application, number, status)
    for number, (status, transition) in zip(ids, TAKEN_BACK, strict=True):
        queued = queue_rows(database)
        in_company = [settled(other, Transition.released())] if number == ids[-1] else []
        with application.watched() as changed:
            lost = claims.results.record(PASS, [settled(number, transition), *in_company], ANSWERED_AT).lost
        assert lost == {number}, (status, transition)
        assert changed == {}, (status, transition)
        del queued[number]
        if in_company:
            queued[other] |= WAITING
        assert queue_rows(database) == queued, (status, transition)
        [attempt] = attempt_rows(database, number)
        assert (attempt["outcome"], attempt["finished_at"]) == ("transient", ANSWERED_AT), (status, transition)


def send_all(application: Application, database: Database, number: int) -> tuple[Claims, list[Decision]]:
    """Add messages and begin to send them. Return a delivery of each one."""
    application.add_all([{"retry_count": 3}] * number)
    claims, ids = Claims(database), range(1, number + 1)
    enrol(database, ids)
    claims.claim(PASS, NOON, number)
    messages = sorted(begin(claims, ids), key=lambda message: message.message_id)
    delivered = Transition.delivered()
    return claims, [settled(each.message_id, delivered, DELIVERED)._replace(message=each) for each in messages]


def test_a_row_that_the_sender_has_marked_as_sent_is_delivered(application: Application, database: Database) -> None:
    """Its text may differ, but not its birth. Without a delivery, the message has left retrycli's control."""
    claims, decisions = send_all(application, database, 4)
    for decision in decisions:
        application.change(decision.message_id, status="sent", body="with a footer")
    application.change(2, created_at=naive(NOON - 99 * HOUR))
    decisions[2] = decisions[2]._replace(transition=Transition.released(), outcome=DOWN)
    with application.watched() as changed:
        written = claims.results.record(PASS, decisions[:3], ANSWERED_AT)
    assert (written, changed) == (WriteResult(lost=frozenset({2, 3})), {})
    assert queue_rows(database).keys() == {4}


def test_a_released_message_waits_as_before(application: Application, database: Database, claims: Claims) -> None:
    application.add_all([{}] * 4)
    enrol(database, [1, 2, 3, 4])
    before = queue_rows(database)
    claims.claim(PASS, NOON, 3)
    claims.claim(OTHER, NOON, 1)
    held = queue_rows(database)
    with application.watched() as changed:
        claims.release(PASS, [1, 2, 4])
    assert changed == {}
    assert queue_rows(database) == {1: before[1], 2: before[2], 3: held[3], 4: held[4]}
    claims.release(PASS, [])
    assert claims.claim(OTHER, NOON, 9) == [1, 2]


def test_an_escalated_message_is_escalated_again_after_a_manual_claim(
    application: Application, database: Database, claims: Claims
) -> None:
    """The claim is released, its attempt fails, or it lapses."""
    application.add()
    escalate(database, 1, at=NOON - HOUR)
    before = queue_rows(database)[1]
    claims.claim_one(HAND, 1, NOON)
    claims.release(HAND, [1])
    assert queue_rows(database)[1] == before
    for unknown_count in (None, 1):
        claims.claim_one(HAND, 1, NOON)
        begin(claims, [1], HAND, made_by="ada")
        with application.watched() as changed:
            tried = settled(1, Transition.released(unknown_count=unknown_count))
            assert claims.results.record(HAND, [tried], ANSWERED_AT).lost == set()
        assert changed == {}
        assert queue_rows(database)[1] == before | {"unknown_count": unknown_count or 0}
    claims.claim_one(HAND, 1, NOON)
    begin(claims, [1], HAND, made_by="ada")
    assert taken(claims.take_over_expired(PASS, HAND.expires_at, 10)) == [(1, "ada")]
    claims.results.record(PASS, [settled(1, Transition.released(unknown_count=2), PROCESS_DIED)], NOON)
    assert queue_rows(database)[1] == before | {"unknown_count": 2}


def taken(lapsed: list[ExpiredClaim]) -> list[tuple[int, str | None]]:
    return [(claim.message.message_id, claim.attempt_by) for claim in lapsed]


def test_a_claim_lapses_exactly_when_its_lease_ends(application: Application, database: Database) -> None:
    """Waiting and escalated messages have no claim."""
    application.add_all([{}] * 3)
    claims = send(database, [1])
    enrol(database, [2])
    escalate(database, 3)
    before = queue_rows(database)
    assert claims.take_over_expired(OTHER, PASS.expires_at - timedelta(microseconds=1), 10) == []
    assert queue_rows(database) == before
    assert taken(claims.take_over_expired(OTHER, PASS.expires_at, 10)) == [(1, "pass")]
    claimed = {"claimed_by": "another-pass", "claim_expires_at": OTHER.expires_at}
    assert queue_rows(database) == before | {1: before[1] | claimed}
    assert claims.take_over_expired(OTHER, PASS.expires_at, 10) == []


@pytest.mark.parametrize("made_by", ["ada", None])
def test_a_lapsed_message_names_its_last_sender(
    application: Application, database: Database, claims: Claims, made_by: str | None
) -> None:
    """The sender is None if the expired claim has no attempt, even if there were earlier attempts."""
    application.add()
    send(database, [1]).results.record(PASS, [settled(1, Transition.released())], NOON)
    claims.claim(PASS, NOON, 1)
    if made_by is not None:
        begin(claims, [1], made_by=made_by)
    history = attempt_rows(database, 1)
    with application.watched() as changed:
        (lapsed,) = claims.take_over_expired(OTHER, PASS.expires_at, 10)
    assert changed == {}
    assert lapsed.attempt_by == made_by
    assert isinstance(lapsed.message, QueuedMessage)
    assert lapsed.message.message.fields["body"] == "Where is it?"
    assert attempt_rows(database, 1) == history
    assert claims.results.record(OTHER, [settled(1, Transition.released(), PROCESS_DIED)], ANSWERED_AT).lost == set()


@pytest.mark.parametrize("begun", [True, False])
def test_a_lapsed_message_that_was_withdrawn_leaves_the_queue(
    application: Application, database: Database, claims: Claims, *, begun: bool
) -> None:
    taken_back = dict(enumerate([*OTHER_STATUSES, "deleted"], start=1))
    other = len(taken_back) + 1
    ids = [*taken_back, other]
    application.add_all([{}] * len(ids))
    enrol(database, ids)
    claims.claim(PASS, NOON, len(ids))
    if begun:
        begin(claims, ids)
    for number, status in taken_back.items():
        take_back(application, number, status)
    with application.watched() as changed:
        assert [number for number, _ in taken(claims.take_over_expired(OTHER, PASS.expires_at, 10))] == [other]
    assert changed == {}
    assert queue_rows(database).keys() == {other}
    for number, status in taken_back.items():
        ended = [(row["outcome"], row["finished_at"]) for row in attempt_rows(database, number)]
        assert ended == ([("unknown", PASS.expires_at)] if begun else []), status
    assert [row["outcome"] for row in attempt_rows(database, other)] == ([None] if begun else [])


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
@on_default_table
def test_a_row_that_is_deleted_while_its_result_is_recorded_is_hidden_by_no_policy(
    application: Application, database: Database
) -> None:
    """Job queues delete rows at any time. This one is locked at first, and gone when the lock is tried again."""
    application.add()
    claims = send(database, [1])
    with opened(application) as its_own, ExitStack() as until_committed:
        connection = until_committed.enter_context(its_own.write())
        connection.exec_driver_sql(application.row_lock(1))
        connection.execute(application.table.delete())
        with told_of(database, "SAVEPOINT hidden", until_committed.close):
            written = claims.results.record(PASS, [settled(1, Transition.delivered(), DELIVERED)], NOON)
    assert written == WriteResult(locked=frozenset({1}))
    assert attempt_rows(database, 1)[0]["outcome"] == "delivered"
    assert queue_rows(database)[1]["state"] == "sending"


def test_takes_over_at_most_the_requested_number_and_withdrawn_messages_do_not_hide_others(
    application: Application, database: Database
) -> None:
    application.add_all([{}] * 7)
    claims = send(database, range(1, 8))
    application.delete(1, 2, 3, 4)
    rounds = [taken(claims.take_over_expired(OTHER, PASS.expires_at, 2)) for _ in range(3)]
    assert rounds == [[(5, "pass"), (6, "pass")], [(7, "pass")], []]
    assert queue_rows(database).keys() == {5, 6, 7}


def test_a_message_is_failed_if_sql_compares_its_status_as_equal(engine: Factory, tmp_path: Path) -> None:
    """If Python compared the status, a sent message might stay failed, and every pass would send it again."""
    kind = CHAR(12).with_variant(String(collation="NOCASE"), "sqlite")
    with application_with(engine, tmp_path, Column("status", kind)) as made:
        made.add(status="FAILED" if is_sqlite(made.url) else "failed")
        with opened(made) as database:
            assert message_details(database, 1).row["status"] == "failed"
            enrol(database, [1])
            claims = Claims(database)
            claims.claim_one(PASS, 1, NOON)
            begin(claims, [1])
            assert (
                claims.results.record(PASS, [settled(1, Transition.delivered(), DELIVERED)], ANSWERED_AT).lost == set()
            )
        assert made.row(1)["status"].rstrip() == "sent"


def test_a_not_null_error_column_is_emptied_when_a_message_is_sent(engine: Factory, tmp_path: Path) -> None:
    """Django creates text columns that are NOT NULL."""
    with application_with(engine, tmp_path, Column("last_error", Text, nullable=False)) as made:
        made.add_all([{}, {}])
        with opened(made) as database:
            delivered = settled(1, Transition.delivered(), DELIVERED)
            assert send(database, [1, 2]).results.record(PASS, [delivered], ANSWERED_AT).lost == set()
        assert {message_id: row["last_error"] for message_id, row in made.rows().items()} == {1: "", 2: "HTTP 503"}


@pytest.mark.parametrize("kind", [String(12), CHAR(12)], ids=["varchar", "char"])
def test_an_error_is_truncated_to_its_columns_length(engine: Factory, tmp_path: Path, kind: TypeEngine[Any]) -> None:
    """PostgreSQL would refuse the longer text; SQLite stores it in full."""
    long = Transition.escalated(EscalationReason.PERMANENT, last_error="HTTP 422: ü and so on")
    with application_with(engine, tmp_path, Column("last_error", kind)) as made:
        made.add_all([{}, {}])
        with opened(made) as database:
            send(database, [1]).results.record(PASS, [settled(1, long)], ANSWERED_AT)
            Acts(database).perform(ActionKind.REJECTED, {2: OperatorAction.rejected("no", by="somebody", at=NOON)})
        written = [row["last_error"] for row in made.rows().values()]
        whole = ["HTTP 422: ü and so on", "Rejected by somebody: no"]
        assert written == (whole if is_sqlite(made.url) else [text[:12] for text in whole])


def as_text(time: datetime) -> str:
    """Format a time as SQLAlchemy writes it to SQLite."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"


@pytest.mark.parametrize(
    ("sent_at", "of"),
    [(DateTime(), naive), (DateTime(timezone=True), lambda at: at), (Text(), as_text)],
    ids=["naive", "aware", "text"],
)
def test_sent_at_is_written_in_the_format_of_its_column(
    engine: Factory, tmp_path: Path, sent_at: TypeEngine[Any], of: Callable[[datetime], object]
) -> None:
    """Text times need one format, with and without fractions of a second, so that they sort."""
    times = {1: ANSWERED_AT, 2: ANSWERED_AT.replace(microsecond=0)}
    with application_with(engine, tmp_path, Column("sent_at", sent_at)) as made:
        made.add_all([{}, {}])
        with opened(made) as database:
            sent = [Decision(number, Transition.delivered(), DELIVERED, finished_at=at) for number, at in times.items()]
            send(database, [1, 2]).results.record(PASS, sent, NOON)
        found = {number: row["sent_at"] for number, row in made.rows().items()}
        assert found == {number: as_text(at) if is_sqlite(made.url) else of(at) for number, at in times.items()}


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
@pytest.mark.parametrize("kind", ["timestamptz(0)", "date", "varchar(30)", "moment"])
def test_sent_at_may_have_any_type_that_holds_a_time(untouched: Application, kind: str) -> None:
    untouched.sql("CREATE DOMAIN moment AS timestamptz CHECK (value > '2020-01-01Z')")
    untouched.sql(f"ALTER TABLE pending_messages ALTER sent_at TYPE {kind} USING NULL")
    untouched.add_all([{}, {}])
    with opened(untouched) as database:
        claims = send(database, [1, 2])
        sent = Transition.delivered()
        claims.results.record(
            PASS, [Decision(number, sent, DELIVERED, finished_at=ANSWERED_AT) for number in (1, 2)], NOON
        )
    expected = [{"sent_on": f"{ANSWERED_AT:%Y-%m-%d}"}] * 2
    assert untouched.asked("SELECT left(sent_at::text, 10) AS sent_on FROM pending_messages") == expected


def test_only_a_delivery_that_its_row_does_not_show_is_of_any_ticket(bare_application: Application) -> None:
    bare_application.add_all([{}] * 3)
    with opened(bare_application) as database:
        claims = send(database, [1, 2, 3])
        ended = (
            (Transition.delivered(), DELIVERED),
            (Transition.unwritten(), DELIVERED),
            (Transition.released(), DOWN),
        )
        claims.results.record(PASS, [settled(number, *how) for number, how in enumerate(ended, 1)], ANSWERED_AT)
        births = [row["birth"] for number in (1, 2, 3) for row in attempt_rows(database, number)]
    assert births == [f"{BY_TICKET}{TICKET}", OF_ANY_TICKET, f"{BY_TICKET}{TICKET}"]
