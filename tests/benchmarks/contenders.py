"""Define the contenders: for each, a function that adds messages and the command that delivers them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.benchmarks.processes import Call, run

if TYPE_CHECKING:
    from collections.abc import Callable

APPLICATION = "tests.benchmarks.application"
PEER = "tests.benchmarks.post_office"
NOWHERE = "http://127.0.0.1:9/"
AT_ONCE = 10_000
"""The number of rows, besides the newest ones, that a pass examines."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One program with one set of settings."""

    name: str
    add: Callable[[str, int], None]
    """Adds this number of messages to a database. Creates the database if it does not exist."""
    call: Callable[[str, str], Call]
    """Returns the call that delivers the messages of a database to a URL."""


def add_due(database: str, count: int) -> None:
    """Add messages that failed two days ago and are not enrolled yet."""
    run(Call(("-m", APPLICATION, "add", database, str(count))))


def add_waiting(database: str, count: int) -> None:
    """Add messages that failed just now, so often that none is due for hours."""
    run(Call(("-m", APPLICATION, "add-waiting", database, str(count))))


def add_queued(database: str, count: int) -> None:
    """Add due messages, and enrol them with passes that have no time to send."""
    add_due(database, count)
    call = _pass(database, NOWHERE, 1)
    for _ in range(1 + count // AT_ONCE):
        run(Call(call.arguments, {**call.environment, "RETRYCLI_RUN__DEADLINE_MINUTES": "0.000001"}))


def bare(concurrency: int) -> Contender:
    def call(database: str, url: str) -> Call:
        return Call(("-m", "tests.benchmarks.bare", database, url, str(concurrency)))

    return Contender("bare loop", add_due, call)


def bare_command() -> Contender:
    def call(database: str, _: str) -> Call:
        return Call(("-m", "tests.benchmarks.bare_command", database))

    return Contender("bare command", add_waiting, call)


def retrycli(concurrency: int, name: str = "retrycli", add: Callable[[str, int], None] = add_due) -> Contender:
    def call(database: str, url: str) -> Call:
        return _pass(database, url, concurrency)

    return Contender(name, add, call)


def post_office(name: str, *, threads: int | None = None, batch: int | None = None) -> Contender:
    tuned = () if threads is None else (str(threads), str(batch))

    def add(database: str, count: int) -> None:
        run(Call(("-m", PEER, "prepare", database, str(count))))

    def call(database: str, url: str) -> Call:
        return Call(("-m", PEER, "send", database, url, *tuned))

    return Contender(f"post-office, {name}", add, call)


def _pass(database: str, url: str, concurrency: int) -> Call:
    settings = {
        "RETRYCLI_DATABASE__URL": database,
        "RETRYCLI_GATEWAY__BASE_URL": url,
        "RETRYCLI_RUN__CONCURRENCY": str(concurrency),
        "RETRYCLI_RUN__LOCK_FILE": "pass.lock",  # relative to the process's own folder
    }
    return Call(("-m", "retrycli", "run-once"), settings)
