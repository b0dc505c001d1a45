"""Measure calls of ``run-once``, alternating between configurations: ``python -m tests.crash.in_turns ROUNDS CONFIG…``.

For each call it prints the configuration, the seconds from start to exit, the seconds of CPU, and the peak memory in
KiB. It is a separate, small process, because Linux counts the parent's memory as the child's until the child runs
another program.
"""

from __future__ import annotations

import os
import sys
import time


def main(rounds: str, *configs: str) -> None:
    for _ in range(int(rounds)):
        for config in configs:
            began = time.perf_counter()
            arguments = [sys.executable, "-m", "retrycli", "run-once", "--config", config]
            child = os.posix_spawn(sys.executable, arguments, os.environ)
            _, status, usage = os.wait4(child, 0)
            seconds = time.perf_counter() - began
            if status != 0:
                raise SystemExit(f"run-once on {config} ended with {os.waitstatus_to_exitcode(status)}")
            print(config, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)


if __name__ == "__main__":
    main(*sys.argv[1:])
