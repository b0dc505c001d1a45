"""Compare messages per second on two database engines, which take turns: a slow minute of the machine affects both."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from tests.benchmarks import contenders as take_part
from tests.benchmarks.tables import ratio, table
from tests.benchmarks.throughput import measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.databases import Databases

CONCURRENCY = 64


def report(engines: Sequence[Databases], delay_ms: int, messages: int, rounds: int) -> str:
    """Build the table for one delay of the server's answers. The first engine is the reference."""
    those = (take_part.retrycli(CONCURRENCY, add=take_part.add_queued), take_part.bare(CONCURRENCY))
    taking_part = {f"{each.name}, {engine.name}": (each, engine) for each in those for engine in engines}
    samples = measure(taking_part, delay_ms, messages, rounds)
    seconds = {name: median(sample.seconds for sample in own) for name, own in samples.items()}
    rows = []
    for name, (contender, engine) in taking_part.items():
        on_the_first = seconds[f"{contender.name}, {engines[0].name}"]
        rate = f"{messages / seconds[name]:,.0f}"
        rows.append([contender.name, engine.name, rate, ratio(on_the_first, seconds[name])])
    title = f"Engines: {messages:,} messages of 2 KB, answers after {delay_ms} ms, medians of {rounds} rounds"
    return table(title, ["", "on", "messages/s", f"to {engines[0].name}"], rows)
