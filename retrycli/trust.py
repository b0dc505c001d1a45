"""Which files to rely on: in a folder like /tmp, anybody may have put there what bears a name of ours."""

from __future__ import annotations

import os
import stat
from pathlib import Path

PRIVATE = 0o600
"""For its owner's eyes alone."""


def is_planted(file: os.stat_result, folder: os.stat_result) -> bool:
    """Whether a file is another user's, in a folder that anybody may write to. Root and its owner could do worse."""
    return bool(folder.st_mode & stat.S_IWOTH) and file.st_uid not in {os.geteuid(), folder.st_uid, 0}


def write_private(path: Path, text: str) -> None:
    """Make a file that nobody else may read, not even for a moment, whatever the umask.

    Raises:
        FileExistsError: there is one, or a link, already.
        OSError: it can't be made.
    """
    made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    with os.fdopen(made, "w", encoding="utf-8") as file:
        file.write(text)
