"""Record which tests reach each line, or test mutants and print what survives: see `tests.mutants`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from functools import cache
from itertools import islice
from math import inf
from pathlib import Path

from tests.mutants.changes import Change, Mutant, mutants
from tests.mutants.job import Job
from tests.mutants.recording import Reached, new_folder, record
from tests.size import ROOT

EQUIVALENT = Path(__file__).with_name("equivalent.toml")
Result = tuple[str, str]
"""``killed``, ``survived``, ``hung`` or ``equivalent``, and a note."""


def main() -> int:
    """Parse the arguments; record, or test mutants."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("--coverage", type=Path, default=ROOT / ".coverage", metavar="FILE", help="the recording")
    parser.add_argument("--record", action="store_true", help="record; pytest gets the other arguments")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--count", type=int, default=60, metavar="N", help="number of mutants")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="number of processes")
    parser.add_argument("--minutes", type=float, default=inf, metavar="M", help="begin no mutant after M minutes")
    parser.add_argument("--limit", type=float, default=60, metavar="S", help="seconds for the tests of a mutant")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="files to change, such as 'store/*'")
    given, others = parser.parse_known_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if given.record:
        return record(given.coverage, others)
    if others:
        parser.error(f"unknown arguments: {' '.join(others)}")
    entries = tomllib.loads(EQUIVALENT.read_text())["mutant"]
    known = {Change(each["path"], each["before"], each["after"]): each["reason"] for each in entries}
    drawn = [*islice(mutants(given.seed, given.only), given.count)]
    results: dict[Mutant, Result] = {each: ("equivalent", known[each.change]) for each in drawn if each.change in known}
    reached, deadline = Reached(given.coverage), time.monotonic() + 60 * given.minutes
    with new_folder() as folder, ProcessPoolExecutor(given.jobs) as pool:
        running: dict[Future[Result | None], Mutant] = {
            pool.submit(_judge, folder, each, reached.tests(each), given.limit, deadline): each
            for each in drawn
            if each not in results
        }
        try:
            for future in as_completed(running):
                if (result := future.result()) is not None:
                    results[running[future]] = result
        finally:
            pool.shutdown(cancel_futures=True)
    _show(results)
    return 0


_job = cache(Job)


def _judge(folder: Path, mutant: Mutant, tests: Mapping[str, float], limit: float, deadline: float) -> Result | None:
    """Test a mutant in this process's copy, and print the result; return None if the deadline has passed."""
    if (began := time.monotonic()) > deadline:
        return None
    result, note = _job(folder).judge(mutant, tests, limit)
    print(f"{result} {time.monotonic() - began:.1f} s {mutant} {note}", flush=True)
    return result, note


def _show(results: Mapping[Mutant, Result]) -> None:
    """Print the mutants that were not killed, and the numbers. The percentage is that of those not equivalent."""
    for wanted in ("survived", "hung", "equivalent"):
        for mutant, (result, note) in results.items():
            if result == wanted:
                print(f"{result}: {mutant} ({note})\n  - {mutant.change.before}\n  + {mutant.change.after}")
    count = Counter(result for result, _ in results.values())
    numbers = ", ".join(f"{count[each]} {each}" for each in ("killed", "survived", "hung", "equivalent"))
    percent = 100 * count["killed"] / max(len(results) - count["equivalent"], 1)
    print(f"{numbers} (of {len(results)}), {percent:.1f} % killed")


if __name__ == "__main__":
    sys.exit(main())
