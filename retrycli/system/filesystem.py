"""Files and file systems: who may read a file, and the type of its file system."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from retrycli.system.trust import user_name

NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "9p", "ceph", "glusterfs", "lustre", "vboxsf", "prl_fs"),
    *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.davfs", "fuse.vmhgfs-fuse", "fuse.rclone", "fuse.s3fs"),
}
"""File systems with locks that SQLite can't rely on."""


def others_may_read(path: Path) -> bool:
    """Tell if users other than a file's owner and group may read it; False if it does not exist."""
    return bool(_mode(path) & stat.S_IROTH)


def owner(path: Path) -> str | None:
    """Return a file's owner, by name if there is one; None if the file does not exist."""
    try:
        return user_name(path.stat().st_uid)
    except OSError:
        return None


def kind_of(path: Path, mounts: str) -> str | None:
    """Return the type of a file's file system.

    Args:
        path: the file; links are followed.
        mounts: the text of /proc/self/mounts.

    Returns:
        The type, such as ``ext4``; None if the mounts don't tell.
    """
    real = path.resolve()
    best: tuple[int, str] | None = None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) > 2 and real.is_relative_to(point := _unescape(fields[1])):  # noqa: PLR2004  the third is read
            depth = len(Path(point).parts)
            if best is None or depth >= best[0]:  # a later mount covers an earlier one
                best = depth, fields[2]
    return best and best[1]


def _unescape(field: str) -> str:
    """Decode a mount point, which has spaces and the like in octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0
