"""The streams that a command is given: closed, full or without a reader, none of them changes what it does."""

from __future__ import annotations

import os
import sys
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import TYPE_CHECKING, TextIO

from retrycli.domain.errors import OutputFailed

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def prepare() -> None:
    """Have the streams be there, and stdout and stderr take whatever comes.

    That nobody can see it is no reason not to deliver, nor to end with another code.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed, as by `>&-` in a crontab
            # Its number stays taken, or what is opened next would get it, and with it what is written here.
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(nowhere, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    sys.stdout = _through(_Stdout, sys.stdout)
    sys.stderr = _through(_Stderr, sys.stderr)


def _through(kind: type[FileIO], stream: TextIO) -> TextIOWrapper:
    """The same stream, written through a file of ours."""
    raw = BufferedWriter(kind(stream.fileno(), "w", closefd=False))
    return TextIOWrapper(raw, stream.encoding, "backslashreplace", line_buffering=bool(stream.line_buffering))


class _Stdout(FileIO):
    """It fails once; then nobody is there for the rest, and Python must not stumble over that when it ends."""

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
    """It never fails: there is no other place to say so."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes
