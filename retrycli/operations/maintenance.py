"""Maintain retrycli's own tables: upgrade them, delete old records, and erase texts."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime

from retrycli.config.settings import Settings
from retrycli.domain.incidents import utc
from retrycli.domain.message import MessageType
from retrycli.domain.suggested import as_argument
from retrycli.operations.doctor.context import Finding, failure, ok
from retrycli.operations.wiring import check_mapping, clock, connect, looks_up, open_database, pass_rules, utc_now
from retrycli.store import counters, history, own_tables
from retrycli.store.application_table import FailedIndex
from retrycli.store.database import Database
from retrycli.store.messages import with_keys
from retrycli.store.move_check import blocked
from retrycli.store.passes import Ledger

PRUNE_BATCH = 5_000  # maximum number of attempts, of actions and of passes that one transaction deletes
BREATH_SECONDS = 0.05  # pause between transactions, long enough for another process to get SQLite's write lock


def upgrade(settings: Settings) -> tuple[str | None, str | None]:
    """Upgrade retrycli's own tables to this program's version. Return the versions before and after."""
    with _existing_database(settings) as database:
        before = database.revision()
        own_tables.ensure_tables(database, upgrade=True)
        return before, database.revision()


@contextmanager
def belonging(settings: Settings) -> Iterator[tuple[own_tables.Belonging, Callable[[], None]]]:
    """Compare the queue with the application's table, and provide a function that assigns the queue to the table.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with _existing_database(settings) as database:
        own_tables.ensure_version(database, upgrade=settings.database.auto_upgrade)

        def assign() -> None:
            with database.transaction():
                lease = pass_rules(settings, to_send=False).lease
                own_tables.require_idle(database, clock(database, utc_now)(), lease)
                own_tables.reassign(database)

        yield own_tables.compare(database), assign


@contextmanager
def failed_index(settings: Settings) -> Iterator[FailedIndex]:
    """Open the database to examine, create or drop retrycli's only index on the application's table.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with _existing_database(settings) as database:
        yield FailedIndex(database)


def count_history(settings: Settings, *, before: datetime) -> dict[str, int]:
    """Count the attempts, actions and passes that `prune` would delete.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        return counters.count_ended(database, before)


def prune(settings: Settings, *, before: datetime) -> None:
    """Delete the attempts, actions and passes that ended before a given time and are no longer needed.

    Use short transactions with a pause after each one, so that the application and a running pass can write.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        for _ in counters.prune_all(database, before, PRUNE_BATCH):
            time.sleep(BREATH_SECONDS)


def count_texts(settings: Settings, ticket: str) -> int:
    """Count the edits of a ticket's messages whose texts are still stored.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        return history.count_texts(database, ticket)


def erase_texts(settings: Settings, ticket: str) -> int:
    """Erase from the history the texts before and after each edit of a ticket's messages. Return the number of edits.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        return history.erase_texts(database, ticket)


# What may keep messages from a move, and what resolves it.
SEARCH = (
    "search its ticket; if it is there, `retrycli mark-sent {id}`, else `retrycli retry {id}` or "
    "`retrycli reject --reason moved {id}`"
)
RESOLVE = {
    "withdrawn": "look for {shown} in the ticketing system; in the application, set it to sent if it is there, else to "
    "rejected, or to failed and check again",
    "delivered": "`retrycli mark-sent {id}`; to send it again, `retrycli retry {id}`",
    "partly delivered": "through the same mail server, `retrycli retry {id}` sends it to the others; or `retrycli "
    "mark-sent {id}`",
    "unsettled": f"run `retrycli look-up {{id}}`; if that finds nothing, {SEARCH}",
    "sending": "when the claim has expired (claim_expires_at in `retrycli show {id}`): `retrycli run-once`, which "
    "sends nothing during the pause; then check again from the top",
    "unpaused": "when only holds are left: `retrycli pause --reason move`, without --for",
    "held": "last of all, with no pass afterwards: `retrycli resume {option}`; hold it again in the new database",
}


def check_move(settings: Settings, *, shown: int | None = None) -> list[Finding]:
    """Check that nothing gets lost if the application's data moves to a database without retrycli's own tables. A
    finding names at most ``shown`` messages and holds.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        pause, holds = Ledger(database).pause_and_holds(clock(database, utc_now)())
        found: list[tuple[int, Sequence[object]]] = []
        found += [(len(ids), with_keys(database, ids[:shown])) for ids in blocked(database)]
    until = [] if pause is None or pause.until is None else [f"deliveries are paused only until {utc(pause.until)}"]
    unpaused = ["deliveries are not paused"] if pause is None else until
    found += [(len(unpaused), unpaused), (len(holds), [hold.part.option for hold in holds[:shown]])]
    steps = RESOLVE if any(looks_up(settings, kind) for kind in MessageType) else RESOLVE | {"unsettled": SEARCH}
    return [
        _listed(name, *each, steps[name]) if each[0] else ok(name, "none")
        for name, each in zip(RESOLVE, found, strict=True)
    ]


def _listed(name: str, number: int, first: Sequence[object], step: str) -> Finding:
    more = f" and {number - len(first):,} more" if number > len(first) else ""
    return failure(
        name, ", ".join(map(str, first)) + more, step.format(id=as_argument(first[0]), shown=first[0], option=first[0])
    )


@contextmanager
def _existing_database(settings: Settings) -> Iterator[Database]:
    """Open the database and check the application's table. Do not create retrycli's own tables."""
    with closing(connect(settings)) as database:
        _ = database.messages
        check_mapping(database)
        yield database
