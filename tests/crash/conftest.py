"""Fixtures for crash tests: an API, a database of either kind, a separate disk, and strace."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import pytest

from retrycli.operations.sandbox import Behaviour, Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.store.conftest import Factory

PAGE = 4096
DISK_BYTES = 12 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system of a few megabytes, in memory."""

    folder: Path

    def fill(self, pages: int) -> None:
        """Fill the disk except for this number of free pages."""
        self.free()
        state = os.statvfs(self.folder)
        self._ballast.write_bytes(bytes(state.f_bavail * state.f_frsize - pages * PAGE))

    def free(self) -> None:
        """Remove the file that fills the disk."""
        self._ballast.unlink(missing_ok=True)

    def remount(self, how: str) -> None:
        """Remount the disk as ``ro`` or ``rw``."""
        subprocess.run(["mount", "-o", f"remount,{how}", self.folder], check=True)

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"


@pytest.fixture
def api() -> Iterator[Sandbox]:
    """Provide a ticketing API that accepts everything."""
    with Sandbox(Behaviour(), rng=Random(0)) as running:
        yield running


@pytest.fixture
def url(engine: Factory, tmp_path: Path) -> Iterator[str]:
    """Provide the URL of an empty database."""
    with engine(tmp_path, None) as made:
        yield made


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0755", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here, which takes root: {mounted.stderr.strip()}")
    yield Disk(folder)
    subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="session")
def strace() -> Sequence[str]:
    """Provide the command that runs another one under strace."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not installed: apt-get install strace")
    tried = subprocess.run([program, "-qq", "-e", "trace=none", "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"strace may not trace here: {tried.stderr.strip()}")
    return [program, "--follow-forks", "-qq"]
