"""Run the operator's editor on a private temporary file."""

import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from retrycli.domain.errors import NotEdited

NAMED_BY = ("VISUAL", "EDITOR")
FALLBACKS = ("sensible-editor", "nano", "vi")
SUDO_REMEDY = "to keep $VISUAL and $EDITOR, run `sudo --preserve-env=EDITOR,VISUAL …`"
ENDS = (signal.SIGTERM, signal.SIGHUP)


def editor_command(environment: Mapping[str, str]) -> list[str]:
    """Return the editor and its arguments: ``$VISUAL``, otherwise ``$EDITOR``, otherwise the first installed of
    `FALLBACKS`.

    Raises:
        NotEdited: no editor was found, or the variable's value is not quoted correctly.
    """
    for name in NAMED_BY:
        if wanted := environment.get(name, "").strip():
            try:
                return shlex.split(wanted)
            except ValueError:
                raise NotEdited(f"${name} can't be read as a command: {wanted}; fix the quoting") from None
    for name in FALLBACKS:
        if found := shutil.which(name, path=environment.get("PATH")):
            return [found]
    remedy = SUDO_REMEDY if stripped_by_sudo(environment) else "set $EDITOR"
    raise NotEdited(f"no editor found; {remedy}, or pass --subject or --body-file")


def stripped_by_sudo(environment: Mapping[str, str]) -> bool:
    """Return whether sudo may have dropped ``$VISUAL`` and ``$EDITOR``, which it does by default."""
    return "SUDO_USER" in environment and not any(environment.get(name, "").strip() for name in NAMED_BY)


def edited(text: str, command: list[str], *, name: str) -> str:
    """Open a text in the editor, and return the result. ``name`` is the name of its file, as far as a file can have it.

    The text is in a private file in a temporary folder. The folder is deleted at the end, with the editor's backup
    files.

    Raises:
        NotEdited: the editor can't be started or fails, or the text is missing or not valid UTF-8.
    """
    with _signals_left_to_editor(), tempfile.TemporaryDirectory(prefix="retrycli-") as folder:
        file = Path(folder, re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[-100:])
        file.touch(mode=0o600)
        file.write_text(text, encoding="utf-8", newline="")
        try:
            code = subprocess.run([*command, str(file)], check=False).returncode  # noqa: S603  the user's own editor
        except OSError as error:
            raise NotEdited(
                f"can't start the editor {command[0]}: {error.strerror}; set $VISUAL to another editor"
            ) from None
        if code != 0:
            raise NotEdited(f"the editor {command[0]} exited with status {code}; nothing was written")
        try:
            return file.read_bytes().decode()
        except FileNotFoundError:
            raise NotEdited("the editor deleted the file; nothing was written") from None
        except UnicodeDecodeError:
            raise NotEdited(
                "the text is not valid UTF-8; nothing was written. Set your editor's encoding to UTF-8"
            ) from None


@contextmanager
def _signals_left_to_editor() -> Iterator[None]:
    """Leave Ctrl-C to the editor, which also receives it. On SIGTERM or SIGHUP, exit, which deletes the text."""
    handlers = {signal.SIGINT: _ignore, **dict.fromkeys(ENDS, _exit_once)}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Ignore a signal. A handler is needed, because the editor would inherit SIG_IGN."""


def _exit_once(number: int, _frame: FrameType | None) -> None:
    """Exit, and ignore further signals, because the shell of a closed terminal sends the same signal again."""
    for signal_number in ENDS:
        signal.signal(signal_number, _ignore)
    raise SystemExit(128 + number)
