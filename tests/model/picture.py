"""Snapshots of the database, read with the tests' own SQL over a connection of the application."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from retrycli.domain.transition import OF_HOLDS

if TYPE_CHECKING:
    from tests.store.application import Application

Row = Mapping[str, Any]

SKIPS, REFUSES, DROPS = 13, 14, 15
STUBBORN = {SKIPS, REFUSES}
"""Values of the application's column ``draft_of``. A trigger silently skips or refuses every change to a row with such
a value, except a change to ``draft_of``. It deletes a row with the value `DROPS` when the row is marked as sent.
"""

TABLES = {
    "rows": ("pending_messages", "id"),
    "tickets": ("ticket_states", "ticket_id"),
    "queue": ("retrycli_queue", "message_id"),
    "attempts": ("retrycli_attempts", "id"),
    "acts": ("retrycli_acts", "id"),
    "passes": ("retrycli_passes", "id"),
    "breakers": ("retrycli_breakers", "destination"),
}
READ = {name: (text(f"SELECT * FROM {table} ORDER BY {key}"), key) for name, (table, key) in TABLES.items()}


@dataclass(frozen=True)
class Picture:
    """All rows of the tables, by their keys."""

    rows: Mapping[int, Row] = field(default_factory=dict)
    tickets: Mapping[int, Row] = field(default_factory=dict)
    queue: Mapping[int, Row] = field(default_factory=dict)
    attempts: Mapping[int, Row] = field(default_factory=dict)
    acts: Mapping[int, Row] = field(default_factory=dict)
    passes: Mapping[str, Row] = field(default_factory=dict)
    breakers: Mapping[str, Row] = field(default_factory=dict)

    @property
    def failed(self) -> set[int]:
        return {message_id for message_id, row in self.rows.items() if row["status"] == "failed"}

    @property
    def stubborn(self) -> set[int]:
        """Return the failed messages whose rows a trigger protects from changes."""
        return {message_id for message_id in self.failed if self.rows[message_id]["draft_of"] in STUBBORN}

    @property
    def is_down(self) -> bool:
        """Return whether a stored breaker is open."""
        return any(row["state"] == "open" for row in self.breakers.values())

    def was_rejected_by(self, operator: str, message_id: int) -> bool:
        """Return whether a message's last change is its rejection by an operator, which `requeue` may revert."""
        row = self.rows.get(message_id)
        if row is None:  # a queued message may have lost its row
            return False
        own = [act["act"] for act in self.acts.values() if act["message_id"] == message_id]
        acts = [act for act in own if act not in OF_HOLDS]
        is_theirs = str(row["last_error"]).startswith(f"Rejected by {operator}: ")
        return row["status"] == "rejected" and is_theirs and acts[-1:] == ["rejected"] and message_id not in self.queue

    def is_taken_for_ours(self, attempt: Row) -> bool:
        """Return whether an attempt's answer helped to stop its pass, and so does not concern its message."""
        the_pass = self.passes.get(attempt["pass_id"])
        return (
            the_pass is not None
            and the_pass["reason"] in {"credentials_refused", "same_answer"}
            and attempt["status_code"] in {403, 404}
        )

    def in_state(self, *states: str) -> set[int]:
        return {message_id for message_id, row in self.queue.items() if row["state"] in states}

    def attempts_of(self, message_id: int) -> list[Row]:
        """Return one message's attempts, oldest first."""
        return [row for row in self.attempts.values() if row["message_id"] == message_id]

    def births_under(self, key: object) -> set[object]:
        """Return the births of the attempts with a delivery key."""
        return {row["birth"] for row in self.attempts.values() if row["delivery_key"] == key}

    def newest_text(self, message_id: int) -> str | None:
        """Return the delivery key of a message's newest attempt."""
        return next((row["delivery_key"] for row in reversed(self.attempts_of(message_id))), None)

    def finished_since(self, before: Picture) -> dict[int, list[Row]]:
        """Return the attempts that received an outcome after an earlier snapshot, by message."""
        found: dict[int, list[Row]] = {}
        for number, row in self.attempts.items():
            if row["outcome"] is not None and (
                number not in before.attempts or before.attempts[number]["outcome"] is None
            ):
                found.setdefault(row["message_id"], []).append(row)
        return found


def take(application: Application) -> Picture:
    with application._engine.connect() as connection:
        return Picture(
            **{
                name: {row[key]: dict(row) for row in connection.execute(statement).mappings()}
                for name, (statement, key) in READ.items()
            }
        )


def time_of(value: object) -> datetime:
    """Convert a stored time to an aware one in UTC. SQLite returns times as text."""
    found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
