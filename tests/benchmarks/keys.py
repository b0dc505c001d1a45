"""Compare messages per second with integers and with UUIDs as keys of the application's table."""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from tests.benchmarks import contenders as take_part
from tests.benchmarks.tables import ratio, table
from tests.benchmarks.throughput import measure

if TYPE_CHECKING:
    from tests.benchmarks.databases import Databases

CONCURRENCY = 8
COMMANDS = {"integers": "add-with-integers", "UUIDs": "add-with-uuids"}


def report(databases: Databases, messages: int, rounds: int) -> str:
    """Build the table. Integers are the reference."""
    taking_part = {
        name: (take_part.retrycli(CONCURRENCY, name, partial(take_part.add_queued, command=command)), databases)
        for name, command in COMMANDS.items()
    }
    samples = measure(taking_part, 0, messages, rounds)
    figures = {
        name: [
            median(sample.seconds for sample in own),
            median(sample.cpu_seconds for sample in own),
            median(sample.peak_mib for sample in own),
        ]
        for name, own in samples.items()
    }
    rows = [
        [
            name,
            f"{messages / seconds:,.0f}",
            f"{1000 * cpu / messages:.2f}",
            f"{peak:.0f}",
            *(ratio(own, other) for own, other in zip((seconds, cpu, peak), figures["integers"], strict=True)),
        ]
        for name, (seconds, cpu, peak) in figures.items()
    ]
    title = f"Keys on {databases.name}: {messages:,} waiting messages of 2 KB, medians of {rounds} rounds"
    return table(title, ["", "messages/s", "CPU ms each", "peak MiB", "time", "CPU", "memory"], rows)
