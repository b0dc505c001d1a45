"""The ledger: what passes record about themselves, and what later passes read."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import partial

import pytest
from sqlalchemy import insert

from retrycli.domain.circuit_breaker import Breaker, BreakerState
from retrycli.domain.incidents import Told, Topic
from retrycli.domain.message import Place
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.passes import PassRecord, PassResult, PassSummary, Pause
from retrycli.domain.transition import Decision, IdRange, Transition
from retrycli.store.claims import Claims
from retrycli.store.counters import Totals, count_ended, prune, prune_all
from retrycli.store.database import Database
from retrycli.store.enrolment import Enrolment
from retrycli.store.passes import UNRECORDED, Ledger, Targets
from retrycli.store.schema import told
from tests.store.application import HOUR, MINUTE, NOON, Application
from tests.store.conftest import in_every_mode
from tests.store.heard import statements
from tests.store.own_tables import PASS, attempt_rows, begin, enrol, pass_rows, queue_rows
from tests.store.test_claims import side_by_side, two_sides

ENDED_AT = NOON + 3 * MINUTE
UNFINISHED = PassRecord("p1", "box", 4711, NOON, None, None, None, None, 0, 0, 0, 0, 0)


def start(ledger: Ledger, pass_id: str, *, at: datetime = NOON, host: str = "box") -> None:
    ledger.start_pass(pass_id, host=host, pid=4711, now=at)


def finish(ledger: Ledger, pass_id: str, *, at: datetime = ENDED_AT, swept_to: int | None = None) -> None:
    ledger.finish_pass(PassSummary(pass_id, PassResult.COMPLETED), at, swept_to=swept_to)


def test_a_pass_has_its_start_its_heartbeat_and_its_result(database: Database, ledger: Ledger) -> None:
    start(ledger, "p1")
    start(ledger, "p2", at=NOON + MINUTE)
    before = pass_rows(database)
    assert ledger.last_passes(9)[1] == UNFINISHED
    assert before["p1"]["heartbeat_at"] == NOON
    ledger.heartbeat("p1", NOON + MINUTE)
    assert pass_rows(database) == before | {"p1": before["p1"] | {"heartbeat_at": NOON + MINUTE}}
    result = PassResult.STOPPED
    counts = {"sent": 1, "rescheduled": 2, "escalated": 3, "unknown": 4, "released": 5}
    summary = PassSummary("p1", result, **counts, reason="deadline", detail="zu spät")
    ledger.finish_pass(summary, ENDED_AT, swept_to=20_000)
    other, ended = ledger.last_passes(9)
    assert ended == PassRecord("p1", "box", 4711, NOON, ENDED_AT, result, "deadline", "zu spät", 1, 2, 3, 4, 5)
    assert other.result is None
    after = pass_rows(database)
    assert (after["p1"]["heartbeat_at"], after["p1"]["swept_to"]) == (ENDED_AT, 20_000)
    assert after["p2"] == before["p2"]


def test_a_pass_is_listed_with_earlier_ones(ledger: Ledger) -> None:
    for pass_id, minutes in {"old": 0, "own": 1, "other": 1, "new": 2}.items():
        start(ledger, pass_id, at=NOON + minutes * MINUTE)
    assert [summary.pass_id for summary in ledger.passes_up_to("own", 9)] == ["own", "old"]
    assert [summary.pass_id for summary in ledger.passes_up_to("new", 2)] == ["new", "other"]


def test_each_host_is_listed_with_its_newest_pass(ledger: Ledger) -> None:
    for number, (host, at) in enumerate({"old": NOON - HOUR, "two": NOON, "one": NOON + MINUTE}.items()):
        start(ledger, f"a{number}", at=at - MINUTE, host=host)
        start(ledger, f"b{number}", at=at, host=host)
    assert list(ledger.hosts(NOON, NOON + HOUR).items()) == [("one", NOON + MINUTE), ("two", NOON)]
    assert ledger.hosts(NOON + HOUR, NOON + 2 * HOUR) == {}


def test_passes_without_a_heartbeat_are_interrupted(database: Database, ledger: Ledger) -> None:
    """A pass with a recent heartbeat may still be running on another host."""
    start(ledger, "dead", at=NOON - MINUTE)
    start(ledger, "dead-too", at=NOON - HOUR, host="elsewhere")
    start(ledger, "ended", at=NOON - HOUR)
    finish(ledger, "ended")
    start(ledger, "alive", at=NOON - HOUR)
    ledger.heartbeat("alive", NOON)
    start(ledger, "mine", at=NOON - HOUR)
    before = pass_rows(database)
    ledger.mark_dead_passes("mine", silent_since=NOON)
    buried = {"result": "interrupted", "reason": "died", "detail": UNRECORDED}
    after = {
        pass_id: before[pass_id] | buried | {"finished_at": before[pass_id]["heartbeat_at"]}
        for pass_id in ("dead", "dead-too")
    }
    assert pass_rows(database) == before | after


def test_the_sweep_continues_from_the_newest_pass_that_swept(ledger: Ledger) -> None:
    assert ledger.swept_to() is None
    swept = [500, -(2**63), None, 2**62]
    found = []
    for number, swept_to in enumerate(swept):
        start(ledger, f"p{number}", at=NOON + number * MINUTE)
        finish(ledger, f"p{number}", swept_to=swept_to)
        start(ledger, f"running-{number}", at=NOON + number * MINUTE + MINUTE / 2)
        found.append(ledger.swept_to())
    assert found == [500, -(2**63), -(2**63), 2**62]


OPEN = Breaker("https://a.example.com", BreakerState.OPEN, 6, NOON, NOON + 15 * MINUTE)
COUNTING = Breaker("https://b.example.com", BreakerState.CLOSED, 3, tickets={"4711": 2, "Ö/7": 1})
RESTING = Breaker("https://c.example.com", BreakerState.RESTING, 0, ENDED_AT, ENDED_AT)


def test_a_breaker_is_stored_unchanged_until_its_destination_is_healthy(ledger: Ledger) -> None:
    for breaker in (OPEN, COUNTING, RESTING):
        ledger.save_breaker(breaker)
        assert ledger.breaker(breaker.destination) == breaker
    assert ledger.breaker("https://other.example.com") == Breaker("https://other.example.com")
    counting = Breaker(OPEN.destination, BreakerState.CLOSED, 1)
    ledger.save_breaker(counting)
    assert ledger.breakers() == [counting, COUNTING, RESTING]
    ledger.save_breaker(Breaker(OPEN.destination))
    assert ledger.breakers() == [COUNTING, RESTING]
    assert ledger.breaker(OPEN.destination) == Breaker(OPEN.destination)


EAST = timezone(timedelta(hours=2))
ONE = "2025-03-03T13:00:00Z"


@pytest.mark.parametrize(
    ("pause", "at", "words"),
    [
        (Pause(NOON, None, "ada", "upgrade"), NOON + 1000 * HOUR, "paused by ada: upgrade"),
        (Pause(NOON, NOON + HOUR, "Zoë", None), NOON + HOUR - timedelta.resolution, f"paused by Zoë until {ONE}"),
        (Pause(NOON, NOON + HOUR, "ada", "upgrade"), NOON, f"paused by ada until {ONE}: upgrade"),
        (Pause(NOON, NOON + HOUR, "ada", None), (NOON + HOUR).astimezone(EAST), None),
        (None, NOON, None),
    ],
)
def test_a_pause_lasts_until_its_end_and_replaces_another(
    ledger: Ledger, pause: Pause | None, at: datetime, words: str | None
) -> None:
    ledger.set_pause(Pause(NOON, NOON + 2000 * HOUR, "bob", None))
    ledger.set_pause(pause)
    found = ledger.pause(at)
    assert found == (None if words is None else pause)
    assert (found and found.why) == words


def test_the_last_pass_started_with_the_destination_of_its_first_attempt(
    application: Application, database: Database, ledger: Ledger
) -> None:
    """A manual attempt belongs to no pass, and older versions recorded no destination."""
    assert ledger.last_start() is None
    application.add_all([{}, {}, {}, {}, {}])
    enrol(database, [1, 2, 3, 4, 5])
    claims = Claims(database)
    ids = claims.claim(PASS, NOON, 5)
    made = (("mail", "first"), ("api", "second"), ("mail", "second"), ("mail", None), (None, "third"))
    seen = []
    for message_id, (destination, pass_id) in zip(ids, made, strict=True):
        claims.results.begin(
            PASS,
            [message_id],
            made_by="pass",
            pass_id=pass_id,
            now=NOON,
            fit=lambda _: True,
            place_of=partial(lambda to, _: Place(to), destination),
        )
        seen.append(ledger.last_start())
    assert seen == ["mail", "api", "api", "api", None]


REFUSED = Outcome(OutcomeKind.TRANSIENT, 503, "HTTP 503")
LOST = Outcome(OutcomeKind.UNKNOWN, error="no answer")
"""The outcome of attempts that are kept as long as the application keeps the row."""


def attempt(
    database: Database, message_id: int, *, finished_at: datetime | None = NOON - HOUR, outcome: Outcome = REFUSED
) -> None:
    """Attempt a queued message; leave the attempt unfinished if `finished_at` is None."""
    claims = Claims(database)
    claims.claim_one(PASS, message_id, NOON)
    begin(claims, [message_id])
    if finished_at is not None:
        claims.results.record(
            PASS, [Decision(message_id, Transition.released(), outcome, finished_at=finished_at)], NOON
        )


def take_back(application: Application, database: Database, *ids: int) -> None:
    for message_id in ids:
        application.change(message_id, status="rejected")
    Enrolment(database).retire(IdRange(None, None))


def test_prunes_history_older_than_a_time(application: Application, database: Database, ledger: Ledger) -> None:
    application.add_all([{}, {}])
    enrol(database, [1, 2])
    for finished_at in (NOON - HOUR, NOON - timedelta(microseconds=1), NOON, NOON + HOUR):
        attempt(database, 1, finished_at=finished_at)
    attempt(database, 2, finished_at=None)
    take_back(application, database, 1)
    for pass_id, finished_at in {"old": NOON - HOUR, "kept": NOON}.items():
        start(ledger, pass_id, at=NOON - 2 * HOUR)
        finish(ledger, pass_id, at=finished_at)
    start(ledger, "running", at=NOON - 9 * HOUR)
    assert count_ended(ledger._database, NOON) == {"attempts": 2, "acts": 0, "passes": 1}
    before = queue_rows(database)
    with application.watched() as changed:
        assert prune(ledger._database, NOON, 100) == 3
    assert (changed, queue_rows(database)) == ({}, before)
    assert [row["finished_at"] for row in attempt_rows(database, 1)] == [NOON, NOON + HOUR]
    assert len(attempt_rows(database, 2)) == 1
    assert pass_rows(database).keys() == {"kept", "running"}
    assert prune(ledger._database, NOON, 100) == 0


def test_rows_that_must_be_kept_do_not_block_pruning(
    application: Application, database: Database, ledger: Ledger
) -> None:
    """Kept rows may come first: unfinished attempts and passes, and attempts dated in the future."""
    application.add_all([{}] * 5)
    enrol(database, [1, 2, 3, 4, 5])
    for message_id in (1, 2):
        attempt(database, message_id, finished_at=None)
    for message_id in (3, 4):
        attempt(database, message_id, finished_at=NOON + 9000 * HOUR)
    for pass_id in ("running", "running-too"):
        start(ledger, pass_id, at=NOON - 9 * HOUR)
    for number in range(3):
        attempt(database, 5, finished_at=NOON - HOUR)
        start(ledger, f"p{number}", at=NOON - 2 * HOUR)
        finish(ledger, f"p{number}", at=NOON - HOUR)
    take_back(application, database, 3, 4, 5)
    assert count_ended(ledger._database, NOON) == {"attempts": 3, "acts": 0, "passes": 3}
    assert [prune(ledger._database, NOON, 2) for _ in range(5)] == [2, 1, 2, 1, 0]
    assert set(count_ended(ledger._database, NOON).values()) == {0}
    assert [len(attempt_rows(database, each)) for each in (1, 2, 3, 4, 5)] == [1, 1, 1, 1, 0]
    assert pass_rows(database).keys() == {"running", "running-too"}


def test_each_call_reads_a_limited_number_of_attempts_and_the_next_one_continues(
    application: Application, database: Database, ledger: Ledger
) -> None:
    """A step that finds only kept attempts must not be the last one. The attempts at a queued message are kept, because
    a message that may have been delivered is looked up before a retry, and the look-up needs its old attempts.
    """
    application.add_all([{}, {}])
    enrol(database, [1, 2])
    for message_id in (1, 1, 1, 1, 1, 2):
        attempt(database, message_id)
    take_back(application, database, 2)
    assert count_ended(ledger._database, NOON)["attempts"] == 1
    assert [prune(ledger._database, NOON, 2) for _ in range(4)] == [0, 0, 1, 0]
    assert [len(attempt_rows(database, number)) for number in (1, 2)] == [5, 0]


def test_a_kept_attempt_is_pruned_in_a_later_round_after_its_row_is_gone(
    application: Application, database: Database, ledger: Ledger
) -> None:
    ids = application.add_all([{}] * 5)
    enrol(database, ids)
    for message_id in ids:
        attempt(database, message_id, outcome=LOST)
    take_back(application, database, *ids)
    a_round = range(len(ids))
    assert [prune(ledger._database, NOON, 2) for _ in a_round] == [0] * 5
    for gone in (1, 4, 2):
        application.delete(gone)
        assert sum(prune(ledger._database, NOON, 2) for _ in a_round) == 1
        assert attempt_rows(database, gone) == []
    assert [len(attempt_rows(database, number)) for number in (3, 5)] == [1, 1]


def test_pruning_everything_takes_one_walk(application: Application, database: Database, ledger: Ledger) -> None:
    """Kept, unfinished and recent rows may be between the deleted ones."""
    application.add_all([{}] * 3)
    enrol(database, [1, 2, 3])
    for message_id, finished_at in ((1, NOON), (1, NOON), (1, None), (2, NOON), (3, NOON), (3, NOON), (3, NOON + HOUR)):
        at = finished_at and finished_at - MINUTE
        attempt(database, message_id, finished_at=at, outcome=LOST if message_id == 2 else REFUSED)
    attempt(database, 2)
    take_back(application, database, 2, 3)
    for number in range(9):
        start(ledger, f"p{number}", at=NOON - HOUR)
        finish(ledger, f"p{number}", at=NOON - HOUR)
    with statements(database) as seen:
        gone = list(prune_all(ledger._database, NOON, 2))
    assert gone == [2, 2, 4, 3, 1, 0]
    assert [len(attempt_rows(database, each)) for each in (1, 2, 3)] == [3, 1, 1]
    assert pass_rows(database) == {}
    assert sum(sql.startswith("BEGIN") for sql, _ in seen) == len(gone)


@in_every_mode
def test_concurrent_pruning_on_several_hosts_is_safe(application: Application) -> None:
    """Each pruned row must enter the totals only once."""
    with two_sides(application) as sides:
        application.add_all([{}, {}])
        enrol(sides[0], [1, 2])
        for number in range(20):
            attempt(sides[0], 1, outcome=LOST if number % 2 else REFUSED)
        take_back(application, sides[0], 1)

        def forget(side: int) -> None:
            for _ in range(12):
                prune(sides[side], NOON, 2)

        side_by_side(forget)
        assert [row["outcome"] for row in attempt_rows(sides[0], 1)] == ["unknown"] * 10
        assert Totals(sides[0]).read().attempts == {"transient": 10, "unknown": 10}


# -- which notifications each target has received ---------------------------------------------------------------------

DOWN = Told(NOON, NOON + MINUTE, times=2)
GAP = Told(NOON - HOUR, NOON, ended=True, times=0)


@pytest.fixture
def targets(database: Database) -> Targets:
    return Targets(database)


def test_each_target_remembers_its_own_topics(database: Database, targets: Targets) -> None:
    """Changed topics are replaced, missing ones deleted, and those of a newer version ignored."""
    before = {Topic.DOWN: DOWN, Topic.MISSED: GAP}
    targets.remember("a", {}, before)
    targets.remember("b", {}, {Topic.DOWN: GAP})
    with database.write() as connection:
        row = {"target": "a", "topic": "weather", "since": NOON, "told_at": NOON, "ended": False, "times": 1}
        connection.execute(insert(told).values(row))
    assert (targets.memory("a"), targets.memory("b"), targets.memory("c")) == (before, {Topic.DOWN: GAP}, {})
    targets.remember("a", before, {Topic.DOWN: GAP})
    assert targets.memory("a") == {Topic.DOWN: GAP}


def test_unchanged_topics_keep_the_values_of_another_pass(targets: Targets) -> None:
    before = {Topic.DOWN: DOWN}
    targets.remember("a", {}, before)
    targets.remember("a", before, {Topic.DOWN: GAP})
    targets.remember("a", before, before | {Topic.SKIPPED: GAP})
    assert targets.memory("a") == {Topic.DOWN: GAP, Topic.SKIPPED: GAP}


def test_only_one_of_two_passes_notifies_until_it_has_died(targets: Targets) -> None:
    assert targets.begin_telling(NOON, NOON + MINUTE)
    assert targets.memory("everybody") == {}, "the mark is not a target"
    assert not targets.begin_telling(NOON + MINUTE - timedelta.resolution, NOON + 2 * MINUTE)
    assert targets.begin_telling(NOON + MINUTE, NOON + 2 * MINUTE)
    targets.end_telling()
    assert targets.begin_telling(NOON + MINUTE, NOON + 2 * MINUTE)
