"""Find and check a message's attachments, which are files in one folder, before anything is sent.

Other users may be able to replace files in the folder at any time. So no check relies on a path: `_open_file` follows
no link, does not block on special files, and checks the opened file.
"""

import errno
import mimetypes
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from retrycli.domain.message import Message
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.gateway.delivery import NotSent, in_thread, invalid
from retrycli.system import process
from retrycli.system.trust import others_may_have_linked, without_links

MAX_ATTACHMENTS = 100  # per message, because every file is opened twice and may need its own upload request
ANY_TYPE = "application/octet-stream"
RESTRICTED_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"  # a type or a subtype (RFC 6838, section 4.2)
MEDIA_TYPE = re.compile(f"{RESTRICTED_NAME}/{RESTRICTED_NAME}")  # type/subtype, without parameters
# Control characters, line breaks, and marks that change the text direction, which can disguise a file's extension.
FORBIDDEN_IN_NAMES = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# Flags to open the directories of a path. O_PATH needs no read permission.
DIRECTORY_FLAGS = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
# Without O_NONBLOCK, open() would block on a pipe until a writer opens it, and on a leased file until the lease ends.
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Unusable(Exception):
    """An attachment can't be sent. The error text, such as "is not a regular file", follows "attachment 1"."""


class FileChanged(OSError):
    """An attachment changed after its request was built."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One file to send. Read it only through `read_again`, which follows no links."""

    name: str  # the file name that the recipient sees, without directories or line breaks
    content_type: str
    path: Path  # absolute, without symbolic links or ".."
    size: int  # in bytes, at the time of the check


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder that contains the attachments."""

    named: Path  # as in the settings, but absolute; entries may be absolute paths below it
    real: Path  # the same folder with symbolic links resolved, once for all messages

    @classmethod
    def of(cls, path: Path | None) -> Self | None:
        """Resolve ``gateway.attachments_dir``; return None if it is not set.

        Raises:
            Untrusted: a link on the way belongs to another user, who could make a message carry any file.
        """
        return None if path is None else cls(path.absolute(), without_links(path, "gateway.attachments_dir"))


async def find(message: Message, folder: Folder | None, limit_bytes: int) -> list[Attachment]:
    """Return the files that the ``attachments`` column names, in the column's order.

    Args:
        message: the message. The column's entries are paths or objects. An object may have ``path``, ``filename`` (the
            name to show) and ``content_type``. If ``path`` is missing, ``filename`` or ``name`` is used as the path.
        folder: the folder that must contain the files; None if ``gateway.attachments_dir`` is not set.
        limit_bytes: the maximum total size of the files, in bytes.

    Raises:
        NotSent: `INVALID` if a file can't be sent; the error says why. `UNREACHABLE` or `TRANSIENT` if a file can't be
            checked at present, for example because too few file descriptors are free.
    """
    entries = message.fields["attachments"]
    assert isinstance(entries, list)  # noqa: S101  for the type checker
    if not entries:
        return []
    if len(entries) > MAX_ATTACHMENTS:
        raise invalid(
            f"attachments: {len(entries):,} are listed, but at most {MAX_ATTACHMENTS} are allowed; send an archive"
        )
    if folder is None:
        raise invalid(
            "attachments: gateway.attachments_dir is not set; set it to the folder that contains the attachments"
        )
    return await in_thread(_find, entries, folder, limit_bytes)


def _find(entries: Sequence[object], folder: Folder, limit_bytes: int) -> list[Attachment]:
    found = []
    for number, entry in enumerate(entries, 1):
        try:
            found.append(_attachment(entry, folder))
        except Unusable as error:
            # Identify the attachment by its number. Lists show errors, and a file name may contain personal data.
            raise invalid(f"attachment {number} {error}") from error
        except OSError as error:
            # Do not use the error's own text: it contains the file's name.
            shortage, problem = _shortage(error), f"a file can't be checked: {error.strerror}"
            kind = OutcomeKind.UNREACHABLE if shortage else OutcomeKind.TRANSIENT
            raise NotSent(Outcome(kind, error=f"attachments: {shortage or problem}")) from error
    if (size := sum(attachment.size for attachment in found)) > limit_bytes:
        raise invalid(
            f"attachments total {_megabytes(size)}, more than gateway.attachments_limit_mb "
            f"({_megabytes(limit_bytes)}); send a link instead, or raise the limit"
        )
    return found


def _open_file(path: Path) -> BinaryIO:
    folder = os.open("/", DIRECTORY_FLAGS)
    try:
        for part in path.parts[1:-1]:
            inner = _open_part(part, DIRECTORY_FLAGS, folder)
            os.close(folder)
            folder = inner
        file = _open_part(path.name, FILE_FLAGS, folder)
        try:
            _check_regular(os.fstat(file), os.fstat(folder))
            return os.fdopen(file, "rb")
        except BaseException:
            os.close(file)
            raise
    finally:
        os.close(folder)


def _check_regular(file: os.stat_result, folder: os.stat_result) -> None:
    if not stat.S_ISREG(file.st_mode):
        raise Unusable("is not a regular file")
    if others_may_have_linked(file, folder):
        raise Unusable("has a hard link that another user may have created; replace the file with a copy")


def read_again(path: Path, size: int, block: int) -> Iterator[bytes]:
    """Read a checked file in blocks while it is sent. If the file grew, fail before the last block, so that the request
    stays incomplete.

    Raises:
        FileChanged: the file's size has changed, or it is no longer a regular file.
        OSError: the file can't be read.
    """
    try:
        file = _open_file(path)
    except Unusable as error:
        raise FileChanged(f"an attachment {error}") from None
    with file:
        left = size
        while True:
            chunk = file.read(min(block, left))
            left -= len(chunk)
            if left and not chunk:
                raise FileChanged("an attachment became shorter while it was being sent")
            if not left and file.read(1):
                raise FileChanged("an attachment became longer while it was being sent")
            if chunk:
                yield chunk
            if not left:
                return


def _open_part(part: str, flags: int, folder: int) -> int:
    try:
        return os.open(part, flags, dir_fd=folder)
    except OSError as error:
        # For a symbolic link, the error is ELOOP, ENOTDIR or EMLINK, depending on the flags and the system.
        if error.errno in {errno.ELOOP, errno.ENOTDIR, errno.EMLINK} and _is_link(part, folder):
            raise Unusable("is reached through a symbolic link; replace the link with its target") from None
        raise


def _is_link(part: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _shortage(error: OSError) -> str | None:
    if isinstance(error, BlockingIOError):
        return "another program holds a lease on a file; wait until that program releases the lease"
    return process.shortage(error)


def _attachment(entry: object, folder: Folder) -> Attachment:
    given = {"path": entry} if isinstance(entry, str) else entry
    if not isinstance(given, Mapping):
        raise Unusable("must be a path, or an object with a path")
    texts = {name: _text_of(given, name) for name in ("path", "filename", "name", "content_type")}
    where = texts["path"] or texts["filename"] or texts["name"]
    if not where:
        raise Unusable("has no path; add one")
    name = _file_name(texts["filename"] or where)
    guess, compressed = mimetypes.guess_type(name)
    content_type = texts["content_type"] or (ANY_TYPE if guess is None or compressed else guess)
    if not MEDIA_TYPE.fullmatch(content_type):
        raise Unusable("has an invalid content_type; write it as type/subtype, without parameters")
    path = _path_beneath(folder, where)
    return Attachment(name, content_type.lower(), path, _readable_size(path))


def _text_of(given: Mapping[str, object], name: str) -> str | None:
    value = given.get(name)
    if not isinstance(value, str | None):
        raise Unusable(f"has an invalid {name}; it must be a string")
    return value


def _file_name(given: str) -> str:
    """Return the last part of a path, which may come from any operating system.

    With a directory in its name, the file could be saved outside the folder that the recipient chose.
    """
    name = re.split(r"[/\\]", given.rstrip("/\\"))[-1].strip()
    if name in {"", ".", ".."} or FORBIDDEN_IN_NAMES.search(name):
        raise Unusable("has an invalid file name; rename the file, or set a valid filename")
    return name


def _path_beneath(folder: Folder, where: str) -> Path:
    # `normpath` removes each ".." with the part before it, even if that part is a link. This is safe, because
    # `_open_file` opens only the resulting path, and follows no links.
    for root in (folder.named, folder.real):
        path = Path(os.path.normpath(root / where))
        if path.is_relative_to(root):
            return folder.real / path.relative_to(root)
    raise Unusable("is outside gateway.attachments_dir; put the file into that folder")


def _readable_size(path: Path) -> int:
    """Open a file, and return its size in bytes. This detects an unreadable file before anything is sent."""
    try:
        with _open_file(path) as file:
            return os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise Unusable(
            "is not in gateway.attachments_dir; put it there, or remove it from the attachments column"
        ) from None
    except ValueError:  # the path contains a NUL character, or a character that can't be encoded
        raise Unusable("has an invalid path") from None
    except OSError as error:
        if _shortage(error):
            raise  # a temporary problem, so the message is not invalid
        raise Unusable(f"can't be read: {error.strerror}") from None


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:.3g} MB"
