"""Kill -9 at any moment costs nothing but a lapsed claim."""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from retrycli.outcome import LAPSED
from retrycli.sandbox import Behaviour, Sandbox
from tests.cli.command import wait_until
from tests.crash import scene
from tests.crash.scene import FIRST_TICKET, Scene
from tests.store.conftest import FACTORIES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MESSAGES = 500
KILLS = {"sqlite-wal": 40, "sqlite": 40, "postgresql": 20}
"""How many hit a SQLite file with a write-ahead log, one without, and a server's database: a lane each, at once."""
LATENCY = timedelta(milliseconds=10)
CONCURRENCY = 8
LIFE = 2.25
"""Kills are spread evenly over so many times what a pass with nothing due takes from its start to its exit. The first
third is the interpreter's start and the imports; a pass with something due loads the HTTP client next, then sends."""
STEPS, WEIGHTS = (timedelta(seconds=30), timedelta(minutes=15), timedelta(hours=5)), (1, 4, 4)
"""How far the clock moves between two runs: claims still hold, claims have lapsed, all waits are over."""
MOST_RUNS, MOST_DATABASES = 100, 25
"""So many runs of one database, or databases of one lane, end in an error rather than never."""

OTHERS_AT_THE_SERVER = "pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
LEFT_ALONE = (
    "id, ticket_id, message_type, recipient_email, cc_emails, subject, body, confidence, created_at, updated_at"
)


@dataclass
class Lane:
    """Runs over one database after the other, until all its kills are spent; and where they hit."""

    folder: Path
    name: str
    rng: Random
    moments: list[float]
    """When to kill, as shares of `LIFE`; each is used once."""
    databases: int = 0
    runs: int = 0
    twice: int = 0
    escalated: int = 0
    by_phase: Counter[str] = field(default_factory=Counter)
    in_flight: list[int] = field(default_factory=list)

    def go(self) -> None:
        with self._set_up("idle", "http://127.0.0.1:9", failed=0) as idle:
            _life_of_a_pass(idle)  # the first one makes the tables
            while self.moments:
                assert self.databases < MOST_DATABASES, "runs end before they can be killed"
                self._life = LIFE * _life_of_a_pass(idle)  # anew each time: how fast the machine is may change
                self.databases += 1
                self._use_up(f"database-{self.databases}")

    def _use_up(self, name: str) -> None:
        with (
            Sandbox(Behaviour(latency=LATENCY), rng=Random(0)) as server,
            self._set_up(name, server.url, failed=MESSAGES) as stage,
        ):
            before = _left_alone(stage)
            killed = self._run_until_nothing_is_left(stage, server)
            _check_messages(stage, server)
            _check_passes(stage, killed)
            assert _left_alone(stage) == before
            self.twice += sum(each.times > 1 for each in server.received)
            self.escalated += stage.count("retrycli_queue")
            if stage.application.is_sqlite:
                assert stage.rows("PRAGMA integrity_check") == [("ok",)]

    @contextmanager
    def _set_up(self, name: str, api: str, *, failed: int) -> Iterator[Scene]:
        folder = self.folder / name
        folder.mkdir()
        mode = "wal" if self.name == "sqlite-wal" else "delete"
        with FACTORIES[self.name](folder, None) as url:
            yield scene.set_up(folder, api, failed=failed, url=url, journal_mode=mode, concurrency=CONCURRENCY)

    def _run_until_nothing_is_left(self, stage: Scene, server: Sandbox) -> dict[int, str]:
        """Run, and kill as long as there are moments for it; the phase of each killed process."""
        ahead = timedelta(0)
        killed = {}
        for _ in range(MOST_RUNS):
            done = _nothing_is_left(stage)
            which = self.rng.randrange(len(self.moments)) if self.moments and not done else None
            process = stage.start("-m", "tests.crash.one_pass", str(stage.config), str(ahead.total_seconds()))
            self.runs += 1
            if _killed(process, None if which is None else self.moments[which] * self._life):
                assert which is not None
                del self.moments[which]
                killed[process.pid] = self._look_at_the_dead(stage, process.pid)
                _check_nothing_is_lost(stage, server)
            elif done:  # the last run was left in peace: it clears up after the dead
                return killed
            ahead += self.rng.choices(STEPS, WEIGHTS)[0]
        raise AssertionError(f"still not done after {MOST_RUNS} runs")

    def _look_at_the_dead(self, stage: Scene, pid: int) -> str:
        if not stage.application.is_sqlite:  # what a server was told, it does before it notices that nobody is there
            wait_until(lambda: stage.count(OTHERS_AT_THE_SERVER) == 0)
        phase, in_flight = _phase(stage, pid)
        self.by_phase[phase] += 1
        if in_flight:
            self.in_flight.append(in_flight)
        return phase


@pytest.mark.slow
def test_no_message_is_lost_or_stuck_however_often_a_run_is_killed(tmp_path: Path) -> None:
    lanes = [_lane(tmp_path / name, name, kills, Random(seed)) for seed, (name, kills) in enumerate(KILLS.items())]
    with ThreadPoolExecutor(len(lanes)) as pool:
        for gone in [pool.submit(lane.go) for lane in lanes]:
            gone.result()
    print(_report(lanes))
    assert {lane.name: lane.by_phase.total() for lane in lanes} == KILLS
    assert sum(len(lane.in_flight) for lane in lanes) >= sum(KILLS.values()) // 10, (
        "hardly a kill hit requests in flight"
    )


def _lane(folder: Path, name: str, kills: int, rng: Random) -> Lane:
    folder.mkdir()
    return Lane(folder, name, rng, [(number + rng.random()) / kills for number in range(kills)])


def _life_of_a_pass(stage: Scene) -> float:
    began = time.perf_counter()
    assert not _killed(stage.start("-m", "tests.crash.one_pass", str(stage.config), "0"), None)
    return time.perf_counter() - began


def _report(lanes: Sequence[Lane]) -> str:
    def line(what: str, *figures: object) -> str:
        return f"{what:<50}" + "".join(f"{each!s:>12}" for each in figures)

    phases = sorted({phase for lane in lanes for phase in lane.by_phase})
    return "\n".join(
        [
            line("\nkills by phase", *(lane.name for lane in lanes)),
            *(line(phase, *(lane.by_phase[phase] for lane in lanes)) for phase in phases),
            line("runs", *(lane.runs for lane in lanes)),
            line("databases", *(lane.databases for lane in lanes)),
            line("attempts in flight at a kill", *(sum(lane.in_flight) for lane in lanes)),
            line("messages that arrived more than once", *(lane.twice for lane in lanes)),
            line("messages in a person's hands", *(lane.escalated for lane in lanes)),
        ]
    )


def _killed(process: subprocess.Popen[str], moment: float | None) -> bool:
    """Whether a process had to be killed at its moment; one that ended before must have ended well."""
    with process:
        try:
            _, errors = process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
        assert process.returncode in {0, -signal.SIGKILL}, errors
    return process.returncode != 0


def _nothing_is_left(stage: Scene) -> bool:
    if not stage.has_tables():
        return False
    escalated = "SELECT message_id FROM retrycli_queue WHERE state = 'escalated'"
    return stage.count(f"pending_messages WHERE status = 'failed' AND id NOT IN ({escalated})") == 0


def _phase(stage: Scene, pid: int) -> tuple[str, int]:
    """Where a process was when it died, and how many of its requests may have been in flight."""
    if not stage.has_tables():
        return "1 before there were tables", 0
    passes = stage.rows("SELECT id, finished_at FROM retrycli_passes WHERE pid = ?", pid)
    if not passes:
        return "2 before its pass was written down", 0
    [[pass_id, finished_at]] = passes
    if finished_at is not None:
        return "7 after its pass was written down as ended", 0
    if in_flight := stage.count("retrycli_attempts WHERE pass_id = ? AND finished_at IS NULL", pass_id):
        return "6 with attempts in flight", in_flight
    if not stage.count("retrycli_queue WHERE claimed_by = ?", pass_id):
        return "3 before it had claims", 0
    tried = stage.count("retrycli_attempts WHERE pass_id = ?", pass_id)
    return ("5 with claims, between two attempts" if tried else "4 with claims, before the first attempt"), 0


def _check_nothing_is_lost(stage: Scene, server: Sandbox) -> None:
    """Right after a kill: each message is sent, waits with a time, is claimed, or is in a person's hands."""
    if not stage.has_tables():
        assert server.received == ()
        return
    lost = """
        SELECT m.id FROM pending_messages m JOIN retrycli_queue q ON q.message_id = m.id WHERE NOT (
            m.status = 'failed' AND q.state = 'waiting' AND q.next_attempt_at IS NOT NULL AND q.claimed_by IS NULL
            OR m.status = 'failed' AND q.state = 'sending' AND q.claimed_by IS NOT NULL
                AND q.claim_expires_at IS NOT NULL
            OR m.status = 'failed' AND q.state = 'escalated'
        )
    """
    assert stage.rows(lost) == []
    statuses = dict(stage.rows("SELECT status, count(*) FROM pending_messages GROUP BY status"))
    assert statuses.get("failed", 0) + statuses["sent"] == MESSAGES + 1  # one was sent from the start
    _check_attempts_cover_arrivals(stage, server)


def _check_attempts_cover_arrivals(stage: Scene, server: Sandbox) -> None:
    """No request without an attempt that was written down before."""
    arrived = server.received  # before the attempts: those of the dead may still arrive
    attempts = dict(stage.rows("SELECT message_id, count(*) FROM retrycli_attempts GROUP BY message_id"))
    assert [each for each in arrived if each.times > attempts.get(_message_id(each.ticket_id), 0)] == []


def _check_messages(stage: Scene, server: Sandbox) -> None:
    """Each message is sent or, after three unknown outcomes, in a person's hands; and its history says why."""
    received = server.received
    arrivals = {_message_id(each.ticket_id): each for each in received}
    assert len(arrivals) == len(received), "a message has come under two keys"
    history: dict[int, list[Any]] = {}
    for message_id, *attempt in stage.rows(
        "SELECT message_id, number, outcome, error, finished_at, made_by FROM retrycli_attempts ORDER BY id"
    ):
        history.setdefault(message_id, []).append(attempt)
    queue = {row[0]: row[1:] for row in stage.rows("SELECT message_id, state, unknown_count FROM retrycli_queue")}
    rows = stage.rows("SELECT id, status, retry_count, last_error, sent_at, body FROM pending_messages WHERE id <= 500")
    assert len(rows) == len(history) == MESSAGES
    for message_id, status, retry_count, last_error, sent_at, body in rows:
        attempts, arrived = history[message_id], arrivals.get(message_id)
        outcomes = [outcome for _, outcome, _, _, _ in attempts]
        assert [number for number, *_ in attempts] == list(range(1, len(attempts) + 1))
        assert all(finished_at and made_by == "pass" for *_, finished_at, made_by in attempts)
        assert all(error == LAPSED.error for _, outcome, error, *_ in attempts if outcome == "unknown")
        assert retry_count == outcomes.count("unknown")
        if message_id in queue:
            assert outcomes == ["unknown"] * 3
            assert (status, sent_at, *queue[message_id]) == ("failed", None, "escalated", 3)
            assert last_error.startswith("May have arrived")
        else:
            assert outcomes == ["unknown"] * (len(outcomes) - 1) + ["delivered"]
            assert (status, last_error) == ("sent", None)
            assert sent_at
            assert arrived
        if arrived:
            assert arrived.times <= len(attempts)
            assert arrived.times == 1 or "unknown" in outcomes
            assert arrived.content["body"] == body


def _check_passes(stage: Scene, killed: dict[int, str]) -> None:
    """Each pass has ended, those of killed processes as interrupted, and has counted what it sent."""
    delivered = dict(
        stage.rows("SELECT pass_id, count(*) FROM retrycli_attempts WHERE outcome = 'delivered' GROUP BY pass_id")
    )
    passes = stage.rows("SELECT id, pid, result, sent, finished_at FROM retrycli_passes")
    interrupted = {pid for _, pid, result, *_ in passes if result == "interrupted"}
    assert interrupted == {pid for pid, phase in killed.items() if phase[0] in "3456"}
    for pass_id, pid, result, sent, finished_at in passes:
        assert finished_at
        assert result == ("interrupted" if pid in interrupted else "completed")
        assert sent == delivered.get(pass_id, 0)


def _left_alone(stage: Scene) -> list[Any]:
    """What no pass may change: these columns, other rows than those that failed, and the application's tables."""
    return [
        stage.rows(f"SELECT {LEFT_ALONE} FROM pending_messages ORDER BY id"),
        stage.rows("SELECT * FROM pending_messages WHERE id > 500 ORDER BY id"),
        stage.rows("SELECT * FROM ticket_states ORDER BY ticket_id"),
        [line for line in stage.application.schema() if "retrycli" not in line],
        stage.rows("PRAGMA journal_mode") if stage.application.is_sqlite else None,
    ]


def _message_id(ticket_id: str) -> int:
    return int(ticket_id) - FIRST_TICKET
