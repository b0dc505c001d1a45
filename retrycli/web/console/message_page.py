"""The page of one message: why it waits, its text, and what happened to it."""

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal

from starlette.responses import Response

from retrycli import operations
from retrycli.domain.editable_message import concerns_editable_field
from retrycli.domain.errors import InvalidMessage
from retrycli.domain.hold import HoldKind
from retrycli.domain.listing import AttemptRecord, MessageDetails, is_in_doubt
from retrycli.domain.message import (
    BY_PASS,
    LIST_COLUMNS,
    EscalationReason,
    MessageStatus,
    State,
    utc_time,
)
from retrycli.domain.transition import ActionKind
from retrycli.domain.user import Right
from retrycli.web.console.context import Console
from retrycli.web.console.forms import Form
from retrycli.web.console.outdated import is_outdated
from retrycli.web.console.passes import LENGTHS
from retrycli.web.console.routes import page
from retrycli.web.console.timeline import MOST_EVENTS, timeline
from retrycli.web.console.visit import Visit

SHOWN_TEXT = 50_000  # characters of a body that the page shows unless the whole text is asked for
WHOLE_TEXT = 200_000  # characters that it shows then; several viewers may ask for that at the same time

ADVICE: Mapping[str, str] = {
    EscalationReason.EXHAUSTED: "All retries are used up. When the cause is fixed, retry it, or requeue it with all "
    "its retries.",
    EscalationReason.PERMANENT: "The ticketing system does not accept it as it is. Edit it, or fix the cause there; "
    "then retry it. Or reject it.",
    EscalationReason.UNKNOWN: "It may have arrived. Look it up. If that finds nothing, check the ticket: mark it as "
    "sent if it is there, or retry it if it is not.",
    EscalationReason.EXPIRED: "It is too old for a pass to send. Reject it if it is no longer wanted, or retry it.",
    EscalationReason.CHANGED: "Its row changed, or its text was delivered before. Mark it as sent if it arrived. A "
    "retry sends it again.",
}
CHECK_THE_TICKET = "It may have arrived. Check the ticket: mark it as sent if it is there, or retry it if it is not."
FIX_THE_ROW = "A value of its row is not valid. Fix the row in the application, then retry it."
EDIT_IT = "A value is not valid. Edit it, then retry it."
# What to press first, by the reason of the escalation.
FIRST: Mapping[str | None, str] = {
    EscalationReason.PERMANENT: "edit",
    EscalationReason.CHANGED: "mark-sent",
    EscalationReason.EXPIRED: "reject",
}


class TextQuery(Form):
    """How much of the text the page shows."""

    text: Literal["whole"] | None = None


class MessagePages:
    """The page of one message."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @page("GET", "/id/{message_id}", Right.READ_TEXT, TextQuery)
    def message(self, visit: Visit, query: TextQuery) -> Response:
        """Show a message."""
        settings = self._console.settings
        message_id = visit.id
        found = operations.listing.show(settings, message_id)
        explained = operations.explain.explain(settings, message_id)
        body = found.row["body"]
        text = "" if body is None else str(body)
        events = timeline(found)
        offers = offered(found, looks_up=operations.wiring.looks_up(settings, str(found.row["message_type"])))
        return self._console.show(
            visit,
            "message.html",
            id=message_id,
            row=found.row,
            queue=found.queue,
            state=state_of(found),
            tries=tries(found, settings.policies),
            times=[(name, at) for name in ("created_at", "updated_at", "sent_at") if (at := _time(found.row, name))],
            lists=[(name, items) for name in LIST_COLUMNS if (items := list_text(found.row.get(name)))],
            offers=offers,
            first=first_of(found, offers),
            advice=advice(found, offers),
            newer=newer_attempt(found),
            is_outdated=is_outdated(
                state_of(found), found.row["last_error"], found.row["retry_count"], allowed(found, settings.policies)
            ),
            next_attempt=operations.words.next_attempt(explained),
            gates=explained.gates,
            own_hold=next((hold for hold in explained.holds if hold.kind is HoldKind.MESSAGE), None),
            is_held=bool(explained.holds),
            lengths=LENGTHS,
            text=text[: WHOLE_TEXT if query.text else SHOWN_TEXT],
            most=WHOLE_TEXT,
            length=len(text),
            events=events[:MOST_EVENTS],
            more_events=max(len(events) - MOST_EVENTS, 0),
        )


def state_of(found: MessageDetails) -> str:
    """Return the state of a failed message, or the status of another message."""
    status = str(found.row["status"])
    if status != MessageStatus.FAILED:
        return status
    return str(State.WAITING if found.queue is None else found.queue["state"])


def tries(found: MessageDetails, policies: Mapping[Any, Any]) -> str:
    """Return the number of retries made and allowed, with ``?`` for an unknown number."""
    made, most = found.row["retry_count"], allowed(found, policies)
    return f"{0 if made is None else made} of {'?' if most is None else most}"


def allowed(found: MessageDetails, policies: Mapping[Any, Any]) -> int | None:
    """Return the number of retries allowed; None if the message's type is unknown."""
    policy = policies.get(found.row["message_type"])
    return None if policy is None else int(policy.max_retries)


def offered(found: MessageDetails, *, looks_up: bool) -> frozenset[str]:
    """Return the actions that are possible in a message's state. ``looks_up`` tells that its gateway can look messages
    up.
    """
    if found.row["status"] == MessageStatus.REJECTED and found.acts and found.acts[-1].act == ActionKind.REJECTED:
        return frozenset({"requeue"})
    state = state_of(found)
    always = {"retry", "edit", "reject", "mark-sent", *(["look-up"] if looks_up else ())}
    if state == State.WAITING:
        return frozenset({*always, "hold"})
    if state == State.ESCALATED:
        seen = found.queue is not None and found.queue["acknowledged_at"] is not None
        return frozenset({*always, "requeue", "note", *(() if seen else ["acknowledge"])})
    return frozenset()


def _reason(found: MessageDetails) -> str | None:
    """Return the reason of the escalation, or `UNKNOWN` for any message that must be checked first."""
    is_escalated = found.queue is not None and found.queue["state"] == State.ESCALATED
    reason = found.queue["escalation_reason"] if is_escalated and found.queue is not None else None
    return EscalationReason.UNKNOWN if is_in_doubt(reason, may_have_arrived=found.may_have_arrived) else reason


def first_of(found: MessageDetails, offers: frozenset[str]) -> str | None:
    """Return the action that is most likely the right one; None if something else has to be done first."""
    reason = _reason(found)
    if reason == EscalationReason.INVALID:
        return "edit" if concerns_editable_field(found.row["last_error"]) else None
    likely = ("look-up",) if reason == EscalationReason.UNKNOWN else (FIRST.get(reason), "retry", "requeue")
    return next((each for each in likely if each in offers), None)


def advice(found: MessageDetails, offers: frozenset[str]) -> str | None:
    """Return what an operator should do with a message; None if its state says it."""
    reason = _reason(found)
    if reason == EscalationReason.INVALID:
        return EDIT_IT if concerns_editable_field(found.row["last_error"]) else FIX_THE_ROW
    if reason == EscalationReason.UNKNOWN and "look-up" not in offers:
        return CHECK_THE_TICKET
    return None if reason is None else ADVICE.get(reason)


def newer_attempt(found: MessageDetails) -> AttemptRecord | None:
    """Return an operator's last attempt if it failed after the last error was recorded, and with another error."""
    last = found.attempts[-1] if found.attempts else None
    if last is None or last.made_by == BY_PASS or not last.outcome or not last.error or found.queue is None:
        return None
    escalated_at = found.queue["escalated_at"]
    is_newer = escalated_at is None or last.started_at > escalated_at
    return last if is_newer and last.error not in str(found.row["last_error"]) else None


def list_text(value: object) -> str:
    """Return the items of a list column in one line; a value that is no list is returned as it is."""
    items = value
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            items = json.loads(value)
    if isinstance(items, list):
        return ", ".join(item if isinstance(item, str) else json.dumps(item, default=str) for item in items)
    return "" if value is None else str(value)


def _time(row: Mapping[str, Any], column: str) -> datetime | None:
    with suppress(InvalidMessage):
        return utc_time(column, row.get(column))
    return None
