"""TOML and environment into one frozen, validated `Settings`; every default stands here."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from retrycli.backoff import Backoff, BackoffKind
from retrycli.breaker import BreakerRules
from retrycli.errors import ConfigurationError
from retrycli.message import MessageType
from retrycli.policy import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PREFIX = "RETRYCLI_"
CONFIG_VARIABLE = "RETRYCLI_CONFIG"
ALIASES = {"TICKETING_API_BASE_URL": "gateway.base_url"}
SECRETS = ("gateway.token", "gateway.password", "gateway.username", "database.url")
"""Keys that systemd may hand over as credentials of the same name (systemd.exec(5), LoadCredential=)."""


def _split(value: object) -> object:
    """A list may be written with commas, as an environment variable must be."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Minutes = Annotated[float, Field(gt=0, le=525_600, allow_inf_nan=False)]
Hours = Annotated[float, Field(gt=0, le=876_000, allow_inf_nan=False)]
Waits = Annotated[tuple[Minutes, ...], BeforeValidator(_split)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=False)


class Database(_Section):
    """Where the application's table is."""

    url: str = Field("sqlite:///ticketing_agent.db", repr=False, description="SQLAlchemy URL, sqlite or postgresql")
    table: str = Field("pending_messages", description="the application's table, with its schema if it has one")
    auto_upgrade: bool = Field(default=True, description="let a pass upgrade retrycli's own tables")

    @field_validator("url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        if not re.match(r"(sqlite|postgresql)(\+\w+)?://", url):
            raise ValueError("write sqlite:///FILE or postgresql://USER@HOST/NAME; no other database is supported")
        return url

    @field_validator("table")
    @classmethod
    def _plain_name(cls, table: str) -> str:
        if not re.fullmatch(r"\w+(\.\w+)?", table):
            raise ValueError("write a table's name, or SCHEMA.NAME")
        return table


class TypeSchedule(_Section):
    """What one message type does otherwise than the rest; None is: as the rest."""

    max_retries: int | None = Field(None, ge=1, le=1000)
    backoff: BackoffKind | None = None
    base_minutes: Minutes | None = None
    factor: float | None = Field(None, ge=1, le=100)
    cap_minutes: Minutes | None = None
    jitter: float | None = Field(None, ge=0, le=1)
    waits_minutes: Waits | None = None
    expires_after_hours: Hours | None = None


class Schedule(_Section):
    """When a message is tried again."""

    retry_interval_minutes: Minutes = Field(15.0, description="how often cron calls")
    max_retries: int = Field(10, ge=1, le=1000, description="tries before a person is asked")
    backoff: BackoffKind = Field(BackoffKind.EXPONENTIAL, description="exponential, linear, fixed or list")
    base_minutes: Minutes = Field(15.0, description="the first wait")
    factor: float = Field(2.0, ge=1, le=100, description="exponential: each wait is so many times the last")
    cap_minutes: Minutes = Field(240.0, description="exponential: no wait is longer")
    jitter: float = Field(0.2, ge=0, le=1, description="spread of waits of an hour or more, as a part of the wait")
    waits_minutes: Waits = Field((), description="list: the waits; the last repeats")
    due_slack_seconds: float = Field(
        60.0, ge=0, le=3600, description="what comes due so soon after the pass's start is due"
    )
    expires_after_hours: Hours | None = Field(None, description="older messages go to a person")
    types: dict[MessageType, TypeSchedule] = Field({}, description="other rules for a message type")

    def as_backoff(self) -> Backoff:
        """The waits."""
        return Backoff(
            kind=self.backoff,
            base=timedelta(minutes=self.base_minutes),
            factor=self.factor,
            cap=timedelta(minutes=self.cap_minutes),
            spread=self.jitter,
            waits=tuple(timedelta(minutes=minutes) for minutes in self.waits_minutes),
        )

    def policy(self, message_type: MessageType, *, unknown_limit: int) -> RetryPolicy:
        """The rules for one message type."""
        own = self.types.get(message_type, TypeSchedule())
        rules = self.model_copy(update=own.model_dump(exclude_none=True))
        expires = rules.expires_after_hours
        return RetryPolicy(
            backoff=rules.as_backoff(),
            max_retries=rules.max_retries,
            unknown_limit=unknown_limit,
            expires_after=None if expires is None else timedelta(hours=expires),
        )

    @model_validator(mode="after")
    def _waits_outlast_the_pass(self) -> Self:
        """A wait within the slack would be due again in the very pass that set it."""
        for name, own in [("schedule", None), *((f"schedule.types.{t}", o) for t, o in self.types.items())]:
            rules = self if own is None else self.model_copy(update=own.model_dump(exclude_none=True))
            if rules.backoff is BackoffKind.LIST and not rules.waits_minutes:
                raise ValueError(f"{name}.waits_minutes is empty, and {name}.backoff is list")
            shortest = rules.as_backoff().shortest(rules.max_retries)
            if shortest <= timedelta(seconds=self.due_slack_seconds):
                raise ValueError(
                    f"{name}: with its jitter a wait can be {shortest.total_seconds() / 60:g} min, which is not longer "
                    f"than schedule.due_slack_seconds ({self.due_slack_seconds:g} s)"
                )
        return self


class Gateway(_Section):
    """How messages leave."""

    preset: str = Field("generic", description="the ticketing system: a preset's name, or a file")
    base_url: str | None = Field(None, description="where the ticketing API is")
    auth: Literal["none", "bearer", "basic", "login"] = Field("none", description="none, bearer, basic or login")
    username: str | None = Field(None, description="basic, login")
    username_file: Path | None = Field(None, description="a file that holds it")
    password: SecretStr | None = Field(None, description="basic, login")
    password_file: Path | None = Field(None, description="a file that holds it")
    token: SecretStr | None = Field(None, description="bearer")
    token_file: Path | None = Field(None, description="a file that holds it")
    login_path: str = Field("/auth/login", description="login: where user and password are posted")
    connect_timeout_seconds: float = Field(5.0, gt=0, le=300, description="for the connection to be made")
    request_timeout_seconds: float = Field(30.0, gt=0, le=3600, description="for the whole request and its answer")
    immediate_retries: int = Field(1, ge=0, le=5, description="at once, of what was certainly not sent")
    unknown_limit: int = Field(2, ge=0, le=100, description="how often to send again what may have arrived")
    ca_file: Path | None = Field(None, description="certificates to trust besides the system's")
    attachments_dir: Path | None = Field(
        None, description="the folder of attachments, for presets that send them; none does yet"
    )

    @property
    def destination(self) -> str:
        """Where messages go: the base URL.

        Raises:
            ConfigurationError: it is not set.
        """
        if self.base_url is None:
            raise ConfigurationError(
                "gateway.base_url is not set: where is the ticketing API? "
                "Set it in retrycli.toml or TICKETING_API_BASE_URL"
            )
        return self.base_url

    @field_validator("base_url")
    @classmethod
    def _absolute_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if not re.fullmatch(r"[!-~]*", url):
            raise ValueError("a URL has no spaces, line ends or letters beyond ASCII")
        try:
            parts = urlsplit(url)
            _ = parts.port  # parsed only when asked for
        except ValueError:
            raise ValueError("that is no URL, or its port is none") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("write it with its scheme and host, as in https://tickets.example.com/api")
        if parts.username or parts.password:
            raise ValueError("put user and password into gateway.username and gateway.password_file, not the URL")
        if "?" in url or "#" in url:
            raise ValueError("a base URL ends with its path; leave out what follows ? or #")
        return url.rstrip("/")

    @field_validator("login_path")
    @classmethod
    def _rooted(cls, path: str) -> str:
        if not path.startswith("/"):
            raise ValueError("start it with a slash")
        return path

    @model_validator(mode="after")
    def _credentials(self) -> Self:
        needed = {"none": (), "bearer": ("token",), "basic": ("username", "password")}.get(
            self.auth, ("username", "password")
        )
        for name in needed:
            if not _revealed(getattr(self, name)):
                raise ValueError(f"gateway.auth = {self.auth!r} needs gateway.{name} or gateway.{name}_file")
        return self


class Run(_Section):
    """How much one pass does."""

    concurrency: int = Field(8, ge=1, le=512, description="requests in flight at most")
    deadline_minutes: Minutes = Field(12.0, description="a pass begins nothing after that")
    limit: int | None = Field(None, ge=1, le=2**31, description="messages a pass")
    rate_per_second: Positive | None = Field(None, description="requests a second at most")
    lock_file: Path | None = Field(None, description="the pass lock; by default beside the database")
    wait_lock_seconds: float = Field(2.0, ge=0, le=3600, description="for another pass to end")
    retention_days: int | None = Field(None, ge=1, le=36_500, description="how long attempts and passes are kept")


class BreakerSettings(_Section):
    """When a destination is taken to be down."""

    failures: int = Field(5, ge=1, le=1000, description="failures in a row that open the breaker")
    probe_minutes: Annotated[Waits, Field(min_length=1)] = Field(
        (15.0, 30.0, 60.0), description="waits before each probe; the last repeats"
    )

    @property
    def rules(self) -> BreakerRules:
        """The same, for the breaker."""
        return BreakerRules(self.failures, tuple(timedelta(minutes=minutes) for minutes in self.probe_minutes))


class Logging(_Section):
    """What goes to stderr."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] | None = Field(
        None, description="DEBUG, INFO, WARNING or ERROR; by default INFO on a terminal and WARNING off it"
    )
    format: Literal["text", "json"] = Field("text", description="text or json")


class Settings(_Section):
    """All of it. Make one with `load`, or directly in an application of your own."""

    database: Database = Database()
    schedule: Schedule = Schedule()
    gateway: Gateway = Gateway()
    run: Run = Run()
    breaker: BreakerSettings = BreakerSettings()
    logging: Logging = Logging()

    @property
    def policies(self) -> dict[MessageType, RetryPolicy]:
        """The rules for each message type."""
        limit = self.gateway.unknown_limit
        return {each: self.schedule.policy(each, unknown_limit=limit) for each in MessageType}


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and where each value that is not a default came from."""

    settings: Settings
    file: Path | None
    sources: Mapping[str, str] = field(default_factory=dict)


def load(path: Path | None = None, environment: Mapping[str, str] | None = None) -> Loaded:
    """Read the settings: environment over file over defaults.

    Args:
        path: the configuration file; without it ``$RETRYCLI_CONFIG``, ``./retrycli.toml``, the user's
            configuration folder and ``/etc/retrycli/retrycli.toml``, the first that is there.
        environment: by default the process's own.

    Raises:
        ConfigurationError: a named file is missing, a file is no TOML, or a key or value is unknown or wrong.
    """
    env = os.environ if environment is None else environment
    file = _find(path, env)
    values: dict[str, tuple[object, str]] = {}
    if file is not None:
        values.update(_from_file(file))
    values.update(_from_credentials(env))
    values.update(_from_environment(env))
    values.update(dict(_from_secret_files(values)))
    try:
        settings = Settings.model_validate(_nested(values))
    except ValidationError as error:
        raise ConfigurationError(_in_words(error, {key: source for key, (_, source) in values.items()})) from None
    return Loaded(settings, file, {key: source for key, (_, source) in values.items()})


def load_settings(path: Path | None = None) -> Settings:
    """Read the settings as the command does: environment over file over defaults.

    Raises:
        ConfigurationError: as `load`.
    """
    return load(path).settings


def candidates(environment: Mapping[str, str]) -> Iterator[Path]:
    """Where a configuration file is looked for when none is named, first to last."""
    yield Path("retrycli.toml")
    home = environment.get("HOME", "")
    if folder := environment.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else ""):
        yield Path(folder, "retrycli", "retrycli.toml")
    yield Path("/etc/retrycli/retrycli.toml")


def _find(path: Path | None, env: Mapping[str, str]) -> Path | None:
    named = path or (Path(env[CONFIG_VARIABLE]) if env.get(CONFIG_VARIABLE) else None)
    if named is None:
        return next((each for each in candidates(env) if _is_file(each)), None)
    if not _is_file(named):
        origin = "--config" if path else f"${CONFIG_VARIABLE}"
        raise ConfigurationError(f"no configuration file {named} ({origin}); `retrycli init` makes one")
    return named


def _is_file(path: Path) -> bool:
    """Whether there is a file that may be looked for: sudo leaves HOME at a folder that is closed to us."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _from_file(file: Path) -> Iterator[tuple[str, tuple[object, str]]]:
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"can't read {file}: {error.strerror}; check its mode and owner") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{file} is no TOML: {error}") from None
    for key, value in _flat(tree):
        yield key, (_beside(file, key, value), f"file {file}")


def _beside(file: Path, key: str, value: object) -> object:
    """A relative path in a file is relative to the file: cron starts us in a folder of its own."""
    folder = file.absolute().parent
    if key == "database.url" and isinstance(value, str):
        relative = r"^(sqlite(?:\+\w+)?:///)(?![/:?]|file:|$)(.*)"
        return re.sub(relative, lambda found: f"{found[1]}{folder.as_posix()}/{found[2]}", value)
    is_path = key.endswith(("_file", "_dir")) or (key == "gateway.preset" and str(value).endswith(".toml"))
    return str(folder / value) if is_path and isinstance(value, str) else value


def _from_credentials(env: Mapping[str, str]) -> Iterator[tuple[str, tuple[object, str]]]:
    if folder := env.get("CREDENTIALS_DIRECTORY"):
        for key in SECRETS:
            if (file := Path(folder, key)).is_file():
                yield key, (_read_secret(key, file), f"credential {file}")


def _from_environment(env: Mapping[str, str]) -> Iterator[tuple[str, tuple[object, str]]]:
    for name, key in ALIASES.items():
        if env.get(name):
            yield key, (env[name], f"environment {name}")
    for name, value in sorted(env.items()):
        if name.startswith(PREFIX) and name != CONFIG_VARIABLE:
            key = name.removeprefix(PREFIX).lower().replace("__", ".")
            yield key, (value, f"environment {name}")


def _from_secret_files(values: Mapping[str, tuple[object, str]]) -> Iterator[tuple[str, tuple[object, str]]]:
    for key, (value, source) in values.items():
        twin = key.removesuffix("_file")
        if twin in SECRETS and twin != key:
            if twin in values:
                raise ConfigurationError(f"both {twin} ({values[twin][1]}) and {key} ({source}) are set; keep one")
            yield twin, (_read_secret(key, Path(str(value))), f"file {value}")


def _read_secret(key: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "that is no path, or the file no UTF-8 text"
        raise ConfigurationError(f"{key}: can't read {file}: {reason}") from error


def _flat(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
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
                raise ConfigurationError(f"{key} ({source}): {part} is a value, not a section")
            node = child
        if isinstance(node.get(name), dict):
            raise ConfigurationError(f"{key} ({source}): it is a section, and needs a key of it")
        node[name] = value
    return tree


def _in_words(error: ValidationError, sources: Mapping[str, str]) -> str:
    problems = []
    for each in error.errors(include_url=False, include_input=False):
        key = ".".join(str(part) for part in each["loc"] if part != "[key]")
        near = [k for k in sources if k == key or key.startswith(f"{k}.") or k.startswith(f"{key}.") or not key]
        origin = f" ({', '.join(dict.fromkeys(sources[k] for k in near))})" if near and each["loc"] else ""
        text = {"extra_forbidden": "no such setting"}.get(each["type"], each["msg"].removeprefix("Value error, "))
        problems.append(f"{key}{origin}: {text}" if each["loc"] else text)
    return "; ".join(problems) + ". `retrycli config show` lists every setting"


def _revealed(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value or "")
