"""A fake of GLPI's REST API, apirest.php."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.gateway.ticketing.arrived import Arrived
from tests.gateway.ticketing.fake import Answered, Asked, Fake
from tests.gateway.ticketing.multipart import Part, parts

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
        self.refused_ending = ".php"
        """The extension of files that GLPI refuses."""
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
        data, files = self._content(asked)
        given = asked.headers.get("app-token", "")
        if given != self.app_token and given:
            raise Refused(400, "ERROR_WRONG_APP_TOKEN_PARAMETER", "parameter app_token seems wrong", help=True)
        if given != self.app_token:
            raise Refused(400, "ERROR_APP_TOKEN_PARAMETERS_MISSING", "missing parameter app_token", help=True)
        path = asked.path.removeprefix(BASE).strip("/").split("/")
        if path == ["initSession"]:
            return self._log_in(asked)
        session = asked.headers.get("session-token", "")
        if not session:
            message = "parameter session_token is missing or empty"
            raise Refused(400, "ERROR_SESSION_TOKEN_MISSING", message, help=True)
        if session not in self.sessions:
            raise Refused(401, "ERROR_SESSION_TOKEN_INVALID", "session_token seems invalid")
        match asked.method, path:
            case _, ["killSession"]:
                self.sessions.remove(session)
                return Answered(200, body=True)
            case _, ["getFullSession"]:
                return Answered(200, {"session": {"glpiID": 6, "glpiname": "agent", "valid_id": session}})
            case "POST", ["ITILFollowup"] | ["Ticket", _, "ITILFollowup"]:  # GLPI ignores the ticket in the path
                return self._create(data, files)
            case "GET", ["Ticket", number, "ITILFollowup"]:
                return self._list(number, asked)
            case "GET", ["Ticket", number]:
                return Answered(200, {"id": self._found(number), "name": "Broken printer"})
            case "GET", ["ITILFollowup", number]:
                return self._get(number)
            case _:
                message = "resource not found or not an instance of CommonDBTM"
                raise Refused(400, "ERROR_RESOURCE_NOT_FOUND_NOR_COMMONDBTM", message, help=True)

    def _content(self, asked: Asked) -> tuple[dict[str, Any], list[Part]]:
        kind = asked.headers.get("content-type", "application/json")
        if asked.body.strip() and asked.method == "GET":
            message = "GET Request should not have json payload (http body)"
            raise Refused(400, "ERROR_JSON_PAYLOAD_FORBIDDEN", message, help=True)
        files: list[Part] = []
        content = asked.body if "application/json" in kind else b""
        if "multipart/form-data" in kind:
            for part in parts(asked):
                if part.name is not None:
                    files.append(part)
                elif part.field == "uploadManifest":
                    content = part.content
            if not files:  # GLPI reports a form without files as too large
                raise Refused(400, "ERROR_UPLOAD_FILE_TOO_BIG_POST_MAX_SIZE", "The file seems too big")
        try:
            return (json.loads(content) if content.strip() else {}), files
        except ValueError:
            raise Refused(400, "ERROR_JSON_PAYLOAD_INVALID", "JSON payload seems not valid") from None

    def _log_in(self, asked: Asked) -> Answered:
        given = asked.headers.get("authorization", "").split(" ")
        if given[0] != "user_token" or not given[1:]:
            message = "parameter(s) login, password or user_token are missing"
            raise Refused(400, "ERROR_LOGIN_PARAMETERS_MISSING", message, help=True)
        if given[1] != self.user_token:
            raise Refused(401, "ERROR_GLPI_LOGIN_USER_TOKEN", "parameter user_token seems invalid")
        session = f"session{len(self.asked):019}"
        self.sessions.add(session)
        return Answered(200, {"session_token": session})

    def _create(self, data: dict[str, Any], files: list[Part]) -> Answered:
        given = data.get("input")
        if not isinstance(given, dict):
            raise Refused(400, "ERROR_BAD_ARRAY", "input parameter must be an array of objects", help=True)
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
                attachments=tuple((str(file.name), file.kind, file.content) for file in files if not self._bad(file)),
            )
        )
        number = len(self.arrived)
        answer: dict[str, Any] = {"id": number, "message": ""}
        if files:  # GLPI reports refused files only here, and only those of the first field
            first = files[0].field
            told = [
                {"name": file.name, **({"error": "Filetype not allowed"} if self._bad(file) else {})}
                for file in files
                if file.field == first
            ]
            answer["upload_result"] = {first.partition("[")[0]: told}
        return Answered(201, answer, {"Location": f"{self.url}/ITILFollowup/{number}"})

    def _bad(self, file: Part) -> bool:
        return str(file.name).endswith(self.refused_ending)

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
