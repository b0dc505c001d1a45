"""Notice rows that have another birth at each pass, although their text stays the same.

Such a row would be a new message at each pass: never due, so never sent and never escalated. A table or an expression
that gives another creation time to each read causes this.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from retrycli.domain.identity import REBIRTHS, UNSTABLE, birth_of, digest_of
from retrycli.domain.message import Message, UnusableMessage
from retrycli.store import own_tables
from retrycli.store.bulk import id_in
from retrycli.store.database import Database
from retrycli.store.identity import delivery_key, identifying, is_same
from retrycli.store.messages import message_of

Rows = Sequence[Mapping[str, Any]]


class Rebirths:
    """The rows in a range of ids that have another birth than their queue rows."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._found: dict[int, tuple[int, str]] = {}  # passes in a row, and the digest, by id

    def replaced(self, connection: Connection, rows: Rows) -> set[int]:
        """Return the ids of failed rows that belong to other messages than the queue rows with their ids. Read the
        texts of rows with another birth.
        """
        reborn = {row["message_id"]: row for row in rows if row["birth"] == UNSTABLE or not is_same(row)}
        if not reborn:
            return set()
        by_text = own_tables.births_differ(self._database)  # their births can't be compared
        m = self._database.messages
        texts = connection.execute(select(m.c.id, *identifying(m)).where(id_in(m.c.id)), {"ids": list(reborn)})
        replaced: set[int] = set()
        for text in texts.mappings():
            row, digest = reborn[text["id"]], digest_of(dict(text))
            if not (by_text or row["birth"] == UNSTABLE) or row["digest"] != digest:
                before = (row["rebirths"] or 0) if row["digest"] == digest else 0
                self._found[text["id"]] = before + 1, digest
                replaced.add(text["id"])
        return replaced

    def message_of(self, row: Mapping[str, Any]) -> Message | UnusableMessage:
        """Build a message from a row: an `UnusableMessage` if it had another birth at `REBIRTHS` passes in a row."""
        number, _ = self._found.get(row["id"], (0, ""))
        if number < REBIRTHS:
            return message_of(row)
        column = "created_at" if "created_at" in row else "ticket_id"
        problem = f"{column} was different at {REBIRTHS} passes in a row, although the text was the same"
        return UnusableMessage.from_row(row, problem)

    def values(self, message_id: int, birth: str) -> dict[str, Any]:
        """Return what the queue row of a message stores about these births, which the next pass reads."""
        if message_id not in self._found:
            return {}
        number, digest = self._found[message_id]
        birth = birth if number < REBIRTHS else UNSTABLE
        key = delivery_key(message_id, birth_of(birth), digest, 0)
        return {"birth": birth, "digest": digest, "delivery_key": key, "rebirths": number}
