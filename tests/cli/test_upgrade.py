"""Upgrades and downgrades of retrycli's own tables, even during a pass of the previous version."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from retrycli.store import own_tables, schema
from retrycli.store.database import Database
from tests.cli.api import BUSY, Scripted, held_back
from tests.cli.command import end
from tests.cli.story import LOST, OK, REFUSED, Api
from tests.conftest import on_both

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = on_both

BEFORE = "0004"
LAST = f"{int(schema.HEAD) - 1:04}"
NEW_COLUMNS = {"birth", "digest", "seen_count", "seen_error", "seen_updated_at"}


@dataclass(frozen=True)
class OldPass:
    """A pass of the previous version, simulated by its statements, which name no new columns."""

    application: Application
    now: datetime

    def start(self) -> None:
        self.application.execute(
            "INSERT INTO retrycli_passes (id, host, pid, started_at, heartbeat_at, sent, rescheduled, escalated, "
            "unknown, released) VALUES ('old', 'mill', 7, ?, ?, 0, 0, 0, 0, 0)",
            self._time(),
            self._time(),
        )

    def enrol(self, ids: Sequence[int]) -> None:
        for message_id in ids:
            self.application.execute(
                "INSERT INTO retrycli_queue (message_id, state, next_attempt_at, delivery_key, first_failed_at, "
                "unknown_count, escalated_at, escalation_reason, fingerprint, ticket) "
                "VALUES (?, 'waiting', ?, ?, ?, 0, NULL, NULL, NULL, ?)",
                message_id,
                self._time(),
                f"key {message_id}",
                self._time(hours=-3),
                str(self.application.row(message_id)["ticket_id"]),
            )

    def claim(self, ids: Sequence[int], *, minutes: float = 1) -> None:
        for message_id in ids:
            self.application.execute(
                "UPDATE retrycli_queue SET state = 'sending', claimed_by = 'old', claim_expires_at = ? "
                "WHERE message_id = ? AND state = 'waiting'",
                self._time(minutes=minutes),
                message_id,
            )

    def begin(self, message_id: int) -> None:
        self.application.execute(
            "INSERT INTO retrycli_attempts (message_id, number, waited_s, pass_id, made_by, started_at) "
            "SELECT ?, 1, 60, 'old', 'pass', CAST(? AS TIMESTAMP)"
            if not self.application.is_sqlite
            else "INSERT INTO retrycli_attempts (message_id, number, waited_s, pass_id, made_by, started_at) "
            "SELECT ?, 1, 60, 'old', 'pass', ?",
            message_id,
            self._time(),
        )

    def have(self, message_id: int, *outcomes: str, **queue: object) -> None:
        """Enrol a message, add finished attempts with these outcomes, and set columns of its queue row."""
        self.enrol([message_id])
        for number, outcome in enumerate(outcomes, 1):
            self.application.execute(
                "INSERT INTO retrycli_attempts (message_id, number, waited_s, pass_id, made_by, started_at, "
                "finished_at, outcome, status_code, error, duration_ms) "
                "VALUES (?, ?, 60, 'old', 'pass', ?, ?, ?, NULL, 'ReadTimeout', 5)",
                message_id,
                number,
                self._time(hours=-2, minutes=number),
                self._time(hours=-2, minutes=number),
                outcome,
            )
        for name, value in queue.items():
            self.application.execute(f"UPDATE retrycli_queue SET {name} = ? WHERE message_id = ?", value, message_id)

    def escalate(self, message_id: int, reason: str, *outcomes: str, unknown_count: int = 0) -> None:
        self.have(
            message_id,
            *outcomes,
            state="escalated",
            next_attempt_at=None,
            unknown_count=unknown_count,
            escalated_at=self._time(hours=-1),
            escalation_reason=reason,
            fingerprint=reason,
        )

    def requeue(self, message_id: int) -> None:
        """Requeue a message as the previous version does, without recording the number of attempts."""
        self.application.execute(
            "UPDATE retrycli_queue SET state = 'waiting', unknown_count = 0, escalated_at = NULL, "
            "escalation_reason = NULL, fingerprint = NULL, acknowledged_by = NULL, acknowledged_at = NULL, "
            "note = NULL, next_attempt_at = ? WHERE message_id = ? AND state = 'escalated'",
            self._time(),
            message_id,
        )
        self.application.execute("UPDATE pending_messages SET retry_count = 0 WHERE id = ?", message_id)
        # The action must be later than attempts that this version has made meanwhile.
        self.application.execute(
            "INSERT INTO retrycli_acts (message_id, at, \"by\", act, detail) VALUES (?, ?, 'anna', 'requeued', NULL)",
            message_id,
            str(datetime.now(UTC).replace(tzinfo=None)),
        )

    def record_delivered(self, message_id: int) -> None:
        self.application.execute(
            "UPDATE pending_messages SET status = 'sent', last_error = NULL, sent_at = ? "
            "WHERE id = ? AND status = 'failed'",
            self._time(),
            message_id,
        )
        self.application.execute(
            "UPDATE retrycli_attempts SET finished_at = ?, outcome = 'delivered', status_code = 200, error = NULL, "
            "retry_after_s = NULL, duration_ms = 5, external_id = NULL WHERE message_id = ? AND finished_at IS NULL",
            self._time(),
            message_id,
        )
        self.application.execute(
            "DELETE FROM retrycli_queue WHERE message_id = ? AND state = 'sending' AND claimed_by = 'old'", message_id
        )

    def finish(self, sent: int) -> None:
        self.application.execute(
            "UPDATE retrycli_passes SET finished_at = ?, heartbeat_at = ?, result = 'completed', swept_to = NULL, "
            "sent = ?, rescheduled = 0, escalated = 0, unknown = 0, released = 0, reason = NULL, detail = NULL "
            "WHERE id = 'old'",
            self._time(),
            self._time(),
            sent,
        )

    def _time(self, *, hours: float = 0, minutes: float = 0) -> str:
        return str((self.now + timedelta(hours=hours, minutes=minutes)).replace(tzinfo=None))


def go_back(application: Application, *, to: str = BEFORE) -> None:
    """Downgrade the tables one version at a time, as `db downgrade` does, by default to the version of `OldPass`."""
    with closing(Database(application.url, "pending_messages")) as database:
        while database.revision() != to:
            own_tables.downgrade_tables(database)


@pytest.fixture
def old(application: Application) -> OldPass:
    """Provide a pass of the previous version, over tables of that version."""
    go_back(application)
    return OldPass(application, datetime.now(UTC))


def version(application: Application) -> object:
    [(found,)] = application.asked("SELECT version_num FROM retrycli_version")
    return found


def test_a_pass_of_the_previous_version_survives_an_upgrade(
    old: OldPass, at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    """A pass of this version on another host sends nothing that the old pass has claimed."""
    ids = application.add_due(3)
    old.start()
    old.enrol(ids)
    old.claim(ids)
    old.begin(ids[0])
    assert version(application) == BEFORE
    assert at_work("db", "upgrade").returncode == 0
    assert at_work.json("run-once")["sent"] == 0
    old.record_delivered(ids[0])
    for message_id in ids[1:]:
        old.begin(message_id)
        old.record_delivered(message_id)
    old.finish(3)
    assert at_work.json("run-once")["sent"] == 0
    assert sandbox.received == ()
    assert {row["status"] for row in application.rows().values()} == {"sent"}
    assert application.rows("retrycli_queue") == {}
    assert at_work.json("stats")["attempts"] == 3


def test_a_killed_pass_of_the_previous_version_is_recovered_with_its_keys(
    old: OldPass, at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    """The claims have expired. The message with a request in flight may have arrived; the others were not sent."""
    ids = application.add_due(3)
    old.start()
    old.enrol(ids)
    old.claim(ids, minutes=-1)
    old.begin(ids[0])
    first = at_work.json("run-once")
    assert (first["sent"], first["unknown"]) == (2, 1)
    assert version(application) == schema.HEAD
    application.execute("UPDATE retrycli_queue SET next_attempt_at = '2026-01-02 03:04:05'")
    assert at_work.json("run-once")["sent"] == 1
    assert at_work.json("run-once")["sent"] == 0
    assert sorted(str(request.key) for request in sandbox.received) == [f"key {message_id}" for message_id in ids]
    assert {request.times for request in sandbox.received} == {1}


WAITING, UNKNOWN, PERMANENT, DYING, MAILED = HISTORY = range(101, 106)
MAILED_TO = '["ana@example.com"]'


def make_due(application: Application) -> None:
    application.execute("UPDATE retrycli_queue SET next_attempt_at = '2026-01-02 03:04:05' WHERE state = 'waiting'")


@pytest.fixture
def with_history(old: OldPass, application: Application) -> OldPass:
    """Provide a queue of the previous version, with one message in each state that an upgrade must keep."""
    application.add_due(len(HISTORY))
    old.start()
    old.have(WAITING, "unknown", unknown_count=1)
    old.escalate(UNKNOWN, "unknown", *["unknown"] * 3, unknown_count=3)
    old.escalate(PERMANENT, "permanent", "permanent")
    old.have(DYING)
    old.claim([DYING], minutes=-1)
    old.begin(DYING)
    old.have(MAILED, "transient", delivered_to=MAILED_TO)
    assert version(application) == BEFORE
    return old


@pytest.mark.usefixtures("with_history")
def test_a_queue_with_history_is_upgraded_and_nothing_is_sent_twice(cli: Cli, application: Application) -> None:
    """Each message keeps its key and its history, even if its pass has died."""
    with Api(REFUSED, REFUSED, OK) as api:
        command = cli.having(application.variables(api.url))
        command.json("run-once")
        assert version(application) == schema.HEAD
        assert sorted(api.keys) == [f"key {message_id}" for message_id in (WAITING, MAILED)]
        queue = application.rows("retrycli_queue")
        assert [(queue[statement]["state"], queue[statement]["unknown_count"]) for statement in HISTORY] == [
            ("waiting", 1),
            ("escalated", 3),
            ("escalated", 0),
            ("waiting", 1),
            ("waiting", 0),
        ]
        assert [queue[statement]["delivery_key"] for statement in HISTORY] == [
            f"key {statement}" for statement in HISTORY
        ]
        assert [queue[statement]["delivered_to"] for statement in HISTORY] == [None] * 4 + [MAILED_TO]
        for _ in range(2):
            make_due(application)
            command.json("run-once")
        assert sorted(api.keys[2:]) == [f"key {message_id}" for message_id in (WAITING, DYING, MAILED)]
        assert {message_id: application.state(message_id) for message_id in (UNKNOWN, PERMANENT)} == {
            UNKNOWN: "escalated",
            PERMANENT: "escalated",
        }
        assert command("requeue", str(UNKNOWN), "--yes").returncode == 0
        application.execute("UPDATE pending_messages SET last_error = 'HTTP 502' WHERE id = ?", PERMANENT)
        for _ in range(2):
            command.json("run-once")
            make_due(application)
        assert sorted(api.keys[5:]) == [f"key {message_id}" for message_id in (UNKNOWN, PERMANENT)]
        assert {request.times for request in api.received} == {1}
    assert {row["status"] for row in application.rows().values()} == {"sent"}


def test_unknown_attempts_of_the_previous_version_count_towards_the_limit(
    old: OldPass, cli: Cli, application: Application
) -> None:
    application.add_due(1)
    old.start()
    old.have(WAITING, "unknown", unknown_count=1)
    with Api(LOST) as api:
        command = cli.having(application.variables(api.url))
        for _ in range(4):
            command.json("run-once")
            make_due(application)
        assert api.keys == [f"key {WAITING}"] * 2
    queued = application.rows("retrycli_queue")[WAITING]
    assert (queued["escalation_reason"], queued["unknown_count"]) == ("unknown", 3)


def test_a_requeue_by_the_previous_version_counts(old: OldPass, cli: Cli, application: Application) -> None:
    """A host with the previous version may requeue before or after the upgrade. A delivered key is not used again."""
    application.add_due(1)
    old.start()
    old.escalate(WAITING, "unknown", *["unknown"] * 3, unknown_count=3)
    old.requeue(WAITING)
    with Api(LOST, OK) as api:
        command = cli.having(application.variables(api.url))
        for _ in range(2):
            command.json("run-once")
            make_due(application)
        assert api.keys == [f"key {WAITING}"] * 2
        assert application.row(WAITING)["status"] == "sent"
        application.execute("UPDATE pending_messages SET status = 'failed', last_error = 'HTTP 502'")
        for _ in range(2):
            command.json("run-once")
            make_due(application)
        assert application.rows("retrycli_queue")[WAITING]["escalation_reason"] == "changed"
        old.requeue(WAITING)
        command.json("run-once")
        assert len(api.keys) == 3
        assert api.keys[2] != api.keys[0]
    assert application.row(WAITING)["status"] == "sent"


def test_a_text_edited_after_the_upgrade_has_a_new_key(
    old: OldPass, at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    """The previous text may have arrived with the key that the previous version chose."""
    application.add_due(1)
    old.start()
    old.have(WAITING, "unknown", unknown_count=1)
    assert at_work("edit", str(WAITING), "--subject", "Re: bill", "--yes").returncode == 0
    assert at_work.json("run-once")["sent"] == 1
    [received] = sandbox.received
    assert received.content["subject"] == "Re: bill"
    assert received.key != f"key {WAITING}"


@pytest.fixture
def waiting(cli: Cli, application: Application) -> list[int]:
    """Provide messages that a pass of this version could not deliver."""
    ids = application.add_due(3)
    with Scripted(BUSY) as api:
        cli.having(application.variables(api.url))("run-once")
    return ids


def known_before(application: Application) -> list[dict[str, object]]:
    """Return the queue's rows with the columns of the previous version."""
    rows = application.rows("retrycli_queue").values()
    return [{name: value for name, value in row.items() if name not in NEW_COLUMNS} for row in rows]


def test_downgrade_and_upgrade_keep_queue_and_history(
    waiting: list[int], at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    before = known_before(application)
    go_back(application)
    assert [*application.rows("retrycli_queue").values()] == before
    assert {"retrycli_selection", "retrycli_escalations"}.isdisjoint(application.tables())
    application.execute("UPDATE retrycli_queue SET next_attempt_at = '2026-01-02 03:04:05'")
    assert at_work.json("run-once")["sent"] == len(waiting), "the next pass upgrades them"
    assert {str(request.key) for request in sandbox.received} == {str(row["delivery_key"]) for row in before}
    assert len(at_work.json("show", str(waiting[0]))["attempts"]) == 2


def test_a_delivery_that_the_previous_version_would_repeat_is_escalated(
    waiting: list[int], at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    """The previous version would repeat a delivery that is not yet in the application's row."""
    first, *others = waiting
    application.execute(
        "UPDATE retrycli_attempts SET outcome = 'delivered', finished_at = NULL, delivery_key = "
        "(SELECT delivery_key FROM retrycli_queue WHERE message_id = ?) WHERE message_id = ?",
        first,
        first,
    )
    go_back(application)
    states = {message_id: row["state"] for message_id, row in application.rows("retrycli_queue").items()}
    assert states == {first: "escalated", **dict.fromkeys(others, "waiting")}
    application.execute("UPDATE retrycli_queue SET next_attempt_at = '2026-01-02 03:04:05' WHERE state = 'waiting'")
    assert at_work.json("run-once")["sent"] == len(others)
    [escalated] = at_work.json("escalations")["escalations"]
    assert (escalated["id"], escalated["reason"]) == (first, "unknown")
    assert len(sandbox.received) == len(others)


@pytest.mark.usefixtures("waiting")
def test_downgrade_asks_and_names_the_next_step(at_work: Cli, application: Application) -> None:
    assert at_work("db", "downgrade").returncode == 2
    assert at_work.on_terminal("db", "downgrade", answers=["n"]).text.endswith("Nothing was changed.\n")
    assert version(application) == schema.HEAD
    done = at_work.on_terminal("db", "downgrade", answers=["y"])
    assert "First stop cron on every host." in done.words
    assert f"retrycli's tables are at version {LAST}; they were at version {schema.HEAD}." in done.words
    assert "install the older version" in done.words
    again = at_work("db", "downgrade", "--yes")
    assert again.returncode == 78
    assert f"use the release of retrycli whose tables have version {LAST}" in again.stderr


def test_downgrade_waits_for_a_pass(cli: Cli, application: Application) -> None:
    """A pass on another host has another lock, and could not record its outcomes after a downgrade."""
    application.add_due(1)
    with held_back() as (api, gate):
        here = cli.having(application.variables(api.url))
        process = here.start("run-once")
        assert gate.reached.wait(60)
        elsewhere = here.having({"RETRYCLI_RUN__LOCK_FILE": str(cli.cwd / "other.lock")})
        for run in (here.having({"RETRYCLI_RUN__WAIT_LOCK_SECONDS": "0"}), elsewhere):
            refused = run("db", "downgrade", "--yes")
            assert refused.returncode == 75, refused.stderr
        assert version(application) == schema.HEAD
        gate.opened.set()
        assert end(process).returncode == 0
    assert {row["status"] for row in application.rows().values()} == {"sent"}


def test_holds_work_after_an_upgrade_from_the_previous_version(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    """The first command upgrades the tables. The queue of the previous version is kept."""
    ids = application.add_due(3)
    assert at_work("pause", "--message", str(ids[0])).returncode == 0
    go_back(application, to="0006")
    assert "retrycli_holds" not in application.tables()
    assert at_work("pause", "--ticket", str(application.row(ids[1])["ticket_id"])).returncode == 0
    assert version(application) == schema.HEAD
    assert [hold["kind"] for hold in at_work.json("status")["holds"]] == ["ticket"], "a downgrade loses holds"
    assert at_work.json("run-once")["sent"] == 2
    assert len(sandbox.received) == 2
    assert [entry["act"] for entry in at_work.json("passes")["pauses"]] == ["held", "held"]


def test_a_pass_of_the_previous_version_reads_no_holds_and_survives_them(
    old: OldPass, at_work: Cli, application: Application
) -> None:
    ids = application.add_due(2)
    old.start()
    old.enrol(ids)
    assert at_work("pause", "--type", "customer").returncode == 0
    old.claim(ids[:1])
    old.begin(ids[0])
    old.record_delivered(ids[0])
    old.finish(1)
    assert at_work.json("run-once")["sent"] == 0
    assert application.state(ids[1]) == "waiting"


def test_edits_and_pauses_survive_downgrade_and_upgrade(at_work: Cli, application: Application) -> None:
    """A downgrade drops the edited values and the history of pauses, but keeps the record of an edit."""
    application.add(11)
    assert at_work("edit", "11", "--subject", "Re: bill", "--yes", "--by", "anna").returncode == 0
    assert at_work("pause", "--by", "anna").returncode == 0
    go_back(application, to="0005")
    [act] = application.rows("retrycli_acts").values()
    assert (act["message_id"], act["act"], act["detail"]) == (11, "edited", "subject")
    assert "before" not in act
    [act] = at_work.json("show", "11")["acts"]
    assert (act["act"], act["before"]) == ("edited", None)
    assert at_work.json("passes")["pauses"] == []
