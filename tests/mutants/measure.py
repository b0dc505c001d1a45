"""Measure which lines a Python process runs, under the name of the test that started the process.

`tests.mutants.recording` copies this file into a virtual environment. Each process of the environment imports the copy
when it starts.
"""

import atexit
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from coverage import Coverage

PLACE = Path(sys.prefix).parent / "record"


def _name() -> None:
    """Name the measurement after the test that the nearest ancestor runs. The tests' own processes set their name."""
    pid = os.getpid()
    with suppress(OSError):  # no ancestor is visible in another PID namespace
        while pid > 1 and not (PLACE / f"test-{pid}").exists():
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if pid not in {1, os.getpid()}:
            MEASURING.switch_context((PLACE / f"test-{pid}").read_text())


def _save() -> None:
    """Write the measurement. Its file gets the name that is read when it is whole: tests kill processes at any time."""
    with suppress(Exception):  # some tests simulate a full disk
        MEASURING.stop()
        MEASURING.save()
        data = MEASURING.get_data()
        data.close()
        written = Path(data.data_filename())
        written.rename(written.with_name(written.name.replace("part", "data", 1)))


def _save_and_exit(status: int) -> NoReturn:
    """Exit without the functions of `atexit`, as a forked process does, but save."""
    _save()
    EXIT(status)


EXIT = os._exit
MEASURING = Coverage(
    PLACE / "part", data_suffix=True, config_file=False, include=(PLACE / "include").read_text().split()
)
MEASURING.set_option("run:disable_warnings", ["no-data-collected"])
MEASURING.start()
_name()
atexit.register(_save)
os._exit = _save_and_exit
os.register_at_fork(after_in_child=_name)
