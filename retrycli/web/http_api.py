"""The endpoints of the HTTP API, and its OpenAPI document."""

from collections.abc import Sequence
from datetime import timedelta
from http import HTTPStatus
from importlib.metadata import version
from typing import Annotated, Self

from fastapi import APIRouter, Header, Query, Request
from fastapi.openapi.utils import get_openapi
from pydantic import Field, model_validator
from starlette.exceptions import HTTPException

from retrycli import operations
from retrycli.config.settings import Settings
from retrycli.domain import suggested
from retrycli.domain.delivery_stats import GroupBy
from retrycli.domain.errors import NotActionable
from retrycli.domain.listing import Filter
from retrycli.domain.message import MessageType, State
from retrycli.domain.passes import HoldKind, HoldTarget
from retrycli.domain.user import Right
from retrycli.operations import bodies
from retrycli.operations.retry import ActionResult
from retrycli.web.access import Access
from retrycli.web.endpoints import CurrentUser, JsonAnswer, Problem, add_endpoints, answer, endpoint, route_class
from retrycli.web.inputs import (
    Body,
    BulkBody,
    Duration,
    ETag,
    Line,
    MessageKey,
    MessageQuery,
    PageQuery,
    Reason,
    Text,
    Ticket,
)
from retrycli.web.status import RecentStatus

LONGEST_TEXT = 1 << 20  # characters of a body; several answers that nobody reads must fit into memory
INVALID, MISSING, CONFLICT = HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT
WEEK = timedelta(days=7)
MOST_GROUPS = 1000
# An empty list is an error: a program that found no ticket must not pause all deliveries.
TARGETS = Field(min_length=1, max_length=1000)


class TargetsBody(Body):
    """The parts of the queue to hold or to resume; without any field, all deliveries."""

    message: Annotated[list[MessageKey], TARGETS] | None = None
    ticket: Annotated[list[Ticket], TARGETS] | None = None
    message_type: Annotated[list[Annotated[MessageType, Field(strict=False)]], TARGETS] | None = Field(
        None, alias="type"
    )
    destination: Annotated[list[Line], TARGETS] | None = Field(None, description="the base URLs of destinations")

    @property
    def targets(self) -> list[HoldTarget] | None:
        """Return the parts; None if there are none."""
        texts: dict[HoldKind, Sequence[str] | None] = {
            HoldKind.MESSAGE: self.message,
            HoldKind.TICKET: self.ticket,
            HoldKind.TYPE: self.message_type,
            HoldKind.DESTINATION: self.destination,
        }
        return [HoldTarget(kind, text) for kind, found in texts.items() for text in found or ()] or None


class PauseBody(TargetsBody):
    """What is paused, how long, and why."""

    length: Duration | None = Field(None, alias="for", description="such as 2h; without it, until `resume`")
    reason: Reason | None = None


class ReasonBody(Body):
    """Why an operator gives up on a message."""

    reason: Reason


class NoteBody(Body):
    """A note, for the history."""

    note: Reason


class RetryBody(Body):
    """Whether a message may be sent twice."""

    send_again: bool = Field(default=False, description="send the message also if it may have arrived")


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


class Endpoints:
    """All endpoints. Messages' ids are opaque text in URLs."""

    def __init__(self, settings: Settings, status: RecentStatus, router: APIRouter) -> None:
        self._settings = settings
        self._status = status
        self._router = router

    @endpoint("GET", "/scheduler/status", Right.READ)
    def scheduler_status(self) -> JsonAnswer[bodies.SchedulerStatusBody]:
        """Show whether passes run, and when the next one starts."""
        found = bodies.scheduler_status(self._status.read())
        return answer(found, has_version=False)  # the original specification has no schema_version

    @endpoint("GET", "/scheduler/overview", Right.READ)
    def scheduler_overview(self) -> JsonAnswer[bodies.OverviewBody]:
        """Show scheduler health and queue counts."""
        return answer(bodies.status(self._status.read()))

    @endpoint("POST", "/scheduler/pause", Right.PAUSE, MISSING, CONFLICT, INVALID)
    def pause_scheduler(self, user: CurrentUser, body: PauseBody = PauseBody()) -> JsonAnswer[bodies.PausedBody]:  # noqa: B008  frozen
        """Stop passes from sending, until `resume` or for a set time.

        With messages, tickets, types or destinations, hold only these. Passes send all other messages.
        """
        operations.pause.pause(
            self._settings, target=body.targets, length=body.length, reason=body.reason, by=user.name
        )
        return answer(self._paused())

    @endpoint("POST", "/scheduler/resume", Right.PAUSE, MISSING, INVALID)
    def resume_scheduler(self, user: CurrentUser, body: TargetsBody = TargetsBody()) -> JsonAnswer[bodies.PausedBody]:  # noqa: B008  frozen
        """End the pause, or the holds of messages, tickets, types or destinations.

        `ended` tells how many pauses and holds were active and have ended.
        """
        ended = operations.pause.resume(self._settings, target=body.targets, by=user.name)
        number = len(ended) if isinstance(ended, list) else int(ended is not None)
        return answer({**self._paused(), "ended": number})

    def _paused(self) -> bodies.PausedBody:
        self._status.forget()
        return bodies.paused(self._status.read())

    @endpoint("GET", "/scheduler/passes", Right.READ, INVALID)
    def list_passes(self, query: Annotated[PageQuery, Query()]) -> JsonAnswer[bodies.PassesBody]:
        """List passes and pauses, the newest first, one page at a time."""
        found = operations.status.passes(self._settings, after=query.after, limit=query.limit)
        return answer(bodies.passes(found))

    @endpoint("GET", "/scheduler/escalations", Right.READ_TEXT, INVALID)
    def list_escalations(self, query: Annotated[PageQuery, Query()]) -> JsonAnswer[bodies.EscalationPageBody]:
        """List the causes of all escalations, and the escalated messages, one page at a time."""
        escalated = Filter(state=State.ESCALATED)
        found = operations.listing.page(self._settings, escalated, sort="id", after=query.after, limit=query.limit)
        groups = operations.listing.escalations(self._settings)
        body: bodies.EscalationPageBody = {**bodies.escalations(found.messages, groups), "next": found.next}
        return answer(body)

    @endpoint("POST", "/scheduler/bulk", Right.BULK, MISSING, CONFLICT, INVALID)
    def act_in_bulk(self, user: CurrentUser, body: BulkBody) -> JsonAnswer[bodies.BulkActionBody]:
        """Apply an action to many messages, for at most 15 seconds.

        If messages are left because the time was up, `next` is not null. To go on, send the same body with `after` set
        to it. If a filter now matches another number of messages than expected, nothing is done, and the problem has
        the present `count`.
        """
        done = operations.message_actions.act(self._settings, body.request, after=body.after, by=user.name)
        self._status.forget()
        return answer(bodies.bulk(done))

    @endpoint("GET", "/scheduler/stats", Right.READ, INVALID)
    def statistics(
        self,
        since: Annotated[Duration | None, Query(description="the period, such as 12h; by default 7d")] = None,
        by: Annotated[GroupBy, Query()] = GroupBy.OUTCOME,
    ) -> JsonAnswer[bodies.StatisticsBody]:
        """Show outcomes of attempts, and outages of the ticketing API."""
        span = since or WEEK
        figures, groups = self._status.statistics.read(
            (span, by), lambda: operations.listing.stats(self._settings, by, span=span, limit=MOST_GROUPS)
        )
        return answer(bodies.statistics(figures, by, groups))

    @endpoint("GET", "/openapi.json", Right.READ)
    def openapi_document(self, request: Request) -> JsonAnswer[dict[str, object]]:
        """Return this document."""
        root: str = request.scope.get("root_path", "")
        prefix = request.url.path.removeprefix(root).removesuffix(f"{self._router.prefix}/openapi.json")
        document = get_openapi(
            title="retrycli",
            version=version("retrycli"),
            description="The scheduler's status, and what operators do to failed ticket messages.",
            routes=self._router.routes,
            servers=[{"url": root or "/"}],
        )
        document["paths"] = {prefix + path: operations for path, operations in document["paths"].items()}
        components = document.setdefault("components", {})
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        components.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
        document["security"] = [{"token": []}]
        return answer(document, has_version=False)

    @endpoint("GET", "", Right.READ_TEXT, INVALID)
    def list_messages(self, query: Annotated[MessageQuery, Query()]) -> JsonAnswer[bodies.MessagePageBody]:
        """List failed messages, one page at a time."""
        found = operations.listing.page(
            self._settings, query.filter, sort=query.sort, after=query.after, limit=query.limit
        )
        return answer(bodies.messages(found.messages, found.next))

    @endpoint("GET", "/{message_id}", Right.READ_TEXT, MISSING, CONFLICT)
    def show_message(self, message_id: str) -> JsonAnswer[bodies.MessageDetailsBody]:
        """Show one message with its text, its attempts and the operators' actions."""
        found = operations.listing.show(self._settings, message_id)
        if (length := len(str(found.row["body"] or ""))) > LONGEST_TEXT:
            raise NotActionable(
                f"the body of message {message_id} has {length:,} characters, and the API returns at most "
                f"{LONGEST_TEXT:,}. Read it with {suggested.command('show', found.row['id'])}"
            )
        body = bodies.details(found)
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
    def retry_message(
        self,
        message_id: str,
        user: CurrentUser,
        body: RetryBody = RetryBody(),  # noqa: B008  frozen
    ) -> JsonAnswer[bodies.AttemptsBody]:
        """Attempt a message now, even if it is waiting or escalated. This uses up no retry. A message that may have
        arrived and can't be looked up is sent only with `send_again`.
        """
        done = operations.retry.retry_all(self._settings, [message_id], by=user.name, send_again=body.send_again)
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


def make_api(settings: Settings, access: Access, status: RecentStatus, *, prefix: str = "") -> APIRouter:
    """Return a router with all endpoints, below a path unless the application that includes it chooses one."""
    router = APIRouter(prefix=prefix, route_class=route_class(access))
    add_endpoints(router, Endpoints(settings, status, router))
    return router
