"""Find out whether untrusted users may change what a path leads to.

One rule (`find_weakness`) applies to everything that retrycli relies on: only root and the user who runs the passes may
change the file, the links to it, and the folders above. The check starts at the root folder and goes down. If every
folder on the way passes the check, nobody else can replace anything between the check and the use. Each function that
loads settings, secrets, presets or code checks it (`require_trust`), however the file was named.
"""

import errno
import grp
import os
import pwd
import shlex
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from retrycli.domain import suggested
from retrycli.domain.errors import ConfigurationError, Untrusted

PRIVATE = 0o600
ROOT = 0
OWN_FOLDER = "use a folder that other users can't write to"
MAX_LINKS = 40  # maximum number of links that Linux follows in one path (path_resolution(7))
# The attribute with a file's access control list (acl(5)). If a file has a list, the group bits of its mode are only a
# mask and do not show who may write.
ACCESS_LIST = "system.posix_acl_access"


class Weakness(NamedTuple):
    """A file, link or folder through which another user can change what a path leads to, or that can't be checked."""

    place: Path
    reason: str  # follows the place in an error
    remedy: str  # a command in backticks, or an instruction
    is_open_to_all: bool = False  # every user can change the place, not only one user or group
    owner: str | None = None  # the other user who owns the place, if any

    def __str__(self) -> str:
        return f"{self.place} {self.reason}"


def trusted_users() -> frozenset[int]:
    """Return the ids of users who may write files on which this process relies: root and the current user."""
    return frozenset({ROOT, os.geteuid()})


def user_number(name: str) -> int | None:
    """Return a user's id; None if the user does not exist."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def find_weakness(path: Path, users: Collection[int]) -> Weakness | None:
    """Find a point at which users other than the given ones may change what a path leads to.

    Check the file, each link on the way and each folder above them. In a folder that everybody may write to, such as
    /tmp, the sticky bit protects a subfolder. A file directly in such a folder is still rejected: others can add files
    beside it, such as a journal, or create a file with its name first.

    Args:
        path: a file or folder. If it does not exist, the existing part of the path is checked.
        users: the ids of the permitted users; see `trusted_users`.

    Returns:
        The first weakness on the way, from the root folder down; None if the path is safe.
    """
    try:
        return _first_weakness(path, users)
    except FileNotFoundError:
        return None


def _first_weakness(path: Path, users: Collection[int]) -> Weakness | None:
    try:
        for place, found, is_near in _places_on_path(path.absolute()):
            if (weakness := _weakness_of(place, found, users, is_strict=is_near)) is not None:
                return weakness
    except FileNotFoundError:
        raise
    except OSError as error:
        return Weakness(path, f"can't be checked: {error.strerror}", f"check the folders above {_quoted(path)}")
    return None


def require_trust(path: Path, setting: str | None = None, *, may_be_missing: bool = False) -> None:
    """Reject a file, or a folder of code, that users other than root and the current user may change.

    Args:
        path: what is about to be loaded.
        setting: the setting that names it, for errors.
        may_be_missing: what does not exist is safe, because it will be checked again. Otherwise another user could
            move the working directory away during the check, and back before the file is read.

    Raises:
        Untrusted: other users may change what the path leads to. The error names a command that helps.
        FileNotFoundError: the path does not exist, although it must.
    """
    try:
        weakness = _first_weakness(path, trusted_users())
    except FileNotFoundError:
        if not may_be_missing:
            raise
        return
    if weakness is None:
        return
    through = "" if weakness.place == path.absolute() else f"{path.absolute()} is not used, because "
    remedy = weakness.remedy if weakness.owner is None else suggested.again_as(weakness.owner)
    raise Untrusted(f"{setting + ': ' if setting else ''}{through}{weakness}; {remedy}", weakness.owner)


def require_chosen_group(path: Path, setting: str) -> None:
    """Reject the path of a new socket if it would get this process's group, and that group has other users. If the
    folder has the setgid bit, the socket gets the folder's group instead, which an administrator has chosen.

    Raises:
        ConfigurationError: other users could open the socket. The error names a command that helps.
        OSError: the folder can't be examined.
    """
    group, folder = os.getegid(), path.absolute().parent
    if folder.stat().st_mode & stat.S_ISGID or _is_private(group, trusted_users()):
        return
    raise ConfigurationError(
        f"{setting}: the group {_group_name(group)} could open {path} and act as any user; let the folder give the "
        f"proxy's group to the socket: `chgrp GROUP {_quoted(folder)} && chmod g+s {_quoted(folder)}`"
    )


def group_readers(path: Path, users: Collection[int]) -> str | None:
    """Return the name of the group through which users other than the given ones may read a file; None if they can't,
    or if the file can't be examined.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    if not found.st_mode & stat.S_IRGRP or _is_private(found.st_gid, users):
        return None
    return _group_name(found.st_gid)


def is_planted(file: os.stat_result, folder: os.stat_result) -> bool:
    """Return whether a file belongs to another user, in a folder that everybody may write to. Files of root and of
    the folder's owner do not count, because these users can replace any file in the folder anyway.
    """
    return bool(folder.st_mode & stat.S_IWOTH) and file.st_uid not in {os.geteuid(), folder.st_uid, ROOT}


def others_may_have_linked(file: os.stat_result, folder: os.stat_result) -> bool:
    """Return whether a file has a second name (a hard link), and users other than its owner may create names in its
    folder.

    Such a user may have put a link to a file that only its owner may read or change into the folder. Linux's
    fs.protected_hardlinks, if turned on, prevents this.
    """
    users = {ROOT, file.st_uid}
    is_closed = folder.st_uid in users and not folder.st_mode & stat.S_IWOTH
    return file.st_nlink > 1 and not (
        is_closed and (not folder.st_mode & stat.S_IWGRP or _is_private(folder.st_gid, users))
    )


def without_links(path: Path, setting: str | None = None) -> Path:
    """Return the path to which links lead. Follow only links of root and the current user: any other user could lead
    the path to a file that only this process may read or change.

    Args:
        path: a file or folder. If it does not exist or can't be examined, it is returned unchanged.
        setting: the setting that names it, for errors.

    Raises:
        Untrusted: a link on the way belongs to another user.
    """
    real = path.absolute()
    try:
        for place, found, _ in _places_on_path(path.absolute()):
            if stat.S_ISLNK(found.st_mode) and found.st_uid not in trusted_users():
                owner = user_name(found.st_uid)
                own = "write a path without this link, or replace it with a link of your own"
                raise Untrusted(
                    f"{setting + ': ' if setting else ''}{place} is a link that belongs to {owner}, who could lead it "
                    f"anywhere; {suggested.again_as(owner) if os.geteuid() == ROOT else own}",
                    owner,
                )
            real = place
    except OSError:
        return path.absolute()
    return real


def open_folder(path: Path) -> int:
    """Open a folder to create or open files in it. Links are followed as `without_links` does.

    Raises:
        Untrusted: a link on the way belongs to another user.
        OSError: the folder can't be opened, for example because another user has just exchanged a part of the path.
    """
    flags = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.open("/", flags)
    for part in without_links(path).parts[1:]:
        try:
            inner = os.open(part, flags, dir_fd=folder)
        finally:
            os.close(folder)
        folder = inner
    return folder


def open_private(path: Path, flags: int) -> int:
    """Open a file. If it does not exist, create it with `create_private`. An existing file is never given away: another
    user may have moved a file owned by root to this name.

    Fail if the path is a symbolic link, because another user may have created it.

    Raises:
        Untrusted: a link on the way belongs to another user.
        OSError: the file can't be opened.
    """
    folder = open_folder(path.parent)
    try:
        return _create_private(path.name, flags, folder)
    except FileExistsError:
        return os.open(path.name or ".", flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)


def create_private(path: Path, flags: int = os.O_RDWR) -> int:
    """Create and open a file that nobody except its owner can access, not even briefly, regardless of the umask.

    A file that root creates is given to the folder's owner, whose later passes could not open it otherwise. SQLite does
    the same with files beside a database.

    Raises:
        Untrusted: a link on the way belongs to another user.
        FileExistsError: the file already exists, or a link has this name.
        OSError: the file can't be created.
    """
    folder = open_folder(path.parent)
    try:
        return _create_private(path.name, flags, folder)
    finally:
        os.close(folder)


def copy_private(path: Path, content: bytes) -> None:
    """Create a file as `create_private` does, with its content, or no file if it can't be written.

    Raises:
        Untrusted, FileExistsError, OSError: see `create_private`.
    """
    folder = open_folder(path.parent)
    try:
        made = _create_private(path.name, os.O_RDWR, folder)
        try:
            with os.fdopen(made, "wb") as file:
                file.write(content)
        except OSError:
            os.unlink(path.name, dir_fd=folder)  # not by its path, which may lead to another folder by now
            raise
    finally:
        os.close(folder)


def _create_private(name: str, flags: int, folder: int) -> int:
    # An empty name is that of a folder, which is not a file.
    new = flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL
    made = os.open(name or ".", new, PRIVATE, dir_fd=folder)
    if os.geteuid() == ROOT:
        found = os.fstat(folder)
        with suppress(PermissionError):  # in a container root may lack CAP_CHOWN
            os.fchown(made, found.st_uid, found.st_gid)
    return made


def write_private(path: Path, text: str) -> None:
    """Create a file that nobody else can read, not even briefly, regardless of the umask.

    A file that root creates stays root's. If its folder is open to one group and closed to all other users, this group
    may read the file.

    Raises:
        Untrusted: a link on the way belongs to another user.
        FileExistsError: the file already exists, or a link has this name.
        OSError: the file can't be created.
    """
    opened = open_folder(path.parent)
    try:
        made = os.open(path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE, dir_fd=opened)
        folder = os.fstat(opened)
    finally:
        os.close(opened)
    with os.fdopen(made, "w", encoding="utf-8") as file:
        if os.geteuid() == ROOT and folder.st_mode & stat.S_IRGRP and not folder.st_mode & stat.S_IRWXO:
            with suppress(PermissionError):  # in a container root may lack CAP_CHOWN
                os.fchown(made, ROOT, folder.st_gid)
                os.fchmod(made, PRIVATE | stat.S_IRGRP)
        file.write(text)


def _places_on_path(path: Path) -> Iterator[tuple[Path, os.stat_result, bool]]:
    """Yield each path that the kernel visits on the way to a file, in order, with its lstat(2). The third value is true
    for the file and for the folder that contains it.

    Raises:
        OSError: a part of the path does not exist or can't be examined, or links form a loop.
    """
    here, left = Path("/"), [*reversed(path.parts[1:])]
    links = 0
    while True:
        # After a link, yield the folder again, because it may be the one that contains the file.
        yield here, here.lstat(), len(left) <= 1
        if not left:
            return
        if (part := left.pop()) == "..":
            here = here.parent
            continue
        place = here / part
        if not stat.S_ISLNK((found := place.lstat()).st_mode):
            here = place
            continue
        yield place, found, False
        if (links := links + 1) > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = place.readlink()
        left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        here = Path("/") if target.is_absolute() else here


def _weakness_of(place: Path, found: os.stat_result, users: Collection[int], *, is_strict: bool) -> Weakness | None:
    """Find the weakness of one path, given its lstat(2). If ``is_strict``, it is the file or the file's folder, for
    which the sticky bit is not enough protection.
    """
    is_folder = stat.S_ISDIR(found.st_mode)
    if found.st_uid not in users:
        change = "chown -h" if stat.S_ISLNK(found.st_mode) else "chown"
        # Do not suggest chown for a folder, because it may contain other files of its owner.
        remedy = OWN_FOLDER if is_folder else f"`{change} {user_name(max(users))} {_quoted(place)}`"
        owner = user_name(found.st_uid)
        return Weakness(place, f"belongs to {owner}", remedy, owner=owner)
    is_sticky = is_folder and found.st_mode & stat.S_ISVTX and not is_strict
    if stat.S_ISLNK(found.st_mode) or is_sticky or not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return None
    if os.statvfs(place).f_flag & os.ST_RDONLY:  # a read-only mount overrides modes, such as 0777 in Kubernetes
        return None
    if found.st_mode & stat.S_IWOTH:
        remedy = OWN_FOLDER if is_folder and found.st_mode & stat.S_ISVTX else f"`chmod o-w {_quoted(place)}`"
        return Weakness(place, "is writable by every user", remedy, is_open_to_all=True)
    if _has_access_list(place):
        return Weakness(
            place, "may be changed by the users in its access control list", f"`setfacl -b {_quoted(place)}`"
        )
    if not _is_private(found.st_gid, users):
        group = _group_name(found.st_gid)
        return Weakness(place, f"is writable by the group {group}", f"`chmod g-w {_quoted(place)}`")
    return None


def _has_access_list(place: Path) -> bool:
    with suppress(OSError, AttributeError):  # not every operating system or file system has access control lists
        return ACCESS_LIST in os.listxattr(place)
    return False


def _is_private(gid: int, users: Collection[int]) -> bool:
    """Return whether all users of a group are among the given users. Most systems create a private group for each user,
    so that files that are writable by the group (umask 002) are safe.

    A group's users are its members and those whose primary group it is. If it has no users, as in a container whose
    users have no account, its name or number must be that of a given user.
    """
    found: set[int | None] = {user.pw_uid for user in pwd.getpwall() if user.pw_gid == gid}
    with suppress(KeyError):
        found |= {user_number(name) for name in grp.getgrgid(gid).gr_mem}
    return found <= {*users} if found else _group_name(gid) in {user_name(user) for user in users}


def user_name(uid: int) -> str:
    """Return a user's name; the id if the user has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
