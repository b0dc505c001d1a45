"""One real pass in a process of its own: ``python -m tests.crash.one_pass CONFIG OFFSET_SECONDS``.

Its clock is ahead by the offset, so that no test waits for a claim to lapse or for a message to come due.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from retrycli import app, load_settings


def main(config: str, offset_seconds: str) -> None:
    ahead = timedelta(seconds=float(offset_seconds))
    surroundings = replace(app.HERE, now=lambda: app.utc_now() + ahead)
    print(app.run_once(load_settings(Path(config)), surroundings=surroundings))


if __name__ == "__main__":
    main(*sys.argv[1:])
