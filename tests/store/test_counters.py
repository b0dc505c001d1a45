"""The totals of attempts and passes: they never decrease, and count each row once."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import count
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from retrycli.domain.passes import PassResult, PassSummary
from retrycli.store import schema
from retrycli.store.counters import GIVEN_UP, SETTLING, Totals, prune
from retrycli.store.database import Database
from retrycli.store.passes import Ledger
from tests.store.application import HOUR, MINUTE, NOON, Application
from tests.store.conftest import in_every_mode
from tests.store.heard import statements
from tests.store.test_claims import side_by_side, two_sides

DAY = timedelta(days=1)
EARLIER = NOON - HOUR
"""The default end of an attempt, early enough to be rolled up."""


@pytest.fixture
def totals(database: Database) -> Totals:
    return Totals(database)


_messages = count(1)


def attempt(database: Database, outcome: str | None, *, at: datetime = EARLIER, number: int | None = None) -> None:
    """Add an attempt that ended at `at`, or an unfinished one if `outcome` is None."""
    row: dict[str, Any] = {"message_id": next(_messages), "number": 1, "made_by": "pass", "started_at": at}
    if outcome is not None:
        row |= {"finished_at": at, "outcome": outcome}
    if number is not None:
        row |= {"id": number}
    with database.write() as connection:
        connection.execute(insert(schema.attempts).values(row))


def finish(database: Database, outcome: str, *, at: datetime) -> None:
    with database.write() as connection:
        connection.execute(
            update(schema.attempts)
            .where(schema.attempts.c.finished_at.is_(None))
            .values(finished_at=at, outcome=outcome)
        )


def mark(database: Database) -> int:
    with database.read() as connection:
        statement = select(schema.totals.c.value).where(schema.totals.c.name == "attempts_counted_to")
        return int(connection.execute(statement).scalar_one())


def start_pass(ledger: Ledger, pass_id: str, *, at: datetime = NOON, host: str = "box") -> None:
    ledger.start_pass(pass_id, host=host, pid=4711, now=at)


def end_pass(ledger: Ledger, pass_id: str, result: PassResult, *, at: datetime = NOON) -> None:
    ledger.finish_pass(PassSummary(pass_id, result), at)


NONE = dict.fromkeys(PassResult, 0)


def test_attempts_are_counted_by_outcome_when_they_finish_and_a_roll_up_changes_no_total(
    database: Database, totals: Totals
) -> None:
    assert totals.read().attempts == {}
    for number in range(5):
        attempt(database, "delivered" if number % 2 else "refused")
        before = totals.read()
        totals.roll_up(NOON)
        totals.roll_up(NOON)
        assert totals.read() == before
    attempt(database, None, at=NOON)
    assert totals.read().attempts == {"delivered": 2, "refused": 3}
    finish(database, "unknown", at=NOON)
    assert totals.read().attempts == {"delivered": 2, "refused": 3, "unknown": 1}


def test_rolled_up_rows_are_never_read_again(database: Database, totals: Totals) -> None:
    """The changed outcomes show which rows `read` and `roll_up` read."""
    for _ in range(3):
        attempt(database, "delivered")
    totals.roll_up(NOON)
    attempt(database, "delivered")
    with database.write() as connection:
        connection.execute(update(schema.attempts).values(outcome="permanent"))
    assert totals.read().attempts == {"delivered": 3, "permanent": 1}
    totals.roll_up(NOON)
    assert totals.read().attempts == {"delivered": 3, "permanent": 1}


def test_attempts_are_found_by_id_without_a_table_scan(database: Database, totals: Totals) -> None:
    if not database.is_sqlite:
        pytest.skip("PostgreSQL plans by the size of tables, and a small one is gone through whatever the statement")
    attempt(database, "delivered")
    attempt(database, "delivered", at=NOON)
    with statements(database) as seen:
        totals.roll_up(NOON)
        totals.read()
    about = [(sql, values) for sql, values in seen if "retrycli_attempts" in sql]
    assert len(about) == 5
    with database.read() as connection:
        for sql, values in about:
            plan = [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)]
            assert [line for line in plan if "SEARCH retrycli_attempts" in line], (sql, plan)
            assert not [line for line in plan if "SCAN retrycli_attempts" in line], (sql, plan)


def test_a_roll_up_waits_for_an_unfinished_attempt(database: Database, totals: Totals) -> None:
    """`read` must count the attempts after the unfinished one, although they are not rolled up yet."""
    attempt(database, "delivered")
    attempt(database, None)
    attempt(database, "refused")
    totals.roll_up(NOON)
    assert totals.read().attempts == {"delivered": 1, "refused": 1}
    finish(database, "unknown", at=NOON)
    assert totals.read().attempts == {"delivered": 1, "refused": 1, "unknown": 1}
    totals.roll_up(NOON + HOUR)
    assert totals.read().attempts == {"delivered": 1, "refused": 1, "unknown": 1}


def test_an_attempt_that_never_finishes_is_abandoned_after_a_day(database: Database, totals: Totals) -> None:
    """Otherwise every later attempt would be read again at each roll-up."""
    attempt(database, None, at=NOON)
    attempt(database, "delivered", at=NOON)
    for later, counted_to in ((GIVEN_UP, 0), (GIVEN_UP + MINUTE, 2)):
        totals.roll_up(NOON + later)
        assert mark(database) == counted_to
        assert totals.read().attempts == {"delivered": 1}


def test_lower_ids_may_be_committed_late(database: Database, totals: Totals) -> None:
    """Another host's transaction gets its ids before its commit, which may be up to ten minutes later."""
    attempt(database, "delivered", at=NOON - SETTLING - MINUTE)
    attempt(database, "delivered", at=NOON - SETTLING, number=10)
    totals.roll_up(NOON)
    attempt(database, "refused", at=NOON, number=5)
    totals.roll_up(NOON)
    assert totals.read().attempts == {"delivered": 2, "refused": 1}


@in_every_mode
def test_two_concurrent_roll_ups_count_each_attempt_once(application: Application) -> None:
    with two_sides(application) as sides:
        for number in range(20):
            attempt(sides[0], "delivered" if number % 2 else "refused")

        def roll_up(side: int) -> None:
            for minutes in range(10):
                Totals(sides[side]).roll_up(NOON + minutes * MINUTE)

        side_by_side(roll_up)
        assert Totals(sides[0]).read().attempts == {"delivered": 10, "refused": 10}
        assert mark(sides[0]) > 0


@pytest.mark.parametrize("rolled_up", [{}, {1}, {0, 3}])
def test_totals_survive_the_pruning_of_a_long_history(
    database: Database, ledger: Ledger, totals: Totals, rolled_up: set[int]
) -> None:
    """Pruning proceeds in small steps, and skips attempts that are not old enough."""
    for number in range(12):
        attempt(database, "delivered" if number % 3 else "refused", at=NOON - HOUR if number % 2 else NOON + DAY)
    before = totals.read()
    gone = []
    for step in range(8):
        if step in rolled_up:
            totals.roll_up(NOON)
        gone.append(prune(ledger._database, NOON, 2))
        assert totals.read() == before
    assert gone == [1, 1, 1, 1, 1, 1, 0, 0]
    totals.roll_up(NOON + 2 * DAY)
    assert totals.read() == before


def test_uncounted_attempts_are_counted_when_they_are_pruned(
    database: Database, ledger: Ledger, totals: Totals
) -> None:
    attempt(database, None, at=NOON - HOUR)
    attempt(database, "delivered", at=NOON - HOUR)
    attempt(database, "refused", at=NOON + HOUR)
    for gone in (1, 0):
        assert prune(ledger._database, NOON, 100) == gone
        assert totals.read().attempts == {"delivered": 1, "refused": 1}
        totals.roll_up(NOON)
    finish(database, "unknown", at=NOON - MINUTE)
    assert prune(ledger._database, NOON, 100) == 1
    totals.roll_up(NOON + 2 * HOUR)
    assert totals.read().attempts == {"delivered": 1, "refused": 1, "unknown": 1}


def test_results_and_the_last_success_survive_the_pruning_of_passes(
    database: Database, ledger: Ledger, totals: Totals
) -> None:
    """Metrics use this total only if no completed pass is stored, so it covers only pruned passes."""
    assert totals.read().last_success is None
    results = [PassResult.COMPLETED, PassResult.STOPPED, PassResult.COMPLETED, PassResult.STOPPED, PassResult.COMPLETED]
    for number, result in enumerate(results):
        start_pass(ledger, f"p{number}", at=NOON + number * HOUR)
        end_pass(ledger, f"p{number}", result, at=NOON + number * HOUR + MINUTE)
    passes = totals.read().passes
    for hours, known in ((0, None), (1, NOON + MINUTE), (2, NOON + MINUTE), (4, NOON + 2 * HOUR + MINUTE)):
        prune(ledger._database, NOON + hours * HOUR + MINUTE, 1)
        prune(ledger._database, NOON + hours * HOUR + MINUTE, 9)
        assert (totals.read().last_success, totals.read().passes) == (known, passes)
    assert prune(ledger._database, NOON + 9 * HOUR, 9) == 1
    assert totals.read().last_success == NOON + 4 * HOUR + MINUTE


def test_reused_ids_are_counted(database: Database, ledger: Ledger, totals: Totals) -> None:
    """If all attempts are pruned, SQLite gives their ids to new attempts. The roll-up must not skip them."""
    for _ in range(3):
        attempt(database, "delivered", at=NOON - 2 * DAY)
    totals.roll_up(NOON)
    assert prune(ledger._database, NOON - DAY, 100) == 3
    for _ in range(4):
        attempt(database, "refused")
    assert totals.read().attempts == {"delivered": 3, "refused": 4}
    totals.roll_up(NOON)
    assert totals.read().attempts == {"delivered": 3, "refused": 4}


def test_reused_ids_are_pruned(database: Database, ledger: Ledger, totals: Totals) -> None:
    """SQLite gives ids of pruned attempts to new attempts. Pruning must return to ids that it has already passed."""
    for _ in range(6):
        attempt(database, "delivered", at=NOON - 2 * DAY)
    assert [prune(ledger._database, NOON - DAY, 2) for _ in range(3)] == [2, 2, 2]
    for _ in range(4):
        attempt(database, "refused")
    assert sum(prune(ledger._database, NOON, 2) for _ in range(3)) == 4
    assert totals.read().attempts == {"delivered": 6, "refused": 4}


def test_passes_are_counted_by_result_when_they_end(ledger: Ledger, totals: Totals) -> None:
    assert totals.read().passes == NONE
    for number, result in enumerate([*PassResult, PassResult.SKIPPED]):
        start_pass(ledger, f"p{number}")
        end_pass(ledger, f"p{number}", result)
    start_pass(ledger, "running")
    assert totals.read().passes == dict.fromkeys(PassResult, 1) | {"skipped": 2}


def test_a_dead_pass_is_counted_once(ledger: Ledger, totals: Totals) -> None:
    """One was only suspended while another pass marked it as dead. A total must not decrease afterwards."""
    for pass_id in ("dead", "waits", "mine"):
        start_pass(ledger, pass_id)
    ledger.mark_dead_passes("mine", silent_since=NOON + HOUR)
    ledger.mark_dead_passes("mine", silent_since=NOON + HOUR)
    end_pass(ledger, "waits", PassResult.SKIPPED)
    assert totals.read().passes == NONE | {"interrupted": 2}
