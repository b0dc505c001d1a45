"""Measure the start of an idle pass: the import time of each package, without the packages that it imports."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from tests.benchmarks.contenders import NOWHERE
from tests.benchmarks.processes import run
from tests.benchmarks.tables import ratio, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.contenders import Contender
    from tests.benchmarks.databases import Databases

IMPORT = re.compile(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", re.MULTILINE)
SHOWN = 15


def report(contender: Contender, databases: Databases, rounds: int) -> str:
    with databases.database() as database:
        contender.add(database, 0)
        call = contender.call(database, NOWHERE)
        run(call)  # warms up: creates the tables
        profiled = replace(call, arguments=("-X", "importtime", *call.arguments))
        profiles = [imports(run(profiled).output) for _ in range(rounds)]
    title = (
        f"Start-up on {databases.name}: imports of an idle {contender.name} pass by package, medians of {rounds} rounds"
    )
    return table(title, ["", "own ms", "of all"], _rows(profiles))


def imports(output: str) -> dict[str, int]:
    """Return the microseconds that each top-level package spent on its own modules, from `-X importtime`."""
    spent: dict[str, int] = defaultdict(int)
    for own, module in IMPORT.findall(output):
        spent[module.partition(".")[0]] += int(own)
    return spent


def _rows(profiles: Sequence[Mapping[str, int]]) -> list[list[str]]:
    packages = {package for profile in profiles for package in profile}
    spent = {package: median(profile.get(package, 0) for profile in profiles) for package in packages}
    total = sum(spent.values())
    longest = sorted(spent, key=lambda package: spent[package], reverse=True)[:SHOWN]
    rows = [(package, spent[package]) for package in longest]
    return [[name, f"{own / 1000:.1f}", ratio(own, total)] for name, own in [*rows, ("all packages", total)]]
