"""A table of another application: other names, an integer status, UUIDs as keys, and no count or error of its own."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.api import BUSY, FORBIDS, TAKES, Scripted
from tests.cli.outbox import FAILED, REJECTED, SENT, SETTINGS, Outbox
from tests.conftest import on_both, on_sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrycli.operations.sandbox import Answer
    from tests.cli.command import Cli
    from tests.store.conftest import Factory

pytestmark = on_both

TABLE = '"message outbox"'


@pytest.fixture
def outbox(engine: Factory, tmp_path: Path, cli: Cli) -> Iterator[Outbox]:
    with engine(tmp_path, None) as url:
        made = Outbox(url, tmp_path, cli)
        accepted = cli.having(made.application.variables("http://127.0.0.1:9"))("table", "accept", "--yes")
        assert accepted.returncode == 0, accepted.stderr
        yield made
        made.application.lock.unlink(missing_ok=True)


def listed(command: Cli, *options: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(command("list-failed", "--json", *options).stdout)["messages"]
    return found


def test_failed_messages_are_delivered_to_the_tickets_that_the_settings_name(outbox: Outbox) -> None:
    first, other, _ = outbox.add(), outbox.add(conversation=6, kind="memo"), outbox.add(state=1)
    elsewhere = outbox.add(lane="sms")
    with Scripted(TAKES) as api:
        found = outbox.with_api(api).json("table", "check")
        done = outbox.with_api(api)("--debug", "run-once")
        assert done.returncode == 0, done.stderr
        assert sorted(api.paths) == ["/tickets/4705/messages", "/tickets/4706/notes"]
    assert [outbox.row(key)["state"] for key in (first, other, elsewhere)] == [SENT, SENT, FAILED]
    assert outbox.row(first)["delivered"] is not None
    told = {finding["name"]: (finding["level"], finding["found"]) for finding in found["findings"]}
    assert told["status"] == ("ok", "the statuses of all 4 rows: 3 ×3, 1 ×1")
    assert told["where"][1].startswith("1 failed row does not meet database.where")
    assert told["writing"][1].startswith("the database accepts changes of state, delivered")
    assert told["accepted"][0] == "ok"


def test_an_operator_acts_on_messages_by_their_keys(outbox: Outbox, tmp_path: Path) -> None:
    """The key appears in texts, and a prefix of at least eight characters stands for it."""
    key, sent, held = outbox.add(), outbox.add(state=SENT), outbox.add(conversation=6)
    with Scripted(BUSY, TAKES) as api:
        command = outbox.with_api(api)
        assert f"message {sent} is sent" in command("retry", sent).stderr
        assert "no message tea" in command("retry", "tea").stderr
        assert command("pause", "--message", held).returncode == 0
        done = command.having({"RETRYCLI_SCHEDULE__MAX_RETRIES": "1"})("run-once")
        assert key in done.stderr
        [escalated] = command.json("escalations")["escalations"]
        assert (escalated["id"], escalated["ticket_id"], escalated["reason"]) == (key, 4705, "exhausted")
        assert str(escalated["last_error"]).startswith("Max retries (1) exceeded.")
        assert command.json("requeue", key)["done"] == 1
        message = next(message for message in listed(command) if message["id"] == key)
        assert (message["state"], message["retry_count"]) == ("waiting", 0)
        assert command.json("reject", "--ticket", "4705", "--reason", "x", "--yes")["done"] == 1
        assert outbox.row(key)["state"] == REJECTED
        assert command("requeue", key).returncode == 0
        assert outbox.row(key)["state"] == FAILED
        assert command("resume", "--message", held).returncode == 0
        assert command.json("show", key[:8])["message"]["id"] == key
        assert command("show", key[:7]).returncode == 4
        assert command("retry", key[:10]).returncode == command("run-once").returncode == 0
        message = command.json("show", key)["message"]
        assert (message["retry_count"], message["last_error"]) == (0, None)
    assert [outbox.row(each)["state"] for each in (key, held)] == [SENT, SENT]
    twin = key[:8] + held[8:]
    outbox.application.execute('UPDATE "message outbox" SET uid = ?, state = 3 WHERE CAST(uid AS text) = ?', twin, held)
    refused = command("retry", key[:8])
    assert (refused.returncode, f"{key[:8]} is ambiguous" in refused.stderr) == (2, True)
    (tmp_path / "retrycli.toml").write_text(SETTINGS.replace("rejected = 4\n", ""), encoding="utf-8")
    refused = command("reject", twin, "--reason", "x", "--yes")
    assert (refused.returncode, "database.status.rejected" in refused.stderr) == (4, True)
    assert outbox.row(twin)["state"] == FAILED


@on_sqlite
@pytest.mark.parametrize("address", ["José <josé@example.com>", "(" * 3000])
def test_an_address_that_can_not_be_read_concerns_only_its_own_message(outbox: Outbox, address: str) -> None:
    broken, good = outbox.add(), outbox.add()
    outbox.application.execute('UPDATE "message outbox" SET "to" = ? WHERE uid = ?', address, broken)
    with Scripted(TAKES) as api:
        command = outbox.with_api(api)
        done = command("run-once")
        assert done.returncode == 0, done.stderr
        [left] = listed(command)
        assert left["last_error"] == "Can't be sent: recipient_email has an address that can't be read"
    assert [outbox.row(key)["state"] for key in (broken, good)] == [FAILED, SENT]


def test_counts_and_errors_are_kept_where_the_table_has_no_columns_for_them(outbox: Outbox) -> None:
    key = outbox.add()
    before = outbox.row(key)
    with Scripted(BUSY) as api:
        command = outbox.with_api(api)
        assert command("run-once").returncode == 0
        [message] = listed(command)
    assert (message["id"], message["retry_count"]) == (key, 1)
    assert "503" in str(message["last_error"])
    assert outbox.row(key) == before


def write_again(outbox: Outbox, key: str, text: str) -> None:
    outbox.application.execute('UPDATE "message outbox" SET message = ?, state = ? WHERE uid = ?', text, FAILED, key)


def make_due(outbox: Outbox) -> None:
    outbox.application.execute(
        "UPDATE retrycli_queue SET next_attempt_at = '2026-01-02 03:04:05' WHERE state = 'waiting'"
    )


def test_a_new_text_in_a_row_has_all_retries(outbox: Outbox) -> None:
    """The count that retrycli keeps belongs to the text, whether the earlier one was delivered or escalated."""
    key = outbox.add()
    with Scripted(BUSY, TAKES, BUSY, BUSY, BUSY) as api:
        command = outbox.with_api(api).having({"RETRYCLI_SCHEDULE__MAX_RETRIES": "2"})
        command("run-once")
        assert command("retry", key).returncode == 0
        for text in ("the second text", "the third text"):
            write_again(outbox, key, text)
            command("run-once")
            [message] = listed(command)
            assert (message["state"], message["retry_count"]) == ("waiting", 1)
            make_due(outbox)
            command("run-once")
            [message] = listed(command)
            assert (message["state"], message["retry_count"]) == ("escalated", 2)


@pytest.mark.parametrize(
    ("answers", "texts", "counts"),
    [
        ([BUSY], "abababa", [1, 1, 2, 2, 3, 3, 4]),
        ([BUSY], "aaaba", [1, 2, 3, 1, 4]),
        ([BUSY, BUSY, BUSY, BUSY, FORBIDS, BUSY], "abbbaa", [1, 1, 2, 3, 1, 2]),  # the fifth uses up no retry
        ([BUSY, BUSY, FORBIDS, BUSY], "aabb", [1, 2, 0, 1]),
    ],
)
def test_a_text_that_comes_back_has_the_count_of_its_own_attempts(
    outbox: Outbox, answers: list[Answer], texts: str, counts: list[int]
) -> None:
    key, found = outbox.add(), []
    with Scripted(*answers) as api:
        command = outbox.with_api(api).having({"RETRYCLI_SCHEDULE__MAX_RETRIES": "4"})
        for text in texts:
            write_again(outbox, key, text)
            make_due(outbox)
            command("run-once")
            [message] = listed(command)
            found.append(message["retry_count"])
    assert (found, message["state"]) == (counts, "escalated" if counts[-1] == 4 else "waiting")


def test_an_attempt_by_hand_at_another_text_does_not_make_an_escalated_message_wait(outbox: Outbox) -> None:
    """The attempt stores the count of the new text. Nobody but retrycli has changed it."""
    key = outbox.add()
    with Scripted(BUSY) as api:
        command = outbox.with_api(api)
        command("run-once")
        write_again(outbox, key, "another text")
        make_due(outbox)
        expiring = command.having({"RETRYCLI_SCHEDULE__EXPIRES_AFTER_HOURS": "1"})
        expiring("run-once")
        expiring("retry", key)
        [escalated] = listed(command)
        command("run-once")
        assert (escalated["state"], len(api.paths)) == ("escalated", 2)
        assert listed(command) == [escalated]


def test_a_row_whose_text_is_rendered_anew_at_each_failure_ends_as_exhausted(outbox: Outbox) -> None:
    key = outbox.add()
    with Scripted(BUSY) as api:
        command = outbox.with_api(api).having({"RETRYCLI_SCHEDULE__MAX_RETRIES": "2"})
        for number in range(8):
            write_again(outbox, key, f"text {number}")
            make_due(outbox)
            command("run-once")
        [message] = listed(command)
        assert (message["state"], len(api.paths)) == ("escalated", 6)
    assert "Max retries (2) exceeded" in str(message["last_error"])


def test_an_edited_text_begins_with_a_count_of_its_own_also_in_lists(outbox: Outbox) -> None:
    """The count is retrycli's. The earlier text has used up its retry, and the message waits with the new one."""
    key = outbox.add()
    with Scripted(BUSY) as api:
        command = outbox.with_api(api).having({"RETRYCLI_SCHEDULE__MAX_RETRIES": "1"})
        command("run-once")
        [escalated] = listed(command)
        assert (escalated["state"], escalated["retry_count"]) == ("escalated", 1)
        outbox.application.execute('UPDATE "message outbox" SET message = ?', "Another text")
        command("pause", "--message", key)
        command("run-once")
    [waiting] = listed(command)
    assert (waiting["id"], waiting["state"], waiting["retry_count"]) == (key, "waiting", 0)


def test_a_prefix_of_eight_characters_stands_for_an_id(outbox: Outbox) -> None:
    key = outbox.add()
    with Scripted(TAKES) as api:
        command = outbox.with_api(api)
        command("pause")
        command("run-once")
        assert json.loads(command("show", key[:8], "--json").stdout)["message"]["id"] == key
        assert command("show", key[:7]).returncode == 4
        assert command("retry", key[:10]).returncode == 0
    assert outbox.row(key)["state"] == SENT


@on_sqlite
def test_an_id_that_is_not_utf8_concerns_its_row_alone(outbox: Outbox) -> None:
    key = outbox.add()
    outbox.add()
    outbox.application.execute("UPDATE \"message outbox\" SET uid = CAST(x'61ff' AS TEXT) WHERE uid = ?", key)
    with Scripted(TAKES) as api:
        desk = outbox.with_api(api)
        done = desk.json("run-once")
        assert (done["sent"], done["escalated"]) == (1, 1)
    [message] = listed(desk)
    assert (message["id"], message["last_error"]) == (r"a\udcff", "Can't be sent: id is not valid UTF-8")


@on_sqlite
def test_an_id_of_bytes_is_refused_where_ids_are_text(outbox: Outbox) -> None:
    key = outbox.add()
    outbox.application.execute('UPDATE "message outbox" SET uid = CAST(uid AS BLOB) WHERE uid = ?', key)
    with Scripted(TAKES) as api:
        for command in ("run-once", "status", "doctor"):
            done = outbox.with_api(api)(command)
            assert done.returncode == (3 if command == "doctor" else 78)
            assert "a failed message whose uid is a BLOB, which no text equals" in done.stdout + done.stderr
        assert {*api.paths} <= {"/"}


def test_only_plain_columns_can_be_edited(outbox: Outbox) -> None:
    key = outbox.add()
    with Scripted(TAKES) as api:
        command = outbox.with_api(api)
        assert command("edit", key, "--subject", "Your invoice", "--yes").returncode == 0
        refused = command("edit", key, "--recipient", "max@example.org", "--yes")
    assert refused.returncode == 4
    assert "recipient_email" in refused.stderr
    assert (outbox.row(key)["title"], outbox.row(key)["to"]) == (
        "Your invoice",
        "Ana <ana@example.com>, lead@example.net",
    )


def made_at(outbox: Outbox, key: str, time: str | None) -> str:
    """Change the creation time of a row, and return its key."""
    outbox.application.execute(f"UPDATE {TABLE} SET created = ? WHERE CAST(uid AS text) = ?", time, key)
    return key


def test_failed_messages_among_many_are_found_by_the_first_pass_and_later_ones(outbox: Outbox) -> None:
    """An index by time shows the newest of 60,000 sent rows. The messages are older, as old, or have no time."""
    outbox.application.execute(f"CREATE INDEX by_time ON {TABLE} (created)")
    series, key = "generate_series(1, 60000) AS n", "CAST(md5(CAST(n AS text)) AS uuid)"
    if outbox.application.is_sqlite:
        numbers = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 60000) SELECT n FROM c"
        series, key = f"({numbers})", "lower(hex(randomblob(16)))"
    outbox.application.execute(
        f"INSERT INTO {TABLE} (uid, conversation, kind, state, created, lane) "
        f"SELECT {key}, 5, 'mail', {SENT}, '2026-03-02 08:00:00', 'desk' FROM {series}"
    )

    def add_old() -> list[str]:
        return [made_at(outbox, outbox.add(), time) for time in ("2025-01-01 00:00:00", None)]

    with Scripted(TAKES) as api:
        command = outbox.with_api(api)
        first = add_old() + [outbox.add() for _ in range(20)]
        assert {message["id"] for message in listed(command)} == set(first)
        assert command("run-once").returncode == 0
        rows = outbox.rows()
        assert str(rows[first[0]]["delivered"]) < str(rows[first[2]]["delivered"]), "the order of their ticket"
        later = [*add_old(), made_at(outbox, outbox.add(), "2026-03-02 08:00:00")]
        assert later[2] in {message["id"] for message in listed(command)}, "as old as the newest rows"
        assert command("run-once").returncode == command("run-once").returncode == 0
    rows = outbox.rows()
    assert {rows[key]["state"] for key in first + later} == {SENT}


@pytest.mark.databases("postgresql")
def test_an_id_is_found_in_any_spelling(outbox: Outbox) -> None:
    """In SQLite, UUIDs are text, and another text is another id."""
    key = outbox.add()
    with Scripted(TAKES) as api:
        command = outbox.with_api(api)
        for text in (key.upper(), key.replace("-", ""), key[:8].upper()):
            assert json.loads(command("show", text, "--json").stdout)["message"]["id"] == key, text


def test_a_large_table_without_an_order_is_an_error(outbox: Outbox) -> None:
    row = {"conversation": 5, "kind": "mail", "state": SENT, "lane": "desk"}
    keys = (str(uuid.uuid5(uuid.NAMESPACE_URL, str(n))) for n in range(15_001))
    outbox.application.insert(TABLE, [{"uid": key, **row} for key in keys])
    outbox.application.execute(f"CREATE INDEX by_lane ON {TABLE} (lower(lane))")  # an expression is no column
    outbox.add()
    with Scripted(TAKES) as api:
        command = outbox.with_api(api)
        refused = command("run-once")
        assert refused.returncode == 78
        assert "retrycli db index" in refused.stderr
        assert "retrycli db index" in command("table", "check").stdout
        assert command("db", "index", "--yes").returncode == 0
        assert command("run-once").returncode == 0
        assert len(api.paths) == 1
