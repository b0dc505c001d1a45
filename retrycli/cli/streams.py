"""Standard streams that may be closed, full or without a reader, without changing what a command does."""

from __future__ import annotations

import os
import sys
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import TYPE_CHECKING, TextIO

from retrycli.domain.errors import OutputFailed

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def prepare() -> None:
    """Open closed streams on the null device, and make stdout and stderr accept any text.

    Output that nobody sees must neither stop a delivery nor change the exit code.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed, for example by `>&-` in a crontab
            # Keep its descriptor in use: the next file opened would get it, and receive this output.
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(nowhere, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    sys.stdout = _through(_Stdout, sys.stdout)
    sys.stderr = _through(_Stderr, sys.stderr)


def _through(kind: type[FileIO], stream: TextIO) -> TextIOWrapper:
    raw = BufferedWriter(kind(stream.fileno(), "w", closefd=False))
    return TextIOWrapper(raw, stream.encoding, "backslashreplace", line_buffering=bool(stream.line_buffering))


class _Stdout(FileIO):
    """Fails once, then discards output, so that Python's flush at exit does not fail again."""

    _failed = False

    def write(self, data: ReadableBuffer, /) -> int:
        if self._failed:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except BrokenPipeError:
            self._failed = True
            raise
        except OSError as error:
            self._failed = True
            raise OutputFailed(f"can't write the output: {error.strerror}") from error


class _Stderr(FileIO):
    """Never fails: there is nowhere else to report it."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes
