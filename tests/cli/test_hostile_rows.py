"""Unusual rows: a pass delivers each one unchanged or names its error, and delivers all others.

The tests run on both databases, each with the rows that it can store.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import timedelta
from math import inf
from random import Random
from typing import TYPE_CHECKING

import pytest

import retrycli
from retrycli.config.settings import BreakerSettings
from retrycli.operations import run_pass, wiring
from tests.cli.api import TAKES, Scripted
from tests.cli.application import Application
from tests.cli.command import Cli
from tests.conftest import on_both
from tests.gateway.deliveries import preset_file
from tests.gateway.hostile import SUCCEEDED, Hostile, answer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from retrycli.config.settings import Settings
    from tests.cli.application import Row
    from tests.store.conftest import Factory

pytestmark = on_both

TABLE = """
CREATE TABLE pending_messages (
    id BIGINT PRIMARY KEY, ticket_id TEXT, message_type TEXT, recipient_email TEXT, cc_emails JSON, bcc_emails JSON,
    subject TEXT, body TEXT, attachments JSON, confidence_score FLOAT, status TEXT, retry_count BIGINT, last_error TEXT,
    created_at DATETIME, updated_at DATETIME, sent_at DATETIME
);
"""
FAR_WEST, FAR_EAST = "EST12", "NZST-12"
"""Time zones in which the first and the last time of the calendar have no local time."""
FIRST, LAST = 2**63 - 10, 2**63 - 1
YEAR_1, YEAR_9999, DEEP = 11, 12, 30

USABLE: dict[int, Row] = {
    1: {},
    2: {"body": "ü" * 5_000_000},
    3: {"subject": "\u202e\x1b[2J\x9b31m", "body": "\x1b]0;title\x07\u2066 \x7f\x01"},
    4: {"subject": "Re: x\r\nBcc: eve@example.com", "recipient_email": "ana@example.com\r\nBcc: eve@example.com"},
    5: {"last_error": "e" * 1_000_000},
    6: {"cc_emails": json.dumps([[[{"name": "\u202eana"}]]])},
    7: {"confidence_score": float("inf")},
    8: {"cc_emails": "[" * 400 + "]" * 400},
    0: {},
    -1: {},
    FIRST: {},
    LAST: {},
    YEAR_1: {"created_at": "0001-01-01 00:00:00", "updated_at": "0001-01-01 00:00:00"},
    YEAR_9999: {"created_at": "9999-12-31 23:59:59", "updated_at": "9999-12-31 23:59:59"},
}
UNUSABLE: dict[int, tuple[Row, str]] = {
    DEEP: ({"cc_emails": "[" * 10_000 + "]" * 10_000}, "cc_emails is not valid JSON"),
    31: ({"cc_emails": f"[{'9' * 5_000}]"}, "cc_emails is not valid JSON"),
    32: ({"bcc_emails": '["\\ud800"]'}, "bcc_emails is not valid UTF-8"),
    33: ({"message_type": "\x1b[2J" * 10_000}, r"message_type must be one of customer, supplier, internal: '\x1b[2J"),
    34: ({"retry_count": -(2**63)}, "retry_count must not be negative: -9223372036854775808"),
    35: ({"attachments": '{"a": 1}'}, "attachments must be a JSON list"),
    36: ({"created_at": "infinity"}, "created_at is not a valid date: 'infinity'"),
    37: (
        {"ticket_id": Random(0).randbytes(4_000).hex()},
        "ticket_id must have at most 255 characters; it has 8,000",
    ),  # random, because PostgreSQL could compress other texts
}
ONLY_SQLITE: dict[int, tuple[Row, str]] = {
    40: ({"body": b"\xff\x00"}, "body must be text"),
    41: ({"retry_count": "many"}, "retry_count must be an integer: 'many'"),
    42: ({"retry_count": b"\x01"}, "retry_count must be an integer"),
    43: ({"ticket_id": b"\xff"}, "ticket_id must be an integer or text"),
    44: ({"created_at": b"\xff"}, "created_at is not a valid date"),
    45: ({"created_at": "9999-12-31 23:59:59-12:00"}, "created_at is not a valid date"),
    46: ({"cc_emails": "[NaN]"}, "cc_emails is not valid JSON"),
}
ONLY_POSTGRESQL: dict[int, tuple[Row, str]] = {
    40: ({"created_at": "-infinity"}, "created_at is not a valid date: '-infinity'"),
    41: ({"created_at": "294276-12-31"}, "created_at is not a valid date: '294276-12-31 00:00:00'"),
    42: ({"updated_at": "0044-03-15 BC"}, "updated_at is not a valid date: '0044-03-15 00:00:00 BC'"),
}
ALSO_USABLE: dict[bool, dict[int, Row]] = {
    True: {
        50: {"subject": "\0", "body": "one\0two", "confidence_score": inf},
        51: {"last_error": b"\xff\0\x1b", "confidence_score": b"\xff"},
    },
    False: {50: {"sent_at": "infinity", "confidence_score": "NaN"}},
}
"""Usable rows that only one database can store: SQLite (True) or PostgreSQL (False)."""
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Scene:
    """The application's database after a pass during an outage of the API."""

    application: Application
    usable: Mapping[int, Row]
    unusable: Mapping[int, tuple[Row, str]]

    def settings(self, api: str) -> Settings:
        """Return settings whose breaker never opens, so that a pass attempts every message."""
        return self.application.settings(api).model_copy(update={"breaker": BreakerSettings(failures=1000)})


@pytest.fixture(scope="module")
def scene(engine: Factory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with engine(tmp_path_factory.mktemp("rows"), None) as url:
        application = Application(url, tables=TABLE)
        made = Scene(
            application,
            USABLE | ALSO_USABLE[application.is_sqlite],
            UNUSABLE | (ONLY_SQLITE if application.is_sqlite else ONLY_POSTGRESQL),
        )
        for message_id, row in [*made.usable.items(), *((bad, row) for bad, (row, _) in made.unusable.items())]:
            application.add(message_id, hours_ago=3, **{"ticket_id": f"T{message_id}", **row})
        with Hostile(answer(503, b'{"error":' + b"[" * 10_000)) as down:
            retrycli.run_once(made.settings(down.url))
        yield made
        application.lock.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def cli(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return Cli(tmp_path_factory.mktemp("looks"), {**scene.application.variables("http://127.0.0.1:9"), "TZ": FAR_WEST})


def check_looks(cli: Cli, *looks: str) -> None:
    """Check that commands succeed piped, as JSON and on a terminal, and print no control characters."""
    as_json = {look: f"{look} --json" for look in looks}
    shown = cli.show_all(piped=[*looks, *as_json.values()], on_terminal=looks)
    for look, done in shown.piped.items():
        assert (done.returncode, done.stderr) == (0, ""), look
        assert all(char.isprintable() or char in "\t\n" for char in done.stdout), look
    for look in looks:
        shown.json(as_json[look])
        screen = shown.screens[look]
        assert screen.returncode == 0, (look, screen.text)
        assert all(char.isprintable() or char in "\r\n" for char in COLOURS.sub("", screen.raw)), look


def test_commands_show_hostile_rows_escaped(cli: Cli) -> None:
    check_looks(cli, "list-failed", "escalations", "status", f"show {YEAR_1}", "show 50")
    check_looks(cli.having({"TZ": FAR_EAST}), f"explain {YEAR_9999}")


def test_reports_hostile_rows(cli: Cli) -> None:
    done = cli("report", "--html", "report.html")
    assert (done.returncode, done.stderr) == (0, "")
    page = (cli.cwd / "report.html").read_text(encoding="utf-8")
    assert all(char.isprintable() or char == "\n" for char in page)


def test_a_time_of_any_year_is_utc_in_any_local_time_zone(cli: Cli) -> None:
    """PostgreSQL returns a time and SQLite a text, and both are read as UTC. An invalid value is null in a list."""
    listed = {message["id"]: message for message in cli.json("list-failed")["messages"]}
    times = [listed[number]["created_at"] for number in (YEAR_1, YEAR_9999, 36)]
    assert times == ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", None]
    assert listed[33]["max_retries"] is None
    assert cli.json("show", str(YEAR_9999))["message"]["created_at"] == "9999-12-31T23:59:59Z"
    assert cli.json("show", "36")["message"]["created_at"] == "infinity"


def test_unusable_rows_are_escalated_and_named(scene: Scene) -> None:
    errors = dict(scene.application.asked("SELECT id, last_error FROM pending_messages WHERE id BETWEEN 30 AND 49"))
    own = scene.application.rows("retrycli_queue")
    for message_id, (_, problem) in scene.unusable.items():
        assert errors[message_id].startswith(f"Can't be sent: {problem}")
        assert (own[message_id]["state"], own[message_id]["escalation_reason"]) == ("escalated", "invalid")


def test_all_other_rows_are_delivered_unchanged(scene: Scene, cli: Cli) -> None:
    """Each message waits after the failure; a day later it is due, and its whole content arrives."""
    waiting = {message["id"] for message in cli.json("list-failed")["messages"] if message["state"] == "waiting"}
    assert waiting == set(scene.usable)
    tomorrow = replace(wiring.DEFAULT_RUNTIME, now=lambda: wiring.utc_now() + timedelta(days=1))
    with Hostile(answer(200, SUCCEEDED)) as server:
        done = run_pass.run_once(scene.settings(server.url), runtime=tomorrow)
    assert (done.sent, done.escalated) == (len(scene.usable), 0)
    arrived = {request.path: json.loads(request.body) for request in server.requests}
    for message_id, row in scene.usable.items():
        content = arrived.pop(f"/tickets/T{message_id}/messages")
        kept = {"subject": "Re: Invoice", "body": "It is attached.", "recipient_email": "ana@example.com"} | row
        assert content["subject"] == kept["subject"]
        assert content["body"] == kept["body"]
        assert content["recipient"] == kept["recipient_email"]
        assert content["cc"] == json.loads(str(row.get("cc_emails", "[]")))
    assert not arrived


FILES = """
[messages.customer]
path = "/messages"
encoding = "multipart"
body = { text = "{body}" }
files = "files"
"""


def test_a_message_that_names_a_file_12_000_times_delays_no_pass(
    cli: Cli, application: Application, tmp_path: Path
) -> None:
    """A separate search for each of these names would delay all other messages."""
    (tmp_path / "a.txt").touch()
    gateway = {"PRESET": preset_file(tmp_path, FILES), "ATTACHMENTS_DIR": str(tmp_path)}
    settings = {f"RETRYCLI_GATEWAY__{name}": value for name, value in gateway.items()}
    application.add(1, attachments=json.dumps(["a.txt"] * 12_000))
    application.add(2)
    with Scripted(TAKES) as api:
        at_work = cli.having(application.variables(api.url) | settings)
        assert at_work.json("run-once")["sent"] == 1
    [found] = at_work.json("escalations")["escalations"]
    assert (found["id"], found["reason"]) == (1, "invalid")
    assert "12,000" in found["last_error"]
    assert len(api.paths) == 1
