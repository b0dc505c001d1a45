"""Measure retrycli beside a bare loop and beside django-post-office: `python -m tests.benchmarks`.

It needs the `test` extra and Linux, and is run from the repository's root. `--help` lists the options; `--only
throughput --rounds 3` is a quick look, `--million` adds a pass over a million waiting messages (5 GB of disk for
a while: put it elsewhere with TMPDIR).

What is measured, and how:

- Each contender is a whole process, timed by this one from its start to its exit; its peak memory is what the
  kernel says at its end, and so is its CPU time, which a busy machine disturbs least.
- Contenders take turns within each round, so that a slow minute of the machine hits all of them. The first
  round warms up (.pyc files, page cache) and isn't counted. Figures are medians; the ratios are what to compare
  across machines and days.
- Throughput: each run gets a fresh copy of a database with the same messages. An HTTP server in a process of
  its own answers at once, or after 20 ms, and counts: a run that delivered one message more or less ends the
  benchmark.
- retrycli is measured with messages that an earlier pass has enrolled and that are due now, as most are, and with
  messages that failed long ago and that no pass has seen yet: those it enrols and delivers in one pass.
- The bare loop (`bare.py`) is the strongest straightforward loop over retrycli's own stack: the distance to it
  is what retrycli's promises cost. A retrycli pass begins with one request in flight and widens from there.
- post-office sends through httpx, with one client per thread. Its best row is the fastest of the rows shown.
- Idle: the call that cron makes most often, with nothing to send.
- Start-up: which packages an idle retrycli pass imports, and how long each takes without those that it imports
  in turn. `-X importtime` itself slows imports down, so only the shares count.
- Report: `retrycli report` over a week with no attempt, 100,000 and a million of them, all within the page's time.
"""

from __future__ import annotations

import argparse
import os
import platform
from typing import TYPE_CHECKING

from tests.benchmarks import contenders, idle, report, startup, throughput

if TYPE_CHECKING:
    from collections.abc import Iterator

SECTIONS = ("throughput", "idle", "startup", "report")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--only", choices=SECTIONS, help="one section; by default all")
    parser.add_argument("--messages", type=int, default=2000, metavar="N", help="per run (default: %(default)s)")
    parser.add_argument(
        "--concurrency", type=int, default=64, metavar="N", help="requests in flight (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="counted ones (default: %(default)s)")
    parser.add_argument("--million", action="store_true", help="idle: also with 1,000,000 waiting messages")
    parser.add_argument("--skip", action="append", default=[], metavar="NAME", help="leave out whose name begins so")
    return parser.parse_args()


def reports(chosen: argparse.Namespace) -> Iterator[str]:
    skipped: tuple[str, ...] = tuple(chosen.skip)
    sections = SECTIONS if chosen.only is None else (chosen.only,)
    if "throughput" in sections:
        everyone = throughput.contenders(chosen.messages, chosen.concurrency)
        taking_part = [each for each in everyone if not each.name.startswith(skipped)]
        for delay_ms in throughput.DELAYS_MS:
            yield throughput.report(taking_part, delay_ms, chosen.messages, chosen.rounds)
    if "idle" in sections:
        calls = idle.contenders(chosen.concurrency, million=chosen.million)
        left = {each: count for each, count in calls.items() if not each.name.startswith(skipped)}
        yield idle.report(left, chosen.rounds)
    if "startup" in sections and not "retrycli".startswith(skipped):
        yield startup.report(contenders.retrycli(chosen.concurrency), chosen.rounds)
    if "report" in sections and not "retrycli".startswith(skipped):
        yield report.report(chosen.rounds)


def main() -> None:
    chosen = options()
    load, _, _ = os.getloadavg()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load before the start {load:.1f}\n")
    for each in reports(chosen):
        print(each, flush=True)


if __name__ == "__main__":
    main()
