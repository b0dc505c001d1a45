"""``python -m retrycli``, and what the installed command calls."""

from __future__ import annotations

import gc


def main() -> None:
    """Run the command line.

    The garbage collector waits until all is imported, for there is nothing to collect before: cron starts us every
    time, and this takes a tenth off each start (tests/benchmarks).
    """
    gc.disable()
    from retrycli.cli import run

    run()


if __name__ == "__main__":
    main()
