"""Files that are replaced as a whole: who reads one sees what was there before or what comes after, never a part."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

READABLE_BY_ALL = 0o644
"""Whoever reads these files runs as a user of their own, whatever the umask of cron."""


def replace(path: Path, text: str, *, errors: str = "strict", like: os.stat_result | None = None) -> None:
    """Put a file in the place of the one before, readable by all.

    Args:
        path: where.
        text: what it is to hold.
        errors: how to write what is no Unicode, as for `str.encode`.
        like: have this one's mode and owner instead.

    Raises:
        OSError: it can't be written there; what was there is as it was.
        ValueError: that is no path.
    """
    # Its name ends in none of the endings by which others look for their files: node_exporter takes every .prom.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors=errors) as file:
            if like is not None and (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, like.st_uid, like.st_gid)
            os.fchmod(descriptor, READABLE_BY_ALL if like is None else stat.S_IMODE(like.st_mode))
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
