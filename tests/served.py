"""Run the installed command as a process that `tests.fork_server` forks, which saves the imports."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from tests.environment import BARE, until_the_end

SCRIPT = str(Path(sys.executable).with_name("retrycli"))
READ_LATE = ("RETRYCLI_", "TICKETING_", "SUDO_", "XDG_")
"""Prefixes of variables that commands read at run time, like the names below. A forked command would ignore a variable
that is read when Python starts or when a module is imported."""
READ_LATE_TOO = frozenset({
    "COLUMNS", "COMP_CWORD", "COMP_WORDS", "CREDENTIALS_DIRECTORY", "EDITOR", "FILE", "HOME", "HTTPS_PROXY",
    "INVOCATION_ID", "LOGNAME", "PAGER", "PATH", "TERM", "TMPDIR", "TZ", "USER", "VISUAL", "_RETRYCLI_COMPLETE",
    "_TYPER_COMPLETE_ARGS",
})  # fmt: skip
LIMITS = {value for name, value in vars(resource).items() if name.startswith("RLIMIT_")}
MAY_BE_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""Signals that `nohup` or a shell may have set to be ignored. Child processes inherit ignored signals."""


def can_serve(env: Mapping[str, str]) -> bool:
    """Return whether a forked command sees this environment as a started one would."""
    return all(name.startswith(READ_LATE) or name in READ_LATE_TOO for name in env)


class Served(subprocess.Popen[str]):
    """A process of the installed command that the server forks; the arguments are those of `Popen`."""

    def _execute_child(self, args: tuple[str | Path, ...], *others: Any) -> None:  # noqa: ANN401  Popen's arguments
        """Make the server fork a process, where `Popen` would start one."""
        cwd, env = others[4:6]
        theirs_in, ours_in, ours_out, theirs_out, ours_err, theirs_err = others[9:15]
        new_session = others[20]
        words = [os.fsdecode(arg) for arg in args]
        if any("\0" in word for word in words):
            raise ValueError("embedded null byte")
        request = {
            "args": words,
            "env": dict(env),
            "cwd": os.fsdecode(cwd),
            "new_session": new_session,
            "umask": _umask(),
            "limits": {limit: resource.getrlimit(limit) for limit in LIMITS},
            "ignored": [
                signal_number for signal_number in MAY_BE_IGNORED if signal.getsignal(signal_number) is signal.SIG_IGN
            ],
        }
        try:
            self._call, answer = socket.socketpair()
            with answer:
                streams = [
                    given if given >= 0 else usual for usual, given in enumerate((theirs_in, theirs_out, theirs_err))
                ]
                socket.send_fds(_server(), [b"+"], [answer.fileno(), *streams])
            self._call.sendall(json.dumps(request).encode())
            self._call.shutdown(socket.SHUT_WR)
            self._answers = self._call.makefile("rb", buffering=0)
            self._reaping = Lock()
            self.pid = self._answer()
            self._child_created = True
        finally:
            self._close_pipe_fds(theirs_in, ours_in, ours_out, theirs_out, ours_err, theirs_err)  # type: ignore[attr-defined]

    def _internal_poll(self, *_unused: object, **_unused_too: object) -> int | None:
        try:
            return self._wait(0)
        except subprocess.TimeoutExpired:
            return None

    def _wait(self, timeout: float | None) -> int:
        with self._reaping:
            if self.returncode is None:
                ready = select.poll()
                ready.register(self._call, select.POLLIN)
                if not ready.poll(None if timeout is None else max(timeout, 0) * 1000):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
                self.returncode = self._answer()
                self._answers.close()
                self._call.close()
            return self.returncode

    def _answer(self) -> int:
        """Return the next number that the server sends."""
        line = self._answers.readline()
        assert line, "the fork server has ended"
        return int(line)


def _umask() -> int:
    """Return this process's umask without changing it (proc_pid_status(5))."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("Umask:")).split()[1], 8)


@cache
def _started() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    python = Path(SCRIPT).read_text().splitlines()[0].removeprefix("#!")
    with theirs:
        server = subprocess.Popen(
            [python, Path(__file__).with_name("fork_server.py"), SCRIPT, str(theirs.fileno())],
            env=BARE,
            cwd="/",
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )

    def stop() -> None:
        ours.close()
        server.kill()  # it would not notice the end if a fork of this process kept the socket open
        server.wait()

    until_the_end.callback(stop)
    return ours


_starting = Lock()


def _server() -> socket.socket:
    """Return the connection to this process's fork server, which starts on the first call."""
    with _starting:
        return _started()
