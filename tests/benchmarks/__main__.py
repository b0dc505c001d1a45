"""Compare retrycli with a bare loop and with django-post-office: `python -m tests.benchmarks`.

The benchmarks need the `test` extra and Linux, and run from the repository's root. `--help` lists the options; `--only
throughput --database sqlite --concurrency 64 --rounds 3` is a quick test. `memory` and `idle --million` make a million
waiting messages, which temporarily take 1 GB of disk. Set TMPDIR to use another disk.

Measurements:

- Each contender runs as a separate process, which is timed from its start to its exit. The kernel reports its peak
  memory and its CPU time, which depends least on the machine's load.
- Contenders take turns within each round, so that a slow minute of the machine affects all of them. A first run warms
  up (.pyc files, page cache) and is not counted. Figures are medians. Compare the ratios across machines and days.
- SQLite is a file with a write-ahead log. PostgreSQL is our own server with default settings, which waits for the disk
  at each commit, or the one that RETRYCLI_TEST_POSTGRES_URL names.
- Throughput: each run gets a fresh copy of a database with the same messages. A separate HTTP
  server answers at once, or after 20 ms, and counts: a run with a missing, extra or duplicate delivery ends the
  benchmark.
- retrycli is measured with enrolled messages that are due now, the usual case, and with messages that failed long ago
  and that no pass has seen yet: a pass enrols and delivers them.
- The bare loop (`bare.py`) is the fastest simple loop that uses the libraries of retrycli: the difference is the cost
  of everything else that retrycli does. A retrycli pass begins with one request in flight, the loop with all.
- post-office sends through httpx, with one client per thread. Its best row is the fastest of the rows shown.
- Idle: the most frequent call of cron, with nothing to send.
- Start-up: the packages that an idle retrycli pass imports, and the time of each without its own imports.
  `-X importtime` slows imports down, so only the shares count.
- Memory: a pass with `--due` new messages and a queue of a thousand to a million messages. The server answers at once.
- Console: each page and endpoint of the console, compared with the operations behind it, called in the same process in
  turns. The database has 100,000 failed messages and a million attempts. Times are CPU times on SQLite, and elapsed
  times on PostgreSQL.
- Hosts: concurrent passes on one PostgreSQL, with four times as many messages. Each pass has 8 requests in flight, and
  the server answers after 20 ms. The time is that of the slowest pass. On a machine with few cores, the passes slow
  each other down.
"""

from __future__ import annotations

import argparse
import os
import platform
from typing import TYPE_CHECKING

from tests.benchmarks import contenders, databases, hosts, idle, memory, startup, throughput
from tests.benchmarks.processes import Call, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.databases import Databases

SECTIONS = ("throughput", "idle", "startup", "memory", "hosts", "console")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    known = tuple(databases.ENGINES)
    parser.add_argument("--only", action="append", choices=SECTIONS, help="a section; by default all")
    parser.add_argument("--database", action="append", choices=known, help="by default both, one after the other")
    parser.add_argument("--messages", type=int, default=2000, metavar="N", help="per run (default: %(default)s)")
    parser.add_argument(
        "--concurrency", type=int, action="append", metavar="N", help="throughput: by default 1, 8 and 64"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="counted ones (default: %(default)s)")
    parser.add_argument("--million", action="store_true", help="idle: also with 1,000,000 waiting messages")
    parser.add_argument("--due", type=int, default=1000, metavar="N", help="memory: how many (default: %(default)s)")
    parser.add_argument("--skip", action="append", default=[], metavar="NAME", help="leave out whose name begins so")
    return parser.parse_args()


def reports(chosen: argparse.Namespace) -> Iterator[str]:
    for engine in chosen.database or databases.ENGINES:
        with databases.ENGINES[engine]() as those:
            yield from reports_on(those, chosen)


def reports_on(those: Databases, chosen: argparse.Namespace) -> Iterator[str]:
    """Yield the reports of the sections that use one database engine."""
    sections = chosen.only or SECTIONS
    concurrencies = chosen.concurrency or throughput.CONCURRENCIES
    if "throughput" in sections:
        for delay_ms in throughput.DELAYS_MS:
            taking_part = {
                concurrency: [
                    contender
                    for contender in throughput.contenders(chosen.messages, concurrency)
                    if not _skipped(contender.name, chosen)
                ]
                for concurrency in concurrencies
            }
            yield throughput.report(taking_part, those, delay_ms, chosen.messages, chosen.rounds)
    if "idle" in sections:
        calls = idle.contenders(million=chosen.million)
        left = {contender: count for contender, count in calls.items() if not _skipped(contender.name, chosen)}
        yield idle.report(left, those, chosen.rounds)
    if _skipped("retrycli", chosen):
        return
    if "startup" in sections:
        yield startup.report(contenders.retrycli(idle.CONCURRENCY), those, chosen.rounds)
    if "memory" in sections:
        yield memory.report(those, memory.LENGTHS, chosen.due, chosen.rounds)
    if "console" in sections:
        with those.database() as url:
            run(Call(("-m", "tests.benchmarks.desk", url)))
            yield run(Call(("-m", "tests.benchmarks.console", url, str(chosen.rounds)))).output
    if "hosts" in sections and those.hosts_share:
        yield hosts.report(those, hosts.HOSTS, hosts.TIMES_AS_MANY * chosen.messages, chosen.rounds)


def _skipped(name: str, chosen: argparse.Namespace) -> bool:
    return name.startswith(tuple(chosen.skip))


def main() -> None:
    chosen = options()
    load, _, _ = os.getloadavg()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load before the start {load:.1f}\n")
    for text in reports(chosen):
        print(text, flush=True)


if __name__ == "__main__":
    main()
