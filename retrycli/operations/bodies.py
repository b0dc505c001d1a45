"""The results of operations, as ``--json`` prints them and the HTTP API returns them and describes them in OpenAPI.

Values stay Python objects, such as times, enums and records; `retrycli.views.formatting.as_json` encodes them. An
iterator is a list that is read while it is printed. Fields are only ever added, so clients must ignore unknown fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypeAlias, TypeVar, cast, get_type_hints

from pydantic import Field
from typing_extensions import TypedDict

from retrycli.domain.circuit_breaker import BreakerState
from retrycli.domain.delivery_stats import FailureCause, GroupBy, wait_quantiles
from retrycli.domain.duration import utc_text
from retrycli.domain.errors import InvalidMessage
from retrycli.domain.identity import digest_of
from retrycli.domain.listing import COLUMNS, ActionRecord, AttemptRecord, ListedMessage, View, columns_of
from retrycli.domain.message import shown_id, utc_time
from retrycli.domain.outcome import OutcomeKind, Presence
from retrycli.domain.passes import HoldKind, PassRecord, Pause, PauseRecord
from retrycli.operations.bulk import ACTIONS, BulkAction
from retrycli.operations.explain import Gate
from retrycli.operations.status import HostStatus, Refusal, WindowStatus
from retrycli.system.pass_lock import Holder

if TYPE_CHECKING:
    from retrycli.domain.delivery_stats import DeliveryStats, Group
    from retrycli.domain.listing import EscalationGroup, MessageDetails
    from retrycli.operations.edit_message import Edit
    from retrycli.operations.explain import Explanation
    from retrycli.operations.message_actions import BulkResult
    from retrycli.operations.pause import ActiveHold
    from retrycli.operations.retry import ActionResult, LookedUp, ManualAttempt
    from retrycli.operations.status import PassList, Status
    from retrycli.operations.table import DescribedTable, Description

Id: TypeAlias = int | str
TIME_COLUMNS = ("created_at", "updated_at", "sent_at")


class JsonBody(TypedDict):
    """One object with the version of its schema, which the printer adds."""

    schema_version: NotRequired[int]


Fields = TypeVar("Fields")


def _fields(kind: type[Fields], found: object, **others: object) -> Fields:
    """Return the fields of a kind of object: the ``others``, and attributes of what was found, by their names."""
    names = (name for name in kind.__annotations__ if name not in JsonBody.__annotations__)
    return cast("Fields", {name: others[name] if name in others else getattr(found, name) for name in names})


def _kind(name: str, view: View, doc: str) -> Any:  # noqa: ANN401  a type
    """Return the type of the JSON objects of a list, with the fields that the list shows."""
    hints: dict[str, Any] = get_type_hints(ListedMessage) | {"id": Id, "state": str}
    about = {each: COLUMNS[each].description for each in columns_of(view)}
    fields = {each: Annotated[hints[each], Field(description=text)] for each, text in about.items()}
    make: Any = TypedDict  # mypy accepts only fields that are written out
    kind = make(name, fields)
    kind.__doc__ = doc
    return kind


class PageBody(JsonBody):
    """One page of a list."""

    next: Annotated[str | None, Field(description="the value of `after` for the next page; null on the last page")]


class HoldFields(TypedDict):
    """A hold of a part of the queue."""

    kind: HoldKind
    target: str
    since: datetime
    until: datetime | None
    by: str
    reason: str | None


class ActiveHoldFields(HoldFields):
    """A hold that is active."""

    messages: Annotated[int, Field(description="number of waiting messages that the hold covers")]


class BreakerFields(TypedDict):
    """A destination that is down, or rests."""

    destination: str
    state: BreakerState
    failures: int
    opened_at: datetime | None
    probe_at: datetime | None


class OverviewBody(JsonBody):
    """Scheduler health and queue counts, as `retrycli status --json` prints them."""

    state: Annotated[str, Field(description="ok, late, paused, down or never_run")]
    running: bool
    retry_interval_minutes: float
    max_retries: int
    next_run: datetime | None
    reason: Annotated[str | None, Field(description="why no next run is known")]
    last_pass: PassRecord | None
    hosts: list[HostStatus]
    messages: dict[str, int]
    refusals: list[Refusal]
    disk: str | None
    breaker: list[BreakerFields]
    paused: Pause | None
    holds: list[ActiveHoldFields]
    windows: list[WindowStatus]
    lock: Holder | None
    unaccepted: str | None
    left_out: int


def status(found: Status) -> OverviewBody:
    """Return the body of ``status``."""
    return _fields(
        OverviewBody,
        found,
        reason=None if found.silence is None else found.silence.words(utc_text),
        breaker=[_fields(BreakerFields, breaker) for breaker in found.breakers],
        paused=found.pause,
        holds=[_active(active) for active in found.holds],
    )


def _active(found: ActiveHold) -> ActiveHoldFields:
    return _fields(ActiveHoldFields, found.hold, messages=found.messages)


class PausedBody(JsonBody):
    """The pause and the holds that are now active."""

    paused: Pause | None
    holds: list[ActiveHoldFields]
    ended: NotRequired[Annotated[int, Field(description="by resume: the number of pauses and holds that have ended")]]


def paused(found: Status) -> PausedBody:
    """Return the part of ``status`` that `pause` and `resume` change."""
    return {"paused": found.pause, "holds": [_active(active) for active in found.holds]}


class SchedulerStatusBody(TypedDict):
    """The scheduler's status."""

    running: Annotated[bool, Field(description="passes run, and deliveries are not paused")]
    retry_interval_minutes: float
    max_retries: int
    next_run: datetime | None


def scheduler_status(found: Status) -> SchedulerStatusBody:
    """Return the scheduler's status."""
    minutes = found.retry_interval_minutes
    return _fields(SchedulerStatusBody, found, retry_interval_minutes=int(minutes) if minutes.is_integer() else minutes)


if TYPE_CHECKING:
    ListedFields: TypeAlias = dict[str, Any]
    EscalatedFields: TypeAlias = dict[str, Any]
else:
    ListedFields = _kind("ListedFields", View.LIST, "A failed message in a list.")
    EscalatedFields = _kind("EscalatedFields", View.ESCALATIONS, "An escalated message.")


def _listed(messages: Iterable[ListedMessage], view: View) -> Iterator[dict[str, Any]]:
    names = columns_of(view)
    for message in messages:
        yield {name: getattr(message, name) for name in names} | {"id": shown_id(message.id)}


class MessagePageBody(PageBody):
    """One page of failed messages."""

    messages: Iterable[ListedFields]


def messages(listed: Iterable[ListedMessage], after: str | None) -> MessagePageBody:
    """Return the body of ``list-failed``; ``after`` is the cursor of the next page."""
    return {"messages": _listed(listed, View.LIST), "next": after}


class GroupFields(TypedDict):
    """Escalated messages with the same cause."""

    fingerprint: str | None
    count: int
    new: Annotated[int, Field(description="number of messages that nobody has acknowledged")]
    reason: str | None
    cause: str | None
    oldest: datetime
    newest: datetime
    types: dict[str, int]
    example: Id


class EscalationsBody(JsonBody):
    """Escalated messages and their causes."""

    escalations: Iterable[EscalatedFields]
    groups: list[GroupFields]


class EscalationPageBody(EscalationsBody, PageBody):
    """One page of escalated messages, and all their causes."""


def escalations(listed: Iterable[ListedMessage], groups: Sequence[EscalationGroup]) -> EscalationsBody:
    """Return the body of ``escalations``."""
    found = (
        _fields(GroupFields, group, reason=group.example.reason, example=shown_id(group.example.id)) for group in groups
    )
    return {"escalations": _listed(listed, View.ESCALATIONS), "groups": [*found]}


class MessageDetailsBody(JsonBody):
    """One message with its text, its attempts and the operators' actions."""

    message: Annotated[dict[str, Any], Field(description="the row, by column")]
    queue: Annotated[Mapping[str, Any] | None, Field(description="what retrycli keeps about the message")]
    attempts: list[AttemptRecord]
    acts: list[ActionRecord]
    digest: Annotated[str, Field(description="names the text for an edit, as the ETag does")]


def details(found: MessageDetails) -> MessageDetailsBody:
    """Return the body of ``show``. Its digest names the text for ``edit``; the row must include the body."""
    return {
        "message": {name: column(name, value) for name, value in found.row.items()},
        "queue": found.queue,
        "attempts": found.attempts,
        "acts": found.acts,
        "digest": digest_of(found.row),
    }


def column(name: str, value: object) -> object:
    """Return a value of a message's row to show. SQLite stores times as text; an invalid one stays as it is."""
    if name in TIME_COLUMNS:
        with suppress(InvalidMessage):
            return utc_time(name, value)
    return shown_id(value) if isinstance(value, int) else value


class ExplanationBody(JsonBody):
    """The reasons why a message waits, and its next attempt."""

    id: Id
    ticket_id: Any
    message_type: str
    gates: list[Gate]
    next_attempt_at: datetime | None
    holds: list[HoldFields]


def explanation(found: Explanation) -> ExplanationBody:
    """Return the body of ``explain``."""
    holds = [_fields(HoldFields, hold) for hold in found.holds]
    return _fields(ExplanationBody, found, id=shown_id(found.message_id), holds=holds)


class PassesBody(PageBody):
    """The newest passes and pauses."""

    passes: Sequence[PassRecord]
    pauses: Sequence[PauseRecord]


def passes(found: PassList) -> PassesBody:
    """Return the body of ``passes``."""
    return {"passes": found.passes, "pauses": found.pauses, "next": found.next}


class TriesFields(TypedDict):
    """The messages that were delivered on their n-th attempt."""

    tries: int
    messages: int


class WaitFields(TypedDict):
    """How long delivered messages took from their first failure, in seconds."""

    messages: int
    median: int | None
    p95: int | None
    max: int | None


class OutageFields(TypedDict):
    """A period in which a destination was down."""

    began_at: datetime
    ended_at: datetime | None
    seconds: int


class StatisticsBody(JsonBody):
    """Delivery statistics, as `retrycli stats --json` prints them."""

    since: datetime
    until: datetime
    by: GroupBy
    attempts: int
    groups: Annotated[
        Sequence[FailureCause] | list[dict[str, Any]],
        Field(description="attempts by the property, which is the name of the first field; by error, see `errors`"),
    ]
    delivered: int
    tries_until_delivered: list[TriesFields]
    seconds_until_delivered: WaitFields
    outages: list[OutageFields]
    errors: Sequence[FailureCause]


def statistics(figures: DeliveryStats, by: GroupBy, groups: Sequence[Group]) -> StatisticsBody:
    """Return the body of ``stats``."""
    median, most, longest = (
        None if wait is None else round(wait.total_seconds()) for wait in wait_quantiles(figures.waits)
    )
    by_key = [{by: group.key, "attempts": group.attempts, "delivered": group.delivered} for group in groups]
    return _fields(
        StatisticsBody,
        figures,
        by=by,
        groups=figures.troubles if by is GroupBy.ERROR else by_key,
        tries_until_delivered=[{"tries": number, "messages": messages} for number, messages in figures.tries.items()],
        seconds_until_delivered={
            "messages": sum(figures.waits.values()),
            "median": median,
            "p95": most,
            "max": longest,
        },
        outages=[
            _fields(OutageFields, outage, seconds=round(outage.length(figures.until).total_seconds()))
            for outage in figures.outages
        ],
        errors=figures.troubles,
    )


class AttemptFields(TypedDict):
    """An attempt by hand: its outcome, or why no attempt was made."""

    id: Id
    outcome: OutcomeKind | None
    status_code: int | None
    error: str | None


class CountFields(JsonBody):
    """How many messages an action reached."""

    matched: int
    done: int
    left: int
    reason: Annotated[str | None, Field(description="why messages are left")]


class AttemptsBody(CountFields):
    """The result of attempts by hand."""

    results: list[AttemptFields]


def attempts(done: ActionResult) -> AttemptsBody:
    """Return the body of ``retry``."""
    return {"results": [_attempt(tried) for tried in done.tried], **_fields(CountFields, done)}


class RefusedFields(TypedDict):
    """A message to which an action could not be applied."""

    id: Id
    error: str


class ActionBody(CountFields):
    """The result of an action on messages."""

    act: str
    refused: list[RefusedFields]
    canaries: list[AttemptFields]


def action(act: str, done: ActionResult) -> ActionBody:
    """Return the body of ``requeue``, ``reject``, ``mark-sent`` and ``escalations ack``."""
    return {
        "act": act,
        **_fields(CountFields, done),
        "refused": [{"id": shown_id(message_id), "error": str(error)} for message_id, error in done.refused.items()],
        "canaries": [_attempt(tried) for tried in done.tried],
    }


class BulkActionBody(ActionBody):
    """The result of one slice of an action on many messages."""

    results: Annotated[list[AttemptFields], Field(description="for retry: the attempts")]
    next: Annotated[str | None, Field(description="the value of `after` to go on; null if the action has ended")]


def bulk(done: BulkResult) -> BulkActionBody:
    """Return the body of one slice: that of the command, with the attempts of ``retry`` in ``results``."""
    is_retry = done.action is BulkAction.RETRY
    body = action(ACTIONS[done.action].result, done.result)
    tried = body["canaries"]
    return {**body, "canaries": [] if is_retry else tried, "results": tried if is_retry else [], "next": done.next}


def _attempt(tried: ManualAttempt) -> AttemptFields:
    outcome = tried.outcome
    return {
        "id": shown_id(tried.message_id),
        "outcome": outcome.kind if outcome else None,
        "status_code": outcome.status_code if outcome else None,
        "error": outcome.error if outcome else str(tried.error),
    }


class LookUpFields(TypedDict):
    """The look-up of one message."""

    id: Id
    result: Presence | None
    error: str | None


class LookUpsBody(JsonBody):
    """The results of look-ups."""

    results: list[LookUpFields]


def look_ups(asked: Sequence[LookedUp]) -> LookUpsBody:
    """Return the body of ``look-up``."""
    return {
        "results": [
            {
                "id": shown_id(answer.message_id),
                "result": answer.found.result if answer.found else None,
                "error": answer.found.error if answer.found else str(answer.error),
            }
            for answer in asked
        ]
    }


def described(found: Description, text: str | None) -> dict[str, object]:
    """Return the body of ``table describe``; the settings as text are None if tables are listed."""
    tables = [_described(each, is_whole=text is not None) for each in found.tables]
    return {"database": found.place, "examined": found.examined, "tables": tables, "settings": text}


def _described(found: DescribedTable, *, is_whole: bool) -> dict[str, object]:
    known, sample = found.known, found.sample
    body: dict[str, object] = {
        "table": known.name,
        "kind": known.kind,
        "rows": None if found.problem else sample.rows,
        "all_rows": sample.is_whole,
        "newest_rows": sample.is_newest,
        "text_columns": found.texts,
        "columns_with_few_values": found.few,
        "problem": found.problem,
    }
    if is_whole:
        body["columns"] = [
            {"column": each.name, "type": each.type, "nullable": each.is_nullable}
            | {"keys": known.keys(each.name), "refers_to": known.target(each.name)}
            for each in known.columns
        ]
        body |= {"time": found.time, "values": found.values}
    return body


class EditedBody(JsonBody):
    """The columns that an edit changed."""

    id: Id
    changed: list[str]
    digest: Annotated[str, Field(description="names the text for the next edit, as the ETag does")]


def edited(done: Edit) -> EditedBody:
    """Return the body of ``edit``."""
    return _fields(EditedBody, done, id=shown_id(done.message_id))


class NotedBody(JsonBody):
    """A note that was written."""

    id: Id
    note: str


def noted(message_id: int | str, text: str) -> NotedBody:
    """Return the body of ``escalations note``."""
    return {"id": message_id, "note": text}
