"""Run the installed command inside the tests' process, which saves the start of Python and the imports.

During the call, the process has the command's streams, environment, folder, arguments, logging and signal handlers.
Afterwards they are restored. Tests of signals, terminals, locks and exits need a process: see `Cli.real`.
"""

from __future__ import annotations

import gc
import importlib
import io
import logging
import os
import pydoc
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from pathlib import Path
from subprocess import CompletedProcess

from retrycli.__main__ import GC_THRESHOLD
from retrycli.cli import run
from retrycli.domain import suggested

logger = logging.getLogger("retrycli")

STREAMS = (("stdin", "r", "surrogateescape"), ("stdout", "w", "surrogateescape"), ("stderr", "w", "backslashreplace"))
"""Python's standard streams, by file descriptor: name, mode, and the error handler in the C locale."""
READ_LATE = ("RETRYCLI_", "TICKETING_", "SUDO_", "XDG_")
"""Prefixes of variables that commands read at run time, like the names below. A call would ignore a variable that is
read when Python starts or when a module is imported."""
READ_LATE_TOO = frozenset({
    "COLUMNS", "COMP_CWORD", "COMP_WORDS", "CREDENTIALS_DIRECTORY", "EDITOR", "FILE", "HOME", "HTTPS_PROXY",
    "INVOCATION_ID", "LOGNAME", "PAGER", "PATH", "TERM", "TMPDIR", "TZ", "USER", "VISUAL", "_RETRYCLI_COMPLETE",
    "_TYPER_COMPLETE_ARGS",
})  # fmt: skip


def can_call(env: Mapping[str, str]) -> bool:
    """Return whether this thread may run a command, which sees this environment as a started one would."""
    is_main = threading.current_thread() is threading.main_thread()  # only it may set signal handlers
    return is_main and all(name.startswith(READ_LATE) or name in READ_LATE_TOO for name in env)


def call(args: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> CompletedProcess[str]:
    """Run a command to its end with its output captured and no input; the arguments are those of `call_with`."""
    with (
        Path(os.devnull).open("rb") as nothing,
        os.fdopen(os.memfd_create("stdout"), "r+b") as out,
        os.fdopen(os.memfd_create("stderr"), "r+b") as err,
    ):
        streams = nothing.fileno(), out.fileno(), err.fileno()
        code = call_with(streams, args, env=env, cwd=cwd)
        return CompletedProcess(args, code, _text(out.fileno()), _text(err.fileno()))


def call_with(streams: tuple[int, int, int], args: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> int:
    """Run a command to its end, and return its exit code.

    Args:
        streams: the descriptors of its stdin, stdout and stderr.
        args: the path of the script, and the command's arguments.
        env: the whole environment.
        cwd: the working directory.
    """
    if any("\0" in each for each in args):
        raise ValueError("embedded null byte")
    with (
        _arguments(args),
        _environment(env),
        _folder(cwd),
        _state(),
        warnings.catch_warnings(),
        _log(),
        _signals(),
        _streams(streams),
    ):
        return copy_context().run(_exit_code)


def _exit_code() -> int:
    """Run the command; return the exit code as `retrycli.__main__` computes it."""
    try:
        run()
    except SystemExit as end:
        code = end.code
    else:
        code = 0
    assert isinstance(code, int | None)
    return code or 0


def _text(descriptor: int) -> str:
    with open(descriptor, encoding="utf-8", closefd=False) as file:
        file.seek(0)
        return file.read()


@contextmanager
def _arguments(args: Sequence[str]) -> Iterator[None]:
    before = sys.argv, sys.orig_argv
    sys.argv, sys.orig_argv = [*args], [sys.executable, *args]
    try:
        yield
    finally:
        sys.argv, sys.orig_argv = before


@contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    _have({**env, "PYDANTIC_DISABLE_PLUGINS": "__all__"})
    try:
        yield
    finally:
        _have(before)


def _have(env: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)
    time.tzset()


@contextmanager
def _folder(cwd: Path) -> Iterator[None]:
    before = os.open(".", os.O_PATH)
    os.chdir(cwd)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)


@contextmanager
def _state() -> Iterator[None]:
    """Restore the process-wide state that a command leaves changed, since its process normally ends with it."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    thresholds = gc.get_threshold()
    tempdir, tempfile.tempdir = tempfile.tempdir, None
    invocation = suggested._Now.call
    excepthook, pager = sys.excepthook, pydoc.pager
    modules, path = set(sys.modules), [*sys.path]
    importlib.invalidate_caches()
    gc.set_threshold(GC_THRESHOLD)
    try:
        yield
    finally:
        suggested._Now.call = invocation
        sys.excepthook = excepthook
        for name in sys.modules.keys() - modules:  # senders of a test's application, which the next test writes anew
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and not file.startswith(tuple(filter(os.path.isabs, path))):
                del sys.modules[name]
        sys.path[:] = path
        vars(pydoc)["pager"] = pager  # pydoc caches the first pager that it finds
        tempfile.tempdir = tempdir
        gc.set_threshold(*thresholds)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@contextmanager
def _log() -> Iterator[None]:
    """Remove the log handlers of pytest and of earlier commands, and restore them afterwards."""
    root = logging.getLogger()
    before = logger.handlers, logger.level, logger.propagate, root.handlers
    logger.handlers, root.handlers = [], []
    logger.setLevel(logging.NOTSET)
    logger.propagate = True
    try:
        yield
    finally:
        for each in logger.handlers:
            each.close()
        logger.handlers, level, logger.propagate, root.handlers = before
        logger.setLevel(level)


@contextmanager
def _signals() -> Iterator[None]:
    """Restore the signal handlers afterwards. What should end pytest has reached the command, so send it again."""
    before = {each: signal.getsignal(each) for each in signal.valid_signals()}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for each in (ours, theirs):
            each.settimeout(0)
        wakeup = signal.set_wakeup_fd(theirs.fileno())
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                if handler is not None and signal.getsignal(number) is not handler:
                    signal.signal(number, handler)
            with suppress(BlockingIOError):
                for received in ours.recv(4096):
                    if received in {signal.SIGINT, signal.SIGTERM}:
                        signal.raise_signal(received)


@contextmanager
def _streams(given: tuple[int, int, int]) -> Iterator[None]:
    """Replace the standard streams: the descriptors 0 to 2, and the streams in `sys`."""
    before = [getattr(sys, name) for name, _, _ in STREAMS]
    for stream in before[1:]:
        stream.flush()
    kept = [os.dup(number) for number in range(3)]
    try:
        for number, (name, mode, errors) in enumerate(STREAMS):
            os.dup2(given[number], number)
            setattr(sys, name, _opened(number, name, mode, errors))
        yield
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        for number, (name, _, _) in enumerate(STREAMS):
            setattr(sys, name, before[number])
            os.dup2(kept[number], number)
            os.close(kept[number])


def _opened(number: int, name: str, mode: str, errors: str) -> io.TextIOWrapper:
    """Open a stream as Python does when it starts (``create_stdio`` in its ``pylifecycle.c``)."""
    binary = open(number, f"{mode}b", closefd=False)  # noqa: SIM115  the stream stays open
    lines = os.isatty(number) or name == "stderr"
    return io.TextIOWrapper(binary, "utf-8", errors, newline="\n", line_buffering=lines)
