"""Private files, and files that another user could change."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from functools import partial
from pathlib import Path

import pytest

from retrycli.config.loader import Loaded, load
from retrycli.domain.errors import ConfigurationError
from retrycli.store.database import Database
from retrycli.system.trust import find_weakness, require_trust, without_links, write_private
from tests.users import OURS, SHARED, THEIRS, as_user, open_place

WATCHED = """
import os, stat, sys
from pathlib import Path
from retrycli.system.trust import write_private

os.umask(0)
file, modes = Path(sys.argv[1]), set()

def look(frame, event, argument):
    if file.exists():
        modes.add(oct(stat.S_IMODE(file.stat().st_mode)))
    return look

sys.settrace(look)
write_private(file, "secret")
sys.settrace(None)
look(None, None, None)
print(*modes)
"""


def test_a_private_file_is_private_from_its_first_moment(tmp_path: Path) -> None:
    """The mode is checked after each executed line, with a umask that removes nothing."""
    file = tmp_path / "retrycli.toml"
    done = subprocess.run([sys.executable, "-c", WATCHED, str(file)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("0o600\n", "")
    assert file.read_text() == "secret"


@pytest.mark.parametrize("target", ["there", "not there"])
def test_a_private_file_is_not_written_through_a_link(tmp_path: Path, target: str) -> None:
    (tmp_path / "there").touch()
    (tmp_path / "retrycli.toml").symlink_to(tmp_path / target)
    with pytest.raises(FileExistsError):
        write_private(tmp_path / "retrycli.toml", "secret")
    assert (tmp_path / "there").read_text() == ""
    assert not (tmp_path / "not there").exists()


@pytest.fixture
def place() -> Iterator[Path]:
    with open_place() as made:
        yield made


def a_file(folder: Path, *, uid: int = 0, gid: int = 0, mode: int = 0o644) -> Path:
    file = folder / "retrycli.toml"
    file.write_text('[gateway]\nbase_url = "https://desk.test"\n')
    os.chown(file, uid, gid)
    file.chmod(mode)
    return file


def own(path: Path, uid: int, gid: int | None = None, *, mode: int = 0o755) -> Path:
    if not path.exists():
        path.mkdir()
    os.chown(path, uid, uid if gid is None else gid)
    path.chmod(mode)
    return path


def read_here(folder: Path, uid: int) -> str | None:
    """Return the base URL of the settings that a user finds in a folder."""

    def found() -> Loaded:
        with chdir(folder):
            return load(None, {})

    return as_user(uid, found).settings.gateway.base_url


def refused(folder: Path, uid: int) -> str:
    """Return why a user's settings in a folder are refused, which does not depend on how they are found."""
    file = folder / "retrycli.toml"

    def found() -> list[str]:
        texts = []
        for named, environment in ((None, {}), (file, {}), (None, {"RETRYCLI_CONFIG": str(file)})):
            with chdir(folder), pytest.raises(ConfigurationError) as caught:
                load(named, environment)
            texts.append(str(caught.value))
        return texts

    [why] = set(as_user(uid, found))
    return why


def config_map(folder: Path) -> None:
    """Create a mount like a Kubernetes ConfigMap: the file is reached through two links, and root owns everything."""
    own(folder / "..2026_03_02", 0)
    a_file(folder / "..2026_03_02")
    (folder / "..data").symlink_to("..2026_03_02")
    (folder / "retrycli.toml").symlink_to("..data/retrycli.toml")


TAKEN: dict[str, tuple[int, Callable[[Path], object]]] = {
    "root's, read by root": (0, a_file),
    "copied as root, run as another user": (OURS, a_file),
    "of who runs it, in a folder of root's": (OURS, lambda place: a_file(place, uid=OURS, gid=OURS, mode=0o600)),
    "of who runs it": (OURS, lambda place: a_file(own(place, OURS), uid=OURS, gid=OURS)),
    "umask 002 and a group of one's own": (
        OURS,
        lambda place: a_file(own(place, OURS, mode=0o775), uid=OURS, gid=OURS, mode=0o664),
    ),
    "root's, and writable by the group of who runs it": (OURS, lambda place: a_file(place, gid=OURS, mode=0o660)),
    "a ConfigMap": (OURS, config_map),
}


@pytest.mark.parametrize("case", TAKEN)
def test_settings_writable_only_by_root_and_their_user_are_read(case: str, place: Path) -> None:
    uid, make = TAKEN[case]
    make(place)
    assert read_here(place, uid) == "https://desk.test"


def linked(place: Path, *, target_of: int = 0, link_of: int = 0) -> None:
    """Create a link to a file in another folder."""
    other = own(place.parent / "other", target_of)
    a_file(other, uid=0)
    (place / "retrycli.toml").symlink_to(other / "retrycli.toml")
    os.chown(place / "retrycli.toml", link_of, link_of, follow_symlinks=False)


def linked_through(place: Path, *, uid: int) -> None:
    """Create a link to root's file in root's folder, through another link in a folder of ``uid``."""
    between = own(place.parent / "between", uid)
    (between / "link").symlink_to(own(place.parent / "other", 0))
    os.chown(between / "link", 0, 0, follow_symlinks=False)
    a_file(place.parent / "other")
    (place / "retrycli.toml").symlink_to(between / "link" / "retrycli.toml")


def renamed_above(place: Path) -> None:
    """Put root's file into root's folder, and give the folder above to another user, who could replace it."""
    a_file(place)
    own(place.parent, THEIRS)


ACCESS_LIST = struct.pack(
    "<I" + "HHI" * 5,
    2,
    *(1, 6, 0xFFFFFFFF),
    *(2, 6, THEIRS),
    *(4, 4, 0xFFFFFFFF),
    *(16, 6, 0xFFFFFFFF),
    *(32, 4, 0xFFFFFFFF),
)
"""What setfacl -m u:THEIRS:rw would write: user::rw-, user:THEIRS:rw-, group::r--, mask::rw-, other::r-- (acl(5))."""


def with_access_list(place: Path) -> None:
    try:
        os.setxattr(a_file(place), "system.posix_acl_access", ACCESS_LIST)
    except OSError as error:
        pytest.skip(f"no access lists on this file system: {error}")


REFUSED: dict[str, tuple[int, Callable[[Path], object], str]] = {
    "another user's file": (0, lambda place: a_file(place, uid=THEIRS), f"retrycli.toml belongs to {THEIRS}"),
    "a file for all to write": (0, lambda place: a_file(place, mode=0o646), "toml is writable by every user"),
    "ours in a folder like /tmp": (
        OURS,
        lambda place: a_file(own(place, 0, mode=0o1777), uid=OURS, gid=OURS, mode=0o600),
        "place is writable by every user",
    ),
    "a file for a group to write": (
        OURS,
        lambda place: a_file(place, uid=OURS, gid=SHARED, mode=0o660),
        f"retrycli.toml is writable by the group {SHARED}",
    ),
    "a folder for a group to write": (
        OURS,
        lambda place: a_file(own(place, OURS, SHARED, mode=0o2775), uid=OURS, gid=OURS),
        f"place is writable by the group {SHARED}",
    ),
    "the group of another user": (0, lambda place: a_file(place, gid=THEIRS, mode=0o660), f"the group {THEIRS}"),
    "a link to another user's folder": (0, lambda place: linked(place, target_of=THEIRS), f"other belongs to {THEIRS}"),
    "another user's link": (0, lambda place: linked(place, link_of=THEIRS), f"retrycli.toml belongs to {THEIRS}"),
    "a link in another user's folder": (
        0,
        lambda place: linked_through(place, uid=THEIRS),
        f"between belongs to {THEIRS}",
    ),
    "another user's folder above": (0, renamed_above, f"belongs to {THEIRS}"),
    "an access list": (0, with_access_list, "may be changed by the users in its access control list"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_writable_by_another_user_are_not_read(case: str, place: Path) -> None:
    uid, make, why = REFUSED[case]
    make(place)
    assert why in refused(place, uid)


def test_settings_in_a_home_kept_by_sudo_are_not_read(place: Path) -> None:
    """If HOME belongs to another user, that user may have written the settings in ~/.config."""
    a_file(own(own(own(place, THEIRS) / ".config", THEIRS) / "retrycli", THEIRS), uid=THEIRS)
    empty = own(place.parent / "empty", 0)

    def found() -> Loaded:
        with chdir(empty):
            return load(None, {"HOME": str(place)})

    with pytest.raises(
        ConfigurationError,
        match=f"{place}/.config/retrycli/retrycli.toml is not used, because {place} belongs to {THEIRS}; run this as ",
    ):
        as_user(0, found)


def test_a_database_in_another_users_working_directory_is_not_opened(place: Path) -> None:
    """The check does not depend on when the settings were read: its owner may have locked the folder then."""
    (own(place, THEIRS, mode=0o777) / "ticketing_agent.db").touch(0o666)
    with chdir(place), pytest.raises(ConfigurationError, match=f"belongs to {THEIRS}"):
        as_user(OURS, lambda: Database("sqlite:///ticketing_agent.db"))


def test_a_refusal_names_the_directory_and_the_file(place: Path) -> None:
    a_file(own(place, THEIRS))
    assert refused(place, 0) == (
        f"{place}/retrycli.toml is not used, because {place} belongs to {THEIRS}; run this as the user {THEIRS}"
    )


def test_our_directory_in_a_sticky_one_is_ours(place: Path) -> None:
    """The sticky bit keeps other users from renaming the directory."""
    shared = own(place / "shared", 0, mode=0o1777)
    a_file(own(shared / "ours", OURS, mode=0o700), uid=OURS)
    assert find_weakness(shared / "ours" / "retrycli.toml", {0, OURS}) is None
    assert find_weakness(shared / "ours", {0, OURS}) is not None
    own(shared, 0, mode=0o777)
    assert find_weakness(shared / "ours" / "retrycli.toml", {0, OURS}) is not None


def test_for_a_missing_file_its_directories_are_checked(place: Path) -> None:
    assert find_weakness(place / "none" / "none", {0}) is None
    own(place, THEIRS)
    assert find_weakness(place / "none" / "none", {0}) is not None


def test_what_is_about_to_be_loaded_must_exist(place: Path) -> None:
    """Otherwise another user could move the working directory away during the check, and back before the file is
    read.
    """
    with pytest.raises(FileNotFoundError):
        require_trust(place / "none")
    require_trust(place / "none", may_be_missing=True)


def test_a_path_with_a_loop_or_through_a_file_is_unsafe(place: Path) -> None:
    (place / "loop").symlink_to("loop")
    (place / "file").touch()
    for way in ("loop", "loop/x", "file/x"):
        assert "can't be checked" in str(find_weakness(place / way, {0}))


def test_a_parent_directory_is_that_of_the_links_target(place: Path) -> None:
    """`link/..` is the parent of the link's target, and not the folder that contains the link."""
    own(own(place / "theirs", THEIRS) / "inner", 0)
    (place / "link").symlink_to("theirs/inner")
    assert find_weakness(place / "link" / ".." / "retrycli.toml", {0}) is not None
    assert find_weakness(place / "retrycli.toml", {0}) is None


def test_only_links_of_root_and_the_user_are_followed(place: Path) -> None:
    """Only root can change the owner of a link, so another user is told to replace it."""
    own(place / "target", OURS)
    for name, owner in (("ours", OURS), ("roots", 0), ("theirs", THEIRS)):
        (place / name).symlink_to("target")
        os.chown(place / name, owner, owner, follow_symlinks=False)
    for name in ("ours", "roots"):
        assert as_user(OURS, partial(without_links, place / name)) == place / "target"
    with pytest.raises(ConfigurationError, match=r"theirs is a link that .* replace it with a link of your own"):
        as_user(OURS, partial(without_links, place / "theirs"))


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_a_read_only_mount_cannot_be_written_by_anyone(place: Path, mode: int) -> None:
    """Kubernetes mounts a ConfigMap in this way: with mode 0777, and read-only."""
    own(place, 0, SHARED, mode=mode)
    config_map(place)
    check = "import sys; from pathlib import Path; from retrycli.system.trust import find_weakness as find; "
    command = [sys.executable, "-c", f"{check}print(find(Path(sys.argv[1]), {{0}}))", str(place / "retrycli.toml")]
    mounted = f'mount --bind "{place}" "{place}" && mount -o remount,bind,ro "{place}" && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "/bin/sh", "-c", mounted, "sh", *command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"can't create a read-only mount (CAP_SYS_ADMIN): {done.stderr.strip()}")
    assert done.stdout == "None\n"
    assert find_weakness(place / "retrycli.toml", {0}) is not None


ROOT_USER, SERVICE = "root:x:0:0::/root:/bin/sh\n", f"desk:x:{OURS}:{SHARED}::/:/bin/sh\n"
GROUPS: dict[str, tuple[str, str, int, str]] = {
    "one that is named otherwise, and the primary one of its only user": (
        SERVICE,
        f"tickets:x:{SHARED}:\n",
        SHARED,
        "",
    ),
    "one that lists root": (ROOT_USER + SERVICE, f"tickets:x:{SHARED}:root,desk\n", SHARED, ""),
    "root's, in an image whose root has another name": ("admin:x:0:0::/root:/bin/sh\n", "root:x:0:\n", 0, ""),
    "root's, in an image without accounts": ("", "", 0, ""),
    "root's, which lists root": (ROOT_USER, "root:x:0:root\n", 0, ""),
    "one that lists another": (
        SERVICE + f"eve:x:{THEIRS}:{THEIRS}::/:/bin/sh\n",
        f"tickets:x:{SHARED}:eve\n",
        SHARED,
        "tickets",
    ),
    "the primary one of another too": (
        SERVICE + f"eve:x:{THEIRS}:{SHARED}::/:/bin/sh\n",
        f"desk:x:{SHARED}:\n",
        SHARED,
        "desk",
    ),
    "one that lists a name without an account": (SERVICE, f"tickets:x:{SHARED}:gone\n", SHARED, "tickets"),
    "one without any user": (ROOT_USER, f"tickets:x:{SHARED}:\n", SHARED, "tickets"),
    "root's, which is another's primary one": (
        f"{ROOT_USER}operator:x:{THEIRS}:0::/:/sbin/nologin\n",
        "root:x:0:\n",
        0,
        "root",
    ),
}
LOOK = """
import sys
from pathlib import Path
from retrycli.store.database import Database
from retrycli.system.trust import find_weakness
print(find_weakness(Path(sys.argv[1]), {0, int(sys.argv[2])}))
"""
UNDER_OTHER_ACCOUNTS = """
for each in passwd group nsswitch.conf; do mount --bind "$1/$each" "/etc/$each" || exit; done
shift; exec "$@"
"""


@pytest.mark.parametrize("case", GROUPS)
def test_a_group_is_private_if_its_only_members_are_root_and_the_trusted_user(case: str, tmp_path: Path) -> None:
    """The group's name does not matter. The group may be the user's primary group, or list the user."""
    if (unshare := shutil.which("unshare")) is None:
        pytest.skip("unshare is not installed: apt-get install util-linux")
    passwd, group, gid, shared = GROUPS[case]
    for name, text in (("passwd", passwd), ("group", group), ("nsswitch.conf", "passwd: files\ngroup: files\n")):
        (tmp_path / name).write_text(text)
    with open_place() as place:
        (place / "retrycli.toml").touch()
        os.chown(place / "retrycli.toml", 0, gid)
        (place / "retrycli.toml").chmod(0o664)
        look = (sys.executable, "-c", LOOK, str(place / "retrycli.toml"), str(OURS))
        inside = ("--mount", "sh", "-c", UNDER_OTHER_ACCOUNTS, "sh", str(tmp_path), *look)
        done = subprocess.run([unshare, *inside], capture_output=True, text=True, check=False)
    if "mount" in done.stderr:
        pytest.skip(f"can't create a mount namespace (CAP_SYS_ADMIN): {done.stderr}")
    expected = f"{place}/retrycli.toml is writable by the group {shared}" if shared else "None"
    assert (done.stdout, done.stderr) == (f"{expected}\n", "")
