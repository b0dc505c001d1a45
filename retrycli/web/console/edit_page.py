"""The page on which an operator edits a message: form, then difference, then write, or write and retry."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from http import HTTPStatus
from itertools import islice
from typing import ClassVar, Literal

from pydantic import Field
from starlette.responses import Response

from retrycli import operations
from retrycli.domain import errors
from retrycli.domain.identity import digest_of
from retrycli.domain.user import Right
from retrycli.operations.edit_message import EditableMessage, edit_in_lines, restored
from retrycli.web import problems
from retrycli.web.console.context import Pages, Visit, in_console
from retrycli.web.console.forms import Form
from retrycli.web.console.routes import NoFields, page

MOST_LINES = 1000  # maximum number of changed lines that the page shows


class EditForm(Form):
    """The edited fields, the digest of the text that they are based on, and what to do with them."""

    subject: str
    recipient: str | None = None
    body: str
    digest: str = Field(max_length=200)
    step: Literal["preview", "edit", "write", "write-and-retry"]
    blank: ClassVar[frozenset[str]] = frozenset({"recipient"})


class EditPages(Pages):
    """The editor of one message."""

    @page("GET", "/id/{message_id}/edit", Right.EDIT)
    def edit_page(self, visit: Visit, _: NoFields) -> Response:
        """Show the form with the present text."""
        return self._form(visit, *self._read(visit.id))

    @page("POST", "/id/{message_id}/edit", Right.EDIT, EditForm)
    def edit(self, visit: Visit, form: EditForm) -> Response:
        """Show the difference, or write the edit. If it can't be written, the user's text stays on the page."""
        message_id = visit.id
        wanted = EditableMessage(form.subject, form.body, form.recipient)
        try:
            now, digest = self._read(message_id)
            if digest != form.digest:
                return self._stale(visit, now, digest, wanted)
            wanted = replace(wanted, body=restored(now.body, form.body))
            if form.step == "edit":
                return self._form(visit, wanted, digest)
            wanted.check(now)
            if form.step == "preview":
                return self._form(visit, wanted, digest, "preview.html", changes=_changes(now, wanted))
            return self._write(visit, message_id, wanted, form)
        except errors.StaleEdit:
            return self._stale(visit, *self._read(message_id), wanted)
        except (errors.NotEdited, errors.NotActionable, errors.NoSuchMessage) as error:
            status, _ = problems.status_of(error)
            return self._form(visit, wanted, form.digest, code=status, problem=errors.cause_of(error))

    def _read(self, message_id: str) -> tuple[EditableMessage, str]:
        """Return the present text of a message, and its digest."""
        found, draft = operations.edit_message.read_draft(self._settings, message_id)
        return draft, digest_of(found.row)

    def _write(self, visit: Visit, message_id: str, wanted: EditableMessage, form: EditForm) -> Response:
        done = operations.edit_message.edit(
            self._settings,
            message_id,
            subject=wanted.subject,
            body=wanted.body,
            recipient=wanted.recipient,
            digest=form.digest,
            by=visit.by,
        )
        names = ", ".join(name.replace("recipient_email", "recipient") for name in done.changed)
        notice = f"Changed {names} of message {message_id}." if names else "Nothing was changed."
        if form.step == "write-and-retry":
            notice = f"{notice} {self._retry(message_id, visit.by)}"
        return self._done(visit, visit.to("id", visit.id), notice)

    def _retry(self, message_id: str, by: str) -> str:
        try:
            outcome = operations.retry.retry(self._settings, message_id, by=by)
        except errors.RetrycliError as error:
            return f"It was not retried: {in_console(errors.cause_of(error))}"
        return f"Message {message_id} {operations.words.attempted(outcome)}"

    def _form(
        self,
        visit: Visit,
        draft: EditableMessage,
        digest: str,
        template: str = "edit.html",
        *,
        code: HTTPStatus = HTTPStatus.OK,
        problem: str | None = None,
        theirs: EditableMessage | None = None,
        changes: Iterable[str] = (),
    ) -> Response:
        lines = [*islice(changes, MOST_LINES + 1)]
        return self._console.show(
            visit,
            template,
            code=code,
            id=visit.id,
            draft=draft,
            digest=digest,
            problem=problem,
            theirs=theirs,
            changes=lines[:MOST_LINES],
            has_more_changes=len(lines) > MOST_LINES,
        )

    def _stale(self, visit: Visit, now: EditableMessage, digest: str, wanted: EditableMessage) -> Response:
        """Show the present text, and the user's edit on top of it."""
        mine = replace(wanted, body=restored(now.body, wanted.body))
        code, changes = HTTPStatus.PRECONDITION_FAILED, _changes(now, mine)
        return self._form(visit, mine, digest, code=code, theirs=now, changes=changes)


def _changes(before: EditableMessage, after: EditableMessage) -> Iterator[str]:
    old, new = (
        {"recipient_email": text.recipient, "subject": text.subject, "body": text.body} for text in (before, after)
    )
    return edit_in_lines(old, {name: text for name, text in new.items() if text not in {None, old[name]}})
