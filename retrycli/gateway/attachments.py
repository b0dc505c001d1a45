"""A message's attachments: files beneath one folder, found and checked before anything is sent."""

from __future__ import annotations

import mimetypes
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from retrycli.errors import InvalidMessage
from retrycli.message import Message

ANY_TYPE = "application/octet-stream"
RESTRICTED_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
MEDIA_TYPE = re.compile(f"{RESTRICTED_NAME}/{RESTRICTED_NAME}")
"""A type and a subtype, without parameters (RFC 6838, section 4.2)."""
UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters, line ends, and what turns the direction of a text, so that a name shows as another."""
SHOWN = 80
"""So many characters of an entry stand in an error."""


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
    """
    entries = message.fields["attachments"]
    assert isinstance(entries, list)  # noqa: S101  told to the type checker
    if not entries:
        return []
    if folder is None:
        raise InvalidMessage("attachments: gateway.attachments_dir is not set; set it to the folder they are in")
    root = folder.resolve()
    found = [_attachment(entry, root) for entry in entries]
    if (size := sum(each.size for each in found)) > limit_bytes:
        raise InvalidMessage(
            f"attachments are {_megabytes(size)} together, more than gateway.attachments_limit_mb "
            f"({_megabytes(limit_bytes)}); send a link instead, or raise the limit"
        )
    return found


def _attachment(entry: object, root: Path) -> Attachment:
    given = {"path": entry} if isinstance(entry, str) else entry
    if not isinstance(given, Mapping):
        raise InvalidMessage(f"attachments: {_shown(entry)} is neither a path nor an object with one")
    texts = {name: _text(given, name) for name in ("path", "filename", "name", "content_type")}
    where = texts["path"] or texts["filename"] or texts["name"]
    if not where:
        raise InvalidMessage(f"attachments: {_shown(entry)} names no file; give it a path")
    name = _name(texts["filename"] or where)
    content_type = texts["content_type"] or _guessed(name)
    if not MEDIA_TYPE.fullmatch(content_type):
        raise InvalidMessage(f"attachments: content_type {_shown(content_type)} is not of the form type/subtype")
    path = _beneath(root, where)
    return Attachment(name, content_type.lower(), path, _size(path, where))


def _text(given: Mapping[str, object], name: str) -> str | None:
    value = given.get(name)
    if not isinstance(value, str | None):
        raise InvalidMessage(f"attachments: {name} is no text: {_shown(value)}")
    return value


def _name(given: str) -> str:
    """The last part of a path as any system writes it; so a name leads nowhere when a recipient saves the file."""
    name = re.split(r"[/\\]", given.rstrip("/\\"))[-1].strip()
    if name in {"", ".", ".."} or UNSHOWABLE.search(name):
        raise InvalidMessage(f"attachments: {_shown(given)} can't be a file's name; rename it, or give it a filename")
    return name


def _guessed(name: str) -> str:
    guess, compressed = mimetypes.guess_type(name)
    return ANY_TYPE if guess is None or compressed else guess


def _beneath(root: Path, where: str) -> Path:
    """A path as it is with links resolved, beneath the folder. What lies elsewhere is not even looked at."""
    try:
        path = (root / where).resolve()
    except (OSError, RuntimeError, ValueError):  # a name too long, a link to itself, a NUL
        raise InvalidMessage(f"attachments: {_shown(where)} can't be a file's path") from None
    if not path.is_relative_to(root):
        raise InvalidMessage(
            f"attachments: {_shown(where)} is outside gateway.attachments_dir; put the file beneath it"
        )
    return path


def _size(path: Path, where: str) -> int:
    """A file's size, after it was opened once: what can't be read must show before anything is sent."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opened, a pipe would wait for whoever writes to it
            raise InvalidMessage(f"attachments: {_shown(where)} is no regular file")
        path.open("rb").close()
    except FileNotFoundError:
        raise InvalidMessage(
            f"attachments: {_shown(where)} is not in gateway.attachments_dir; put it there, or take it off the list"
        ) from None
    except OSError as error:
        raise InvalidMessage(f"attachments: {_shown(where)} can't be read: {error.strerror}") from None
    return found.st_size


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 2] + "…" + text[-1]


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:.3g} MB"
