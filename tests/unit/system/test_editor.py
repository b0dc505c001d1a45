"""Running the operator's editor: its choice, its temporary file, and the clean-up."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from retrycli.domain.errors import NotEdited
from retrycli.system.editor import ENDS, edited, editor_command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create temporary files in a separate folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def python(script: str) -> list[str]:
    """Return an editor command that runs a Python script, in which ``f`` is the file."""
    return [sys.executable, "-c", f"import os, pathlib, sys; f = pathlib.Path(sys.argv[1]); {script}"]


def program(folder: Path, name: str) -> str:
    """Create an executable file, and return its path."""
    file = folder / name
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return str(file)


def test_visual_precedes_editor_and_both_may_have_arguments() -> None:
    assert editor_command({"VISUAL": "code --wait", "EDITOR": "vi"}) == ["code", "--wait"]
    assert editor_command({"VISUAL": " ", "EDITOR": "'/opt/my editor' -n"}) == ["/opt/my editor", "-n"]


def test_without_variables_the_first_common_editor_is_used(tmp_path: Path) -> None:
    with pytest.raises(NotEdited, match=r"no editor found; set \$EDITOR, or pass --subject or --body-file"):
        editor_command({"PATH": str(tmp_path)})
    vi = program(tmp_path, "vi")
    assert editor_command({"PATH": str(tmp_path)}) == [vi]
    nano = program(tmp_path, "nano")
    assert editor_command({"PATH": str(tmp_path)}) == [nano]


def test_an_editor_that_can_not_be_started_is_named() -> None:
    with pytest.raises(NotEdited, match=r"\$EDITOR can't be read as a command: vi 'x; fix the quoting"):
        editor_command({"EDITOR": "vi 'x"})
    why = r"can't start the editor /no/such: No such file or directory; set \$VISUAL to another editor"
    with pytest.raises(NotEdited, match=why):
        edited("tea", ["/no/such"], name="a.txt")


def test_the_edited_text_is_returned_with_its_line_breaks() -> None:
    editor = python("f.write_bytes(f.read_bytes().replace(b'tea', b'coffee'))")
    assert edited("tea\r\n日本\n", editor, name="a.txt") == "coffee\r\n日本\n"


def test_the_file_is_private_and_deleted_afterwards(folder: Path) -> None:
    """Files that the editor creates in the same folder, such as backups, are deleted too."""
    editor = python(
        "pathlib.Path(str(f) + '~').write_text('tea'); "
        "f.write_text(f'{f.name} {f.stat().st_mode & 0o777:o} {f.parent.stat().st_mode & 0o777:o}')"
    )
    assert edited("tea", editor, name="message-7.txt") == "message-7.txt 600 700"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["message-a/../../b.txt", "message-a\0b.txt", f"message-{'é' * 300}.txt"])
def test_an_id_that_no_file_can_have_is_edited(folder: Path, name: str) -> None:
    assert edited("tea", python("f.write_text('coffee')"), name=name) == "coffee"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("sys.exit(3)", "exited with status 3; nothing was written"),
        ("os.kill(os.getpid(), 15)", "exited with status -15; nothing was written"),
        ("f.unlink()", "the editor deleted the file; nothing was written"),
        ("f.write_bytes(b'caf\\xe9')", "the text is not valid UTF-8; nothing was written"),
    ],
)
def test_an_editor_that_fails_leaves_no_file(folder: Path, script: str, why: str) -> None:
    with pytest.raises(NotEdited, match=why):
        edited("tea", python(script), name="a.txt")
    assert list(folder.iterdir()) == []


def test_an_interrupt_is_left_to_the_editor() -> None:
    """On Ctrl-C, a terminal sends SIGINT to both processes. Only retrycli ignores the signal."""
    before = signal.getsignal(signal.SIGINT)
    editor = python("import signal; os.kill(os.getppid(), 2); f.write_text(str(signal.getsignal(2) == signal.SIG_IGN))")
    assert edited("tea", editor, name="a.txt") == "False"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminated_command_leaves_no_text_behind(folder: Path, number: int) -> None:
    """A closed terminal sends SIGHUP, for example. The command then also ends the editor."""
    before = signal.getsignal(number)
    editor = python(f"import signal; os.kill(os.getppid(), {int(number)}); signal.pause()")
    with pytest.raises(SystemExit) as ended:
        edited("tea", editor, name="a.txt")
    assert ended.value.code == 128 + number
    assert list(folder.iterdir()) == []
    assert signal.getsignal(number) == before


EDIT = """
import sys
from retrycli.system.editor import edited

edited("tea", [sys.executable, "-c", "print('open', flush=True); import signal; signal.pause()"], name="a.txt")
"""


@pytest.mark.parametrize("number", ENDS)
def test_repeated_signals_leave_no_text_behind(tmp_path: Path, number: int) -> None:
    """When a terminal is closed, the kernel and the shell may both send a signal, the second during the clean-up."""
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", EDIT], env={"TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, start_new_session=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"open\n"
            while process.poll() is None:
                process.send_signal(number)
                with suppress(subprocess.TimeoutExpired):  # pause between signals, so that the process can exit
                    process.wait(timeout=0.001)
        assert process.returncode in {128 + number, -number}
        assert list(tmp_path.iterdir()) == []
