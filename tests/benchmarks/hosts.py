"""Measure concurrent passes, like those of several hosts that share one table."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from tests.benchmarks import contenders
from tests.benchmarks.processes import Server, run, run_together
from tests.benchmarks.tables import ratio, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.databases import Databases

HOSTS = (1, 2, 4, 8)
CONCURRENCY = 8
DELAY_MS = 20
TIMES_AS_MANY = 4
"""The factor for the number of messages. With fewer messages, four hosts would spend most of the time starting."""


def report(databases: Databases, hosts: Sequence[int], messages: int, rounds: int) -> str:
    """Report the throughput of concurrent passes, each with its own lock, until the slowest pass ends."""
    retrycli = contenders.retrycli(CONCURRENCY, add=contenders.add_queued)
    seconds: dict[int, list[float]] = {number: [] for number in hosts}
    cpu_seconds: dict[int, list[float]] = {number: [] for number in hosts}
    with Server(DELAY_MS) as server, databases.database() as template:
        retrycli.add(template, 0)
        run(retrycli.call(template, server.url))
        retrycli.add(template, messages)
        databases.settle(template)
        for turn in range(rounds + 1):
            for number in hosts:
                with databases.database(template) as database:
                    samples = run_together([retrycli.call(database, server.url)] * number)
                server.expect(messages, of=f"{number} hosts")
                if turn > 0:  # the first round is the warm-up
                    seconds[number].append(max(sample.seconds for sample in samples))
                    cpu_seconds[number].append(sum(sample.cpu_seconds for sample in samples))
    rates = {number: messages / median(own) for number, own in seconds.items()}
    rows = [
        [
            str(number),
            f"{rate:,.0f}",
            ratio(rate, rates[min(hosts)]),
            f"{1000 * median(cpu_seconds[number]) / messages:.2f}",
        ]
        for number, rate in rates.items()
    ]
    title = (
        f"Hosts on one {databases.name}: {messages:,} messages, {CONCURRENCY} at once each, "
        f"answers after {DELAY_MS} ms, medians of {rounds} rounds"
    )
    return table(title, ["hosts", "messages/s in all", "to one", "CPU ms each"], rows)
