"""Measure messages per second, each contender on a fresh copy of a database with the same messages."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING

from tests.benchmarks import contenders as take_part
from tests.benchmarks.processes import Sample, Server, run
from tests.benchmarks.tables import ratio, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.contenders import Contender
    from tests.benchmarks.databases import Databases

DELAYS_MS = (0, 20)
CONCURRENCIES = (1, 8, 64)
LATE_AT_MOST = 250
"""The maximum number of messages per concurrent request if answers are delayed: more would only prolong the run."""
DEFAULT_THREADS = 5
OFTEN_ENOUGH = 16
"""The number of post-office threads above which more threads help only if answers are delayed."""


def contenders(messages: int, concurrency: int) -> list[Contender]:
    tuned = [
        take_part.post_office(
            f"{threads} thread{'s' if threads > 1 else ''}, one batch", threads=threads, batch=messages
        )
        for threads in sorted({min(concurrency, OFTEN_ENOUGH), concurrency})
    ]
    as_it_comes = take_part.post_office(f"{DEFAULT_THREADS} threads (default)")
    return [
        take_part.retrycli(concurrency, add=take_part.add_queued),
        take_part.retrycli(concurrency, "retrycli, enrols them first"),
        take_part.bare(concurrency),
        *([as_it_comes] if concurrency >= DEFAULT_THREADS else []),
        *tuned,
    ]


def messages_for(concurrency: int, delay_ms: int, messages: int) -> int:
    """Return a number of messages with which a run takes some seconds."""
    return min(messages, LATE_AT_MOST * concurrency) if delay_ms else messages


def report(
    taking_part: Mapping[int, Sequence[Contender]], databases: Databases, delay_ms: int, messages: int, rounds: int
) -> str:
    """Build the table for one delay of the server's answers; ``taking_part`` maps a concurrency to its contenders."""
    rows: list[list[str]] = []
    for concurrency, those in taking_part.items():
        count = messages_for(concurrency, delay_ms, messages)
        samples = measure(those, databases, delay_ms, count, rounds)
        rows += [[name, str(concurrency), *figures] for name, *figures in _rows(samples, count)]
    title = f"Throughput on {databases.name}: messages of 2 KB, answers after {delay_ms} ms, medians of {rounds} rounds"
    head = ["", "at once", "messages/s", "to bare loop", "to best post-office", "CPU ms each", "peak MiB"]
    return table(title, head, rows)


def measure(
    taking_part: Sequence[Contender], databases: Databases, delay_ms: int, messages: int, rounds: int
) -> dict[str, list[Sample]]:
    """Measure each contender; return the samples by name."""
    samples: dict[str, list[Sample]] = defaultdict(list)
    with Server(delay_ms) as server, ExitStack() as stack:
        templates = {each.name: stack.enter_context(databases.database()) for each in taking_part}
        for contender in taking_part:
            template = templates[contender.name]
            contender.add(template, 0)
            run(contender.call(template, server.url))  # creates the contender's own tables
            contender.add(template, messages)
            databases.settle(template)
        for number in range(rounds + 1):
            for contender in taking_part:
                with databases.database(templates[contender.name]) as database:
                    sample = run(contender.call(database, server.url))
                server.expect(messages, of=contender.name)
                if number > 0:  # the first round is the warm-up
                    samples[contender.name].append(sample)
    return samples


def _rows(samples: Mapping[str, Sequence[Sample]], messages: int) -> list[list[str]]:
    rates = {name: messages / median(sample.seconds for sample in own) for name, own in samples.items()}
    best_peer = max((rate for name, rate in rates.items() if name.startswith("post-office")), default=None)
    return [
        [
            name,
            f"{rate:,.0f}",
            ratio(rate, rates.get("bare loop")),
            ratio(rate, best_peer),
            f"{1000 * median(sample.cpu_seconds for sample in samples[name]) / messages:.2f}",
            f"{median(sample.peak_mib for sample in samples[name]):.0f}",
        ]
        for name, rate in rates.items()
    ]
