"""Bodies of the HTTP API's responses, for its OpenAPI document. `retrycli.operations.bodies` builds them.

Fields are only ever added, so clients must ignore unknown fields.
"""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class JsonBody(BaseModel):
    """Each response is one object with the version of its schema."""

    model_config = ConfigDict(extra="allow")
    schema_version: int = 1


class SchedulerStatusBody(BaseModel):
    """The scheduler's status."""

    running: bool = Field(description="passes run, and deliveries are not paused")
    retry_interval_minutes: float
    max_retries: int
    next_run: datetime | None


class PauseFields(BaseModel):
    """A pause of all deliveries."""

    since: datetime
    until: datetime | None
    by: str
    reason: str | None


class HoldFields(PauseFields):
    """A hold of a part of the queue."""

    kind: str = Field(description="message, ticket, type or destination")
    target: str
    messages: int = Field(description="number of waiting messages that the hold covers")


class PausedBody(JsonBody):
    """The pause and the holds that are now active."""

    paused: PauseFields | None
    holds: list[HoldFields]
    ended: int | None = Field(None, description="by resume: the number of pauses and holds that have ended")


class OverviewBody(JsonBody):
    """Scheduler health and queue counts, as `retrycli status --json` prints them."""

    state: str = Field(description="ok, late, paused, down or never_run")
    running: bool
    retry_interval_minutes: float
    max_retries: int
    next_run: datetime | None
    reason: str | None = Field(description="why no next run is known")
    last_pass: dict[str, Any] | None
    messages: dict[str, int]
    paused: PauseFields | None
    holds: list[HoldFields]


class ListedFields(BaseModel):
    """A failed message in a list."""

    model_config = ConfigDict(extra="allow")
    id: int | str
    ticket_id: Any
    message_type: str
    state: str
    retry_count: int | None
    max_retries: int | None
    next_attempt_at: datetime | None
    last_error: str | None
    created_at: datetime | None
    expires_at: datetime | None
    held: bool = Field(description="the message waits, and a hold covers it")


class PageBody(JsonBody):
    """One page of a list."""

    next: str | None = Field(description="the value of `after` for the next page; null on the last page")


class MessagePageBody(PageBody):
    """One page of failed messages."""

    messages: list[ListedFields]


class MessageDetailsBody(JsonBody):
    """One message with its text, its attempts and the operators' actions."""

    message: dict[str, Any]
    digest: str = Field(description="names the text for an edit, as the ETag does")
    queue: dict[str, Any] | None
    attempts: list[dict[str, Any]]
    acts: list[dict[str, Any]]


class GateFields(BaseModel):
    """A condition that the next attempt must meet."""

    name: str
    open: bool
    figure: str
    time: datetime | None


class ExplanationBody(JsonBody):
    """The reasons why a message waits, and its next attempt."""

    id: int | str
    gates: list[GateFields]
    next_attempt_at: datetime | None


class AttemptFields(BaseModel):
    """An attempt by hand: its outcome, or why no attempt was made."""

    id: int | str
    outcome: str | None
    status_code: int | None
    error: str | None


class ActionBody(JsonBody):
    """The result of an action on messages."""

    act: str
    matched: int
    done: int
    left: int
    reason: str | None
    refused: list[dict[str, Any]]
    canaries: list[AttemptFields]


class BulkActionBody(ActionBody):
    """The result of one slice of an action on many messages."""

    results: list[AttemptFields] = Field(description="for retry: the attempts")
    next: str | None = Field(description="the value of `after` to go on; null if the action has ended")


class AttemptsBody(JsonBody):
    """The result of attempts by hand."""

    results: list[AttemptFields]
    matched: int
    done: int
    left: int
    reason: str | None


class LookUpsBody(JsonBody):
    """The results of look-ups: ``found``, ``absent`` or ``unclear``."""

    results: list[dict[str, Any]]


class NotedBody(JsonBody):
    """A note that was written."""

    id: int | str
    note: str


class EditedBody(JsonBody):
    """The columns that an edit changed."""

    id: int | str
    changed: list[str]
    digest: str = Field(description="names the text for the next edit, as the ETag does")


class PassesBody(PageBody):
    """The newest passes and pauses."""

    passes: list[dict[str, Any]]
    pauses: list[dict[str, Any]]


class StatisticsBody(JsonBody):
    """Delivery statistics, as `retrycli stats --json` prints them."""

    since: datetime
    until: datetime
    attempts: int
    delivered: int


class EscalationsBody(PageBody):
    """Escalated messages and their causes."""

    escalations: list[dict[str, Any]]
    groups: list[dict[str, Any]]
