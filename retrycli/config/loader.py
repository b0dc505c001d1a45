"""Load settings: read TOML and the environment into `Settings`."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from retrycli.config import PATH, SECRET, marked
from retrycli.config.settings import DatabaseSettings, Settings
from retrycli.domain.errors import ConfigurationError
from retrycli.system.trust import require_trust

PREFIX = "RETRYCLI_"
CONFIG_VARIABLE = "RETRYCLI_CONFIG"
COLUMNS = "database.columns."  # the tables below this section are values, and may have keys with dots
# Appended to every validation error. `retrycli manual` works with invalid settings, because it does not read them.
HINT = ". `retrycli manual settings` lists every setting"
FROM_THE_API = "environment TICKETING_API_BASE_URL"  # the source of a base URL from the application's own variable
NO_FILE = "is not a regular file, or is a link that can't be followed"
SYSTEM_FILE = Path("/etc/retrycli/retrycli.toml")
SECRETS = tuple(marked(Settings, SECRET))
PATHS = frozenset(marked(Settings, PATH))


class Loaded(NamedTuple):
    """Settings, and the source of each value that is not a default."""

    settings: Settings
    sources: Mapping[str, str]


def load(path: Path | None = None, environment: Mapping[str, str] | None = None) -> Loaded:
    """Read the settings: the environment overrides the file, and the file overrides the defaults.

    Args:
        path: the configuration file; by default ``$RETRYCLI_CONFIG`` or, if it is not set, the first that exists of
            ``./retrycli.toml``, the file in the user's configuration folder and ``/etc/retrycli/retrycli.toml``.
        environment: the environment variables; by default those of the process.

    Raises:
        ConfigurationError: a named file does not exist, another user can change a file, a file can't be read or is not
            valid TOML, a key is unknown, or a value is invalid.
    """
    env = os.environ if environment is None else environment
    file = _find(path, env)
    values: dict[str, tuple[object, str]] = {} if file is None else dict(_from_file(file))
    values.update([*_from_credentials(env), *_from_environment(env)])
    is_own = str(values.get("gateway.kind", ("",))[0]) == "python"
    if is_own and values.get("gateway.base_url", ("", ""))[1] == FROM_THE_API:
        del values["gateway.base_url"]  # the variable is the application's own, and may be set for its own client
    values.update([*_from_secret_files(values)])
    sources = {key: source for key, (_, source) in values.items()}
    # If `database` is not a section in the file, add no default, so that validation reports the mistake.
    if file is not None and isinstance(values.get("database", ({}, ""))[0], dict):
        values.setdefault("database.url", (_resolve(file, "database.url", DatabaseSettings().url), "default"))
        if any(key.endswith(".call") for key in values):
            values.setdefault("gateway.modules_dir", (str(file.absolute().parent), "default"))
    try:
        settings = Settings.model_validate(_nested(values)).read_from(file)
    except ValidationError as error:
        raise ConfigurationError(_describe(error, sources)) from None
    return Loaded(settings, sources)


def load_settings(path: str | os.PathLike[str] | None = None) -> Settings:
    """Read the settings as the command does: the environment overrides the file, and the file overrides the defaults.

    Raises:
        ConfigurationError: see `load`.
    """
    return load(None if path is None else Path(path)).settings


def candidates(environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield the default paths of the configuration file, in order of precedence."""
    yield Path("retrycli.toml")
    home = environment.get("HOME", "")
    if folder := environment.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else ""):
        yield Path(folder, "retrycli", "retrycli.toml")
    yield SYSTEM_FILE


def _find(path: Path | None, env: Mapping[str, str]) -> Path | None:
    named = path or (Path(env[CONFIG_VARIABLE]) if env.get(CONFIG_VARIABLE) else None)
    if named is None:
        # Do not skip an entry that is not a file: the next file would not be the one that the user meant.
        found = next((path for path in candidates(env) if _exists(path, env)), None)
        if found is not None and not _is_file(found):
            raise ConfigurationError(f"{found.absolute()} {NO_FILE}; replace it, or choose another file with --config")
        return found
    if _is_file(named):
        return named
    origin = "--config" if path else f"${CONFIG_VARIABLE}"
    try:
        named.lstat()
    except (FileNotFoundError, ValueError):
        raise ConfigurationError(f"no configuration file {named} ({origin}); `retrycli init` creates one") from None
    except OSError as error:
        raise ConfigurationError(
            f"can't access {named} ({origin}): {error.strerror}; check the permissions of the folders above it"
        ) from None
    raise ConfigurationError(f"{named} ({origin}) {NO_FILE}; choose another file")


def _exists(path: Path, env: Mapping[str, str]) -> bool:
    """Return whether there is an entry at a default path. Skip a folder that can't be accessed only if it is probably
    not meant: sudo may leave the working directory and HOME as they were, and the database may be named elsewhere.

    Raises:
        ConfigurationError: the current user can't access the folder.
    """
    try:
        path.lstat()
    except PermissionError:
        is_meant = path == SYSTEM_FILE or (path.is_absolute() and env.get("XDG_CONFIG_HOME"))
        if not is_meant or PREFIX + "DATABASE__URL" in env:
            return False
        from retrycli.system.host import owner_of

        folder = next(folder for folder in reversed(path.parents) if not os.access(folder, os.X_OK))
        owner = owner_of(folder)
        raise ConfigurationError(
            f"can't access {folder}, which may hold the settings; run this as a user who can, such as {owner} "
            f"(`sudo -u {owner} …`), or choose another file with --config"
        ) from None
    except (OSError, ValueError):
        return False
    return True


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _from_file(file: Path) -> Iterator[tuple[str, tuple[object, str]]]:
    try:
        require_trust(file)
        import tomllib  # the environment may hold all settings

        values = list(_flat(tomllib.loads(file.read_text(encoding="utf-8-sig"))))
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file} is not valid UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise ConfigurationError(f"can't read {file}: {error.strerror}; check its permissions and owner") from error
    except ValueError as error:
        raise ConfigurationError(f"{file} is not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigurationError(f"{file} is nested too deeply") from None
    for key, value in values:
        yield key, (_resolve(file, key, value), f"file {file}")


def _resolve(file: Path, key: str, value: object) -> object:
    """Resolve a path in the settings against the file's folder, because cron runs passes in another folder."""
    folder = file.absolute().parent
    if key == "database.url" and isinstance(value, str):
        return re.sub(
            r"^(sqlite(?:\+\w+)?:///)(?![/:?]|file:|$)(.*)",
            lambda found: f"{found[1]}{folder.as_posix()}/{found[2]}",
            value,
        )
    is_preset = key.startswith("gateway.") and key.endswith(".preset") and str(value).endswith(".toml")
    return str(folder / value) if (is_preset or key in PATHS) and isinstance(value, str) and value else value


def _from_credentials(env: Mapping[str, str]) -> Iterator[tuple[str, tuple[object, str]]]:
    if folder := env.get("CREDENTIALS_DIRECTORY"):
        for key in SECRETS:
            file = Path(folder, key)
            try:
                is_there = file.is_file()
            except OSError as error:
                raise ConfigurationError(f"{key}: can't access {file}: {error.strerror}") from error
            if is_there:
                yield key, (_read_secret(key, file), f"credential {file}")


def _from_environment(env: Mapping[str, str]) -> Iterator[tuple[str, tuple[object, str]]]:
    if url := env.get("TICKETING_API_BASE_URL"):
        yield "gateway.base_url", (url, FROM_THE_API)
    for name, value in sorted(env.items()):
        if name.startswith(PREFIX) and name != CONFIG_VARIABLE:
            yield name.removeprefix(PREFIX).lower().replace("__", "."), (value, f"environment {name}")


def _from_secret_files(values: Mapping[str, tuple[object, str]]) -> Iterator[tuple[str, tuple[object, str]]]:
    for key, (value, source) in values.items():
        twin = key.removesuffix("_file")
        if twin in SECRETS and twin != key:
            if twin in values:
                raise ConfigurationError(f"both {twin} ({values[twin][1]}) and {key} ({source}) are set; keep one")
            yield twin, (_read_secret(key, Path(str(value))), f"file {value}")


def _read_secret(key: str, file: Path) -> str:
    try:
        require_trust(file, key)
        return file.read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a valid path, or the file is not valid UTF-8"
        raise ConfigurationError(f"{key}: can't read {file}: {reason}") from error


def _flat(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value and prefix != COLUMNS:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _nested(values: Mapping[str, tuple[object, str]]) -> dict[str, object]:
    tree: dict[str, object] = {}
    for key, (value, source) in values.items():
        *path, name = key.split(".")
        node = tree
        for part in path:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                raise ConfigurationError(f"{key} ({source}): {part} is set to a value, so it can't be a section")
            node = child
        if isinstance(node.get(name), dict):
            raise ConfigurationError(f"{key} ({source}) is a section; set one of its keys instead")
        node[name] = value
    return tree


def _describe(error: ValidationError, sources: Mapping[str, str]) -> str:
    problems = []
    for problem in error.errors(include_url=False, include_input=False):
        key = ".".join(str(part) for part in problem["loc"] if part != "[key]")
        near = [k for k in sources if k == key or key.startswith(f"{k}.") or k.startswith(f"{key}.") or not key]
        origin = f" ({', '.join(dict.fromkeys(sources[k] for k in near))})" if near and problem["loc"] else ""
        text = {"extra_forbidden": "no such setting"}.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        problems.append(f"{key}{origin}: {text}" if problem["loc"] else text)
    return "; ".join(problems) + HINT
