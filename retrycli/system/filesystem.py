"""Files and file systems: replace files atomically, find out who may read a file, and find the type of its file
system.
"""

import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from retrycli.system.trust import user_name

# File systems whose locks SQLite can't rely on.
NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "9p", "ceph", "glusterfs", "lustre", "vboxsf", "prl_fs"),
    *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.davfs", "fuse.vmhgfs-fuse", "fuse.rclone", "fuse.s3fs"),
}


READABLE_BY_ALL = 0o644  # readers of these files run as other users, whatever the umask of cron


def replace(path: Path, text: str, *, errors: str = "strict", like: os.stat_result | None = None) -> None:
    """Replace a file by one that everybody can read. A reader sees the complete old or the complete new content.

    Args:
        path: the file.
        text: the content.
        errors: the way to encode invalid Unicode, as for `str.encode`.
        like: a file whose mode and owner the new file gets instead.

    Raises:
        OSError: the file can't be written; the old file is unchanged.
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


def others_may_read(path: Path) -> bool:
    """Return whether users other than a file's owner and group may read the file; False if the file does not exist."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def owner(path: Path) -> str | None:
    """Return a file's owner, by name if the owner has a name; None if the file does not exist."""
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
        The type, such as ``ext4``; None if the mounts don't show it.
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
    """Decode a mount point, in which characters such as spaces are written in octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
