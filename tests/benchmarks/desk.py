"""Generate a month of a large support desk: `python -m tests.benchmarks.desk URL [FAILED]`.

By default 100,000 messages have failed, and 1,000,000 attempts are recorded. Of five failed messages, three wait and
two are escalated. Three in four escalated messages share one cause. Ten messages have 1,000 attempts more than others.
Passes ran every 15 minutes, except for a few, and the ticketing API was down twice.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from typing import Any

from sqlalchemy import Engine, Table, create_engine

from retrycli.domain.identity import digest_of
from retrycli.store import own_tables, schema
from retrycli.store.database import Database
from tests.benchmarks.application import messages, tables

FAILED = 100_000
ONE_IN = 4  # one in four messages of the application's table has failed; of the others, one in fifty was rejected
TRIES = 7  # attempts at a failed message; any other has one, so that there are ten times as many attempts as failures
BUSY, BUSY_ATTEMPTS = 10, 1_000
TICKETS = 20_000
LATENCY = timedelta(milliseconds=230)
MONTH, TICK, HOUR = timedelta(days=31), timedelta(minutes=15), timedelta(hours=1)
DESTINATION = "http://desk.example.com"
KINDS = ("customer", "supplier", "customer", "internal")
BODY = "Dear customer, your order has left our house and will reach you within two days. " * 10
# The reason, the last error, and the share of the escalated messages, in per mille.
CAUSES = (
    ("exhausted", "Max retries (10) exceeded. Manual intervention required. Last error: HTTP 503", 750),
    ("permanent", "HTTP 422: recipient unknown", 120),
    ("unknown", "no response within 30 s", 60),
    ("invalid", "Can't be sent: cc_emails is not valid JSON", 30),
    ("changed", "The text was changed while it was being sent", 20),
)  # the remaining 20 per mille have a cause of their own
OVERLOADED, REFUSED = "HTTP 503: the upstream is overloaded", "ClientConnectorError: connection refused"
WAITING = (OVERLOADED, REFUSED, "no response within 30 s")
FAILURES = (
    ("transient", 503, OVERLOADED),
    ("unreachable", None, REFUSED),
    ("unknown", None, "no response within 30 s"),
    ("refused", 200, "refused: ticket {} is locked"),
)


@dataclass(frozen=True)
class Desk:
    """The size of the desk, and the time at which its month ends."""

    now: datetime
    failed: int = FAILED

    @property
    def rows(self) -> int:
        """Return the number of rows of the application's table."""
        return self.failed * ONE_IN

    @cached_property
    def outages(self) -> list[tuple[datetime, datetime]]:
        """Return the times at which the ticketing API was down."""
        return [(self.now - 12 * HOUR, self.now - 9 * HOUR), (self.now - 300 * HOUR, self.now - 291 * HOUR)]

    def is_down(self, at: datetime) -> bool:
        return any(begin <= at < end for begin, end in self.outages)

    def created_at(self, message_id: int) -> datetime:
        return self.now - MONTH + (MONTH - HOUR) * (message_id / self.rows)

    @staticmethod
    def ticket(message_id: int) -> int:
        return 4_000 + message_id * 7 % TICKETS


def example(number: int) -> int:
    """Return the id of a failed message: those below ``BUSY`` have 1,000 attempts each."""
    return (number + 1) * ONE_IN


def is_failed(message_id: int) -> bool:
    return message_id % ONE_IN == 0


def is_escalated(message_id: int) -> bool:
    return message_id // ONE_IN % 5 < 2


def _cause(message_id: int) -> tuple[str, str, str]:
    """Return the reason, the last error and the fingerprint of an escalated message."""
    place = message_id // ONE_IN * 397 % 1000
    for number, (reason, error, share) in enumerate(CAUSES):
        if place < share:
            return reason, error, f"{number:012x}"
        place -= share
    letters = "".join(chr(ord("a") + int(digit)) for digit in str(message_id))
    return "permanent", f"HTTP 422: unknown field {letters}", f"{message_id:012x}"


def _message(desk: Desk, message_id: int) -> tuple[object, ...]:
    """Return a row of the application's table."""
    status, error = "sent", None
    if is_failed(message_id):
        status = "failed"
        error = _cause(message_id)[1] if is_escalated(message_id) else WAITING[message_id // ONE_IN % len(WAITING)]
    elif message_id % 50 == 1:
        status = "rejected"
    at = desk.created_at(message_id)
    return (
        *(message_id, desk.ticket(message_id), *_text(message_id), status),
        *(0 if status == "sent" else TRIES, error, _seconds(at), _seconds(at)),
        *(_seconds(at) if status == "sent" else None, _recipient(message_id)),
    )


def _text(message_id: int) -> tuple[str, str, str]:
    return KINDS[message_id // ONE_IN % len(KINDS)], f"Re: order {message_id}", BODY if is_failed(message_id) else "Ok"


def _recipient(message_id: int) -> str:
    return f"customer{message_id}@example.com"


def _digest(message_id: int) -> str:
    kind, subject, body = _text(message_id)
    row = {"message_type": kind, "subject": subject, "body": body, "recipient_email": _recipient(message_id)}
    return digest_of(row)


def _queued(desk: Desk, message_id: int) -> dict[str, Any]:
    """Return the row of the queue as a pass would have written it."""
    created = desk.created_at(message_id)
    row = {
        "message_id": message_id,
        "delivery_key": _key(message_id),
        "first_failed_at": _micro(created),
        "unknown_count": 0,
        "ticket": str(desk.ticket(message_id)),
        "birth": _seconds(created),
        "digest": _digest(message_id),
    }
    if not is_escalated(message_id):
        number = message_id // ONE_IN  # one in a hundred is due now
        wait = number * timedelta(seconds=1) / 8 if number % 100 else -timedelta(seconds=number / 100)
        return {**row, "state": "waiting", "next_attempt_at": _micro(desk.now + wait)}
    reason, error, fingerprint = _cause(message_id)
    seen = {"seen_count": TRIES, "seen_error": error, "seen_updated_at": _seconds(created)}
    known = {"acknowledged_by": "anna", "acknowledged_at": _micro(desk.now)} if message_id % 3 else {}
    told = {
        "escalated_at": _micro(min(created + 9 * HOUR, desk.now)),
        "escalation_reason": reason,
        "fingerprint": fingerprint,
    }
    return {**row, **seen, **known, **told, "state": "escalated"}


OF_ATTEMPTS = (
    *("message_id", "pass_id", "number", "made_by", "started_at", "finished_at", "outcome", "status_code", "error"),
    *("duration_ms", "waited_s", "birth", "delivery_key", "digest", "ticket", "message_type", "destination"),
)


def _attempts(desk: Desk) -> Iterator[tuple[object, ...]]:
    """Yield the values of `OF_ATTEMPTS` of all attempts in the order of their starts, as their ids are."""
    made: dict[int, int] = {}
    identity = lru_cache(maxsize=10_000)(_identity)  # a message's attempts are close to each other
    for at, message_id in sorted(start for start in _starts(desk) if start[0] <= desk.now):
        made[message_id] = number = made.get(message_id, 0) + 1
        if is_failed(message_id):
            outcome, status, text = FAILURES[1 if desk.is_down(at) else (message_id + number) % len(FAILURES)]
            error = text.format(message_id)
        else:
            outcome, status, error = "delivered", 200, None
        yield (
            *(message_id, _pass_id(at), number, "pass", _micro(at), _micro(at + LATENCY), outcome, status, error),
            *(230, number * 900, *identity(desk, message_id)),
        )


def _identity(desk: Desk, message_id: int) -> tuple[str, ...]:
    """Return the last six values of `OF_ATTEMPTS`."""
    birth, kind = _seconds(desk.created_at(message_id)), KINDS[message_id // ONE_IN % len(KINDS)]
    return birth, _key(message_id), _digest(message_id), str(desk.ticket(message_id)), kind, DESTINATION


def _starts(desk: Desk) -> Iterator[tuple[datetime, int]]:
    """Yield the start and the message of each attempt."""
    for message_id in range(1, desk.rows + 1):
        for tried in range(TRIES if is_failed(message_id) else 1):
            yield desk.created_at(message_id) + tried * tried * TICK, message_id
    for number in range(BUSY * BUSY_ATTEMPTS):
        yield desk.now - (MONTH - HOUR) * (number / (BUSY * BUSY_ATTEMPTS)), example(number % BUSY)


def _passes(desk: Desk) -> Iterator[dict[str, Any]]:
    """Yield a pass for each tick, except for two of each 400."""
    for number in range(MONTH // TICK):
        at = datetime.fromtimestamp((desk.now - number * TICK).timestamp() // 900 * 900, UTC)
        if number % 400 in {130, 131}:
            continue
        down = desk.is_down(at)
        counts = dict.fromkeys(("sent", "rescheduled"), 0 if down else 300) | {"escalated": 14}
        yield {
            "id": _pass_id(at),
            "host": "desk",
            "pid": 4711,
            **dict.fromkeys(("started_at", "heartbeat_at"), _micro(at)),
            "finished_at": _micro(at + timedelta(seconds=9)),
            "result": "stopped" if down else "completed",
            "reason": "breaker_open" if down else None,
            "detail": f"{DESTINATION} is down" if down else None,
            **counts,
            **dict.fromkeys(("unknown", "released"), 0),
            "swept_to": -(2**63),
            "started_by": "cron",
        }


def _acts(desk: Desk) -> Iterator[dict[str, Any]]:
    """Yield a rejection of each rejected message, and a pause every other day."""
    for message_id in range(1, desk.rows, 50):
        if not is_failed(message_id):
            at = desk.created_at(message_id) + HOUR
            yield {"message_id": message_id, "at": _micro(at), "by": "anna", "act": "rejected", "detail": "out of date"}
    for day in range(0, MONTH.days, 2):
        resumed = desk.now - day * 24 * HOUR - HOUR
        yield {"at": _micro(resumed - HOUR), "by": "anna", "act": "paused", "detail": "maintenance"}
        yield {"at": _micro(resumed), "by": "anna", "act": "resumed"}


def make(url: str, desk: Desk) -> None:
    """Create the application's table and retrycli's own tables, and fill them."""
    engine = create_engine(url)
    tables.create_all(engine)
    database = Database(url)
    own_tables.ensure_tables(database, upgrade=True)
    database.close()
    failed = range(ONE_IN, desk.rows + 1, ONE_IN)
    rows = (_message(desk, message_id) for message_id in range(1, desk.rows + 1))
    with closing(engine.raw_connection()) as connection:
        driver: Any = connection.driver_connection
        _insert(driver, messages, [column.name for column in messages.c], rows)
        _insert(driver, schema.attempts, OF_ATTEMPTS, _attempts(desk))
        for table, values in (
            (schema.queue, (_queued(desk, message_id) for message_id in failed)),
            (schema.passes, _passes(desk)),
            (schema.acts, _acts(desk)),
        ):
            names = [column.name for column in table.c if column.name != "id" or table is schema.passes]
            _insert(driver, table, names, ([row.get(name) for name in names] for row in values))
        connection.commit()
    _settle(engine)
    engine.dispose()


def _insert(driver: Any, table: Table, names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:  # noqa: ANN401  a connection of either driver
    columns = ", ".join(f'"{name}"' for name in names)
    if isinstance(driver, sqlite3.Connection):
        driver.executemany(f"INSERT INTO {table.name} ({columns}) VALUES ({', '.join('?' * len(names))})", rows)
        return
    with driver.cursor() as cursor:
        cursor.execute("SET timezone = 'UTC'")
        with cursor.copy(f"COPY {table.name} ({columns}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)


def _settle(engine: Engine) -> None:
    """Bring the database into the state that it reaches by itself."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("VACUUM ANALYZE")
        else:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")


def _key(message_id: int) -> str:
    return f"{message_id:036d}"


def _pass_id(at: datetime) -> str:
    return f"tick-{at.timestamp() // 900:.0f}"


def _seconds(time: datetime) -> str:
    """Format a time as the application stores it."""
    return time.isoformat(sep=" ", timespec="seconds")[:19]


def _micro(time: datetime) -> str:
    """Format a time as retrycli stores it in SQLite."""
    return time.isoformat(sep=" ", timespec="microseconds")[:26]


def main(url: str, failed: str = str(FAILED)) -> None:
    make(url, Desk(datetime.now(UTC), int(failed)))


if __name__ == "__main__":
    main(*sys.argv[1:])
