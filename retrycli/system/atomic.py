"""Atomic replacement of files: a reader sees the old content or the new one, never a part."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

READABLE_BY_ALL = 0o644
"""Readers of these files run as other users, whatever the umask of cron."""


def replace(path: Path, text: str, *, errors: str = "strict", like: os.stat_result | None = None) -> None:
    """Replace a file, readable by all.

    Args:
        path: where.
        text: the content.
        errors: how to encode invalid Unicode, as for `str.encode`.
        like: a file whose mode and owner to use instead.

    Raises:
        OSError: the file can't be written; the old one is unchanged.
        ValueError: the path is invalid.
    """
    # The name must not end as programs expect it: node_exporter reads every .prom.
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
