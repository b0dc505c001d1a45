"""The HTTP API's endpoints of messages."""

from http import HTTPStatus
from typing import Annotated, Self

from fastapi import Header, Query
from pydantic import Field, model_validator
from starlette.exceptions import HTTPException

from retrycli import operations
from retrycli.config.settings import Settings
from retrycli.domain.user import Right
from retrycli.operations import bodies
from retrycli.operations.retry import ActionResult
from retrycli.web.endpoints import CurrentUser, JsonAnswer, answer, endpoint
from retrycli.web.inputs import Body, ETag, Line, MessageQuery, Reason, Text
from retrycli.web.status import RecentStatus

INVALID, MISSING, CONFLICT = HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT


class ReasonBody(Body):
    """Why an operator gives up on a message."""

    reason: Reason


class NoteBody(Body):
    """A note, for the history."""

    note: Reason


class OptionalNoteBody(Body):
    """How the operator knows that a message has arrived, for the history."""

    note: Reason | None = Field(None, description="how the operator knows that the message has arrived")


class EditBody(Body):
    """The fields of a message to change. The others keep their values."""

    subject: Line | None = None
    body: Text | None = None
    recipient: Line | None = None

    @model_validator(mode="after")
    def _check_given(self) -> Self:
        if self.subject is self.body is self.recipient is None:
            raise ValueError("give at least one of subject, body and recipient")
        return self


class MessageEndpoints:
    """What concerns single messages. Their ids are opaque text in URLs."""

    def __init__(self, settings: Settings, status: RecentStatus) -> None:
        self._settings = settings
        self._status = status

    @endpoint("GET", "", Right.READ, INVALID)
    def list_messages(self, query: Annotated[MessageQuery, Query()]) -> JsonAnswer[bodies.MessagePageBody]:
        """List failed messages, one page at a time."""
        found = operations.listing.page(
            self._settings, query.filter, sort=query.sort, after=query.after, limit=query.limit
        )
        return answer(bodies.messages(self._settings, iter(found.messages), found.next))

    @endpoint("GET", "/{message_id}", Right.READ_TEXT, MISSING)
    def show_message(self, message_id: str) -> JsonAnswer[bodies.MessageDetailsBody]:
        """Show one message with its text, its attempts and the operators' actions."""
        body = bodies.details(operations.listing.show(self._settings, message_id))
        return answer(body, ETag=f'"{body["digest"]}"')

    @endpoint(
        "PATCH",
        "/{message_id}",
        Right.EDIT,
        MISSING,
        CONFLICT,
        INVALID,
        HTTPStatus.PRECONDITION_FAILED,
        HTTPStatus.PRECONDITION_REQUIRED,
    )
    def edit_message(
        self, message_id: str, user: CurrentUser, body: EditBody, if_match: Annotated[ETag | None, Header()] = None
    ) -> JsonAnswer[bodies.EditedBody]:
        """Change the subject, body or recipient of a failed message.

        `If-Match` names the text on which the edit is based: the `ETag` of the message, or `*` for any text. The edit
        is refused if the text has changed since.
        """
        if if_match is None:
            raise HTTPException(
                HTTPStatus.PRECONDITION_REQUIRED, "If-Match is missing; send the ETag that the message had"
            )
        done = operations.edit_message.edit(
            self._settings,
            message_id,
            **body.model_dump(exclude_none=True),
            digest=None if if_match == "*" else if_match.strip('"'),
            by=user.name,
        )
        return answer(bodies.edited(done), ETag=f'"{done.digest}"')

    @endpoint("GET", "/{message_id}/explain", Right.READ, MISSING)
    def explain_message(self, message_id: str) -> JsonAnswer[bodies.ExplanationBody]:
        """Show what delays a message, and its next attempt."""
        return answer(bodies.explanation(operations.explain.explain(self._settings, message_id)))

    @endpoint("POST", "/{message_id}/retry", Right.ACT, MISSING, CONFLICT)
    def retry_message(self, message_id: str, user: CurrentUser) -> JsonAnswer[bodies.AttemptsBody]:
        """Attempt a message now, even if it is waiting or escalated. This uses up no retry."""
        done = operations.retry.retry_all(self._settings, [message_id], by=user.name)
        return answer(bodies.attempts(self._done(done)))

    @endpoint("POST", "/{message_id}/requeue", Right.ACT, MISSING, CONFLICT)
    def requeue_message(self, message_id: str, user: CurrentUser) -> JsonAnswer[bodies.ActionBody]:
        """Return an escalated or rejected message to the queue, with all retries."""
        done = operations.message_actions.requeue(self._settings, [message_id], by=user.name)
        return answer(bodies.action("requeued", self._done(done)))

    @endpoint("POST", "/{message_id}/reject", Right.ACT, MISSING, CONFLICT, INVALID)
    def reject_message(self, message_id: str, user: CurrentUser, body: ReasonBody) -> JsonAnswer[bodies.ActionBody]:
        """Give up on a message."""
        done = operations.message_actions.reject(self._settings, [message_id], body.reason, by=user.name)
        return answer(bodies.action("rejected", self._done(done)))

    @endpoint("POST", "/{message_id}/mark-sent", Right.ACT, MISSING, CONFLICT, INVALID)
    def mark_message_sent(
        self,
        message_id: str,
        user: CurrentUser,
        body: OptionalNoteBody = OptionalNoteBody(),  # noqa: B008  frozen
    ) -> JsonAnswer[bodies.ActionBody]:
        """Record that a message has arrived."""
        ids = [message_id]
        done = operations.message_actions.mark_sent(self._settings, ids, note=body.note, by=user.name)
        return answer(bodies.action("marked_sent", self._done(done)))

    @endpoint("POST", "/{message_id}/acknowledge", Right.ACT, MISSING, CONFLICT)
    def acknowledge_message(self, message_id: str, user: CurrentUser) -> JsonAnswer[bodies.ActionBody]:
        """Record that an operator is handling an escalated message."""
        done = operations.message_actions.acknowledge(self._settings, [message_id], by=user.name)
        return answer(bodies.action("acknowledged", self._done(done)))

    @endpoint("POST", "/{message_id}/note", Right.ACT, MISSING, CONFLICT, INVALID)
    def note_message(self, message_id: str, user: CurrentUser, body: NoteBody) -> JsonAnswer[bodies.NotedBody]:
        """Add a note to an escalated message, replacing an earlier note."""
        operations.message_actions.note(self._settings, message_id, body.note, by=user.name)
        return answer(bodies.noted(message_id, body.note))

    @endpoint("POST", "/{message_id}/look-up", Right.ACT, MISSING, CONFLICT)
    def look_up_message(self, message_id: str, user: CurrentUser) -> JsonAnswer[bodies.LookUpsBody]:
        """Ask the ticketing system whether a message has arrived. Nothing is sent."""
        asked = operations.retry.look_up_all(self._settings, [message_id], by=user.name)
        for found in asked:
            if found.error is not None:
                raise found.error
        self._status.forget()
        return answer(bodies.look_ups(asked))

    def _done(self, done: ActionResult) -> ActionResult:
        """Return the result of an action on one message. Raise the error if the message refused the action."""
        self._status.forget()
        for error in done.refused.values():
            raise error
        return done
