"""Measure a pass's peak memory against the length of the queue, of which only a part is due."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from tests.benchmarks import contenders
from tests.benchmarks.processes import Sample, Server, run
from tests.benchmarks.tables import ratio, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.databases import Databases

LENGTHS = (1_000, 10_000, 100_000, 1_000_000)
CONCURRENCY = 64


def report(databases: Databases, lengths: Sequence[int], due: int, rounds: int) -> str:
    """Measure passes over queues of each length, with at most ``due`` new messages each."""
    samples = {length: _passes(databases, length, min(due, length), rounds) for length in lengths}
    title = f"Memory on {databases.name}: passes that send {due:,} at most, medians of {rounds} rounds"
    head = ["waiting", "due", "peak MiB", "to the first", "messages/s", "to the first", "CPU ms each"]
    return table(title, head, _rows(samples, due))


def _passes(databases: Databases, length: int, due: int, rounds: int) -> list[Sample]:
    retrycli = contenders.retrycli(CONCURRENCY)
    samples = []
    with Server(0) as server, databases.database() as database:
        contenders.add_waiting(database, length - due)
        run(retrycli.call(database, server.url))  # enrols the waiting messages
        server.expect(0, of="messages that wait")
        for _ in range(rounds):
            retrycli.add(database, due)
            databases.settle(database)
            samples.append(run(retrycli.call(database, server.url)))
            server.expect(due, of="memory")
    return samples


def _rows(samples: Mapping[int, Sequence[Sample]], due: int) -> list[list[str]]:
    peaks = {length: median(sample.peak_mib for sample in own) for length, own in samples.items()}
    rates = {length: min(due, length) / median(sample.seconds for sample in own) for length, own in samples.items()}
    first = min(samples)
    return [
        [
            f"{length:,}",
            f"{min(due, length):,}",
            f"{peaks[length]:.0f}",
            ratio(peaks[length], peaks[first]),
            f"{rates[length]:,.0f}",
            ratio(rates[length], rates[first]),
            f"{1000 * median(sample.cpu_seconds for sample in own) / min(due, length):.2f}",
        ]
        for length, own in samples.items()
    ]
