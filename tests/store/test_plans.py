"""The indexes that real statements use, according to the database's own planner.

As in a large production queue, most messages are sent, and most failed messages are in one state. PostgreSQL has
statistics about its tables. SQLite has none, like a file that was never analyzed.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import case, insert, literal, select

from retrycli.domain.cursor import SORTS, Sort
from retrycli.domain.fair_share import FairShare
from retrycli.domain.listing import Filter
from retrycli.domain.message import MessageType, State
from retrycli.domain.operator_action import OperatorAction
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.transition import ActionKind, Claim, Decision, IdRange, Route, Transition, Withheld
from retrycli.store.application_table import FailedIndex
from retrycli.store.claims import Claims
from retrycli.store.clock_repair import repair_clock_skew
from retrycli.store.counters import Totals, count_ended, prune
from retrycli.store.database import Database
from retrycli.store.delivery_stats import Statistics
from retrycli.store.enrolment import Enrolment
from retrycli.store.history import message_details
from retrycli.store.identity import birth_text
from retrycli.store.listing import MessageQueries
from retrycli.store.operator_actions import Acts
from retrycli.store.passes import Ledger
from retrycli.store.schema import acts, attempts, passes, queue
from retrycli.store.summaries import ESCALATED, QueueCounts, escalation_groups
from retrycli.store.write_check import check_writable
from tests.store.application import HOUR, NOON, Application, opened
from tests.store.heard import statements

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

    from tests.store.conftest import Factory

DOUBLED = 15
MESSAGES = 2**DOUBLED
FAILED = 4
"""One in `FAILED` messages has failed."""
MINE = Claim("mine", NOON + HOUR)
SENDING = range(FAILED, 12 * FAILED, FAILED)
SOME = range(100 * FAILED, 110 * FAILED, FAILED)
LATE = range(MESSAGES - 40 * FAILED, MESSAGES - 30 * FAILED, FAILED)


@pytest.fixture(scope="module")
def big(engine: Factory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Provide a database with tens of thousands of messages and attempts."""
    with engine(tmp_path_factory.mktemp("plans"), None) as url, closing(Application(url)) as application:
        application.add(status="sent")
        columns = [column.name for column in application.table.c if column.name != "id"]
        copied = ", ".join(columns)
        for exponent in range(DOUBLED):
            add = (
                f"INSERT INTO pending_messages (id, {copied}) SELECT id + {2**exponent}, {copied} FROM pending_messages"
            )
            application.sql(add)
        application.sql(f"UPDATE pending_messages SET status = 'failed' WHERE id % {FAILED} = 0")
        with opened(application) as database:
            _fill(database)
            if not database.is_sqlite:
                with database.outside_transactions() as connection:
                    connection.exec_driver_sql("VACUUM ANALYZE")
            yield database


def _fill(database: Database) -> None:
    m = database.messages
    escalated = m.c.id > MESSAGES - 1000 * FAILED
    sending = m.c.id.in_(SENDING)

    def at(seconds: int) -> ColumnElement[Any]:
        return literal(NOON + timedelta(seconds=seconds), queue.c.next_attempt_at.type)

    state = case((escalated, State.ESCALATED.value), (sending, State.SENDING.value), else_=State.WAITING.value)
    later = case(*((m.c.id % 100 == number, at(7200 + number)) for number in range(0, 100, FAILED)))
    due = case((escalated, None), (m.c.id % 10 == 0, at(-3600)), (m.c.id % 10 == 5, at(-60)), else_=later)
    queued = select(
        m.c.id,
        state,
        due,
        literal("key"),
        case((sending, MINE.owner)),
        case((sending, at(3600))),
        at(-7200),
        literal(0),
        case((escalated, at(-600))),
        case((escalated, "permanent")),
        case((escalated, "cause")),
        birth_text(m),
    ).where(m.c.status == "failed")
    names = [*(column.name for column in queue.c)][: len(queued.selected_columns) - 1]
    tried = select(
        m.c.id, literal("the-pass"), literal(1), literal("pass"), *[_spread(m.c.id)] * 2, *_delivered(m.c.id)
    )
    done = select(m.c.id, _spread(m.c.id), literal("ada"), literal("noted"))
    with database.write() as connection:
        connection.execute(insert(queue).from_select([*names, "birth"], queued))
        told = ["message_id", "pass_id", "number", "made_by", "started_at", "finished_at", "outcome", "digest"]
        connection.execute(insert(attempts).from_select(told, tried.order_by(m.c.id)))
        connection.execute(insert(acts).from_select(["message_id", "at", "by", "act"], done))
        connection.execute(insert(passes), [_pass(number) for number in range(2000)])


def _spread(number: ColumnElement[int]) -> ColumnElement[Any]:
    """Return a time on one of a hundred days; higher numbers are later."""
    days = [(number <= MESSAGES * day // 100, NOON - timedelta(days=100 - day)) for day in range(1, 101)]
    return case(*((each, literal(time, queue.c.next_attempt_at.type)) for each, time in days))


def _delivered(number: ColumnElement[int]) -> tuple[ColumnElement[Any], ...]:
    """Return the outcome and the digest of an attempt.

    The last delivery of a text is kept while the row exists, if it has a digest. Older versions recorded no digest.
    """
    return literal("delivered"), case((number <= MESSAGES // 2, "digest"))


def _pass(number: int) -> dict[str, object]:
    at = NOON - number * timedelta(minutes=15)
    counts = dict.fromkeys(("sent", "rescheduled", "escalated", "unknown", "released", "swept_to"), 0)
    times = {"started_at": at, "heartbeat_at": at, "finished_at": at}
    return {"id": f"pass {number}", "host": "mill", "pid": 1, "result": "completed", **times, **counts}


# -- how a plan is read -----------------------------------------------------------------------------------------------

NAMES = {"pending_messages": "messages"} | {
    f"retrycli_{each}": each for each in ("queue", "attempts", "acts", "passes")
}
NAMES["earlier"] = "queue"
"""The alias of the queue for the earlier messages of a ticket."""


def ways(database: Database, sql: str, values: Any) -> set[str]:  # noqa: ANN401  driver-specific values
    """Return the access path to each table in a statement, such as ``queue by due`` or ``queue whole``."""
    with database.read() as connection:
        if database.is_sqlite:
            plan = [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)]
            return set(filter(None, map(_sqlite_way, plan)))
        [[plan]] = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {sql}", values)
        return set(_postgresql_ways((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]))


def _sqlite_way(step: str) -> str | None:
    found = re.match(r"(SEARCH|SCAN) (\w+)(?: USING (?:COVERING )?(?:INDEX (\w+)|INTEGER PRIMARY KEY))?", step)
    if found is None or found[2] not in NAMES:
        return None
    index = found[3] or ("pkey" if found[1] == "SEARCH" else None)
    return _way(found[2], "pkey" if index and index.startswith("sqlite_autoindex") else index)


def _postgresql_ways(node: Mapping[str, Any], table: str | None = None) -> Iterator[str]:
    table = node.get("Relation Name", table)
    kind, index = node["Node Type"], node.get("Index Name")
    if table in NAMES and (index or kind == "Seq Scan"):
        yield _way(table, index)
    for each in node.get("Plans", ()):
        yield from _postgresql_ways(each, table)


def _way(table: str, index: str | None) -> str:
    if index is None:
        return f"{NAMES[table]} whole"
    if index.endswith("pkey"):
        return f"{NAMES[table]} by its key"
    return f"{NAMES[table]} by {index.removeprefix('retrycli_').removeprefix(f'{NAMES[table]}_')}"


@dataclass(frozen=True)
class Case:
    """A call, and the access paths that its statements must use."""

    call: Callable[[Database], object]
    ways: str
    but: str = ""
    """Further access paths that are fast enough."""


def page(wanted: Filter) -> Callable[[Database], object]:
    """Return a call that reads a page of filtered messages, with ids in every state."""
    ids = array("q", [*SENDING, *SOME, *LATE])
    return lambda database: list(MessageQueries(database).pages(ids, wanted))


def begun(database: Database) -> object:
    claims = Claims(database)
    return claims.results.begin(MINE, list(SENDING), made_by="pass", pass_id="the-pass", now=NOON, fit=lambda _: True)


def recorded(database: Database) -> object:
    outcome = Outcome(OutcomeKind.TRANSIENT, 503, "HTTP 503")
    later = Transition.rescheduled(NOON + HOUR, retry_count=2, last_error="HTTP 503", unknown_count=0)
    first, second, third, *_ = SENDING
    settled = [
        Decision(first, Transition.delivered(), Outcome(OutcomeKind.DELIVERED, 200), finished_at=NOON),
        Decision(second, later, outcome),
        Decision(third, Transition.invalid("no JSON"), None),
    ]
    return Claims(database).results.record(MINE, settled, NOON)


def rolled_up(database: Database) -> object:
    Totals(database).roll_up(NOON + HOUR)
    return Totals(database).read()


def acted(kind: ActionKind, ids: range, act: OperatorAction) -> Callable[[Database], object]:
    return lambda database: Acts(database).perform(kind, dict.fromkeys(ids, act))


def first_and_next(sort: Sort) -> Callable[[Database], object]:
    """Return a call that lists a page and the page after it."""

    def call(database: Database) -> None:
        views = MessageQueries(database)
        _, end = views.ids_and_end(Filter(), sort=sort, limit=50)
        views.ids(Filter(), sort=sort, after=end, limit=50)

    return call


KEYS = "queue by its key, messages by its key"
LISTED = f"{KEYS}, attempts by message"
WEEKS_AGO = NOON - timedelta(days=95)
YESTERDAY = NOON - timedelta(days=1)
ANSWER = Decision(SENDING[0], Transition.released(), Outcome(OutcomeKind.PERMANENT, 403, "HTTP 403", in_doubt=True))
HELD_ROUTE = Route(
    "mail", withheld=Withheld(frozenset({MessageType.INTERNAL}), frozenset({"4711"}), frozenset({"17", "18"}))
)
CASES = {
    "due, counted": Case(lambda d: Claims(d).count_due(NOON), "queue by due"),
    "due in a route": Case(
        lambda d: (
            Claims(d).any_due(NOON, Route("mail", only=frozenset({MessageType.SUPPLIER}))),
            Ledger(d).last_start(),
        ),
        "queue by due, messages by its key",
        # SQLite reports a scan even though it reads only the newest attempt.
        but="attempts by its key, attempts whole",
    ),
    "due under holds": Case(
        lambda d: (Claims(d).count_due(NOON, HELD_ROUTE), Claims(d).any_due(NOON, HELD_ROUTE)),
        "queue by due, messages by its key",
    ),
    "claimed under holds": Case(lambda d: Claims(d).claim(MINE, NOON, 20, route=HELD_ROUTE), f"queue by due, {KEYS}"),
    "claimed": Case(lambda d: Claims(d).claim(MINE, NOON, 20), "queue by due, queue by its key"),
    "claimed in a route": Case(
        lambda d: Claims(d).claim(MINE, NOON, 20, route=Route("mail", only=frozenset({MessageType.SUPPLIER}))),
        f"queue by due, {KEYS}",
    ),
    "claimed in another": Case(
        lambda d: Claims(d).claim(MINE, NOON, 20, route=Route("api", but=frozenset({MessageType.CUSTOMER}))),
        f"queue by due, {KEYS}",
    ),
    "claimed in the order of tickets": Case(
        lambda d: Claims(d).claim(MINE, NOON, 16, FairShare(16, per_ticket_order=True)),
        "queue by due, queue by ticket, queue by its key",
    ),
    "the first of a ticket": Case(
        lambda d: Claims(d).claim_first_of(MINE, NOON, {"7"}), "queue by ticket", but="queue by its key"
    ),
    "renewed": Case(lambda d: Claims(d).renew(MINE), "queue by due"),
    # Some due messages have never been probes, so the second query, for the least recent probe, does not run.
    "a probe": Case(
        lambda d: Claims(d).claim_probe(MINE, NOON, NOON - HOUR), "queue by due, queue by its key, attempts by message"
    ),
    "a message of another ticket": Case(
        lambda d: Claims(d).claim_elsewhere(MINE, NOON, {"4711"}), "queue by due, queue by its key"
    ),
    "probes, counted": Case(lambda d: Claims(d).count_probes(SOME[0], NOON - HOUR), "attempts by message"),
    "answers, recorded": Case(
        lambda d: Claims(d).results.record_answers(MINE, [ANSWER], NOON), "queue by its key, attempts by message"
    ),
    "released": Case(lambda d: Claims(d).release(MINE, list(SENDING)), "queue by its key"),
    "begun": Case(begun, f"{KEYS}, attempts by message, acts by message"),
    "recorded": Case(recorded, f"{KEYS}, attempts by message"),
    "lapsed": Case(
        lambda d: Claims(d).take_over_expired(MINE, NOON + 2 * HOUR, 9),
        f"queue by due, {KEYS}, attempts by message, acts by message",
    ),
    "newly failed": Case(lambda d: Enrolment(d).newly_failed(IdRange(1000, 1040), 500), KEYS),
    "enrolled": Case(
        lambda d: Enrolment(d).enrol([(Decision(each, Transition.invalid("no")), NOON, 1) for each in (4, 8)], NOON),
        "queue by its key",
    ),
    "retired": Case(lambda d: Enrolment(d).retire(IdRange(1000, 1400)), KEYS),
    # SQLite reports a scan even though it reads a limited number of rows, in the order of their ids.
    "swept": Case(lambda d: Enrolment(d).plan_sweep(1000), "messages by its key", but="messages whole"),
    "totals": Case(rolled_up, "attempts by its key", but="attempts whole, attempts by finished"),
    "the last passes": Case(lambda d: (Ledger(d).last_passes(10), Ledger(d).swept_to()), "passes by started"),
    "the passes up to one": Case(lambda d: Ledger(d).passes_up_to("p", 10), "passes by started, passes by its key"),
    # SQLite reports scans even though it reads only the newest attempt and action.
    "whether the clock was ahead": Case(
        lambda d: repair_clock_skew(d, NOON, HOUR, HOUR),
        "passes by started",
        but="attempts by its key, acts by its key, attempts whole, acts whole",
    ),
    "the newest of each host": Case(lambda d: Ledger(d).hosts(NOON - HOUR, NOON), "passes by started"),
    "one message": Case(lambda d: message_details(d, SOME[0]), f"{KEYS}, attempts by message, acts by message"),
    "a page": Case(page(Filter()), LISTED),
    "a page of what waits": Case(page(Filter(state=State.WAITING)), LISTED),
    "a page of what is escalated": Case(page(ESCALATED), LISTED),
    "a page of what is due": Case(page(Filter(due_by=NOON)), LISTED),
    # SQLite reports a scan even though it reads only the rows of the page, in the order of their ids.
    "two pages by id": Case(first_and_next("id"), "messages by its key", but="queue by its key, messages whole"),
    "two pages by next attempt": Case(first_and_next("next"), "queue by due, messages by its key"),
    "those ahead": Case(lambda d: MessageQueries(d).count_ahead(SOME[0], NOON), "queue by due, queue by its key"),
    "causes": Case(escalation_groups, f"queue by due, {LISTED}", but="messages whole"),
    "figures of a day": Case(
        lambda d: Statistics(d).figures(YESTERDAY, NOON), "attempts by its key, passes by started"
    ),
    "passes of a day": Case(lambda d: Statistics(d).passes(YESTERDAY), "passes by started"),
    "requeued": Case(
        acted(ActionKind.REQUEUED, LATE, OperatorAction.requeued(NOON, by="ada", at=NOON)),
        f"{KEYS}, attempts by message, acts by message, acts by its key",
    ),
    "acknowledged": Case(
        acted(ActionKind.ACKNOWLEDGED, LATE, OperatorAction(ActionKind.ACKNOWLEDGED, "ada", NOON)), KEYS
    ),
    "noted": Case(acted(ActionKind.NOTED, LATE, OperatorAction.noted("tea", by="ada", at=NOON)), KEYS),
    "rejected": Case(acted(ActionKind.REJECTED, SOME, OperatorAction.rejected("no", by="ada", at=NOON)), KEYS),
    "marked sent": Case(
        acted(ActionKind.MARKED_SENT, SOME, OperatorAction(ActionKind.MARKED_SENT, "ada", NOON)),
        f"{KEYS}, attempts by message",
        but="acts by message",
    ),
    # A scan of the few passes is fast enough.
    "pruned": Case(
        lambda d: prune(d, WEEKS_AGO, 100),
        "acts by at, attempts by its key, acts by its key, messages by its key, queue by its key",
        but="passes by its key, passes whole, attempts by message",
    ),
    "what is to be pruned": Case(
        lambda d: count_ended(d, WEEKS_AGO),
        "attempts by finished, acts by at, messages by its key, queue by its key",
        but="passes whole, attempts by message",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_statement_uses_an_index(big: Database, name: str) -> None:
    """A full scan, or a scan of an unsuitable index, would read thousands of other rows."""
    case = CASES[name]
    taken = taken_by(big, case.call)
    found = set().union(*taken.values())
    assert set(case.ways.split(", ")) <= found, taken
    assert found <= {*case.ways.split(", "), *case.but.split(", ")}, taken


def test_a_message_for_the_trial_write_is_found_by_an_index(big: Database) -> None:
    with statements(big) as seen:
        check_writable(big, NOON, 10)
    found = {sql: ways(big, sql, values) for sql, values in seen if "pending_messages" in sql}
    assert set().union(*found.values()) == {"queue by due", "messages by its key"}, found


def test_a_sweep_reads_its_slice_of_each_table_once(big: Database) -> None:
    """A look-up per row, or a scan of the whole table, would make each pass slow."""
    if big.is_sqlite:
        pytest.skip("SQLite joins tables by nested loops alone")
    rows = 1200
    span = IdRange(1000, 1000 + rows)
    with big.rollback_at_end(), statements(big) as seen:
        Enrolment(big).retire(span)
        Enrolment(big).newly_failed(span, 500)
    plans = [executed(big, *row) for row in seen if "JOIN" in row[0]]
    assert len(plans) >= 2
    assert {most_loops(plan) for plan in plans} == {1}
    assert max(map(_rows_read, plans)) <= rows + rows / FAILED


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_pass_reads_the_same_number_of_attempts_however_many_are_kept(big: Database, *, goes_on: bool) -> None:
    taken = []
    for days_ago in (90, 60):
        with big.rollback_at_end():
            before = NOON - timedelta(days=days_ago)
            if goes_on:
                prune(big, before, 1000)
            with statements(big) as seen:
                prune(big, before, 100)
            taken.append(sum(effort(big, *row) for row in seen if "FROM retrycli_attempts" in row[0]))
    few, many = taken
    assert 100 <= many < 1.5 * few


@pytest.mark.parametrize("sort", SORTS)
def test_a_later_page_costs_at_most_twice_as_much_as_the_first(big: Database, sort: Sort) -> None:
    """A page by number would read and skip all rows before it."""
    views = MessageQueries(big)
    _, end = views.ids_and_end(Filter(), sort=sort, limit=MESSAGES // FAILED // 2)
    taken = []
    for after in (None, end):
        with statements(big) as seen:
            views.ids(Filter(), sort=sort, after=after, limit=50)
        taken.append(sum(effort(big, *row) for row in seen))
    first, middle = taken
    assert middle <= 2 * first


def effort(database: Database, sql: str, values: Any) -> int:  # noqa: ANN401  driver-specific values
    """Return the number of rows that a SELECT reads; for SQLite, the number of steps of its virtual machine."""
    if not sql.startswith("SELECT"):
        return 0
    with database.read() as connection:
        if database.is_sqlite:
            steps = count()
            driver: Any = connection.connection.driver_connection
            driver.set_progress_handler(lambda: next(steps) < 0, 1)
            connection.exec_driver_sql(sql, values).all()
            driver.set_progress_handler(None, 1)
            return next(steps)
    return round(_rows_read(executed(database, sql, values)))


def executed(database: Database, sql: str, values: Any) -> Mapping[str, Any]:  # noqa: ANN401  driver-specific values
    """Return PostgreSQL's plan of a statement, with the figures of its execution."""
    with database.read() as connection:
        [[plan]] = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", values)
    root: Mapping[str, Any] = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
    return root


def most_loops(node: Mapping[str, Any]) -> int:
    """Return the maximum number of times that a step of a plan ran."""
    own: int = round(node["Actual Loops"])
    return max(own, *map(most_loops, node.get("Plans", ())), 0)


def _rows_read(node: Mapping[str, Any]) -> float:
    own = node["Actual Rows"] + node.get("Rows Removed by Filter", 0) if "Relation Name" in node else 0
    return float(own * node["Actual Loops"]) + sum(map(_rows_read, node.get("Plans", ())))


def taken_by(database: Database, call: Callable[[Database], object]) -> dict[str, set[str]]:
    """Return the access paths of each statement of a call, and roll the call back."""
    with database.rollback_at_end():
        with statements(database) as seen:
            call(database)
        ours = [(sql, values) for sql, values in seen if sql.startswith(("SELECT", "UPDATE", "DELETE"))]
        return {sql: ways(database, sql, values[0] if isinstance(values, list) else values) for sql, values in ours}


def test_failed_rows_among_many_others_are_found_by_their_index(big: Database) -> None:
    """With the optional index, a pass or a list must read no rows that have not failed."""
    [make] = FailedIndex(big).statements()
    calls: dict[str, Callable[[Database], object]] = {
        "swept": lambda d: Enrolment(d, tail=100).plan_sweep(1000),
        "newly failed": lambda d: Enrolment(d).newly_failed(IdRange(1000, 1400), 500),
        "counted": lambda d: QueueCounts(d).counts(NOON),
        "listed": lambda d: MessageQueries(d).ids(Filter()),
    }
    with big.rollback_at_end():
        with big.write() as connection:
            connection.exec_driver_sql(make.replace("CONCURRENTLY ", ""))
        for name, call in calls.items():
            with statements(big) as seen:
                call(big)
            found = {sql: ways(big, sql, values) for sql, values in seen if "FROM pending_messages" in sql}
            assert found, name
            assert all("messages by failed" in value and "messages whole" not in value for value in found.values()), (
                found
            )
