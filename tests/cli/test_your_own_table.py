"""A table of another application: other names, an integer status, UUIDs as keys, and no count or error of its own."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.cli.api import BUSY, REJECTS, TAKES, Scripted
from tests.cli.application import Application
from tests.conftest import on_both

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.command import Cli
    from tests.store.conftest import Factory

pytestmark = on_both

TABLES = """
CREATE TABLE conversations (pk INTEGER PRIMARY KEY, number INTEGER NOT NULL);
CREATE TABLE "message outbox" (
    uid UUID PRIMARY KEY,
    conversation INTEGER NOT NULL REFERENCES conversations (pk),
    kind VARCHAR(10) NOT NULL,
    "to" TEXT,
    title TEXT,
    message TEXT,
    state INTEGER NOT NULL,
    created TIMESTAMP,
    delivered TIMESTAMP,
    lane VARCHAR(10) NOT NULL
);
INSERT INTO conversations VALUES (5, 4705), (6, 4706);
"""
SETTINGS = """
[database]
table = "message outbox"
where = "lane = 'desk'"

[database.columns]
id = "uid"
ticket_id = { sql = "(SELECT c.number FROM conversations c WHERE c.pk = conversation)" }
message_type = { from = "kind", map = { mail = "customer", memo = "internal" } }
recipient_email = { from = "to", split = "," }
subject = "title"
body = "message"
status = "state"
retry_count = { own = true }
last_error = { own = true }
created_at = "created"
sent_at = "delivered"

[database.status]
failed = 3
sent = 2
rejected = 4
"""
FAILED, SENT, REJECTED = 3, 2, 4


class Outbox:
    """The application's table, and the command with the settings for it."""

    def __init__(self, url: str, folder: Path, cli: Cli) -> None:
        self.application = Application(url, tables=TABLES if url.startswith("postgresql") else in_sqlite(TABLES))
        file = folder / "retrycli.toml"
        file.write_text(SETTINGS, encoding="utf-8")
        self._cli = cli
        self._number = 0

    def with_api(self, api: Scripted) -> Cli:
        return self._cli.having(self.application.variables(api.url))

    def add(self, *, state: int = FAILED, conversation: int = 5, kind: str = "mail", lane: str = "desk") -> str:
        """Add a row, one second newer than the last one, and return its key."""
        self._number += 1
        key = str(uuid.uuid5(uuid.NAMESPACE_OID, str(self._number)))
        row: dict[str, object] = {
            "uid": key,
            "conversation": conversation,
            "kind": kind,
            '"to"': "Ana <ana@example.com>, lead@example.net",
            "title": "Re: Invoice",
            "message": f"It is attached ({self._number}).",
            "state": state,
            "created": f"2026-03-03 08:{self._number // 60:02}:{self._number % 60:02}",
            "lane": lane,
        }
        self.application.insert('"message outbox"', [row])
        return key

    def row(self, key: str) -> dict[str, object]:
        return {str(uid): row for uid, row in self.application.rows('"message outbox"').items()}[key]


def in_sqlite(tables: str) -> str:
    return tables.replace("UUID", "CHAR(36)")


@pytest.fixture
def outbox(engine: Factory, tmp_path: Path, cli: Cli) -> Iterator[Outbox]:
    with engine(tmp_path, None) as url:
        made = Outbox(url, tmp_path, cli)
        yield made
        made.application.lock.unlink(missing_ok=True)


def listed(command: Cli, *options: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(command("list-failed", "--json", *options).stdout)["messages"]
    return found


def test_failed_messages_are_delivered_to_the_tickets_that_the_settings_name(outbox: Outbox) -> None:
    first, other, _ = outbox.add(), outbox.add(conversation=6, kind="memo"), outbox.add(state=1)
    elsewhere = outbox.add(lane="sms")
    with Scripted(TAKES) as api:
        done = outbox.with_api(api)("--debug", "run-once")
        assert done.returncode == 0, done.stderr
        assert sorted(api.paths) == sorted(api.paths[:2])
        assert all("4705" in path or "4706" in path for path in api.paths)
    assert [outbox.row(key)["state"] for key in (first, other, elsewhere)] == [SENT, SENT, FAILED]
    assert outbox.row(first)["delivered"] is not None


def test_the_oldest_message_of_a_ticket_is_sent_first(outbox: Outbox) -> None:
    keys = [outbox.add() for _ in range(12)]
    with Scripted(BUSY) as api:
        command = outbox.with_api(api)
        assert [message["id"] for message in listed(command, "--sort", "id")] == keys


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


def test_a_message_is_escalated_after_its_retries_and_requeued(outbox: Outbox) -> None:
    key = outbox.add()
    with Scripted(BUSY) as api:
        command = outbox.with_api(api)
        command.having({"RETRYCLI_SCHEDULE__MAX_RETRIES": "1"})("run-once")
        [escalated] = json.loads(command("escalations", "--json").stdout)["escalations"]
        assert (escalated["id"], escalated["ticket_id"], escalated["reason"]) == (key, 4705, "exhausted")
        assert str(escalated["last_error"]).startswith("Max retries (1) exceeded.")
        assert json.loads(command("requeue", key, "--json").stdout)["done"] == 1
        [message] = listed(command)
    assert (message["state"], message["retry_count"]) == ("waiting", 0)


def test_a_rejected_message_can_be_taken_back(outbox: Outbox) -> None:
    key = outbox.add()
    with Scripted(BUSY) as api:
        command = outbox.with_api(api)
        assert command("reject", key, "--reason", "no longer true", "--yes").returncode == 0
        assert outbox.row(key)["state"] == REJECTED
        assert listed(command) == []
        assert command("requeue", key).returncode == 0
        assert outbox.row(key)["state"] == FAILED
        assert [message["id"] for message in listed(command)] == [key]


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


def test_texts_name_the_key(outbox: Outbox) -> None:
    key, sent = outbox.add(), outbox.add(state=SENT)
    with Scripted(REJECTS) as api:
        command = outbox.with_api(api)
        done = command("run-once")
        assert key in done.stderr
        assert f"message {sent} is sent" in command("retry", sent).stderr
        assert "no message tea" in command("retry", "tea").stderr
        assert json.loads(command("explain", key, "--json").stdout)["id"] == key


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


def test_a_hold_covers_a_message_by_its_key(outbox: Outbox) -> None:
    held, free = outbox.add(), outbox.add(conversation=6)
    with Scripted(TAKES) as api:
        command = outbox.with_api(api)
        assert command("pause", "--message", held).returncode == 0
        command("run-once")
        assert [outbox.row(key)["state"] for key in (held, free)] == [FAILED, SENT]
        assert command("resume", "--message", held).returncode == 0
        command("run-once")
    assert outbox.row(held)["state"] == SENT


def test_bulk_actions_reach_messages_by_a_filter(outbox: Outbox) -> None:
    keys = [outbox.add() for _ in range(3)]
    with Scripted(BUSY) as api:
        command = outbox.with_api(api)
        command("run-once")
        done = json.loads(command("reject", "--ticket", "4705", "--reason", "x", "--yes", "--json").stdout)
    assert (done["done"], done["refused"]) == (3, [])
    assert {outbox.row(key)["state"] for key in keys} == {REJECTED}


def test_a_status_that_the_table_lacks_is_not_written(outbox: Outbox, tmp_path: Path) -> None:
    key = outbox.add()
    file = tmp_path / "retrycli.toml"
    file.write_text(SETTINGS.replace("rejected = 4\n", ""), encoding="utf-8")
    with Scripted(BUSY) as api:
        refused = outbox.with_api(api)("reject", key, "--reason", "x", "--yes")
    assert refused.returncode == 4
    assert "database.status.rejected" in refused.stderr
    assert outbox.row(key)["state"] == FAILED


def test_failed_messages_among_many_are_found_by_the_first_pass(outbox: Outbox) -> None:
    table = '"message outbox"'
    outbox.application.execute(f"CREATE INDEX by_time ON {table} (created)")
    series = (
        "generate_series(1, 16000) AS n"
        if not outbox.application.is_sqlite
        else "(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 16000) SELECT n FROM c)"
    )
    key = "CAST(md5(CAST(n AS text)) AS uuid)" if not outbox.application.is_sqlite else "lower(hex(randomblob(16)))"
    outbox.application.execute(
        f"INSERT INTO {table} (uid, conversation, kind, state, created, lane) "
        f"SELECT {key}, 5, 'mail', {SENT}, '2026-03-02 08:00:00', 'desk' FROM {series}"
    )
    old = outbox.add()
    outbox.application.execute(f"UPDATE {table} SET created = '2025-01-01 00:00:00' WHERE message LIKE '%(1)%'")
    new = outbox.add()
    with Scripted(TAKES) as api:
        assert outbox.with_api(api)("run-once").returncode == 0
    assert [outbox.row(key)["state"] for key in (old, new)] == [SENT, SENT]


def test_a_large_table_without_an_order_is_an_error(outbox: Outbox) -> None:
    table = '"message outbox"'
    rows = [
        {
            "uid": str(uuid.uuid5(uuid.NAMESPACE_URL, str(n))),
            "conversation": 5,
            "kind": "mail",
            "state": SENT,
            "lane": "desk",
        }
        for n in range(15_001)
    ]
    outbox.application.insert(table, rows)
    outbox.add()
    with Scripted(TAKES) as api:
        command = outbox.with_api(api)
        refused = command("run-once")
        assert refused.returncode == 78
        assert "retrycli db index" in refused.stderr
        assert command("db", "index", "--yes").returncode == 0
        assert command("run-once").returncode == 0
        assert len(api.paths) == 1
