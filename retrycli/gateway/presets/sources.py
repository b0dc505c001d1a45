"""Find the texts of presets: bundled presets, and files."""

from importlib import resources
from pathlib import Path

from retrycli.domain.errors import ConfigurationError
from retrycli.system.trust import require_trust

BUNDLED = resources.files("retrycli.gateway") / "presets"


def known_presets() -> list[str]:
    """Return the names of the bundled presets, in alphabetical order."""
    return sorted(file.name.removesuffix(".toml") for file in BUNDLED.iterdir() if file.name.endswith(".toml"))


def preset_text(name: str) -> str:
    """Return the TOML of a preset: a preset by its name, or a file by a path that ends in ``.toml``.

    Raises:
        ConfigurationError: there is no such preset, or its file can't be read.
    """
    if name.endswith(".toml"):
        return _text_of(Path(name))
    if "/" not in name and (file := BUNDLED / f"{name}.toml").is_file():
        return file.read_text(encoding="utf-8")
    known = ", ".join(known_presets())
    raise ConfigurationError(f"gateway.preset: no preset {name!r}; give a .toml file, or one of {known}")


def _text_of(file: Path) -> str:
    try:
        if not file.is_file():
            raise ConfigurationError(f"gateway.preset: {file} does not exist, or is not a file")
        require_trust(file, "gateway.preset")
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the file is not valid UTF-8; save it as UTF-8"
        raise ConfigurationError(f"gateway.preset: can't read {file}: {reason}") from error
