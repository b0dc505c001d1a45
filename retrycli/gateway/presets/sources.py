"""Find the texts of presets: bundled presets, presets of other packages, and files."""

from importlib import resources
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from retrycli.domain.errors import ConfigurationError

BUNDLED = resources.files("retrycli.gateway") / "presets"
# The group of entry points with which other packages provide presets. The value of an entry point names a package, and
# its name the file without `.toml` in this package.
GROUP = "retrycli.presets"


def known_presets() -> list[str]:
    """Return the names of the bundled presets, and then of those that other packages provide."""
    bundled = _bundled()
    return [*bundled, *sorted({entry.name for entry in entry_points(group=GROUP)} - {*bundled})]


def preset_text(name: str) -> str:
    """Return the TOML of a preset: a preset by its name, or a file by a path that ends in ``.toml``.

    Raises:
        ConfigurationError: there is no such preset, or its file can't be read.
    """
    if name.endswith(".toml"):
        return _text_of(Path(name))
    if "/" not in name and (file := BUNDLED / f"{name}.toml").is_file():
        return file.read_text(encoding="utf-8")
    if (entry := next(iter(entry_points(group=GROUP, name=name)), None)) is not None:
        return _text_in_package(entry)
    known = ", ".join(known_presets())
    raise ConfigurationError(f"gateway.preset: no preset {name!r}; give a .toml file, or one of {known}")


def _bundled() -> list[str]:
    return sorted(file.name.removesuffix(".toml") for file in BUNDLED.iterdir() if file.name.endswith(".toml"))


def _text_of(file: Path) -> str:
    try:
        if not file.is_file():
            raise ConfigurationError(f"gateway.preset: {file} does not exist, or is not a file")
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the file is not valid UTF-8; save it as UTF-8"
        raise ConfigurationError(f"gateway.preset: can't read {file}: {reason}") from error


def _text_in_package(entry: EntryPoint) -> str:
    try:
        return (resources.files(entry.module) / f"{entry.name}.toml").read_text(encoding="utf-8-sig")
    except (Exception, SystemExit) as error:  # the package's own code may run
        raise ConfigurationError(
            f"gateway.preset: can't read {entry.name}.toml of the package {entry.module}: {type(error).__name__}; "
            "reinstall the package that provides it"
        ) from error
