"""Files as the system sees them: who may touch one, and on what kind of file system it lies."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from retrycli.system.trust import user_name

NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "9p", "ceph", "glusterfs", "lustre", "vboxsf", "prl_fs"),
    *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.davfs", "fuse.vmhgfs-fuse", "fuse.rclone", "fuse.s3fs"),
}
"""File systems whose locks SQLite can't rely on."""


def others_may_read(path: Path) -> bool:
    """Whether users that are neither its owner nor of its group may read a file; not, if there is none."""
    return bool(_mode(path) & stat.S_IROTH)


def owner(path: Path) -> str | None:
    """Who owns a file, by name where there is one; None where there is no file."""
    try:
        return user_name(path.stat().st_uid)
    except OSError:
        return None


def kind_of(path: Path, mounts: str) -> str | None:
    """The kind of file system that a file lies on.

    Args:
        path: the file; links are followed.
        mounts: what /proc/self/mounts says.

    Returns:
        Its kind, as ``ext4``; None where the mounts don't tell.
    """
    real = path.resolve()
    best: tuple[int, str] | None = None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) > 2 and real.is_relative_to(point := _unescaped(fields[1])):  # noqa: PLR2004  the third is read
            depth = len(Path(point).parts)
            if best is None or depth >= best[0]:  # a later one lies on top of an earlier one
                best = depth, fields[2]
    return best and best[1]


def _unescaped(field: str) -> str:
    """A name as it is: spaces and the like stand there in octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0
