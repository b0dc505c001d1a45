"""The log file: every line at INFO or above, whatever is printed."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from retrycli.system.trust import open_private, others_may_have_linked

LINKED = "it has a second name (a hard link), and other users may make names in its folder"


class LogFile(logging.Handler):
    """Append lines to a file, which the first line creates.

    A file that can't be written does not end a pass. `problem` says why, for a warning.

    Args:
        path: the file. Its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.problem: str | None = None
        self._path = path
        self._file: int | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line in one write, so that lines of other processes can't split it."""
        try:
            if self._file is None:
                self._file = _open(self._path)
            os.write(self._file, f"{self.format(record)}\n".encode(errors="backslashreplace"))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self.problem = f"{self._path}: {why}. Correct logging.file, or let this user write there"

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        super().close()


def _open(path: Path) -> int:
    """Open a file to append to it.

    Raises:
        OSError: it can't be opened, is not a regular file, or another user may have linked it.
    """
    file = open_private(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
    if (objection := _objection(os.fstat(file), path)) is not None:
        os.close(file)
        raise OSError(None, objection)
    return file


def _objection(file: os.stat_result, path: Path) -> str | None:
    """Return why an open file must not be written; None if it may be."""
    if not stat.S_ISREG(file.st_mode):
        return "not a regular file"
    if others_may_have_linked(file, path.absolute().parent.stat()):
        return LINKED
    return None
