"""Entry point of ``python -m retrycli`` and of the installed command."""

import atexit
import gc
import os
import sys
import threading

GC_THRESHOLD = 200_000  # allocations that trigger a garbage collection; the imports of a pass make fewer


def main() -> None:
    """Run the command line.

    Cron starts the program for every pass, so starting and ending must be cheap. Garbage collection during imports
    finds nothing, and the interpreter's clean-up at exit is not needed. Together, the collection and the clean-up cost
    a quarter of a pass with nothing due (tests/benchmarks).

    Disable pydantic's plugins. A plugin that logs validated data would receive retrycli's secrets, and the search
    for plugins opens a file of every installed package.
    """
    gc.set_threshold(GC_THRESHOLD)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        from retrycli.cli import run

        run()
    except KeyboardInterrupt:
        # The user pressed Ctrl-C during the imports, before typer could handle it.
        _exit(128 + 2)
    except SystemExit as end:
        _exit(end.code)
    _exit(0)


def _exit(code: object) -> None:
    # Skip the clean-up if no other thread is running: the command has already flushed its output and closed its files.
    # Also skip it if a function of the application did not return in time. It may have started threads that never end,
    # and Python would wait for them.
    if isinstance(code, int | None) and (threading.active_count() == 1 or _has_given_up_a_call()):
        atexit._run_exitfuncs()  # noqa: SLF001  os._exit does not run them
        os._exit(code or 0)
    gc.freeze()
    raise SystemExit(code)


def _has_given_up_a_call() -> bool:
    calls = sys.modules.get("retrycli.gateway.python.gateway")  # not imported if passes call no function
    return calls is not None and calls.THREADS.has_given_up


if __name__ == "__main__":
    main()
