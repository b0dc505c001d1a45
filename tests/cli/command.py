"""Run the installed command in a bare environment, piped or on a terminal.

Where a process is not the point, the command runs inside the test's (`tests.in_process`), which saves its start and its
imports. `Cli.start` always starts a process; with `Cli.real` or the marker ``real`` every call does.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from typer.main import get_command

from retrycli.cli import app
from tests import in_process
from tests.environment import BARE

SCRIPT = (str(Path(sys.executable).with_name("retrycli")),)
MODULE = (sys.executable, "-m", "retrycli")
OPEN_TO_ALL = ("/bin/sh", "-c", 'umask 0; exec "$@"', "sh")
"""A wrapper that runs a command with umask 0, so that files get every permission that the command requests."""
LONGEST = 60
"""Seconds after which a test gives up on a process."""
ROWS, COLUMNS = 24, 80
QUESTION = b" [y/N] "
END = b"\x04"
"""Ctrl-D, which ends the input at a question."""
WIDTH = 4
"""The maximum number of calls that run in parallel."""

Finished = subprocess.CompletedProcess[str]
Key = TypeVar("Key")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Screen:
    """The output that a terminal received, and the command's exit code."""

    returncode: int
    raw: str

    @property
    def text(self) -> str:
        """Return the visible text, without colours and cursor movements."""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw)
        return plain.replace("\r\n", "\n").replace("\r", "\n")

    @property
    def words(self) -> str:
        """Return the text on one line with single spaces, because the terminal wraps long lines."""
        return " ".join(self.text.split())


@dataclass(frozen=True)
class Shown:
    """The output of several commands, keyed by command line; see `Cli.show_all`."""

    piped: Mapping[str, Finished]
    screens: Mapping[str, Screen]

    def json(self, command: str) -> dict[str, Any]:
        """Return the JSON object that a piped command printed."""
        return _object(self.piped[command])


@dataclass(frozen=True)
class Cli:
    """The ``retrycli`` command in a folder, with a bare environment and a test's variables."""

    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = SCRIPT
    wrapper: tuple[str, ...] = ()
    """A program that runs the command, such as ``setpriv``, and its options."""
    is_real: bool = False
    """True to run each command in its own process, not inside the test's process."""

    def having(self, env: Mapping[str, str] | None = None, *, cwd: Path | None = None) -> Cli:
        """Return a copy with more variables, or in another folder."""
        return replace(self, env={**self.env, **(env or {})}, cwd=cwd or self.cwd)

    def real(self) -> Cli:
        """Return a copy that runs each command in its own process, for tests of signals, descriptors and the like."""
        return replace(self, is_real=True)

    def under(self, *wrapper: str) -> Cli:
        """Return a copy whose commands run under another program."""
        return replace(self, wrapper=wrapper)

    def __call__(self, *args: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Finished:
        """Run a command to its end, with its output piped."""
        environment = {**BARE, **self.env, **(env or {})}
        if self._may_be_called(environment):
            return in_process.call(self._words(*args), env=environment, cwd=cwd or self.cwd)
        process = self._begin(*args, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with process:
            return end(process)

    def json(self, *args: str | Path, code: int = 0) -> dict[str, Any]:
        """Run a command with ``--json``, and return the one object that it prints."""
        return _object(self(*args, "--json"), code)

    def show_all(self, *, piped: Iterable[str] = (), on_terminal: Iterable[str] = ()) -> Shown:
        """Run command lines, piped or on a terminal, and return their output, keyed by command line."""
        outputs = {line: self(*shlex.split(line)) for line in piped}
        screens = {line: self.on_terminal(*shlex.split(line)) for line in on_terminal}
        return Shown(outputs, screens)

    def start(self, *args: str | Path, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        """Start a command; the caller must wait for it."""
        return self._begin(*args, stdout=stdout, stderr=subprocess.PIPE)

    def on_terminal(self, *args: str | Path, columns: int = COLUMNS, answers: Iterable[str] = ()) -> Screen:
        """Run a command with a terminal for its input, output and errors.

        Args:
            args: the command.
            columns: the width of the terminal.
            answers: what an operator types at each question, without the Enter key.
        """
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        terminal = {"TERM": "xterm-256color", **self.env}
        environment = {**BARE, **terminal}
        if self._may_be_called(environment):
            with ThreadPoolExecutor(1) as person:
                seen = person.submit(_read_all, ours, answers)
                try:
                    code = in_process.call_with((theirs,) * 3, self._words(*args), env=environment, cwd=self.cwd)
                finally:
                    os.close(theirs)
                return Screen(code, seen.result(LONGEST))
        with self._begin(
            *args, env=terminal, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        ) as process:
            os.close(theirs)
            raw = _read_all(ours, answers)
            return Screen(process.wait(LONGEST), raw)

    def _begin(
        self,
        *args: str | Path,
        stdout: int,
        stderr: int,
        stdin: int = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        start_new_session: bool = False,
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.wrapper, *self.program, *args],
            env={**BARE, **self.env, **(env or {})},
            cwd=cwd or self.cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            encoding="utf-8",
            start_new_session=start_new_session,
        )

    def _may_be_called(self, environment: Mapping[str, str]) -> bool:
        """Return whether the program, the environment and the test permit a call inside this process."""
        is_installed = not self.wrapper and self.program == SCRIPT
        return is_installed and not self.is_real and in_process.can_call(environment)

    def _words(self, *args: str | Path) -> list[str]:
        return [os.fsdecode(word) for word in (*self.program, *args)]


def side_by_side(calls: Mapping[Key, Callable[[], Result]]) -> dict[Key, Result]:
    """Run calls in parallel, and return each result under its call's key."""
    with ThreadPoolExecutor(WIDTH) as pool:
        return dict(zip(calls, pool.map(lambda call: call(), calls.values()), strict=True))


def _no_json(constant: str) -> None:
    raise AssertionError(f"{constant} is not valid JSON")


def _object(done: Finished, code: int = 0) -> dict[str, Any]:
    """Return the one JSON object that a command printed, without its ``schema_version``."""
    assert done.returncode == code, done.stderr
    values: dict[str, Any] = json.loads(done.stdout, parse_constant=_no_json)
    assert values.pop("schema_version") == 1
    return values


def _read_all(terminal: int, answers: Iterable[str]) -> str:
    """Read everything until the other side closes the terminal, which Linux reports as an error.

    Type the next answer at each question, or Ctrl-D if no answer is left.
    """
    seen = b""
    coming = iter(answers)
    with os.fdopen(terminal, "r+b", buffering=0) as there:
        while True:
            try:
                piece = there.read(65536)
            except OSError:
                break
            if not piece:
                break
            seen += piece
            if seen.endswith(QUESTION):
                answer = next(coming, None)
                there.write(END if answer is None else f"{answer}\n".encode())
    return seen.decode()


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Wait until a condition about another process holds."""
    deadline = time.monotonic() + LONGEST
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        assert process is None or process.poll() is None, "the process has ended"
        time.sleep(0.01)


def end(process: subprocess.Popen[str]) -> Finished:
    """Wait for a started process, and return its output; kill it after `LONGEST` seconds or at the test's limit."""
    try:
        out, err = process.communicate(timeout=LONGEST)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def all_commands() -> list[str]:
    """Return the full names of all commands that can be run without a subcommand."""
    return [*_leaves(get_command(app))]


def _leaves(command: Any, *names: str) -> Iterator[str]:  # noqa: ANN401  typer does not export click's types
    if not hasattr(command, "list_commands"):
        yield " ".join(names)
        return
    if command.invoke_without_command:
        yield " ".join(names)
    for name in command.list_commands(None):
        yield from _leaves(command.get_command(None, name), *names, name)
