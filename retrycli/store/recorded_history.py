"""Read the history of a period for a replay: passes, attempts and messages that were never attempted."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, String, cast, select

from retrycli.domain.history_reader import HistoryReader
from retrycli.domain.identity import birth_of
from retrycli.domain.recorded_history import RecordedAttempt, RecordedPass
from retrycli.store.bulk import id_in
from retrycli.store.database import Queries
from retrycli.store.delivery_stats import DISORDER, first_id
from retrycli.store.schema import attempts, passes, queue

# Number of rows that one transaction reads, so that no transaction blocks the application for long.
PAGE = 10_000
LOWEST_ID = -(2**63)  # the lowest 64-bit integer, assumed to be lower than all ids


class HistoryQueries(Queries):
    """Read the history of a period page by page, each page in a short transaction."""

    def passes(self, since: datetime) -> list[RecordedPass]:
        """Return the passes that began at or after a given time, the first one first."""
        p = passes.c
        found = select(p.id, p.started_at, p.result, p.reason).where(p.started_at >= since)
        return [RecordedPass(*row) for row in self._database.rows(found.order_by(p.started_at, p.id))]

    @property
    def has_times(self) -> bool:
        """Return whether the application's table has creation or update times."""
        return not {"created_at", "updated_at"}.isdisjoint(self._database.messages.c.keys())

    def read_into(self, reader: HistoryReader, since: datetime) -> None:
        """Let a reader read the attempts since a given time, and then the messages in the queue."""
        for page in self._attempts(since):
            types = self._types([row.message_id for row in page if row.message_type is None])
            for row in page:
                attempt = RecordedAttempt._make(row[1:])
                if attempt.message_type is None and attempt.message_id in types:
                    message_type, ticket = types[attempt.message_id]
                    attempt = attempt._replace(message_type=message_type, ticket=ticket)
                reader.add(attempt)
        for page in self._queued(since):
            types = self._types([row.message_id for row in page])
            for row in page:
                reader.add_untried(
                    row.message_id,
                    None if row.birth is None else birth_of(row.birth),
                    types[row.message_id][0] if row.message_id in types else None,
                    ticket=row.ticket,
                    first_failed_at=row.first_failed_at,
                    reason=row.escalation_reason,
                )

    def _attempts(self, since: datetime) -> Iterator[Sequence[Row[Any]]]:
        a = attempts.c
        names = ("id", *RecordedAttempt._fields)
        with self._database.read() as connection:
            first = first_id(connection, since - DISORDER)
        return self._pages(select(*(a[name] for name in names)).where(a.started_at >= since), a.id, first - 1)

    def _queued(self, since: datetime) -> Iterator[Sequence[Row[Any]]]:
        q = queue.c
        found = select(q.message_id, q.birth, q.ticket, q.first_failed_at, q.escalation_reason)
        return self._pages(found.where(q.first_failed_at >= since), q.message_id, LOWEST_ID)

    def _pages(self, found: Select[Any], key: ColumnElement[int], after: int) -> Iterator[Sequence[Row[Any]]]:
        while page := self._database.rows(found.where(key > after).order_by(key).limit(PAGE)):
            after = page[-1][0]
            yield page

    def _types(self, ids: Sequence[int]) -> Mapping[int, tuple[str, str]]:
        """Return the current type and ticket of messages, by id. Old attempts and the queue do not store the type."""
        if not ids:
            return {}
        m = self._database.messages.c
        found = select(m.id, cast(m.message_type, String), cast(m.ticket_id, String)).where(id_in(m.id))
        with self._database.read() as connection:
            rows = connection.execute(found, {"ids": list(dict.fromkeys(ids))})
            return {message_id: (message_type, ticket) for message_id, message_type, ticket in rows}
