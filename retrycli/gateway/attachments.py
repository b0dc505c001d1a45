"""A message's attachments: files beneath one folder, found and checked before anything is sent."""

from __future__ import annotations

import mimetypes
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from retrycli import descriptors
from retrycli.errors import InvalidMessage
from retrycli.message import Message

ANY_TYPE = "application/octet-stream"
RESTRICTED_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
MEDIA_TYPE = re.compile(f"{RESTRICTED_NAME}/{RESTRICTED_NAME}")
"""A type and a subtype, without parameters (RFC 6838, section 4.2)."""
UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters, line ends, and what turns the direction of a text, so that a name shows as another."""


class FileChanged(OSError):
    """Signals that an attachment's size is not what it was when its message was drawn up."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One file to send."""

    name: str
    """What the recipient sees: the last part of a path, on one line."""
    content_type: str
    path: Path
    """Where it is, links resolved."""
    size: int
    """In bytes, when it was looked at."""


def find(message: Message, folder: Path | None, limit_bytes: int) -> list[Attachment]:
    """The files that the ``attachments`` column names, in its order.

    Args:
        message: its entries are paths, or objects with ``path`` (else ``filename`` or ``name`` is the path), where
            they like with ``filename``, the name to be shown, and ``content_type``.
        folder: ``gateway.attachments_dir``, beneath which they are; None where it is not set.
        limit_bytes: how much they may be together.

    Raises:
        InvalidMessage: one of them can't be sent; the text says why, and what to do.
        OSError: no descriptor is left to look at one.
    """
    entries = message.fields["attachments"]
    assert isinstance(entries, list)  # noqa: S101  told to the type checker
    if not entries:
        return []
    if folder is None:
        raise InvalidMessage("attachments: gateway.attachments_dir is not set; set it to the folder they are in")
    root = folder.resolve()
    found = []
    for number, entry in enumerate(entries, 1):
        try:
            found.append(_attachment(entry, root))
        except _Unusable as error:
            # By its number: a file's name may be a customer's word, and errors are shown in lists.
            raise InvalidMessage(f"attachments: no. {number} {error}") from error
    if (size := sum(each.size for each in found)) > limit_bytes:
        raise InvalidMessage(
            f"attachments are {_megabytes(size)} together, more than gateway.attachments_limit_mb "
            f"({_megabytes(limit_bytes)}); send a link instead, or raise the limit"
        )
    return found


class _Unusable(Exception):
    """What is wrong with one of them, as the end of a sentence."""


def _attachment(entry: object, root: Path) -> Attachment:
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
    path = _beneath(root, where)
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


def _beneath(root: Path, where: str) -> Path:
    """A path as it is with links resolved, beneath the folder. What lies elsewhere is not even looked at."""
    try:
        path = (root / where).resolve()
    except (OSError, RuntimeError, ValueError):  # a name too long, a link to itself, a NUL
        raise _Unusable("has what can't be a file's path") from None
    if not path.is_relative_to(root):
        raise _Unusable("is outside gateway.attachments_dir; put the file beneath it")
    return path


def _size(path: Path) -> int:
    """A file's size, after it was opened once: what can't be read must show before anything is sent."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opened, a pipe would wait for whoever writes to it
            raise _Unusable("is no regular file")
        path.open("rb").close()
    except FileNotFoundError:
        raise _Unusable("is not in gateway.attachments_dir; put it there, or take it off the list") from None
    except OSError as error:
        if descriptors.shortage(error):
            raise  # the message's file is all right
        raise _Unusable(f"can't be read: {error.strerror}") from None
    return found.st_size


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:.3g} MB"
