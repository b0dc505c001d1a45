"""The table of another application: other names, an integer status, UUIDs as keys, and no count or error of its own."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from tests.cli.application import Application

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.api import Scripted
    from tests.cli.command import Cli

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
        return self.rows()[key]

    def rows(self) -> dict[str, dict[str, object]]:
        """Return all rows by their keys."""
        return {str(uid): row for uid, row in self.application.rows('"message outbox"').items()}


def in_sqlite(tables: str) -> str:
    return tables.replace("UUID", "CHAR(36)")
