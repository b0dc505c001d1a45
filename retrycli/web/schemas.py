"""Bodies of the HTTP API's responses, for its OpenAPI document. `retrycli.operations.bodies` builds them.

Fields are only ever added, so clients must ignore unknown fields.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """Each response is one object with the version of its schema."""

    model_config = ConfigDict(extra="allow")
    schema_version: int = 1


class SchedulerStatus(BaseModel):
    """The scheduler's status."""

    running: bool = Field(description="passes run, and deliveries are not paused")
    retry_interval_minutes: float
    max_retries: int
    next_run: datetime | None


class Pause(BaseModel):
    """A pause of all deliveries."""

    since: datetime
    until: datetime | None
    by: str
    reason: str | None


class Paused(Answer):
    """The pause that is now active, if any."""

    paused: Pause | None


class Overview(Answer):
    """Scheduler health and queue counts, as `retrycli status --json` prints them."""

    state: str = Field(description="ok, late, paused, down or never_run")
    running: bool
    retry_interval_minutes: float
    max_retries: int
    next_run: datetime | None
    last_pass: dict[str, Any] | None
    messages: dict[str, int]
    paused: Pause | None


class ListedMessage(BaseModel):
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


class MessagePage(Answer):
    """One page of failed messages."""

    messages: list[ListedMessage]
    next: str | None = Field(description="the value of `after` for the next page; null on the last page")


class MessageDetails(Answer):
    """One message with its text, its attempts and the operators' actions."""

    message: dict[str, Any]
    queue: dict[str, Any] | None
    attempts: list[dict[str, Any]]
    acts: list[dict[str, Any]]


class Gate(BaseModel):
    """A condition that the next attempt must meet."""

    name: str
    open: bool
    figure: str
    time: datetime | None


class Explanation(Answer):
    """The reasons why a message waits, and its next attempt."""

    id: int | str
    gates: list[Gate]
    next_attempt_at: datetime | None


class Attempt(BaseModel):
    """An attempt by hand: its outcome, or why no attempt was made."""

    id: int | str
    outcome: str | None
    status_code: int | None
    error: str | None


class ActionDone(Answer):
    """The result of an action on messages."""

    act: str
    matched: int
    done: int
    left: int
    reason: str | None
    refused: list[dict[str, Any]]
    canaries: list[Attempt]


class AttemptsDone(Answer):
    """The result of attempts by hand."""

    results: list[Attempt]
    matched: int
    done: int
    left: int
    reason: str | None


class LookUps(Answer):
    """The results of look-ups: ``found``, ``absent`` or ``unclear``."""

    results: list[dict[str, Any]]


class Noted(Answer):
    """A note that was written."""

    id: int | str
    note: str


class Edited(Answer):
    """The columns that an edit changed."""

    id: int | str
    changed: list[str]


class Passes(Answer):
    """The newest passes and pauses."""

    passes: list[dict[str, Any]]
    pauses: list[dict[str, Any]]


class Statistics(Answer):
    """Delivery statistics, as `retrycli stats --json` prints them."""

    since: datetime
    until: datetime
    attempts: int
    delivered: int


class Escalations(Answer):
    """Escalated messages and their causes."""

    escalations: list[dict[str, Any]]
    groups: list[dict[str, Any]]
