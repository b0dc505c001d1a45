"""Isolate the tests from the machine's configuration."""

from __future__ import annotations

import atexit
import os
import random
import shutil
import socket
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.interpreter import use_a_lasting_interpreter
from tests.watchdog import MEMORY, make_folder

use_a_lasting_interpreter()

SETTINGS = ("RETRYCLI_", "TICKETING_")
ROOM_BYTES = 4 * 2**30

until_the_end = ExitStack()
"""What the tests' process stops when the last test has ended, or at the latest when it exits itself."""
atexit.register(until_the_end.close)


def in_memory() -> Path | None:
    """Return a folder of an in-memory file system with space for the tests' databases, if there is one.

    A commit to a disk takes a hundred times as long, and tests don't need data that survives a crash.
    """
    try:
        state = os.statvfs(MEMORY)
    except OSError:
        return None
    return MEMORY if state.f_bavail * state.f_frsize >= ROOM_BYTES and os.access(MEMORY, os.W_OK) else None


def free_port() -> int:
    """Return a port without a listener, for a server that a test starts later.

    The port is below those that Linux gives to clients, so that no connection takes it in the meantime.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _no_settings() -> dict[str, str]:
    """Create a configuration file without settings, which is found before one in /etc.

    The file is outside the project, which may belong to another user: retrycli refuses a configuration file that other
    users can change.
    """
    folder = make_folder("no-settings")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "retrycli").mkdir()
    (folder / "retrycli" / "retrycli.toml").touch()
    return {"XDG_CONFIG_HOME": str(folder)}


NO_SETTINGS = _no_settings()

BARE = {"PATH": f"/usr/bin:/bin:{Path(sys.executable).parent}", **NO_SETTINGS}
"""A minimal environment, without the settings of this machine. The search path contains the command, so that suggested
commands begin with `retrycli`."""

NO_FILE = {"XDG_CONFIG_HOME": ""}
"""The variable that hides the file of `NO_SETTINGS`, for tests that must start without a configuration file."""
needs_no_file = pytest.mark.skipif(
    Path("/etc/retrycli/retrycli.toml").exists(),
    reason="this machine has an /etc/retrycli/retrycli.toml, which commands find",
)


def forget_settings() -> None:
    """Remove the settings of the user who runs the tests from the environment."""
    for name in [each for each in os.environ if each.startswith(SETTINGS)]:
        del os.environ[name]
    os.environ.update(NO_SETTINGS)
