"""Give the tests an interpreter outside the folders for temporary files, where `cron install` refuses one.

A clone or a virtual environment for tests is often in such a folder. The tests of schedules must not depend on that.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

from retrycli.operations.reliance import TEMPORARY

FOLDERS = ("/srv", "/var/lib", str(Path.home()))
"""Folders that may hold the interpreter."""


def make_environment(place: Path, *lines: str) -> tuple[Path, Path]:
    """Create a virtual environment with retrycli's command, and with a .pth file that says where the packages are.

    Return its interpreter and its folder of packages.
    """
    venv.create(place, symlinks=True)
    python = place / "bin/python"
    packages = place / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    (packages / "packages.pth").write_text("\n".join(lines))
    command = python.with_name("retrycli")
    _, _, script = Path(sys.executable).with_name("retrycli").read_text().partition("\n")
    command.write_text(f"#!{python}\n{script}")
    command.chmod(0o755)
    return python, packages


def use_a_lasting_interpreter() -> None:
    """Let `sys.executable` name an interpreter that may last, also for the workers that pytest-xdist starts."""
    if _is_temporary(sys.prefix) and (folder := lasting_folder()) is not None:
        place = Path(tempfile.mkdtemp(prefix="retrycli-tests-", dir=folder))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        place.chmod(0o755)
        python, _ = make_environment(place, f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})")
        sys.executable = str(python)


def lasting_folder() -> str | None:
    """Return a folder that can be written and is not for temporary files, or None."""
    return next((each for each in FOLDERS if os.access(each, os.W_OK) and not _is_temporary(each)), None)


def _is_temporary(path: str) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in TEMPORARY)
