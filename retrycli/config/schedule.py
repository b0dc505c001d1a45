"""Settings of the schedule: waits, retries, expiry and delivery windows."""

from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from pydantic import Field, field_validator, model_validator

from retrycli.config import FunctionName, Hours, Minutes, SettingsModel, Waits, Windows, zone_of
from retrycli.domain.message import MessageType
from retrycli.domain.retry_policy import Backoff, BackoffKind, RetryPolicy, WaitFunction
from retrycli.domain.transition import LONGEST_SLACK

if TYPE_CHECKING:
    from retrycli.domain.delivery_window import DeliveryWindows


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
        0.2,
        ge=0,
        le=1,
        description="random variation of waits of an hour or more, as a fraction of the wait",
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
        None,
        description="messages older than this are escalated; if deliveries are stalled, retrycli warns first",
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
