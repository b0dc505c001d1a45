"""Detecting who started a pass, from the environment, the terminal and the parent processes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from retrycli.domain.passes import StartedBy
from retrycli.system.process import has_terminal, parents, started_by

UNDER_SYSTEMD = {"INVOCATION_ID": "4711"}


@pytest.mark.parametrize(
    ("environment", "above", "terminal", "expected"),
    [
        ({}, ["sh", "cron", "cron", "systemd"], False, StartedBy.CRON),
        ({}, ["sh", "crond", "crond"], False, StartedBy.CRON),
        ({}, ["flock", "bash", "crond", "systemd"], False, StartedBy.CRON),
        (UNDER_SYSTEMD, ["systemd"], False, StartedBy.TIMER),
        (UNDER_SYSTEMD, ["sh", "timeout", "systemd"], False, StartedBy.TIMER),
        (UNDER_SYSTEMD, ["bash", "gnome-terminal-", "systemd"], True, StartedBy.PERSON),
        ({}, ["sudo", "bash", "sshd", "systemd"], True, StartedBy.PERSON),
        ({}, ["bash", "sshd", "systemd"], False, StartedBy.PERSON),
        ({}, ["bash", "tmux: server", "cron"], True, StartedBy.PERSON),
        (UNDER_SYSTEMD, ["gunicorn", "systemd"], False, StartedBy.UNKNOWN),
        ({}, ["systemd"], False, StartedBy.UNKNOWN),
        ({}, [], False, StartedBy.UNKNOWN),
    ],
)
def test_who_started_a_pass_shows_in_its_terminal_its_unit_and_its_parents(
    environment: dict[str, str], above: list[str], expected: StartedBy, *, terminal: bool
) -> None:
    """INVOCATION_ID does not prove a timer, because every process that a systemd service starts inherits it."""
    assert started_by(environment, above, at_terminal=terminal) is expected


def process(proc: Path, name: str, pid: str, parent: str, terminal: int = 0) -> None:
    (proc / pid).mkdir(parents=True)
    (proc / pid / "stat").write_text(f"{pid} ({name}) S {parent} {pid} {pid} {terminal} -1 4194304\n")


def test_the_parents_are_read_up_to_the_first_process(tmp_path: Path) -> None:
    """A process name may contain the parentheses and spaces that separate the fields of /proc/PID/stat."""
    for each in (("python3", "self", "7", 34816), ("tmux: a) S 9", "7", "3"), ("cron", "3", "1"), ("init", "1", "0")):
        process(tmp_path, *each)
    assert parents(tmp_path) == ["tmux: a) S 9", "cron", "init"]
    assert has_terminal(tmp_path)


def test_where_the_system_does_not_tell_there_are_none(tmp_path: Path) -> None:
    assert parents(tmp_path) == []
    assert has_terminal(tmp_path) == os.isatty(0)
    process(tmp_path, "python3", "self", "7")
    assert parents(tmp_path) == []


def test_a_terminal_as_input_is_sufficient() -> None:
    """A process in a session of its own has no controlling terminal."""
    ours, theirs = pty.openpty()
    program = "from retrycli.system.process import has_terminal; print(has_terminal())"
    try:
        for given, said in ((theirs, "True\n"), (subprocess.DEVNULL, "False\n")):
            done = subprocess.run(
                [sys.executable, "-c", program],
                stdin=given,
                capture_output=True,
                text=True,
                check=True,
                start_new_session=True,
            )
            assert done.stdout == said
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc")
def test_this_process_has_the_parent_that_the_system_names() -> None:
    assert parents()[0] == Path(f"/proc/{os.getppid()}/comm").read_text().strip()
