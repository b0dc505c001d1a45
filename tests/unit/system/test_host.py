"""File permissions, and the type of the file system."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrycli.system.host import file_system_of, others_may_read

MOUNTS = r"""
proc /proc proc rw 0 0
/dev/vda / ext4 rw,relatime 0 0
server:/desk /srv/desk nfs4 rw 0 0
/dev/vdb /srv/desk/local xfs rw 0 0
//server/a\040b /srv/a\040b cifs rw 0 0
/dev/vdc /srv/twice ext4 rw 0 0
anna@host: /srv/twice fuse.sshfs rw 0 0
nonsense
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/agent.db", "ext4"),
        ("/srv/desk/agent.db", "nfs4"),
        ("/srv/desk-too/agent.db", "ext4"),
        ("/srv/desk/local/agent.db", "xfs"),
        ("/srv/a b/agent.db", "cifs"),
        ("/srv/twice/agent.db", "fuse.sshfs"),
        ("/srv/desk/local/../agent.db", "nfs4"),
    ],
)
def test_the_longest_mount_point_wins_and_of_two_the_later_one(tmp_path: Path, path: str, kind: str) -> None:
    link = tmp_path / "agent.db"
    link.symlink_to(path)
    assert file_system_of(Path(path), MOUNTS) == file_system_of(link, MOUNTS) == kind
    assert file_system_of(Path(path), "") is None


@pytest.mark.parametrize(("mode", "read"), [(0o600, False), (0o660, False), (0o644, True), (0o602, False)])
def test_others_are_neither_the_owner_nor_the_group(tmp_path: Path, mode: int, *, read: bool) -> None:
    file = tmp_path / "token"
    assert not others_may_read(file)
    file.touch()
    file.chmod(mode)
    assert others_may_read(file) is read
