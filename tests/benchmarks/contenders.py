"""Who takes part: how messages get into each one's database, and what cron would run on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.benchmarks import database
from tests.benchmarks.processes import Call, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PEER = "tests.benchmarks.post_office"


@dataclass(frozen=True, slots=True)
class Contender:
    """One program with one set of settings."""

    name: str
    add: Callable[[Path, int], None]
    """Adds so many messages to a database, and makes it if it isn't there."""
    call: Callable[[Path, str], Call]
    """What delivers the messages of a database to a URL."""


def bare(concurrency: int) -> Contender:
    def call(path: Path, url: str) -> Call:
        return Call(("-m", "tests.benchmarks.bare", str(path), url, str(concurrency)))

    return Contender("bare loop", database.add_due, call)


def retrycli(
    concurrency: int, name: str = "retrycli", add: Callable[[Path, int], None] = database.add_due
) -> Contender:
    def call(path: Path, url: str) -> Call:
        settings = {
            "RETRYCLI_DATABASE__URL": f"sqlite:///{path}",
            "RETRYCLI_GATEWAY__BASE_URL": url,
            "RETRYCLI_RUN__CONCURRENCY": str(concurrency),
        }
        return Call(("-m", "retrycli", "run-once"), settings)

    return Contender(name, add, call)


def post_office(name: str, *, threads: int | None = None, batch: int | None = None) -> Contender:
    tuned = () if threads is None else (str(threads), str(batch))

    def add(path: Path, count: int) -> None:
        run(Call(("-m", PEER, "prepare", str(path), str(count))), path.parent)

    def call(path: Path, url: str) -> Call:
        return Call(("-m", PEER, "send", str(path), url, *tuned))

    return Contender(f"post-office, {name}", add, call)
