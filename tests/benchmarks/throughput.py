"""Messages a second, each contender on a fresh copy of a database with the same messages."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tests.benchmarks import contenders as take_part
from tests.benchmarks.database import add_queued
from tests.benchmarks.processes import Sample, Server, run
from tests.benchmarks.tables import ratio, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.contenders import Contender

DELAYS_MS = (0, 20)


def contenders(messages: int, concurrency: int) -> list[Contender]:
    tuned = [
        take_part.post_office(f"{threads} threads, one batch", threads=threads, batch=messages)
        for threads in sorted({16, concurrency})  # 16 is often enough; a server that answers late needs more
    ]
    return [
        take_part.retrycli(concurrency, add=add_queued),
        take_part.retrycli(concurrency, "retrycli, enrols them first"),
        take_part.bare(concurrency),
        take_part.post_office("5 threads (default)"),
        *tuned,
    ]


def report(taking_part: Sequence[Contender], delay_ms: int, messages: int, rounds: int) -> str:
    """The table for one delay of the server's answers."""
    with Server(delay_ms) as server, TemporaryDirectory() as folder:
        templates = {each: _template(each, Path(folder), server, messages) for each in taking_part}
        samples: dict[str, list[Sample]] = {each.name: [] for each in taking_part}
        for number in range(rounds + 1):
            for contender, template in templates.items():
                sample = _deliver(contender, template, server, messages)
                if number > 0:  # the first is the warm-up
                    samples[contender.name].append(sample)
    title = f"Throughput: {messages:,} messages of 2 KB, answers after {delay_ms} ms, medians of {rounds} rounds"
    return table(
        title,
        ["", "messages/s", "to bare loop", "to best post-office", "CPU ms each", "peak MiB"],
        _rows(samples, messages),
    )


def _template(contender: Contender, folder: Path, server: Server, messages: int) -> Path:
    """A database that has the contender's own tables, by a run with nothing to do, and then the messages."""
    database = folder / contender.name / "template.db"
    database.parent.mkdir()
    contender.add(database, 0)
    run(contender.call(database, server.url), database.parent)
    contender.add(database, messages)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # all in one file, to be copied
    return database


def _deliver(contender: Contender, template: Path, server: Server, messages: int) -> Sample:
    with TemporaryDirectory() as folder:
        database = Path(folder, "messages.db")
        shutil.copyfile(template, database)
        sample = run(contender.call(database, server.url), Path(folder))
    server.expect(messages, of=contender.name)
    return sample


def _rows(samples: Mapping[str, Sequence[Sample]], messages: int) -> list[list[str]]:
    rates = {name: messages / median(each.seconds for each in own) for name, own in samples.items()}
    best_peer = max((rate for name, rate in rates.items() if name.startswith("post-office")), default=None)
    return [
        [
            name,
            f"{rate:,.0f}",
            ratio(rate, rates.get("bare loop")),
            ratio(rate, best_peer),
            f"{1000 * median(each.cpu_seconds for each in samples[name]) / messages:.2f}",
            f"{median(each.peak_mib for each in samples[name]):.0f}",
        ]
        for name, rate in rates.items()
    ]
