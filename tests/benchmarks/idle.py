"""Measure the cost of a call when nothing is due: most ticks of cron find nothing due."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING

from tests.benchmarks import contenders as take_part
from tests.benchmarks.contenders import add_waiting
from tests.benchmarks.processes import Sample, Server, run
from tests.benchmarks.tables import ratio, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.contenders import Contender
    from tests.benchmarks.databases import Databases

MILLION = 1_000_000
CONCURRENCY = 8
PEER = "post-office, nothing queued"


def contenders(*, million: bool) -> dict[Contender, int]:
    """Return the contenders, each with the number of waiting messages in its database. None of these is due."""
    retrycli = take_part.retrycli(CONCURRENCY, "retrycli, empty table", add_waiting)
    waiting = take_part.retrycli(CONCURRENCY, f"retrycli, {MILLION:,} waiting", add_waiting)
    return {retrycli: 0, **({waiting: MILLION} if million else {}), take_part.post_office("nothing queued"): 0}


def report(taking_part: Mapping[Contender, int], databases: Databases, rounds: int) -> str:
    samples: dict[str, list[Sample]] = {each.name: [] for each in taking_part}
    with Server(0) as server, ExitStack() as stack:
        there = {each: stack.enter_context(databases.database()) for each in taking_part}
        for contender, database in there.items():
            contender.add(database, taking_part[contender])
            run(contender.call(database, server.url))  # warms up: creates the tables and enrols the messages
            databases.settle(database)
        for _ in range(rounds):
            for contender, database in there.items():
                samples[contender.name].append(run(contender.call(database, server.url)))
        server.expect(0, of="idle")
    title = f"Idle on {databases.name}: a call with nothing due, medians of {rounds} rounds"
    return table(title, ["", "ms", "to post-office", "CPU ms", "peak MiB"], _rows(samples))


def _rows(samples: Mapping[str, Sequence[Sample]]) -> list[list[str]]:
    times = {name: median(sample.seconds for sample in own) for name, own in samples.items()}
    return [
        [
            name,
            f"{1000 * seconds:.0f}",
            ratio(seconds, times.get(PEER)),
            f"{1000 * median(sample.cpu_seconds for sample in samples[name]):.0f}",
            f"{median(sample.peak_mib for sample in samples[name]):.0f}",
        ]
        for name, seconds in times.items()
    ]
