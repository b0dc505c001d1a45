"""A fake of GLPI's REST API, apirest.php."""

from __future__ import annotations

import re
from typing import Any

from tests.gateway.ticketing.arrived import Arrived
from tests.gateway.ticketing.fake import Answered, Asked, Fake

BASE = "/apirest.php"


class Refused(Exception):
    """An error answer: a status, and a code with its message in a list."""

    def __init__(self, status: int, code: str, message: str, *, help: bool = False) -> None:  # noqa: A002
        self.status = status
        self.code = code
        self.message = message
        self.help = help
        """Whether the error message also links to the documentation."""


class Glpi(Fake):
    """A fake GLPI with ticket 7, and an inaccessible ticket 8.

    Requests cannot name recipients: GLPI notifies the actors of the ticket about public entries.
    """

    def __init__(self) -> None:
        super().__init__()
        self.app_token = "app"
        self.user_token = "secret"
        self.sessions: set[str] = set()
        """The valid sessions. Clear this set to expire them all."""
        self.tickets = {7}
        self.hidden = {8}
        self.limit = 15
        """The length of a list if the request names no range. In GLPI, users set it in their preferences."""
        self.arrived: list[Arrived] = []

    @property
    def url(self) -> str:
        """Return the URL with the script's name."""
        return super().url + BASE

    def answer(self, asked: Asked) -> Answered:
        try:
            return self._answer(asked)
        except Refused as refused:
            more = f"; view documentation in your browser at {self.url}/#{refused.code}" if refused.help else ""
            return Answered(refused.status, [refused.code, refused.message + more])

    def _answer(self, asked: Asked) -> Answered:
        given = asked.headers.get("app-token", "")
        if given != self.app_token and given:
            raise Refused(400, "ERROR_WRONG_APP_TOKEN_PARAMETER", "parameter app_token seems wrong", help=True)
        if given != self.app_token:
            raise Refused(400, "ERROR_APP_TOKEN_PARAMETERS_MISSING", "missing parameter app_token", help=True)
        path = asked.path.removeprefix(BASE).strip("/").split("/")
        if path == ["initSession"]:
            return self._log_in(asked)
        if asked.headers.get("session-token") not in self.sessions:
            raise Refused(401, "ERROR_SESSION_TOKEN_INVALID", "session_token seems invalid")
        match asked.method, path:
            case "POST", ["ITILFollowup"]:
                return self._create(asked.json)
            case "GET", ["Ticket", number, "ITILFollowup"]:
                return self._list(number, asked)
            case "GET", ["ITILFollowup", number]:
                return self._get(number)
            case _:
                message = "resource not found or not an instance of CommonDBTM"
                raise Refused(400, "ERROR_RESOURCE_NOT_FOUND_NOR_COMMONDBTM", message, help=True)

    def _log_in(self, asked: Asked) -> Answered:
        if asked.headers.get("authorization") != f"user_token {self.user_token}":
            raise Refused(401, "ERROR_GLPI_LOGIN_USER_TOKEN", "parameter user_token seems invalid")
        session = f"session{len(self.asked):019}"
        self.sessions.add(session)
        return Answered(200, {"session_token": session})

    def _create(self, data: dict[str, Any]) -> Answered:
        given = data["input"]
        ticket = given.get("items_id")
        if given.get("itemtype") != "Ticket" or not str(ticket).isdigit() or int(str(ticket)) not in self.tickets:
            # GLPI gives the same answer if the ticket does not exist, or if the type is missing.
            raise Refused(400, "ERROR_GLPI_ADD", "You don't have permission to perform this action.")
        if given.get("content") in (None, "", "0"):
            raise Refused(400, "ERROR_GLPI_ADD", "You can't add a followup without description")
        private = given.get("is_private") in (1, "1")  # an entry is public if the field is missing or misspelt
        self.arrived.append(
            Arrived(
                id=len(self.arrived) + 1,
                ticket=str(int(str(ticket))),
                text=given["content"],
                html=True,
                internal=private,
                mailed=not private,
            )
        )
        number = len(self.arrived)
        return Answered(201, {"id": number, "message": ""}, {"Location": f"{self.url}/ITILFollowup/{number}"})

    def _found(self, number: str) -> int:
        if number.isdigit() and int(number) in self.hidden:
            raise Refused(403, "ERROR_RIGHT_MISSING", "You don't have permission to perform this action.")
        if not number.isdigit() or int(number) not in self.tickets:
            raise Refused(404, "ERROR_ITEM_NOT_FOUND", "Item not found")
        return int(number)

    def _get(self, number: str) -> Answered:
        if not number.isdigit() or not 0 < int(number) <= len(self.arrived):
            raise Refused(404, "ERROR_ITEM_NOT_FOUND", "Item not found")
        return Answered(200, self._shown(self.arrived[int(number) - 1]))

    def _list(self, number: str, asked: Asked) -> Answered:
        ticket = self._found(number)
        sought = asked.query.get("searchText[content]", "").lower()
        of_it = [one for one in self.arrived if one.ticket == str(ticket) and sought in one.text.lower()]
        if asked.query.get("order", "ASC").upper() == "DESC":
            of_it.reverse()
        asked_for = asked.query.get("range")
        if asked_for is not None and not re.fullmatch(r"\d+-\d+", asked_for):
            raise Refused(400, "ERROR", "range must be in format : [start-end] with integers", help=True)
        first, last = map(int, (asked_for or f"0-{self.limit - 1}").split("-"))
        if first > len(of_it):
            message = f"Provided range exceed total count of data: {len(of_it)}"
            raise Refused(400, "ERROR_RANGE_EXCEED_TOTAL", message, help=True)
        shown = [self._shown(one) for one in of_it[first : last + 1]]
        # Without a range, GLPI's last position is one too high, so an answer without its last entry may look complete.
        told = min(last if asked_for else self.limit, len(of_it) - 1)
        headers = {"Accept-Range": "ITILFollowup 990"}
        if of_it:
            headers["Content-Range"] = f"{first}-{told}/{len(of_it)}"
        return Answered(206 if told - first + 1 < len(of_it) else 200, shown, headers)

    @staticmethod
    def _shown(one: Arrived) -> dict[str, Any]:
        return {
            "id": one.id,
            "itemtype": "Ticket",
            "items_id": int(one.ticket),
            "users_id": 6,
            "content": one.text,
            "is_private": int(one.internal),
        }
