"""The ``explain`` command: each condition that can block a message (a gate), and the time of the next attempt."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from retrycli import operations
from retrycli.config.settings import Settings
from retrycli.domain import cron_line
from retrycli.domain.passes import HoldKind, HoldTarget, StartedBy, StopReason
from retrycli.domain.transition import Claim
from retrycli.operations import message_actions, retry, run_pass
from retrycli.operations.explain import Explanation, explain
from retrycli.operations.wiring import Runtime
from retrycli.store.claims import Claims
from retrycli.store.database import Database
from retrycli.system.host import Host
from tests.cli.api import BAD_GATEWAY, FORBIDS, REJECTS, TAKES, Scripted, held_back
from tests.cli.application import Application
from tests.cli.command import end
from tests.cli.test_lists import LOCAL_TIME
from tests.conftest import on_sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from retrycli.domain.passes import PassSummary
    from retrycli.operations.sandbox import Answer
    from retrycli.operations.status import Status
    from tests.cli.command import Cli

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
"""A tick of cron."""
MINUTE = timedelta(minutes=1)
TICK = 15 * MINUTE
DELAY = timedelta(seconds=2.7)
"""Cron starts a pass a few seconds after its tick."""
HOST = Host(uptime=lambda: timedelta(days=9))
OVERLOADED: Answer = (503, {"messages": ["too busy"]})


def stored(time: datetime) -> str:
    """Return a time as SQLite stores it."""
    return time.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


class Desk:
    """A support desk whose clock a test moves: the application, its ticketing API, and cron."""

    def __init__(self, application: Application, api: Scripted) -> None:
        self.application = application
        self.api = api
        self.rng = random.Random(7)
        self.settings = application.settings(api.url)
        self.clock: Callable[[datetime], Callable[[], datetime]] = lambda now: lambda: now

    def have(self, **sections: Mapping[str, object]) -> None:
        """Change settings, by section."""
        self.settings = Settings.model_validate(
            self.settings.model_dump()
            | {name: self.settings.model_dump()[name] | dict(keys) for name, keys in sections.items()}
        )

    def answers(self, *answers: Answer) -> None:
        """Make the API give these answers in turn, and repeat the last one."""
        self.api._answers = list(answers)

    def add(self, message_id: int, *, failed_at: datetime = NOON - timedelta(hours=3), **columns: object) -> None:
        at = failed_at.replace(tzinfo=None).isoformat(sep=" ")
        self.application.add(message_id, hours_ago=0, **columns | {"created_at": at, "updated_at": at})

    def run_at(self, now: datetime, starter: StartedBy = StartedBy.CRON) -> PassSummary:
        """Run a pass at this time, started by cron unless a test names another starter."""
        around = Runtime(now=self.clock(now), rng=self.rng)
        return run_pass.run_once(self.settings, runtime=around, started_by=starter)

    def explain(self, message_id: int, now: datetime) -> Explanation:
        return explain(self.settings, message_id, host=HOST, runtime=Runtime(now=lambda: now))

    def status(self, now: datetime) -> Status:
        return operations.status.status(self.settings, host=HOST, now=lambda: now)

    def tried_at(self, now: datetime) -> list[int]:
        """Return the ids that the pass at this time attempted, in order."""
        rows = self.application.execute(
            "SELECT message_id FROM retrycli_attempts JOIN retrycli_passes AS p ON p.id = pass_id"
            " WHERE p.started_at = ? ORDER BY retrycli_attempts.id",
            stored(now),
        )
        return [int(str(row["message_id"])) for row in rows]


@pytest.fixture
def at(application: Application) -> Iterator[Desk]:
    with Scripted(TAKES) as api:
        yield Desk(application, api)


# -- each gate in turn -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A gate that is closed for message 1 after the pass at noon."""

    arrange: Callable[[Desk], None]
    """A function that closes the gate. It runs the pass at noon, or leaves that pass to the test."""
    shut: set[str]
    tick: int | None
    """The number of ticks after noon until the message is attempted, or None if it never is."""
    has: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Settings to change, by section."""
    clock: Callable[[datetime], Callable[[], datetime]] = lambda now: lambda: now


def hurrying(now: datetime) -> Callable[[], datetime]:
    """Return a clock that advances 5 s at every reading, for passes that wait."""
    looks = count()
    return lambda: now + timedelta(seconds=5) * next(looks)


def not_seen_yet(desk: Desk) -> None:
    """Let the message fail after the pass at noon, one minute before the next pass."""
    desk.run_at(NOON)
    desk.add(1, failed_at=NOON + 14 * MINUTE)


def answered(desk: Desk, status: int = 503, *, after: str | None = None, **columns: Any) -> None:  # noqa: ANN401  any value
    """Let the pass at noon get this status for message 1, perhaps with a Retry-After, and later passes deliver it."""
    desk.add(1, **columns)
    if after is not None:
        desk.api.retry_after[status] = after
    desk.answers((status, {"messages": ["no"]}), TAKES)
    desk.run_at(NOON)


wait = partial(answered, retry_count=1)


def tries(desk: Desk) -> None:
    """Lower ``max_retries`` below the number of retries that the message has used."""
    answered(desk, retry_count=6)
    desk.have(schedule={"max_retries": 5})


def claim(desk: Desk) -> None:
    """Create the claim of a pass that died during its request.

    By 12:15 the claim has expired. The outcome is unknown, so the message waits for another half hour.
    """
    answered(desk, 429, after="0")
    database = Database(desk.application.url)
    of_the_dead = Claims(database)
    held = Claim("the-dead", NOON + 13 * MINUTE)
    of_the_dead.claim_one(held, 1, NOON)
    of_the_dead.results.begin(held, [1], made_by="pass", pass_id="the-dead", now=NOON, fit=lambda _: True)
    database.close()


def requeued(desk: Desk) -> None:
    """Requeue a message whose last retry was answered with a Retry-After of 50 minutes."""
    answered(desk, after="3000", retry_count=9, failed_at=NOON - timedelta(hours=10))
    done = message_actions.requeue(desk.settings, [1], by="ada", runtime=Runtime(now=lambda: NOON))
    assert done.done == 1


def tried_by_hand(desk: Desk) -> None:
    """Attempt a message manually while it waits for an hour; the answer has a Retry-After of two hours."""
    answered(desk, after="0", retry_count=1)
    desk.answers(OVERLOADED)
    desk.api.retry_after[503] = "7200"
    retry.retry(desk.settings, 1, by="ada", runtime=Runtime(now=lambda: NOON))
    desk.answers(TAKES)


def pause(desk: Desk, *, length: timedelta | None) -> None:
    desk.add(1, failed_at=NOON - 5 * MINUTE)
    desk.run_at(NOON)
    _pause(desk, length)


def hold(desk: Desk, kind: HoldKind, target: str, *, length: timedelta | None) -> None:
    desk.add(1, failed_at=NOON - 5 * MINUTE)
    desk.run_at(NOON)
    operations.pause.pause(desk.settings, target=HoldTarget(kind, target), length=length, by="ada", now=lambda: NOON)


def held_first(desk: Desk) -> None:
    """Hold the first message of the ticket, so that the second one waits behind it."""
    desk.add(0, ticket_id=7)
    desk.add(1, ticket_id=7)
    operations.pause.pause(desk.settings, target=HoldTarget(HoldKind.MESSAGE, "0"), by="ada", now=lambda: NOON)
    desk.run_at(NOON)


def _pause(at: Desk, length: timedelta | None, *, since: datetime = NOON) -> None:
    operations.pause.pause(at.settings, length=length, by="ada", now=lambda: since)


def breaker(desk: Desk) -> None:
    """Open the breaker at 11:45, and let the probe at noon fail, so that the next probe follows half an hour later."""
    for number in range(2, 12):
        desk.add(number, failed_at=NOON - timedelta(hours=20))
    desk.add(1, failed_at=NOON - timedelta(hours=10))
    desk.answers(OVERLOADED)
    desk.run_at(NOON - TICK)
    desk.run_at(NOON)
    desk.answers(TAKES)


def limit(desk: Desk, *, hold: bool = False) -> None:
    """Put seven messages before message 1, and hold three of them if so asked. The pass at noon sends two."""
    for number in range(2, 9):
        desk.add(number, failed_at=NOON - timedelta(hours=4), message_type="internal" if number < 5 else "customer")
    desk.add(1)
    if hold:
        internal = HoldTarget(HoldKind.TYPE, "internal")
        operations.pause.pause(desk.settings, target=internal, by="ada", now=lambda: NOON)
    desk.run_at(NOON)


def order(desk: Desk) -> None:
    """Let an earlier message of the ticket fail at noon, so that it waits for half an hour."""
    desk.add(0, ticket_id=7)
    desk.add(1, ticket_id=7)
    desk.answers(OVERLOADED, TAKES)
    desk.run_at(NOON)


def not_sent_yet(desk: Desk) -> None:
    """Add a message that the pass at noon does not send, because it fails just after that pass."""
    desk.run_at(NOON)
    desk.add(1)


def not_sent_yet_behind_seven(desk: Desk) -> None:
    desk.run_at(NOON)
    for number in range(2, 9):
        desk.add(number, failed_at=NOON - timedelta(hours=4))
    desk.add(1)


def behind_a_supplier(desk: Desk) -> None:
    """Add a message behind an earlier message of its ticket, which goes to a supplier."""
    desk.run_at(NOON)
    desk.add(0, ticket_id=7, message_type="supplier")
    desk.add(1, ticket_id=7)


def within(*texts: str) -> dict[str, dict[str, object]]:
    return {"schedule": {"windows": texts, "timezone": "UTC"}}


HOUR = timedelta(hours=1)
IN_ORDER = {"run": {"per_ticket_order": True}}
APART = {"supplier": {"windows": ["Mon 12:40-13:00"]}, "customer": {"windows": ["Mon 12:00-12:10", "Mon 13:20-14:00"]}}
"""Windows of two types that are never open together."""
CASES = {
    "status": Case(lambda desk: desk.add(1, status="approved"), {"status"}, None),
    "data": Case(lambda desk: desk.add(1, body=None), {"data", "escalation"}, None),
    "a failure no pass has seen": Case(not_seen_yet, {"wait"}, 2),
    "escalation": Case(partial(answered, status=422), {"escalation"}, None),
    "tries": Case(tries, {"wait", "tries"}, None),
    "claim": Case(claim, {"claim"}, 3),
    "wait": Case(wait, {"wait"}, 4),
    "retry after, longer than the backoff": Case(partial(answered, after="3000"), {"wait", "retry_after"}, 4),
    "breaker": Case(breaker, {"breaker"}, 2),
    "a rest": Case(partial(answered, status=429, after="3000"), {"breaker"}, 4),
    "a Retry-After from before it was requeued": Case(requeued, set(), 1),
    "a Retry-After of an attempt by hand": Case(tried_by_hand, {"wait"}, 4),
    "expiry": Case(wait, {"wait"}, None, {"schedule": {"expires_after_hours": 3.5}}),
    "pause": Case(partial(pause, length=HOUR), {"wait", "pause"}, 4),
    "a pause without end": Case(partial(pause, length=None), {"wait", "pause"}, None),
    "hold": Case(lambda desk: hold(desk, HoldKind.MESSAGE, "1", length=HOUR), {"wait", "hold"}, 4),
    "a hold without end": Case(lambda desk: hold(desk, HoldKind.TYPE, "customer", length=None), {"wait", "hold"}, None),
    "a hold of another ticket": Case(lambda desk: hold(desk, HoldKind.TICKET, "4799", length=None), {"wait"}, 1),
    "a message held behind another": Case(held_first, {"order"}, None, IN_ORDER),
    "a limit, and some are held": Case(partial(limit, hold=True), {"limit"}, 2, {"run": {"limit": 2}}),
    "window": Case(wait, {"window", "wait"}, 5, within("Mon 11:00-12:01", "Mon 13:10-14:00")),
    "a window that closes before the message is due": Case(
        wait, {"wait"}, 6, within("Mon 11:00-12:40", "Mon 13:20-15:00")
    ),
    "a window between two ticks": Case(
        wait, {"window", "wait"}, 8, within("Mon 11:00-12:01", "Mon 13:05-13:10", "Mon 13:40-13:44", "Mon 13:55-14:05")
    ),
    "a window that no tick ever meets": Case(not_sent_yet, {"window"}, None, within("daily 12:05-12:10")),
    "a window of another type": Case(
        not_sent_yet, set(), 1, {"schedule": {"types": {"supplier": {"windows": ["Mon 18:00-19:00"]}}}}
    ),
    "a window before a limit": Case(
        not_sent_yet_behind_seven, {"window"}, 5, within("Mon 12:20-14:00") | {"run": {"limit": 2}}
    ),
    "a window that closes before the message's turn": Case(
        not_sent_yet_behind_seven, set(), 7, within("Mon 11:00-12:20", "Mon 13:10-14:00") | {"run": {"limit": 2}}
    ),
    "windows of one ticket that are never open together": Case(
        behind_a_supplier, {"window"}, 6, {"schedule": {"timezone": "UTC", "types": APART}, **IN_ORDER}
    ),
    "order": Case(order, {"order"}, 2, IN_ORDER),
    "limit": Case(limit, {"limit"}, 3, {"run": {"limit": 2}}),
    "rate": Case(limit, {"rate"}, 3, {"run": {"rate_per_second": 2 / 720}}, hurrying),
}


@pytest.mark.parametrize("name", CASES)
def test_a_closed_gate_is_named_and_the_message_is_attempted_at_the_predicted_tick(at: Desk, name: str) -> None:
    case = CASES[name]
    at.have(**case.has)
    at.clock = case.clock
    case.arrange(at)
    if not at.application.execute("SELECT 1 FROM retrycli_passes"):
        at.run_at(NOON)
    found = at.explain(1, NOON + MINUTE)
    assert {gate.name for gate in found.gates if not gate.open} == case.shut
    assert found.next_attempt_at == (None if case.tick is None else NOON + case.tick * TICK)
    for number in range(1, 9):
        now = NOON + number * TICK
        at.run_at(now)
        assert (1 in at.tried_at(now)) is (number == case.tick), number


def test_predicts_the_turn_of_each_message_if_a_pass_starts_only_a_few(at: Desk) -> None:
    """Each pass starts two messages, and messages that become due later join the end of the queue."""
    at.have(run={"limit": 2})
    due = {1: 15, 2: 15, 3: 15, 4: 15, 5: 15, 6: 31, 7: 46, 8: 200, 9: 200, 10: 200, 11: 201, 12: 400, 13: 401, 14: 402}
    for message_id in due:
        at.add(message_id)
    nothing_sent = Runtime(now=lambda: NOON, stop_requested=lambda: True)
    run_pass.run_once(at.settings, runtime=nothing_sent, started_by=StartedBy.CRON)
    for message_id, minutes in due.items():
        time = stored(NOON + minutes * MINUTE)
        at.application.execute("UPDATE retrycli_queue SET next_attempt_at = ? WHERE message_id = ?", time, message_id)
    told = {message: at.explain(message, NOON + MINUTE).next_attempt_at for message in due}
    tried: dict[int, datetime] = {}
    for number in range(1, 31):
        at.run_at(NOON + number * TICK)
        tried |= dict.fromkeys(at.tried_at(NOON + number * TICK), NOON + number * TICK)
    assert told == tried
    assert list(tried) == sorted(due)


def test_tells_how_many_messages_go_first(at: Desk) -> None:
    at.have(run={"limit": 2})
    limit(at)
    at.have(run={"limit": 2, "rate_per_second": 0.5})
    figures = {gate.name: gate.figure for gate in at.explain(1, NOON + TICK).gates}
    assert (figures["limit"], figures["rate"]) == ("2 per pass, 5 go first", "0.5 per second, 5 go first")


def test_finds_an_earlier_message_of_the_ticket_though_both_are_new(at: Desk) -> None:
    at.have(run={"per_ticket_order": True})
    at.run_at(NOON)
    for message_id in (11, 13):
        at.add(message_id, ticket_id=4701)
    found = at.explain(13, NOON + MINUTE)
    [gate] = [each for each in found.gates if each.name == "order"]
    assert gate.figure == "message 11 of the same ticket must be delivered or escalated first; due by"


def test_predicts_no_attempt_at_a_text_that_was_delivered(at: Desk) -> None:
    """An application marks its row as failed again after the delivery, and the next pass escalates the message."""
    at.add(1)
    at.run_at(NOON)
    at.application.execute("UPDATE pending_messages SET status = 'failed', updated_at = ?", stored(NOON + MINUTE))
    found = at.explain(1, NOON + 2 * MINUTE)
    [closed] = [gate for gate in found.gates if not gate.open and gate.name == "escalation"]
    assert closed.figure.startswith("a pass will escalate it: Not sent: this text was already delivered at ")
    assert found.next_attempt_at is None


def hourly(at: Desk) -> None:
    """Run the passes of the last hour."""
    for number in reversed(range(5)):
        at.run_at(NOON - number * TICK)


def test_the_ticks_come_from_the_installed_block_and_not_from_past_passes(at: Desk, tmp_path: Path) -> None:
    hourly(at)
    at.add(1)
    config = tmp_path / "retrycli.toml"
    settings = at.settings.model_copy().read_from(config)
    (tmp_path / "etc/cron.d").mkdir(parents=True)
    crontab = tmp_path / "etc/cron.d/retrycli"
    host = Host(root=tmp_path, uptime=HOST.uptime)
    now = NOON + MINUTE
    for minutes in (5, 60):
        job = cron_line.Job(minutes * MINUTE, "python3", str(config), "desk", system=True)
        crontab.write_text(cron_line.block(job))
        os.utime(crontab, (now.timestamp(),) * 2)
        told = explain(settings, 1, host=host, runtime=Runtime(now=lambda: now))
        assert told.next_attempt_at == NOON + minutes * MINUTE
        assert operations.status.status(settings, host=host, now=lambda: now).next_run == told.next_attempt_at
        assert told.gates[-1].figure == f"every {minutes} min; next at"


def test_a_live_pass_explains_a_missing_start(at: Desk) -> None:
    hourly(at)
    now = NOON + 20 * MINUTE
    assert at.status(now).silence is not None
    newest = "UPDATE retrycli_passes SET result = NULL, finished_at = NULL, heartbeat_at = ? WHERE started_at = ?"
    for beat, lives in ((now - 2 * MINUTE, False), (now - MINUTE / 2, True)):
        at.application.execute(newest, stored(beat), stored(NOON))
        assert (at.status(now).silence is None) is lives


def test_quotes_what_stopped_the_last_pass(at: Desk) -> None:
    """The operator sees why the last pass may not have reached the message."""
    breaker(at)
    [gate] = [each for each in at.explain(1, NOON + MINUTE).gates if each.name == "last_pass"]
    words = rf"the last pass ended early: breaker open: {at.api.url}, next probe at \S+; it began at"
    assert re.fullmatch(words, gate.figure)
    assert (gate.open, gate.time) == (True, NOON)


@pytest.mark.parametrize(("seconds", "ticks_on"), [(1, 0), (3, 0), (10, 1)])
def test_a_pause_that_ends_at_a_tick_is_over_for_that_pass(at: Desk, seconds: int, ticks_on: int) -> None:
    """Cron starts a pass a few seconds after the minute, so a pause that ends within these seconds is over."""
    at.run_at(NOON)
    at.add(1, failed_at=NOON - 3 * TICK)
    minute = NOON.replace(second=0, microsecond=0)
    _pause(at, TICK + timedelta(seconds=seconds), since=minute)
    around = Runtime(now=lambda: NOON + MINUTE)
    told = explain(at.settings, 1, host=HOST, runtime=around).next_attempt_at
    assert told == minute + TICK + ticks_on * TICK


def test_explain_writes_nothing(at: Desk) -> None:
    not_seen_yet(at)
    before = at.application.dump()
    at.explain(1, NOON + 14 * MINUTE)
    assert at.application.dump() == before


def test_each_message_is_attempted_at_the_predicted_tick_for_hours(at: Desk) -> None:
    """Jitter, failures, an outage and a pause move the attempts; `explain` predicts them a minute before each tick.

    A pass that the breaker stops is the only exception, because it leaves an unpredictable number of messages.
    """
    rng, ids, foreseen = random.Random(11), count(1), 0
    at.run_at(NOON)
    for number in range(1, 21):
        tick = NOON + number * TICK
        if number % 3 == 1 and number < 13:
            for message_id in (next(ids), next(ids), next(ids)):
                at.add(message_id, failed_at=tick - at.rng.choice([2, 14, 16, 45]) * MINUTE)
        if number == 13:
            _pause(at, timedelta(minutes=70), since=tick - 5 * MINUTE)
        waiting = at.application.execute("SELECT id FROM pending_messages WHERE status = 'failed'")
        told = {int(str(row["id"])): at.explain(int(str(row["id"])), tick - MINUTE) for row in waiting}
        expected = {message_id for message_id, found in told.items() if found.next_attempt_at == tick}
        at_random = [*rng.choices([TAKES, OVERLOADED, TAKES, REJECTS], [6, 2, 2, 1], k=40), TAKES]
        at.answers(*([BAD_GATEWAY] if 6 <= number < 10 else at_random))
        summary = at.run_at(tick + DELAY)
        tried = at.tried_at(tick + DELAY)
        assert set(tried) <= expected, number
        if summary.reason != StopReason.BREAKER_OPEN:
            assert set(tried) == expected, number
        elif expected and any(not gate.open for gate in told[next(iter(expected))].gates if gate.name == "breaker"):
            assert len(tried) <= 1, "with the breaker open one probe goes first"
        foreseen += len(tried)
    assert foreseen > 12


# -- what is shown ---------------------------------------------------------------------------------------------------


@pytest.fixture
def waiting(at_work: Cli, application: Application) -> Cli:
    """Provide the command with a waiting message, just after a pass."""
    application.add(8, retry_count=3, hours_ago=0)
    assert at_work("run-once").returncode == 0
    return at_work


def test_a_row_that_cannot_be_sent_is_to_be_fixed_first(waiting: Cli, application: Application) -> None:
    application.execute("UPDATE pending_messages SET body = NULL")
    last = waiting.on_terminal("explain", "8").text.splitlines()[-1]
    assert last == "Next: `retrycli show 8`, then fix the row in the application"


def test_does_not_suggest_retry_for_a_message_that_is_being_sent(waiting: Cli, application: Application) -> None:
    """`retry` would refuse the message (exit code 4) until the claim of the pass has expired."""
    sending = "UPDATE retrycli_queue SET state = 'sending', claimed_by = 'a pass', claim_expires_at = ?"
    soon = datetime.now(UTC).replace(tzinfo=None) + 5 * MINUTE
    application.execute(sending, str(soon))
    screen = waiting.on_terminal("explain", "8")
    claimed = "by the pass or command that has claimed the message; if the process that claimed the message has died"
    assert re.search(rf"Next attempt {claimed}, at {LOCAL_TIME} Next:", screen.words)
    assert screen.text.splitlines()[-1] == "Next: retrycli show 8"
    application.execute(sending, str(soon - 10 * MINUTE))
    screen = waiting.on_terminal("explain", "8")
    assert "claimed the message" not in screen.words
    assert screen.text.splitlines()[-1] == "Next: `retrycli retry 8` attempts it now"


def test_a_delivery_that_is_not_written_to_the_row_yet_will_be(waiting: Cli, application: Application) -> None:
    """The application had locked the row, and then the pass was killed."""
    soon = datetime.now(UTC).replace(tzinfo=None) + 5 * MINUTE
    sending = "UPDATE retrycli_queue SET state = 'sending', claimed_by = 'a pass', claim_expires_at = ?"
    application.execute(sending, str(soon))
    made = "message_id, number, made_by, started_at, outcome, delivery_key, birth, digest"
    kept = "8, 1, 'pass', '2026-01-02 03:04:05.000000', 'delivered', delivery_key, birth, digest"
    application.execute(f"INSERT INTO retrycli_attempts ({made}) SELECT {kept} FROM retrycli_queue")
    gates = waiting.json("explain", "8")["gates"]
    assert gates[2]["figure"] == "none: it was delivered, and a pass will mark it as sent"


def test_a_pass_that_has_ended_is_not_reported_as_sending(cli: Cli, application: Application) -> None:
    """A pass that is killed, or ends on a full disk, does not record its end, and its claim stays valid for a while."""
    application.add(8)
    with held_back() as (sandbox, gate):
        at_work = cli.having(application.variables(sandbox.url))
        process = at_work.start("run-once")
        assert gate.reached.wait(60)
        running, lists = at_work("explain", "8"), at_work("show", "8")
        process.kill()
        end(process)
        gate.opened.set()
        dead, screen = at_work("explain", "8"), at_work.on_terminal("explain", "8")
        shown = at_work("show", "8")
        application.execute("UPDATE retrycli_passes SET finished_at = started_at, result = 'interrupted'")
        recorded_since = at_work("explain", "8")
        long_ago = str(datetime.now(UTC).replace(tzinfo=None) - timedelta(days=1))
        application.execute("UPDATE retrycli_queue SET claim_expires_at = ?", long_ago)
        log = at_work("--log-level", "INFO", "run-once").stderr
    assert re.search(r"^claim\tbeing sent by [0-9a-f-]{36}; the claim expires at\t20", running.stdout, re.MULTILINE)
    assert "\tunder way\t" in lists.stdout
    free = r"^claim\tclaimed by a pass that has ended; the claim expires at\t20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$"
    assert re.search(free, dead.stdout, re.MULTILINE), dead.stdout
    assert re.search(free, recorded_since.stdout, re.MULTILINE), recorded_since.stdout
    assert re.search(rf"Next attempt {LOCAL_TIME} Next: retrycli show 8$", screen.words), screen.words
    assert "\tunder way\t" not in shown.stdout
    assert "\tnot recorded\t" in shown.stdout
    assert "Message 8 may have been sent (unknown), retry 1, next attempt at 20" in log
    assert "not sent (unknown)" not in log


@pytest.mark.parametrize("answer", [BAD_GATEWAY, FORBIDS])
def test_predicts_no_attempt_for_messages_behind_a_probe(cli: Cli, application: Application, answer: Answer) -> None:
    """An open breaker lets one probe through, and refused credentials are tested with one message."""
    application.add_due(8)
    with Scripted(answer) as api:
        at_work = cli.having(application.variables(api.url))
        at_work("run-once")
        last = max(int(str(row)) for row in application.rows())
        words = rf"not before {LOCAL_TIME}: the pass attempts one message first, and the others only if .* works"
        assert re.search(words, at_work.on_terminal("explain", str(last)).words)
        assert at_work.json("explain", str(last))["next_attempt_at"] is not None
        application.execute("DELETE FROM pending_messages WHERE id < ?", last)
        assert re.search(rf"Next attempt {LOCAL_TIME}", at_work.on_terminal("explain", str(last)).words)


@on_sqlite
def test_a_message_is_explained_while_another_process_writes(at: Desk) -> None:
    """The console shows messages while passes and the application write, and delays neither."""
    wait(at)
    at.have(database={"url": f"{at.application.url}?timeout=0"})
    with at.application.in_transaction("UPDATE pending_messages SET body = 'written' WHERE id = 1"):
        found = at.explain(1, NOON + MINUTE)
    assert [gate.name for gate in found.gates if not gate.open] == ["wait"]
