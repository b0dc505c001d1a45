"""Attachments: the files that a list names, their shown names, and what is refused before anything is sent."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from retrycli.domain.outcome import OutcomeKind
from retrycli.gateway.attachments import MAX_ATTACHMENTS, Attachment, Folder, find
from retrycli.gateway.delivery import NotSent
from tests.gateway.deliveries import queued

LIMIT = 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Provide a folder with an invoice, beside a file outside it."""
    made = tmp_path / "attachments"
    (made / "2026").mkdir(parents=True)
    (made / "invoice.pdf").write_bytes(b"%PDF")
    (made / "2026" / "photo.jpeg").write_bytes(b"\xff\xd8")
    (tmp_path / "secret.txt").write_bytes(b"root:x")
    return made


def found(folder: Path | None, *entries: object, limit: int = LIMIT) -> list[Attachment]:
    return asyncio.run(find(queued(attachments=json.dumps(entries)).message, Folder.of(folder), limit))


def refused(folder: Path | None, *entries: object, limit: int = LIMIT) -> str:
    with pytest.raises(NotSent) as caught:
        found(folder, *entries, limit=limit)
    assert caught.value.outcome.kind is OutcomeKind.INVALID
    return str(caught.value)


@pytest.mark.parametrize("nothing", [None, "", "[]", "null"])
def test_a_message_without_attachments_needs_no_directory(nothing: str | None) -> None:
    assert asyncio.run(find(queued(attachments=nothing).message, None, LIMIT)) == []


@pytest.mark.parametrize(
    ("entry", "name", "content_type", "path", "size"),
    [
        ("invoice.pdf", "invoice.pdf", "application/pdf", "invoice.pdf", 4),
        ("2026/photo.jpeg", "photo.jpeg", "image/jpeg", "2026/photo.jpeg", 2),
        ({"path": "invoice.pdf"}, "invoice.pdf", "application/pdf", "invoice.pdf", 4),
        ({"filename": "invoice.pdf"}, "invoice.pdf", "application/pdf", "invoice.pdf", 4),
        ({"name": "invoice.pdf", "size": 4}, "invoice.pdf", "application/pdf", "invoice.pdf", 4),
        ({"path": "invoice.pdf", "filename": "Rechnung Nº 1.txt"}, "Rechnung Nº 1.txt", "text/plain", "invoice.pdf", 4),
        ({"path": "invoice.pdf", "content_type": "Text/CSV"}, "invoice.pdf", "text/csv", "invoice.pdf", 4),
        ({"path": "invoice.pdf", "filename": r"C:\temp\a.bin"}, "a.bin", "application/octet-stream", "invoice.pdf", 4),
        ({"path": "invoice.pdf", "filename": "../../b"}, "b", "application/octet-stream", "invoice.pdf", 4),
        ({"path": "invoice.pdf", "filename": "a.tar.gz"}, "a.tar.gz", "application/octet-stream", "invoice.pdf", 4),
        ({"path": "2026/../invoice.pdf", "name": "x"}, "invoice.pdf", "application/pdf", "invoice.pdf", 4),
    ],
)
def test_an_entry_is_a_path_or_an_object_with_one(
    entry: object, name: str, content_type: str, path: str, size: int, folder: Path
) -> None:
    assert found(folder, entry) == [Attachment(name, content_type, folder / path, size)]


def test_a_path_may_be_absolute_in_either_spelling_of_the_directory(folder: Path, tmp_path: Path) -> None:
    """Links in the folder's own path are part of the settings, and are followed."""
    (tmp_path / "way").symlink_to(folder)
    entries = (str(folder / "invoice.pdf"), str(tmp_path / "way" / "invoice.pdf"))
    assert [entry.path for entry in found(tmp_path / "way", *entries)] == [folder / "invoice.pdf"] * 2


@pytest.mark.parametrize("entry", ["../secret.txt", "/etc/passwd", "2026/../../secret.txt", "../missing"])
def test_refuses_paths_outside_the_directory_whether_they_exist_or_not(entry: str, folder: Path) -> None:
    assert refused(folder, entry) == "attachment 1 is outside gateway.attachments_dir; put the file into that folder"


@pytest.mark.parametrize(
    "entry", ["link", "inner", "away/secret.txt", "year/photo.jpeg", "2026/up/invoice.pdf", "loop"]
)
def test_follows_no_link(entry: str, folder: Path) -> None:
    """A user with write access to the folder could change a link after the check."""
    (folder / "link").symlink_to(folder.parent / "secret.txt")
    (folder / "inner").symlink_to("invoice.pdf")
    (folder / "away").symlink_to(folder.parent)
    (folder / "year").symlink_to("2026")
    (folder / "2026" / "up").symlink_to("..")
    (folder / "loop").symlink_to("loop")
    said = "attachment 1 is reached through a symbolic link; replace the link with its target"
    assert refused(folder, entry) == said


def test_accepts_a_hard_link_that_only_the_files_owner_can_have_made(folder: Path) -> None:
    """Backup programs sometimes create hard links."""
    (folder.parent / "backup").hardlink_to(folder / "invoice.pdf")
    assert found(folder, "invoice.pdf")
    folder.chmod(0o777)
    assert "has a hard link" in refused(folder, "invoice.pdf")


NAME, MEDIA_TYPE = (
    "has an invalid file name",
    "has an invalid content_type; write it as type/subtype, without parameters",
)
UNUSABLE: list[tuple[object, str]] = [
    ("missing.pdf", "is not in gateway.attachments_dir; put it there, or remove it from the attachments column"),
    ("2026", "is not a regular file"),
    ("pipe", "is not a regular file"),
    ("invoice.pdf/x", "can't be read: Not a directory"),
    ("a\0b", f"{NAME}; rename the file, or set a valid filename"),
    ({"path": "a\0b", "filename": "a"}, "has an invalid path"),
    ("n" * 300, "can't be read: File name too long"),
    ("", "has no path; add one"),
    (".", NAME),
    ({}, "has no path; add one"),
    (7, "must be a path, or an object with a path"),
    (["invoice.pdf"], "must be a path, or an object with a path"),
    (None, "must be a path, or an object with a path"),
    ({"path": 7}, "has an invalid path; it must be a string"),
    ({"path": "invoice.pdf", "filename": "a\r\nBcc: eve@x.test"}, NAME),
    ({"path": "invoice.pdf", "filename": "fdp.\u202eexe"}, NAME),
    ({"path": "invoice.pdf", "filename": "a/.."}, NAME),
    ({"path": "invoice.pdf", "content_type": "text"}, MEDIA_TYPE),
    ({"path": "invoice.pdf", "content_type": "a/b; c=d"}, MEDIA_TYPE),
    ({"path": "invoice.pdf", "content_type": "a/b\r\nX: y"}, MEDIA_TYPE),
]


@pytest.mark.parametrize(("entry", "problem"), UNUSABLE)
def test_an_invalid_attachment_is_refused_by_its_number(entry: Any, problem: str, folder: Path) -> None:  # noqa: ANN401
    os.mkfifo(folder / "pipe")
    said = refused(folder, "invoice.pdf", entry)
    assert said.startswith("attachment 2 ")
    assert problem in said


def test_refuses_too_many_files(folder: Path) -> None:
    assert len(found(folder, *["invoice.pdf"] * MAX_ATTACHMENTS)) == MAX_ATTACHMENTS
    said = "attachments: 50,000 are listed, but at most 100 are allowed; send an archive"
    assert refused(folder, *["invoice.pdf"] * 50_000) == said


def test_a_missing_directory_contains_no_files(tmp_path: Path) -> None:
    assert "is not in gateway.attachments_dir" in refused(tmp_path / "gone", "invoice.pdf")
    assert refused(None, "invoice.pdf") == (
        "attachments: gateway.attachments_dir is not set; set it to the folder that contains the attachments"
    )


def test_the_size_limit_applies_to_the_sum_of_all_files(folder: Path) -> None:
    entries = ("invoice.pdf", "2026/photo.jpeg")
    assert len(found(folder, *entries, limit=6)) == 2
    assert refused(folder, *entries, limit=5).startswith(
        "attachments total 6e-06 MB, more than gateway.attachments_limit_mb (5e-06 MB)"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused_before_anything_is_sent(folder: Path) -> None:
    (folder / "invoice.pdf").chmod(0)
    assert "can't be read: Permission denied" in refused(folder, "invoice.pdf")
