"""The forms of a message's page: each acts on one message, and answers with the page that shows the result."""

from starlette.responses import Response

from retrycli import operations
from retrycli.domain.user import Right
from retrycli.operations.retry import ActionResult
from retrycli.web.console.context import Console
from retrycli.web.console.forms import Form
from retrycli.web.console.routes import NoFields, page
from retrycli.web.console.visit import Visit
from retrycli.web.inputs import Reason


class RejectForm(Form):
    """Why the message is given up."""

    reason: Reason


class MarkSentForm(Form):
    """How the operator knows that the message has arrived."""

    note: Reason | None = None


class NoteForm(Form):
    """A note, which replaces an earlier note."""

    text: Reason


class MessageActions:
    """What an operator can do with one message."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._settings = console.settings

    @page("POST", "/id/{message_id}/retry", Right.ACT)
    def retry(self, visit: Visit, _: NoFields) -> Response:
        """Attempt a message now."""
        message_id = visit.id
        outcome = operations.retry.retry(self._settings, message_id, by=visit.by)
        return self._done(visit, f"Message {message_id} {operations.words.attempted(outcome)}")

    @page("POST", "/id/{message_id}/look-up", Right.ACT)
    def look_up(self, visit: Visit, _: NoFields) -> Response:
        """Ask the ticketing system whether a message has arrived."""
        message_id = visit.id
        found = operations.retry.look_up(self._settings, message_id, by=visit.by)
        return self._done(visit, operations.words.looked_up(message_id, found))

    @page("POST", "/id/{message_id}/requeue", Right.ACT)
    def requeue(self, visit: Visit, _: NoFields) -> Response:
        """Return an escalated or rejected message to the queue."""
        message_id = visit.id
        self._check(operations.message_actions.requeue(self._settings, [message_id], by=visit.by))
        return self._done(visit, f"Requeued message {message_id}. It is due now and has all its retries.")

    @page("POST", "/id/{message_id}/reject", Right.ACT, RejectForm)
    def reject(self, visit: Visit, form: RejectForm) -> Response:
        """Give up on a message."""
        message_id = visit.id
        self._check(operations.message_actions.reject(self._settings, [message_id], form.reason, by=visit.by))
        return self._done(visit, f"Rejected message {message_id}. No pass will send it.")

    @page("POST", "/id/{message_id}/mark-sent", Right.ACT, MarkSentForm)
    def mark_sent(self, visit: Visit, form: MarkSentForm) -> Response:
        """Record that a message has arrived."""
        message_id = visit.id
        self._check(operations.message_actions.mark_sent(self._settings, [message_id], note=form.note, by=visit.by))
        return self._done(visit, f"Marked message {message_id} as sent.")

    @page("POST", "/id/{message_id}/note", Right.ACT, NoteForm)
    def note(self, visit: Visit, form: NoteForm) -> Response:
        """Add a note to an escalated message."""
        message_id = visit.id
        operations.message_actions.note(self._settings, message_id, form.text, by=visit.by)
        return self._done(visit, f"Added the note to message {message_id}.")

    @page("POST", "/id/{message_id}/acknowledge", Right.ACT)
    def acknowledge(self, visit: Visit, _: NoFields) -> Response:
        """Record that an operator is handling an escalated message."""
        message_id = visit.id
        self._check(operations.message_actions.acknowledge(self._settings, [message_id], by=visit.by))
        return self._done(visit, f"Acknowledged message {message_id}. It no longer counts as new.")

    def _check(self, done: ActionResult) -> None:
        for error in done.refused.values():
            raise error

    def _done(self, visit: Visit, notice: str) -> Response:
        self._console.status.forget()
        return self._console.redirect(visit, visit.to("id", visit.id), notice)
