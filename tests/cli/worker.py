"""A process of an application with a scheduler: ``python -m tests.cli.worker TIME``.

The settings come from the environment. The process prints ``waits`` whenever its scheduler waits for a tick. Each line
of its input is a time, to which its clock moves, or ``stop``.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import retrycli
from retrycli.operations import wiring
from tests.cli.steered import Steered

if TYPE_CHECKING:
    from threading import Event


def main(at: datetime) -> None:
    clock = Steered(at)

    def wait(stop: Event, seconds: float) -> None:
        print("waits", flush=True)
        clock.wait(stop, seconds)

    runtime = replace(wiring.DEFAULT_RUNTIME, now=clock.now)
    scheduler = retrycli.Scheduler(retrycli.load_settings(), runtime=runtime, wait=wait)
    scheduler.start()
    for line in sys.stdin:
        if line == "stop\n":
            print(scheduler.stop(), flush=True)
        else:
            clock.settle()
            clock.move(datetime.fromisoformat(line.strip()))


if __name__ == "__main__":
    main(datetime.fromisoformat(sys.argv[1]))
