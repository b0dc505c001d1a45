"""``python -m retrycli``, and what the installed command calls."""

from __future__ import annotations

import gc
import os
import sys

GC_THRESHOLD = 200_000
"""More than is made while all that a delivery needs is imported."""


def main() -> None:
    """Run the command line.

    cron starts us every time, so a start must be cheap: the garbage collector would look through all that is being
    imported again and again, and once more when the process ends, and find nothing. Both together are a quarter of
    a pass with nothing due (tests/benchmarks).

    What else is installed has no say in our settings: a plugin of pydantic's, such as one that logs what is validated,
    would be handed their secrets, and to look for plugins means to open a file of each package there is.
    """
    gc.set_threshold(GC_THRESHOLD)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        from retrycli.cli import run

        run()
    except KeyboardInterrupt:
        # Ctrl-C while all is still being imported, where nobody else looks out for it.
        sys.exit(128 + 2)
    finally:
        gc.freeze()


if __name__ == "__main__":
    main()
