"""The HTTP API's endpoints of messages."""

from __future__ import annotations

from http import HTTPMethod

from fastapi import Response

from retrycli import operations
from retrycli.config.settings import Settings
from retrycli.domain.user import Right
from retrycli.operations import bodies
from retrycli.web import schemas
from retrycli.web.endpoints import answer, endpoint
from retrycli.web.status import RecentStatus

GET, POST = HTTPMethod.GET, HTTPMethod.POST


class MessageEndpoints:
    """What concerns single messages. Their ids are opaque text in URLs and bodies."""

    def __init__(self, settings: Settings, status: RecentStatus) -> None:
        self._settings = settings
        self._status = status

    @endpoint(GET, "/{message_id}", Right.READ_TEXT, returns=schemas.MessageDetailsBody)
    def show_message(self, message_id: str) -> Response:
        """Show one message with its text and its history."""
        return answer(bodies.details(operations.listing.show(self._settings, int(message_id))))
