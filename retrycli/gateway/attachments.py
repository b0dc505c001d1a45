"""A message's attachments: files beneath one folder, found and checked before anything is sent.

Others may write to that folder, and exchange what is in it at any time. So nothing is checked by its path: `open_file`
follows no link on the way, does not wait for what is not a regular file, and checks what it has opened.
"""

from __future__ import annotations

import errno
import mimetypes
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from retrycli.domain.errors import InvalidMessage
from retrycli.domain.message import Message
from retrycli.gateway.in_thread import in_thread
from retrycli.system import descriptors
from retrycli.system.trust import others_may_have_linked

MAX_ATTACHMENTS = 100
"""How many attachments a message may have. Each file is opened twice, and a preset may upload each by itself."""
ANY_TYPE = "application/octet-stream"
RESTRICTED_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
MEDIA_TYPE = re.compile(f"{RESTRICTED_NAME}/{RESTRICTED_NAME}")
"""A type and a subtype, without parameters (RFC 6838, section 4.2)."""
UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters, line ends, and what turns the direction of a text, so that a name shows as another."""

ON_THE_WAY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
"""For a folder on the way: it need not be readable."""
AT_THE_END = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""For the file. O_NONBLOCK: a pipe would wait for whoever writes to it, and a leased file for who holds the lease."""


class FileChanged(OSError):
    """Signals that an attachment is not what it was when its message was drawn up."""


class NotRegular(OSError):
    """Signals that a path leads to no regular file, or over a link."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One file to send."""

    name: str
    """What the recipient sees: the last part of a path, on one line."""
    content_type: str
    path: Path
    """Where it is, without a link or ``..``. Only `open_file` opens it."""
    size: int
    """In bytes, when it was looked at."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder that attachments are in."""

    named: Path
    """As the settings name it; entries may be absolute paths beneath it."""
    real: Path
    """The same with its links resolved, once for all messages."""

    @classmethod
    def of(cls, path: Path | None) -> Self | None:
        """Resolve ``gateway.attachments_dir``; None if it is not set."""
        return None if path is None else cls(path.absolute(), path.resolve())


async def find(message: Message, folder: Folder | None, limit_bytes: int) -> list[Attachment]:
    """The files that the ``attachments`` column names, in its order.

    Args:
        message: its entries are paths, or objects with ``path`` (else ``filename`` or ``name`` is the path), where
            they like with ``filename``, the name to be shown, and ``content_type``.
        folder: the one that they are beneath; None if ``gateway.attachments_dir`` is not set.
        limit_bytes: how much they may be together.

    Raises:
        InvalidMessage: one of them can't be sent; the text says why, and what to do.
        OSError: one can't be looked at just now, which is not the message's fault; see `shortage`.
    """
    entries = message.fields["attachments"]
    assert isinstance(entries, list)  # noqa: S101  told to the type checker
    if not entries:
        return []
    if len(entries) > MAX_ATTACHMENTS:
        raise InvalidMessage(
            f"attachments: {len(entries):,} listed, at most {MAX_ATTACHMENTS} allowed. Send an archive instead"
        )
    if folder is None:
        raise InvalidMessage("attachments: gateway.attachments_dir is not set; set it to the folder they are in")
    return await in_thread(_find, entries, folder, limit_bytes)


def _find(entries: Sequence[object], folder: Folder, limit_bytes: int) -> list[Attachment]:
    found = []
    for number, entry in enumerate(entries, 1):
        try:
            found.append(_attachment(entry, folder))
        except _Unusable as error:
            # By its number: a file's name may be a customer's word, and errors are shown in lists.
            raise InvalidMessage(f"attachments: no. {number} {error}") from error
    if (size := sum(attachment.size for attachment in found)) > limit_bytes:
        raise InvalidMessage(
            f"attachments are {_megabytes(size)} together, more than gateway.attachments_limit_mb "
            f"({_megabytes(limit_bytes)}); send a link instead, or raise the limit"
        )
    return found


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading, over no link, and make sure that it is one.

    Raises:
        NotRegular: it is something else, or a link leads to it; the text says what, as the end of a sentence.
        OSError: it can't be opened.
    """
    folder = os.open("/", ON_THE_WAY)
    try:
        for part in path.parts[1:-1]:
            inner = _open_part(part, ON_THE_WAY, folder)
            os.close(folder)
            folder = inner
        file = _open_part(path.name, AT_THE_END, folder)
        try:
            _check(os.fstat(file), os.fstat(folder))
            return os.fdopen(file, "rb")
        except BaseException:
            os.close(file)
            raise
    finally:
        os.close(folder)


def _check(file: os.stat_result, folder: os.stat_result) -> None:
    if not stat.S_ISREG(file.st_mode):
        raise NotRegular("is no regular file")
    if others_may_have_linked(file, folder):
        raise NotRegular("has a second name (a hard link) that another user may have made; copy it there")


def reopen(path: Path) -> BinaryIO:
    """Open a file again, to send it.

    Raises:
        FileChanged: it is no regular file any more.
        OSError: it can't be opened.
    """
    try:
        return open_file(path)
    except NotRegular as error:
        raise FileChanged(f"an attachment {error}") from None


def _open_part(part: str, flags: int, folder: int) -> int:
    try:
        return os.open(part, flags, dir_fd=folder)
    except OSError as error:
        # What is refused as a link is refused as "not a folder" on some systems.
        if error.errno in {errno.ELOOP, errno.ENOTDIR, errno.EMLINK} and _is_link(part, folder):
            raise NotRegular("is reached over a link; put the file itself there") from None
        raise


def _is_link(part: str, folder: int) -> bool:
    """Whether a name is a link. Only an error's text depends on it."""
    try:
        return stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def shortage(error: OSError) -> str | None:
    """Return in words what keeps a file from being opened just now; None if it is the file's own fault."""
    if isinstance(error, BlockingIOError):
        return "a file is in use by another program, which has to give it up first (a lease)"
    return descriptors.shortage(error)


class _Unusable(Exception):
    """What is wrong with one of them, as the end of a sentence."""


def _attachment(entry: object, folder: Folder) -> Attachment:
    given = {"path": entry} if isinstance(entry, str) else entry
    if not isinstance(given, Mapping):
        raise _Unusable("is neither a path nor an object with one")
    texts = {name: _text(given, name) for name in ("path", "filename", "name", "content_type")}
    where = texts["path"] or texts["filename"] or texts["name"]
    if not where:
        raise _Unusable("names no file; give it a path")
    name = _name(texts["filename"] or where)
    content_type = texts["content_type"] or _guessed(name)
    if not MEDIA_TYPE.fullmatch(content_type):
        raise _Unusable("has a content_type that is not of the form type/subtype")
    path = _beneath(folder, where)
    return Attachment(name, content_type.lower(), path, _size(path))


def _text(given: Mapping[str, object], name: str) -> str | None:
    value = given.get(name)
    if not isinstance(value, str | None):
        raise _Unusable(f"has a {name} that is no text")
    return value


def _name(given: str) -> str:
    """The last part of a path as any system writes it; so a name leads nowhere when a recipient saves the file."""
    name = re.split(r"[/\\]", given.rstrip("/\\"))[-1].strip()
    if name in {"", ".", ".."} or UNSHOWABLE.search(name):
        raise _Unusable("has what can't be a file's name; rename it, or give it a filename")
    return name


def _guessed(name: str) -> str:
    guess, compressed = mimetypes.guess_type(name)
    return ANY_TYPE if guess is None or compressed else guess


def _beneath(folder: Folder, where: str) -> Path:
    """A path beneath the folder. What lies elsewhere is not even looked at.

    A ``..`` takes back the part before it: as no link is followed, that is what it means.
    """
    for root in (folder.named, folder.real):
        path = Path(os.path.normpath(root / where))
        if path.is_relative_to(root):
            return folder.real / path.relative_to(root)
    raise _Unusable("is outside gateway.attachments_dir; put the file beneath it")


def _size(path: Path) -> int:
    """A file's size, once it was opened: what can't be read must show before anything is sent."""
    try:
        with open_file(path) as file:
            return os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise _Unusable("is not in gateway.attachments_dir; put it there, or take it off the list") from None
    except NotRegular as error:
        raise _Unusable(str(error)) from None
    except ValueError:  # a NUL
        raise _Unusable("has what can't be a file's path") from None
    except OSError as error:
        if shortage(error):
            raise  # the message's file is all right
        raise _Unusable(f"can't be read: {error.strerror}") from None


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:.3g} MB"
