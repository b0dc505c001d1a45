"""Start the installed command many times and import its modules once: ``python tests/fork_server.py SCRIPT CONTROL``.

Imports take most of a command's time. This process imports everything that a command may import, and forks a child for
each call. The child takes over the caller's streams, environment, folder, umask, limits and signals, and then runs the
installed script. So each call is a process with its own exit code, signals, streams, terminal and locks; only the
imports are shared.

It runs as a script and imports no test module, so that the interpreter's state matches the installed script's.
`tests.served` is the client.
"""

from __future__ import annotations

import ast
import ctypes
import gc
import importlib
import io
import json
import os
import pkgutil
import resource
import select
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

PR_SET_PDEATHSIG = 1
STREAMS = (("stdin", "r", "surrogateescape"), ("stdout", "w", "surrogateescape"), ("stderr", "w", "backslashreplace"))
"""Python's standard streams, by file descriptor: name, mode, and the error handler in the C locale."""
LOADED_BY_NAME = ("sqlalchemy.dialects.sqlite.pysqlite", "sqlalchemy.dialects.postgresql.psycopg", "idna.uts46data")
"""Modules that libraries import by name, so that no import statement of the package mentions them."""


def import_everything() -> None:
    """Import every module of the package, and every module that is imported inside a function."""
    package = importlib.import_module("retrycli")
    names = {module.name for module in pkgutil.walk_packages(package.__path__, "retrycli.")}
    names -= {name for name in names if name.endswith("__main__") or ".migrations." in name}
    for name in sorted(names):
        names |= _imported_in(Path(str(importlib.import_module(name).__file__)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning here would not reach the caller's stderr
        for name in sorted(names.union(LOADED_BY_NAME)):
            with suppress(ImportError):  # an extra that is not installed, or a name that is not a module
                importlib.import_module(name)
    assert threading.active_count() == 1, "a process with threads can't fork"
    assert tempfile.tempdir is None, "the folder for temporary files would be the server's"


def _imported_in(file: Path) -> set[str]:
    """Return the modules that a source file imports anywhere, and the names that it imports from them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def serve(control: socket.socket) -> dict[str, Any]:
    """Fork a child for each request; report its pid and exit code. Only a child returns, with its request."""
    running: dict[int, tuple[int, socket.socket]] = {}
    libc = ctypes.CDLL(None)
    server = os.getpid()
    while True:
        ready = select.poll()
        for descriptor in (control.fileno(), *running):
            ready.register(descriptor, select.POLLIN)
        for number, _ in ready.poll():
            if number in running:
                pid, answer = running.pop(number)
                os.close(number)
                with answer, suppress(OSError):
                    answer.sendall(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                continue
            message, received, _, _ = socket.recv_fds(control, 1, 4)
            if not message:  # the tests have ended
                os._exit(0)
            answer, streams = socket.socket(fileno=received[0]), received[1:]
            with answer.makefile("rb") as file:
                request: dict[str, Any] = json.load(file)
            pid = os.fork()
            if pid == 0:
                libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != server:
                    os._exit(1)
                for pidfd, (_, other) in running.items():
                    os.close(pidfd)
                    other.close()
                answer.close()
                control.close()
                _become(request, streams)
                return request
            for stream in streams:
                os.close(stream)
            answer.sendall(b"%d\n" % pid)
            running[os.pidfd_open(pid)] = pid, answer


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Set this child up as if Python had just started with the environment of the request."""
    if request["new_session"]:
        os.setsid()
    for number, given in enumerate(streams):
        os.dup2(given, number)
        os.close(given)
    for name, limits in request["limits"].items():
        if resource.getrlimit(int(name)) != tuple(limits):
            resource.setrlimit(int(name), limits)
    os.umask(request["umask"])
    for each in request["ignored"]:
        signal.signal(each, signal.SIG_IGN)
    coerced = {name: os.environ[name] for name in ("LC_CTYPE",) if name in os.environ}  # Python sets it in the C locale
    os.environ.clear()
    os.environ.update(coerced | request["env"])
    time.tzset()
    os.chdir(request["cwd"])
    sys.argv = request["args"]
    sys.orig_argv = [sys.executable, *request["args"]]
    sys.path[0] = str(Path(request["args"][0]).parent)
    for number, (name, mode, errors) in enumerate(STREAMS):
        stream = opened(number, name, mode, errors)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def opened(number: int, name: str, mode: str, errors: str) -> io.TextIOWrapper:
    """Open a stream as Python does when it starts (``create_stdio`` in its ``pylifecycle.c``)."""
    binary = open(number, f"{mode}b", closefd=False)  # noqa: SIM115  the stream stays open
    lines = os.isatty(number) or name == "stderr"
    return io.TextIOWrapper(binary, "utf-8", errors, newline="\n", line_buffering=lines)


if __name__ == "__main__":
    sys.path.pop(0)  # removes the folder of this script
    sys.path.insert(0, "")
    script, number = sys.argv[1:]
    import_everything()
    gc.collect()
    gc.freeze()
    serve(socket.socket(fileno=int(number)))
    main = ModuleType("__main__")
    main.__file__ = script
    sys.modules["__main__"] = main
    exec(compile(Path(script).read_bytes(), script, "exec"), main.__dict__)
