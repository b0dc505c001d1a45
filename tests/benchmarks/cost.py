"""Measure the cost of claiming messages, beginning attempts and recording outcomes, compared with the bare driver."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tests.benchmarks import contenders
from tests.benchmarks.contenders import NOWHERE
from tests.benchmarks.processes import Call, run
from tests.benchmarks.tables import ratio, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.databases import Databases

AT_WORK = "tests.benchmarks.claims_at_work"
SIZES = (1, 8, 64, 500)
MOST_BATCHES = 200


def report(databases: Databases, sizes: Sequence[int], messages: int, rounds: int) -> str:
    """Report the time of each step of the store, and of the same statements sent by the bare driver."""
    rows: list[list[str]] = []
    for size in sizes:
        batches = max(min(messages // size, MOST_BATCHES), 1)
        store, driver = _measure(databases, size, batches, rounds)
        rows += _rows(size, batches * size, store, driver)
    title = f"Claim and record on {databases.name}: µs a message, medians of {rounds} rounds"
    return table(title, ["", "at once", "retrycli", "bare driver", "ratio"], rows)


def _measure(
    databases: Databases, size: int, batches: int, rounds: int
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Return the seconds of each step by the store and by the driver."""
    store, driver = [], []
    with ExitStack() as stack:
        file = str(Path(stack.enter_context(TemporaryDirectory()), "statements"))
        template = stack.enter_context(databases.database())
        contenders.add_due(template, 0)
        run(contenders.retrycli(1).call(template, NOWHERE))  # creates retrycli's own tables
        contenders.add_queued(template, (1 + batches) * size)
        databases.settle(template)
        with databases.database(template) as database:
            run(Call(("-m", AT_WORK, "statements", database, str(size), file)))
        for _ in range(rounds):
            with databases.database(template) as database:
                store.append(json.loads(run(Call(("-m", AT_WORK, "store", database, str(size)))).output))
            with databases.database(template) as database:
                driver.append(json.loads(run(Call(("-m", AT_WORK, "driver", database, file))).output))
    return store, driver


def _rows(
    size: int, messages: int, store: Sequence[Mapping[str, float]], driver: Sequence[Mapping[str, float]]
) -> list[list[str]]:
    rows = []
    for step in store[0]:
        ours, theirs = (1e6 * median(sample[step] for sample in own) / messages for own in (store, driver))
        rows.append([step, str(size), f"{ours:,.0f}", f"{theirs:,.0f}", ratio(ours, theirs)])
    return rows
