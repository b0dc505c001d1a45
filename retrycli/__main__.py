"""``python -m retrycli``, and what the installed command calls."""

from __future__ import annotations

import atexit
import gc
import os
import threading

GC_THRESHOLD = 200_000
"""More than is made while all that a delivery needs is imported."""


def main() -> None:
    """Run the command line.

    cron starts us every time, so a start must be cheap: the garbage collector would look through all that is being
    imported again and again, and find nothing; and at the end the interpreter would take everything apart, piece by
    piece. Both together are a quarter of a pass with nothing due (tests/benchmarks).

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
        _exit(128 + 2)
    except SystemExit as end:
        _exit(end.code)
    _exit(0)


def _exit(code: object) -> None:
    """End the process. What a command has printed is flushed by then, and what it has opened is closed."""
    if isinstance(code, int | None) and threading.active_count() == 1:
        atexit._run_exitfuncs()  # noqa: SLF001  as the interpreter would
        os._exit(code or 0)
    gc.freeze()
    raise SystemExit(code)


if __name__ == "__main__":
    main()
