"""The page of one message: why it waits, its text, what happened to it, and the forms that act on it."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from http import HTTPStatus
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.responses import Response

from retrycli import operations
from retrycli.domain.errors import InvalidMessage, MayHaveArrived, NotActionable
from retrycli.domain.identity import digest_of
from retrycli.domain.listing import OF_TEXT, ActionRecord, AttemptRecord, MessageDetails, is_in_doubt
from retrycli.domain.message import BY_PASS, LIST_COLUMNS, EscalationReason, MessageStatus, State, ticket_text, utc_time
from retrycli.domain.outcome import OutcomeKind, may_have_arrived
from retrycli.domain.passes import HoldKind
from retrycli.domain.transition import ActionKind
from retrycli.domain.user import Right
from retrycli.operations.edit_message import concerns_editable_field, edit_in_lines
from retrycli.operations.retry import ActionResult
from retrycli.web.console.context import Pages, Visit, is_outdated
from retrycli.web.console.forms import Form
from retrycli.web.console.passes import LENGTHS
from retrycli.web.console.routes import NoFields, page
from retrycli.web.inputs import Line, Reason

MOST_EVENTS = 200  # maximum number of events on a page, the newest first
MOST_LINES = 400  # maximum number of changed lines that one event shows


@dataclass(frozen=True, slots=True)
class HappenedEvent:
    """One event of a time line."""

    at: datetime
    what: str
    by: str | None  # the operator; None for a pass
    tone: str  # ``good``, ``bad``, ``open`` (not known, or still going on) or ``plain``
    detail: str | None = None  # further words, from another system or an operator
    facts: Sequence[str] = ()  # short figures
    changes: Sequence[str] = ()  # the lines that an edit removed and added
    has_more_changes: bool = False


def timeline(found: MessageDetails) -> list[HappenedEvent]:
    """Return the newest attempts and actions of a message, at most `MOST_EVENTS`, newest first."""
    records: list[AttemptRecord | ActionRecord] = [*found.attempts, *found.acts]
    newest = sorted(records, key=_time_of, reverse=True)[:MOST_EVENTS]
    return [
        _acted(record) if isinstance(record, ActionRecord) else _attempted(record, ended=record.pass_id in found.ended)
        for record in newest
    ]


def _time_of(record: AttemptRecord | ActionRecord) -> datetime:
    return record.at if isinstance(record, ActionRecord) else record.started_at


def _attempted(attempt: AttemptRecord, *, ended: bool) -> HappenedEvent:
    facts = [
        *(() if attempt.status_code is None else (f"HTTP {attempt.status_code}",)),
        *(() if attempt.duration_ms is None else (f"{attempt.duration_ms:,} ms",)),
        *(() if attempt.retry_after_s is None else (f"Retry-After {attempt.retry_after_s:,} s",)),
        *(() if attempt.external_id is None else (f"external id {attempt.external_id}",)),
    ]
    return HappenedEvent(
        at=attempt.started_at,
        what=f"Attempt {attempt.number}: {attempt.outcome or ('not recorded' if ended else 'under way')}",
        by=None if attempt.made_by == BY_PASS else attempt.made_by,
        tone=_tone(attempt),
        detail=None if attempt.error == f"HTTP {attempt.status_code}" else attempt.error,
        facts=facts,
    )


def _tone(attempt: AttemptRecord) -> str:
    if attempt.outcome is None or may_have_arrived(attempt.outcome, attempt.status_code):
        return "open"
    return "good" if attempt.outcome == OutcomeKind.DELIVERED else "bad"


def _acted(act: ActionRecord) -> HappenedEvent:
    lines = () if act.before is None or act.after is None else edit_in_lines(act.before, act.after)
    changes = [*islice(lines, MOST_LINES + 1)]
    return HappenedEvent(
        at=act.at,
        what=act.act.replace("_", " ").capitalize(),
        by=act.by,
        tone="plain",
        detail=act.detail,
        changes=changes[:MOST_LINES],
        has_more_changes=len(changes) > MOST_LINES,
    )


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
    EscalationReason.CHANGED: "Its row changed, or its text was delivered before. Mark it as sent if it arrived, or "
    "requeue it to send it again.",
}
CHECK_THE_TICKET = "It may have arrived. Check the ticket: mark it as sent if it is there, or retry it if it is not."
EDITED = "It was edited after it was escalated. Retry it, or requeue it with all its retries."
FIX_THE_ROW = "A value of its row is not valid. Fix the row in the application, then retry it."
EDIT_IT = "A value is not valid. Edit it, then retry it."
# What to press first, by the reason of the escalation.
FIRST: Mapping[str | None, str] = {
    EscalationReason.PERMANENT: "edit",
    EscalationReason.CHANGED: "mark-sent",
    EscalationReason.EXPIRED: "reject",
}


def _seen(found: MessageDetails) -> str:
    """Return a digest of the message's text, its ticket, its first failure and the number of its attempts."""
    began = None if found.queue is None else found.queue["first_failed_at"]  # another message may get the id
    shown = digest_of(found.row), ticket_text(found.row["ticket_id"]), began, len(found.attempts)
    return sha256(repr(shown).encode()).hexdigest()[:16]


class TextQuery(Form):
    """How much of the text the page shows."""

    text: Literal["whole"] | None = None


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
    """Return the actions that are possible in a message's state, and with or without a look-up by its gateway."""
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
    if reason in OF_TEXT and found.is_repaired:
        return "retry"
    if reason == EscalationReason.INVALID:
        return "edit" if concerns_editable_field(found.row["last_error"]) else None
    likely = ("look-up",) if reason == EscalationReason.UNKNOWN else (FIRST.get(reason), "retry", "requeue")
    return next((each for each in likely if each in offers), None)


def advice(found: MessageDetails, offers: frozenset[str]) -> str | None:
    """Return what an operator should do with a message; None if its state says it."""
    reason = _reason(found)
    if reason in OF_TEXT and found.is_repaired:
        return EDITED
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


class ActForm(Form):
    """What the page showed of the message, as `_seen` returns it."""

    seen: Annotated[Line, Field(max_length=100)]


class RetryForm(ActForm):
    """Whether the message may be sent twice."""

    send_again: Literal["yes"] | None = None


class RejectForm(ActForm):
    """Why the message is given up."""

    reason: Reason


class MarkSentForm(ActForm):
    """How the operator knows that the message has arrived."""

    note: Reason | None = None


class NoteForm(Form):
    """A note, which replaces an earlier note."""

    text: Reason


class MessagePages(Pages):
    """The page of one message, and the forms that act on it."""

    @page("GET", "/id/{message_id}", Right.READ_TEXT, TextQuery)
    def message(self, visit: Visit, query: TextQuery) -> Response:
        """Show a message."""
        message_id, policies = visit.id, self._settings.policies
        found = operations.listing.show(self._settings, message_id)
        explained = operations.explain.explain(self._settings, message_id)
        body = found.row["body"]
        text = "" if body is None else str(body)
        events = timeline(found)
        offers = offered(found, looks_up=operations.wiring.looks_up(self._settings, str(found.row["message_type"])))
        return self._console.show(
            visit,
            "message.html",
            id=message_id,
            row=found.row,
            queue=found.queue,
            seen=_seen(found),
            state=state_of(found),
            tries=tries(found, policies),
            times=[(name, at) for name in ("created_at", "updated_at", "sent_at") if (at := _time(found.row, name))],
            lists=[(name, items) for name in LIST_COLUMNS if (items := list_text(found.row.get(name)))],
            offers=offers,
            first=first_of(found, offers),
            advice=advice(found, offers),
            newer=newer_attempt(found),
            is_outdated=is_outdated(
                state_of(found), found.row["last_error"], found.row["retry_count"], allowed(found, policies)
            ),
            next_attempt=operations.words.next_attempt(explained),
            gates=explained.gates,
            own_hold=next((hold for hold in explained.holds if hold.kind is HoldKind.MESSAGE), None),
            is_held=bool(explained.holds),
            lengths=LENGTHS,
            text=text[: WHOLE_TEXT if query.text else SHOWN_TEXT],
            most=WHOLE_TEXT,
            length=len(text),
            events=events,
            more_events=len(found.attempts) + len(found.acts) - len(events),
        )

    @page("POST", "/id/{message_id}/retry", Right.ACT, RetryForm)
    def retry(self, visit: Visit, form: RetryForm) -> Response:
        """Attempt a message now. Ask first if it may have arrived."""
        self._check_seen(visit, form)
        send_again = form.send_again is not None
        try:
            outcome = operations.retry.retry(self._settings, visit.id, send_again=send_again, by=visit.by)
        except MayHaveArrived as error:
            return self._console.show(
                visit, "repeat.html", code=HTTPStatus.CONFLICT, id=visit.id, ticket=error.ticket, seen=form.seen
            )
        return self._back(visit, f"Message {visit.id} {operations.words.attempted(outcome)}")

    @page("POST", "/id/{message_id}/look-up", Right.ACT)
    def look_up(self, visit: Visit, _: NoFields) -> Response:
        """Ask the ticketing system whether a message has arrived."""
        found = operations.retry.look_up(self._settings, visit.id, by=visit.by)
        return self._back(visit, operations.words.looked_up(visit.id, found))

    @page("POST", "/id/{message_id}/requeue", Right.ACT, ActForm)
    def requeue(self, visit: Visit, form: ActForm) -> Response:
        """Return an escalated or rejected message to the queue."""
        self._check_seen(visit, form)
        self._check(operations.message_actions.requeue(self._settings, [visit.id], by=visit.by))
        return self._back(visit, f"Requeued message {visit.id}. It is due now and has all its retries.")

    @page("POST", "/id/{message_id}/reject", Right.ACT, RejectForm)
    def reject(self, visit: Visit, form: RejectForm) -> Response:
        """Give up on a message."""
        self._check_seen(visit, form)
        self._check(operations.message_actions.reject(self._settings, [visit.id], form.reason, by=visit.by))
        return self._back(visit, f"Rejected message {visit.id}. No pass will send it.")

    @page("POST", "/id/{message_id}/mark-sent", Right.ACT, MarkSentForm)
    def mark_sent(self, visit: Visit, form: MarkSentForm) -> Response:
        """Record that a message has arrived."""
        self._check_seen(visit, form)
        self._check(operations.message_actions.mark_sent(self._settings, [visit.id], note=form.note, by=visit.by))
        return self._back(visit, f"Marked message {visit.id} as sent.")

    @page("POST", "/id/{message_id}/note", Right.ACT, NoteForm)
    def note(self, visit: Visit, form: NoteForm) -> Response:
        """Add a note to an escalated message."""
        operations.message_actions.note(self._settings, visit.id, form.text, by=visit.by)
        return self._back(visit, f"Added the note to message {visit.id}.")

    @page("POST", "/id/{message_id}/acknowledge", Right.ACT)
    def acknowledge(self, visit: Visit, _: NoFields) -> Response:
        """Record that an operator is handling an escalated message."""
        self._check(operations.message_actions.acknowledge(self._settings, [visit.id], by=visit.by))
        return self._back(visit, f"Acknowledged message {visit.id}. It no longer counts as new.")

    def _check_seen(self, visit: Visit, form: ActForm) -> None:
        """Check that the user saw the present text and ticket, and the last attempt.

        Raises:
            NotActionable: they are others now.
        """
        found = operations.listing.show(self._settings, visit.id)
        if form.seen != _seen(found):
            raise NotActionable(
                f"message {visit.id} was changed or attempted after its page was shown, and is now {state_of(found)}. "
                "Nothing was done: open the page again, and decide anew"
            )

    def _check(self, done: ActionResult) -> None:
        for error in done.refused.values():
            raise error

    def _back(self, visit: Visit, notice: str) -> Response:
        return self._done(visit, visit.to("id", visit.id), notice)
