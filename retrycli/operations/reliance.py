"""Find what a pass relies on: its program and its files. Check that it lasts, and that no other user can change it."""

import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import retrycli
from retrycli.config.settings import Settings
from retrycli.domain.cron_line import Job
from retrycli.domain.errors import ConfigurationError
from retrycli.system.python_call import files_of
from retrycli.system.trust import find_weakness

# Folders that `uvx`, `pipx run` and others empty without asking, and those for temporary files.
CACHES = frozenset({".cache", "archive-v0"})
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  compared, never opened


def this_python() -> str:
    """Return the path of the Python in which retrycli is installed. It does not depend on which of the interpreter's
    names (such as python3.12) started this process.
    """
    usual = Path(sys.executable).with_name("python3")
    return str(usual) if usual.exists() and usual.samefile(sys.executable) else sys.executable


def relied_on() -> tuple[Path, ...]:
    """Return the files that a pass runs: the interpreter, this package, and the folders that Python searches."""
    package = Path(retrycli.__file__).parent
    found = (Path(this_python()), package, *package.rglob("*"), *map(Path, filter(None, sys.path)))
    return tuple(dict.fromkeys(path for path in found if path.exists()))


def refuse_passing(interpreter: str) -> None:
    """Reject an interpreter that may be deleted at any time: in a tool's cache, or in a folder for temporary files."""
    path = Path(interpreter)
    if not CACHES.isdisjoint(path.parts) or any(path.is_relative_to(folder) for folder in TEMPORARY):
        raise ConfigurationError(
            f"{interpreter} is in a cache or a temporary folder, which may be emptied, and then passes would fail; "
            "install retrycli with `uv tool install retrycli` or in a virtual environment, and run this command there"
        )


def refuse_untrusted(wanted: Job, settings: Settings, users: Collection[int]) -> None:
    """Reject a pass that other users could control.

    Raises:
        ConfigurationError: other users may change what the pass relies on.
    """
    for path in (Path(wanted.config), *named_in(settings), *relied_on()):
        if (weakness := find_weakness(path, users)) is not None:
            relying = "" if weakness.place == path else f", which exposes {path}"
            raise ConfigurationError(
                f"{weakness}{relying}, and passes run by {wanted.user} would rely on it; {weakness.remedy}"
            )


def named_in(settings: Settings) -> Iterator[Path]:
    """Yield what settings name and passes only read: presets, certificates, and files and folders of functions."""
    for gateway in settings.gateway.all.values():
        yield from filter(None, (gateway.preset_file, gateway.ca_file))
    for call in settings.calls:
        yield from files_of(call.name, call.folder)
        if call.folder is not None:
            yield call.folder
