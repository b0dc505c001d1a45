"""All settings, with their defaults and descriptions, as one frozen, validated `Settings`."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from ipaddress import IPv6Address
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, SecretStr, field_validator, model_validator

from retrycli.config import (
    SECRET,
    FunctionName,
    Hours,
    Minutes,
    NamedPath,
    SettingsModel,
    Waits,
    Windows,
    absolute,
    matching,
    split_list,
    zone_of,
)
from retrycli.config.gateway import RoutedGatewaySettings
from retrycli.domain.circuit_breaker import BreakerRules
from retrycli.domain.message import MessageType
from retrycli.domain.retry_policy import Backoff, BackoffKind, RetryPolicy, WaitFunction
from retrycli.domain.transition import LONGEST_SLACK
from retrycli.system.python_call import ScheduleFunction

if TYPE_CHECKING:
    from retrycli.domain.delivery_window import DeliveryWindows
    from retrycli.domain.table_mapping import TableMapping


class TypeScheduleSettings(SettingsModel):
    """Overrides of the schedule for one message type. None means that the common value applies."""

    max_retries: int | None = Field(None, ge=1, le=1000)
    backoff: BackoffKind | None = None
    base_minutes: Minutes | None = None
    factor: float | None = Field(None, ge=1, le=100)
    cap_minutes: Minutes | None = None
    jitter: float | None = Field(None, ge=0, le=1)
    waits_minutes: Waits | None = None
    call: FunctionName | None = None
    expires_after_hours: Hours | None = None
    windows: Windows | None = None


class ScheduleSettings(SettingsModel):
    """Settings that decide when and how often messages are retried."""

    retry_interval_minutes: Minutes = Field(
        15.0, description="how often cron, a timer or the application starts a pass"
    )
    max_retries: int = Field(10, ge=1, le=1000, description="maximum number of retries before a message is escalated")
    backoff: BackoffKind = Field(
        BackoffKind.EXPONENTIAL,
        description="the schedule of waits between attempts: exponential, linear, fixed, list or python",
    )
    base_minutes: Minutes = Field(15.0, description="exponential, linear, python: the first wait; fixed: every wait")
    factor: float = Field(2.0, ge=1, le=100, description="exponential: the factor between one wait and the next")
    cap_minutes: Minutes = Field(240.0, description="exponential: the longest wait, before jitter")
    jitter: float = Field(
        0.2, ge=0, le=1, description="random variation of waits of an hour or more, as a fraction of the wait"
    )
    waits_minutes: Waits = Field((), description="list: the waits; the last one repeats")
    call: FunctionName | None = Field(
        None, description="python: the function that returns each wait after the first, such as desk.waits:next_wait"
    )
    due_slack_seconds: float = Field(
        60.0,
        ge=0,
        le=LONGEST_SLACK.total_seconds(),
        description="a pass also sends messages that become due within this time after it starts",
    )
    expires_after_hours: Hours | None = Field(
        None, description="messages older than this are escalated; if deliveries are stalled, retrycli warns first"
    )
    windows: Windows = Field(
        (), description='when passes may deliver, such as ["Mon-Fri 08:00-18:00", "Sat 09:00-12:00"]; by default always'
    )
    timezone: str | None = Field(
        None, description="the time zone of the windows, such as Europe/Berlin; by default the system's"
    )
    types: dict[MessageType, TypeScheduleSettings] = Field(
        {}, description="overrides of these settings, by message type"
    )

    @property
    def interval(self) -> timedelta:
        """Return the configured time between the starts of consecutive passes."""
        return timedelta(minutes=self.retry_interval_minutes)

    @property
    def largest_count(self) -> int:
        """Return the largest number of retries of any message type."""
        return max([self.max_retries, *(rules.max_retries or 0 for rules in self.types.values())])

    @property
    def calls(self) -> dict[str, str]:
        """Return the functions that decide waits, by the keys that name them."""
        if self.backoff is not BackoffKind.PYTHON and not self.types:
            return {}
        own = {f"schedule.types.{message_type}.call": self._with(rules) for message_type, rules in self.types.items()}
        return {
            key: rules.call
            for key, rules in {"schedule.call": self, **own}.items()
            if rules.backoff is BackoffKind.PYTHON and rules.call is not None
        }

    def as_backoff(self, functions: Mapping[str, WaitFunction] = MappingProxyType({})) -> Backoff:
        """Return the backoff that these settings describe, with the functions that may decide waits, by their names."""
        is_python = self.backoff is BackoffKind.PYTHON
        return Backoff(
            function=functions.get(self.call or "") if is_python else None,
            # Otherwise the same pass would try again.
            shortest_answer=timedelta(seconds=self.due_slack_seconds + 1 if is_python else 0),
            kind=self.backoff,
            base=timedelta(minutes=self.base_minutes),
            factor=self.factor,
            cap=timedelta(minutes=self.cap_minutes),
            spread=self.jitter,
            waits=tuple([timedelta(minutes=minutes) for minutes in self.waits_minutes]) if self.waits_minutes else (),
        )

    def policy(
        self, message_type: MessageType, *, unknown_limit: int, functions: Mapping[str, WaitFunction]
    ) -> RetryPolicy:
        """Return the retry policy of one message type: these settings with the type's overrides."""
        own = self.types.get(message_type)
        rules = self if own is None else self._with(own)
        return RetryPolicy(
            backoff=rules.as_backoff(functions),
            max_retries=rules.max_retries,
            unknown_limit=unknown_limit,
            expires_after=None if rules.expires_after_hours is None else timedelta(hours=rules.expires_after_hours),
        )

    @property
    def delivery_windows(self) -> "dict[MessageType, DeliveryWindows]":
        """Return the delivery windows of each message type. Types that are always open are left out."""
        if not self.windows and not self.types:
            return {}
        own = {kind: rules.windows for kind, rules in self.types.items() if rules.windows is not None}
        texts = dict.fromkeys(MessageType, self.windows) | own
        if not any(texts.values()):
            return {}
        from retrycli.domain.delivery_window import DeliveryWindows

        zone = None if self.timezone is None else zone_of(self.timezone)
        return {kind: DeliveryWindows.parse(windows, zone) for kind, windows in texts.items() if windows}

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, name: str | None) -> str | None:
        if name is not None:
            zone_of(name)
        return name

    def _with(self, own: TypeScheduleSettings) -> Self:
        return self.model_copy(update=own.model_dump(exclude_none=True))

    @model_validator(mode="after")
    def _check_waits(self) -> Self:
        """Reject an empty list, and waits up to `due_slack_seconds`, after which the same pass would try again."""
        own = {f"schedule.types.{message_type}": self._with(rules) for message_type, rules in self.types.items()}
        for name, rules in {"schedule": self, **own}.items():
            if rules.backoff is BackoffKind.LIST and not rules.waits_minutes:
                raise ValueError(f"{name}.backoff is list, but {name}.waits_minutes is empty; set at least one wait")
            if rules.backoff is BackoffKind.PYTHON and rules.call is None:
                raise ValueError(f"{name}.backoff is python, but {name}.call is not set; set it to MODULE:FUNCTION")
            shortest = rules.as_backoff().shortest(rules.max_retries)
            if shortest <= timedelta(seconds=self.due_slack_seconds):
                key = "waits_minutes" if rules.backoff is BackoffKind.LIST else "base_minutes"
                raise ValueError(
                    f"{name}.{key}: the shortest wait, after cap and jitter, is {shortest.total_seconds() / 60:g} min; "
                    f"it must be longer than schedule.due_slack_seconds ({self.due_slack_seconds:g} s)"
                )
        return self


def _urls(value: object) -> object:
    """Split a string of URLs, from an environment variable or a file, at white space. Skip lines that start with #."""
    if not isinstance(value, str):
        return value
    return [word for line in value.splitlines() if not line.lstrip().startswith("#") for word in line.split()]


DEFAULT_DATABASE = "ticketing_agent.db"  # in the working directory, or beside the settings file


class DatabaseSettings(SettingsModel):
    """Settings of the database: its URL, the application's table, and automatic upgrades."""

    url: Annotated[
        str,
        matching(
            r"(sqlite|postgresql)(\+\w+)?://.*",
            "write sqlite:///FILE or postgresql://USER@HOST/NAME; no other database is supported",
        ),
        SECRET,
    ] = Field(
        f"sqlite:///{DEFAULT_DATABASE}",
        repr=False,
        description="the database's SQLAlchemy URL, for SQLite or PostgreSQL",
    )
    table: Annotated[str, matching(r"[\w$ -]+(\.[\w$ -]+)?", "write TABLE or SCHEMA.TABLE")] = Field(
        "pending_messages", description="the application's table, with its schema if necessary"
    )
    where: str | None = Field(None, description="an SQL condition; only rows that meet it are messages")
    auto_upgrade: bool = Field(default=True, description="whether a pass upgrades retrycli's own tables")
    columns: dict[str, object] = Field({}, description="the sources of the columns that have other names, by role")
    status: dict[str, object] = Field({}, description="the values of the status column, by status")

    @property
    def mapping(self) -> "TableMapping | None":
        """Return how the application's table holds messages; None if its columns have retrycli's own names."""
        if not (self.columns or self.status or self.where):
            return None
        from retrycli.domain.table_mapping import parse_mapping

        return parse_mapping(self.columns, self.status, self.where)

    @model_validator(mode="after")
    def _check_mapping(self) -> Self:
        _ = self.mapping
        return self

    @property
    def file(self) -> Path | None:
        """Return the SQLite file; None if the database is on a server, or if the URL has no path."""
        scheme, _, rest = self.url.partition(":///")
        path = rest.partition("?")[0].removeprefix("file:")
        return Path(path).absolute() if scheme.startswith("sqlite") and path else None


class RunSettings(SettingsModel):
    """Settings of one pass: concurrency, limits, lock and retention."""

    concurrency: int = Field(8, ge=1, le=512, description="maximum number of concurrent requests")
    deadline_minutes: Minutes = Field(
        12.0, description="a pass starts no delivery attempts after it has run for this long"
    )
    limit: int | None = Field(
        None, ge=1, le=2**31, description="maximum number of messages that a pass attempts to deliver"
    )
    rate_per_second: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="maximum number of delivery attempts per second to one destination, from all hosts together",
    )
    per_ticket_order: bool = Field(
        default=False,
        description="whether a ticket's later messages wait until earlier ones are delivered or escalated",
    )
    lock_file: NamedPath = Field(
        None,
        description="the lock file that prevents overlapping passes; by default next to the SQLite file or, for "
        "PostgreSQL, in a state folder",
    )
    wait_lock_seconds: float = Field(2.0, ge=0, le=3600, description="how long to wait for another pass to end")
    retention_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="how long to keep the history of attempts, actions and passes; by default forever",
    )


class BreakerSettings(SettingsModel):
    """Settings of the circuit breaker: when it opens, and when it sends probes."""

    failures: int = Field(5, ge=1, le=1000, description="number of consecutive failures that open the circuit breaker")
    probe_minutes: Annotated[Waits, Field(min_length=1)] = Field(
        (15.0, 30.0, 60.0),
        description="the waits before successive probes of a destination that is down; the last one repeats",
    )

    @property
    def rules(self) -> BreakerRules:
        """Return the breaker rules that these settings describe."""
        return BreakerRules(self.failures, tuple(timedelta(minutes=minutes) for minutes in self.probe_minutes))


class ReportSettings(SettingsModel):
    """Settings of the HTML report that passes update."""

    path: NamedPath = Field(
        None, description="the path of the HTML report, which passes keep up to date; needs the extra `report`"
    )


class LoggingSettings(SettingsModel):
    """Settings of the log on stderr and in a file."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] | None = Field(
        None,
        description="lowest level to log on stderr: DEBUG, INFO, WARNING or ERROR; by default INFO on a terminal, "
        "otherwise WARNING",
    )
    format: Literal["text", "json"] = Field("text", description="format of log lines: text or json")
    file: NamedPath = Field(
        None, description="the log file, for all lines at INFO or above; `init` and `cron install` set it"
    )


class NotifySettings(SettingsModel):
    """Settings of notifications, and of the heartbeat that shows that passes run."""

    urls: Annotated[tuple[SecretStr, ...], BeforeValidator(_urls), SECRET] = Field(
        (),
        description="where to send notifications: Apprise URLs such as mailto:// or slack://; "
        "in the environment, separated by spaces",
    )
    urls_file: NamedPath = Field(None, description="a file that contains the URLs, one per line")
    remind_hours: Hours = Field(6.0, description="interval between reminders of a persistent problem")
    ping_url: Annotated[SecretStr | None, SECRET] = Field(
        None, description="the Healthchecks URL to ping when a pass begins and ends"
    )
    ping_url_file: NamedPath = Field(None, description="a file that contains the ping URL")

    @property
    def remind(self) -> timedelta:
        """Return the interval between reminders of a persistent problem."""
        return timedelta(hours=self.remind_hours)

    @field_validator("urls")
    @classmethod
    def _check_urls(cls, urls: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for number, url in enumerate(urls, 1):
            if not re.match(r"[A-Za-z][A-Za-z0-9]*://\S", url.get_secret_value()):
                raise ValueError(f"URL {number} is invalid; write an Apprise URL, such as mailto://USER:PASSWORD@HOST")
        return urls

    @field_validator("ping_url")
    @classmethod
    def _check_ping_url(cls, url: SecretStr | None) -> SecretStr | None:
        return None if url is None else SecretStr(absolute(url.get_secret_value(), "https://hc-ping.com/YOUR-UUID"))


class MetricsSettings(SettingsModel):
    """Settings of the metrics file for Prometheus."""

    path: NamedPath = Field(
        None, description="the .prom file that each pass writes for node_exporter's textfile collector"
    )

    @field_validator("path")
    @classmethod
    def _check_path(cls, path: Path | None) -> Path | None:
        if path is not None and (path.suffix != ".prom" or "\0" in str(path)):
            raise ValueError(
                "the name must end in .prom, because the collector reads no other files; write FOLDER/retrycli.prom"
            )
        return path


RootPath = Annotated[
    str,
    matching(
        r"(?!/(messages|api)(/|$))(/[A-Za-z0-9._~-]+)*",
        "write a path such as /desk, without a final slash; it must not begin with /messages or /api",
    ),
]
# RFC 9110, section 5.6.2, defines the characters of a header's name.
HeaderName = Annotated[
    str, matching(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", "write the name of an HTTP header, such as X-Remote-User")
]


def _hosts(names: tuple[str, ...]) -> tuple[str, ...]:
    for number, name in enumerate(names, 1):
        if not name or any(sign in name for sign in "/@ \t"):
            raise ValueError(f"name {number} is not a host name; write it like desk.example.com")
    return tuple(map(_in_url, names))


def _in_url(host: str) -> str:
    with suppress(ValueError):
        return f"[{IPv6Address(host.strip('[]'))}]"
    return host.lower()


class WebSettings(SettingsModel):
    """Settings of the HTTP API and the console, as `retrycli serve` runs them."""

    tokens_file: NamedPath = Field(
        None, description="the file of the users' tokens; `serve token add` writes it, and only its owner may read it"
    )
    host: Annotated[str, matching(r"\S+", "write a host name or an IP address")] = Field(
        "127.0.0.1", description="the address on which to listen"
    )
    port: int = Field(8003, ge=0, le=65_535, description="the TCP port on which to listen; 0 for any free port")
    uds: NamedPath = Field(None, description="a Unix socket on which to listen, instead of host and port")
    root_path: RootPath = Field(
        "", description="the path under which a reverse proxy serves the console, such as /desk"
    )
    allowed_hosts: Annotated[tuple[str, ...], BeforeValidator(split_list), AfterValidator(_hosts)] = Field(
        (), description="the host names that browsers may use; the names of this machine are always allowed"
    )
    read_only: bool = Field(default=False, description="whether nobody may change anything over HTTP")
    user_header: HeaderName | None = Field(
        None, description="the header in which a reverse proxy passes the user's name; needs web.uds"
    )

    @property
    def host_in_url(self) -> str:
        """Return the host as browsers write it: in lower case, and an IPv6 address short and in brackets."""
        return _in_url(self.host)


class CalledFunction(NamedTuple):
    """A function of the application: the arguments of `retrycli.system.python_call.load`."""

    name: str
    key: str
    folder: Path | None
    takes: tuple[str, ...]


class Settings(SettingsModel):
    """All settings. Create them with `retrycli.load_settings`, or directly in your own application."""

    database: DatabaseSettings = Field({}, validate_default=True)
    schedule: ScheduleSettings = Field({}, validate_default=True)
    gateway: RoutedGatewaySettings = Field({}, validate_default=True)
    run: RunSettings = Field({}, validate_default=True)
    breaker: BreakerSettings = Field({}, validate_default=True)
    report: ReportSettings = Field({}, validate_default=True)
    logging: LoggingSettings = Field({}, validate_default=True)
    notify: NotifySettings = Field({}, validate_default=True)
    metrics: MetricsSettings = Field({}, validate_default=True)
    web: WebSettings = Field({}, validate_default=True)

    _file: Path | None = PrivateAttr(None)

    @property
    def file(self) -> Path | None:
        """Return the full path of the file from which the settings were read; None if there was none."""
        return self._file

    def read_from(self, file: Path | None) -> Self:
        """Remember from which file the settings were read, and return them."""
        self._file = None
        if file is not None:
            full = file.absolute()
            short = Path(os.path.normpath(full))  # another file if ".." follows a symbolic link
            self._file = short if short.resolve() == full.resolve() else full
        return self

    @property
    def policies(self) -> dict[MessageType, RetryPolicy]:
        """Return the retry policy of each message type."""
        functions: dict[str, WaitFunction] = {}
        if calls := self.schedule.calls:
            folder = self.gateway.modules_dir
            functions = {name: ScheduleFunction(name, key, folder) for key, name in calls.items()}
        return {
            message_type: self.schedule.policy(
                message_type, unknown_limit=self.gateway.of(message_type).unknown_limit, functions=functions
            )
            for message_type in MessageType
        }

    @property
    def calls(self) -> list[CalledFunction]:
        """Return the functions of the application that passes call."""
        return [
            *(
                CalledFunction(gateway.call, f"{section}.call", gateway.modules_dir, ("message",))
                for section, gateway in self.gateway.all.items()
                if gateway.call is not None
            ),
            *(
                CalledFunction(name, key, self.gateway.modules_dir, ("attempt", "outcome"))
                for key, name in self.schedule.calls.items()
            ),
        ]


__all__ = [
    "BreakerSettings",
    "DatabaseSettings",
    "LoggingSettings",
    "MetricsSettings",
    "NotifySettings",
    "ReportSettings",
    "RoutedGatewaySettings",
    "RunSettings",
    "ScheduleSettings",
    "Settings",
    "TypeScheduleSettings",
    "WebSettings",
]
