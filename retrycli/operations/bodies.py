"""Convert results of operations to the objects that ``--json`` prints and the HTTP API returns.

Values stay Python objects, such as times and enums; `retrycli.views.formatting.as_json` encodes them. An iterator is a
list that is read while it is printed. Every object also has a ``schema_version``, which the printer adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, TypeAlias

from retrycli.domain.bulk import BulkAction
from retrycli.domain.delivery_stats import GroupBy, wait_quantiles
from retrycli.domain.duration import utc_text
from retrycli.domain.errors import InvalidMessage
from retrycli.domain.identity import digest_of
from retrycli.domain.message import utc_time
from retrycli.domain.message_id import shown_id

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from retrycli.config.settings import Settings
    from retrycli.domain.delivery_stats import DeliveryStats, Group
    from retrycli.domain.listing import EscalationGroup, ListedMessage, MessageDetails
    from retrycli.operations.bulk import BulkResult
    from retrycli.operations.describe import DescribedTable, Description
    from retrycli.operations.edit_message import Edit
    from retrycli.operations.explain import Explanation
    from retrycli.operations.pause import ActiveHold
    from retrycli.operations.retry import ActionResult, LookedUp, ManualAttempt
    from retrycli.operations.status import PassList, Status

Body: TypeAlias = dict[str, object]

DONE = {
    BulkAction.REQUEUE: "requeued",
    BulkAction.REJECT: "rejected",
    BulkAction.MARK_SENT: "marked_sent",
    BulkAction.ACKNOWLEDGE: "acknowledged",
    BulkAction.RETRY: "retried",
}
LISTED = (
    *("id", "ticket_id", "message_type", "state", "retry_count", "next_attempt_at", "last_error"),
    "may_have_arrived",
)
ESCALATED = (
    "id",
    "ticket_id",
    "message_type",
    "reason",
    "retry_count",
    "last_error",
    "escalated_at",
    "fingerprint",
    "acknowledged_by",
    "acknowledged_at",
    "note",
)
TIME_COLUMNS = ("created_at", "updated_at", "sent_at")
HOLD = ("kind", "target", "since", "until", "by", "reason")
# Fields of `Explanation` that are not printed.
UNEXPLAINED = (
    "looks_up",
    "may_have_arrived",
    "is_claimed",
    "being_sent",
    "has_begun",
    "pass_runs",
    "one_goes_first",
    "expires_first",
)


def status(found: Status) -> Body:
    """Return the body of ``status``."""
    return {
        "state": found.state,
        "running": found.running,
        "retry_interval_minutes": found.retry_interval_minutes,
        "max_retries": found.max_retries,
        "next_run": found.next_run,
        "reason": None if found.silence is None else found.silence.words(utc_text),
        "last_pass": asdict(found.last_pass) if found.last_pass else None,
        "hosts": [asdict(host) for host in found.hosts],
        "messages": found.messages,
        "refusals": [asdict(refusal) for refusal in found.refusals],
        "disk": found.disk,
        "breaker": [{k: v for k, v in breaker._asdict().items() if k != "tickets"} for breaker in found.breakers],
        "paused": asdict(found.pause) if found.pause else None,
        "holds": [_hold(active) for active in found.holds],
        "windows": [asdict(windows) for windows in found.windows],
        "lock": found.lock._asdict() if found.lock else None,
        "unaccepted": found.unaccepted,
        "left_out": found.left_out,
    }


def _hold(active: ActiveHold) -> Body:
    return {name: getattr(active.hold, name) for name in HOLD} | {"messages": active.messages}


def messages(settings: Settings, listed: Iterator[ListedMessage], after: str | None) -> Body:
    """Return the body of ``list-failed``; ``after`` is the cursor of the next page."""
    policies = settings.policies
    return {
        "messages": (
            {name: getattr(message, name) for name in LISTED}
            | {
                "id": shown_id(message.id),
                "max_retries": message.max_retries(policies),
                "created_at": message.created_at,
                "expires_at": message.expires_at(policies),
                "held": message.held,
            }
            for message in listed
        ),
        "next": after,
    }


def escalations(listed: Iterator[ListedMessage], groups: Sequence[EscalationGroup]) -> Body:
    """Return the body of ``escalations``."""
    return {
        "escalations": (
            {name: getattr(message, name) for name in ESCALATED} | {"id": shown_id(message.id)} for message in listed
        ),
        "groups": [_group(group) for group in groups],
    }


def _group(group: EscalationGroup) -> Body:
    return {
        "fingerprint": group.fingerprint,
        "count": group.count,
        "new": group.new,
        "reason": group.example.reason,
        "cause": group.cause,
        "oldest": group.oldest,
        "newest": group.newest,
        "types": group.types,
        "example": shown_id(group.example.id),
    }


def details(found: MessageDetails) -> Body:
    """Return the body of ``show``. Its digest names the text for ``edit``; the row must include the body."""
    return {
        "message": {name: column(name, value) for name, value in found.row.items()},
        "queue": found.queue,
        "attempts": [_fields(attempt) for attempt in found.attempts],
        "acts": [_fields(act) for act in found.acts],
        "digest": digest_of(found.row),
    }


def _fields(record: DataclassInstance) -> Body:
    """Return the fields of a record. `asdict` would also copy each value, which takes ten times as long."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def column(name: str, value: object) -> object:
    """Return a value of a message's row to show. SQLite stores times as text; an invalid one stays as it is."""
    if name in TIME_COLUMNS:
        with suppress(InvalidMessage):
            return utc_time(name, value)
    return shown_id(value) if isinstance(value, int) else value


def explanation(found: Explanation) -> Body:
    """Return the body of ``explain``."""
    values = asdict(found)
    for name in UNEXPLAINED:
        del values[name]
    values["holds"] = [{name: hold[name] for name in HOLD} for hold in values["holds"]]
    return {"id": shown_id(values.pop("message_id"))} | values


def passes(found: PassList) -> Body:
    """Return the body of ``passes``."""
    return {
        "passes": [_fields(record) for record in found.passes],
        "pauses": [_fields(pause) for pause in found.pauses],
        "next": found.next,
    }


def statistics(figures: DeliveryStats, by: GroupBy, groups: Sequence[Group]) -> Body:
    """Return the body of ``stats``."""
    median, most, longest = (
        None if wait is None else round(wait.total_seconds()) for wait in wait_quantiles(figures.waits)
    )
    troubles = [_fields(cause) for cause in figures.troubles]
    return {
        "since": figures.since,
        "until": figures.until,
        "by": by,
        "attempts": figures.attempts,
        "groups": troubles
        if by is GroupBy.ERROR
        else [{by: group.key, "attempts": group.attempts, "delivered": group.delivered} for group in groups],
        "delivered": figures.delivered,
        "tries_until_delivered": [
            {"tries": number, "messages": messages} for number, messages in figures.tries.items()
        ],
        "seconds_until_delivered": {
            "messages": sum(figures.waits.values()),
            "median": median,
            "p95": most,
            "max": longest,
        },
        "outages": [
            {**_fields(outage), "seconds": round(outage.length(figures.until).total_seconds())}
            for outage in figures.outages
        ],
        "errors": troubles,
    }


def attempts(done: ActionResult) -> Body:
    """Return the body of ``retry``."""
    return {"results": [_attempt(tried) for tried in done.tried], **_counts(done)}


def action(act: str, done: ActionResult) -> Body:
    """Return the body of ``requeue``, ``reject``, ``mark-sent`` and ``escalations ack``.

    Args:
        act: ``requeued``, ``rejected``, ``marked_sent`` or ``acknowledged``.
        done: the result.
    """
    return {
        "act": act,
        **_counts(done),
        "refused": [{"id": shown_id(message_id), "error": str(error)} for message_id, error in done.refused.items()],
        "canaries": [_attempt(tried) for tried in done.tried],
    }


def bulk(done: BulkResult) -> Body:
    """Return the body of one slice of an action on many messages.

    It is the body of the command, with the attempts of ``retry`` in ``results``; ``next`` goes on with the next slice.
    """
    is_retry = done.action is BulkAction.RETRY
    body = action(DONE[done.action], done.result)
    tried = body["canaries"]
    return {**body, "canaries": [] if is_retry else tried, "results": tried if is_retry else [], "next": done.next}


def _counts(done: ActionResult) -> Body:
    return {"matched": done.matched, "done": done.done, "left": done.left, "reason": done.reason}


def _attempt(tried: ManualAttempt) -> Body:
    outcome = tried.outcome
    return {
        "id": shown_id(tried.message_id),
        "outcome": outcome.kind if outcome else None,
        "status_code": outcome.status_code if outcome else None,
        "error": outcome.error if outcome else str(tried.error),
    }


def look_ups(asked: Sequence[LookedUp]) -> Body:
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


def described(found: Description, text: str | None) -> Body:
    """Return the body of ``table describe``; the settings as text are None if tables are listed."""
    tables = [_described(each, is_whole=text is not None) for each in found.tables]
    return {"database": found.place, "examined": found.examined, "tables": tables, "settings": text}


def _described(found: DescribedTable, *, is_whole: bool) -> Body:
    known, sample = found.known, found.sample
    body: Body = {
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
        body |= {"time": found.time, "values": [_fields(each) for each in found.values]}
    return body


def edited(done: Edit) -> Body:
    """Return the body of ``edit``."""
    return {"id": shown_id(done.message_id), "changed": done.changed, "digest": done.digest}


def noted(message_id: int | str, text: str) -> Body:
    """Return the body of ``escalations note``."""
    return {"id": message_id, "note": text}
