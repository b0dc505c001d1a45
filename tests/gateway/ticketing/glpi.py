"""GLPI as its REST API, apirest.php, answers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from email import message_from_bytes, policy
from typing import Any, NamedTuple

from tests.gateway.ticketing.fake import Answered, Asked, Fake

BASE = "/apirest.php"


class File(NamedTuple):
    """What came with a multipart body."""

    part: str
    """The name of its part, without brackets."""
    name: str
    kind: str
    content: bytes


@dataclass(frozen=True)
class Followup:
    """What has been put on a ticket. There is no addressing anyone: GLPI notifies who is an actor of the ticket."""

    ticket: int
    text: str
    """HTML."""
    internal: bool
    attachments: tuple[tuple[str, str, bytes], ...]


class Refused(Exception):
    """What goes out instead: a status, and a code with its message in a list."""

    def __init__(self, status: int, code: str, message: str, *, help: bool = False) -> None:  # noqa: A002
        self.status = status
        self.code = code
        self.message = message
        self.help = help
        """It says where to read on, too."""


class Glpi(Fake):
    """A played GLPI with ticket 7, and ticket 8 that one may not see."""

    def __init__(self) -> None:
        super().__init__()
        self.app_token = "app"
        self.user_token = "secret"
        self.sessions: set[str] = set()
        """Clear it, and they have all expired."""
        self.tickets = {7}
        self.hidden = {8}
        self.limit = 15
        """How many come in a list where no range is asked for: a preference of the user."""
        self.refused_ending = ".php"
        """Of files that are not taken."""
        self.followups: list[Followup] = []

    @property
    def url(self) -> str:
        """With the script's name."""
        return super().url + BASE

    def answer(self, asked: Asked) -> Answered:
        """Of the end point."""
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
            case "POST", ["ITILFollowup"] | ["Ticket", _, "ITILFollowup"]:  # the ticket in the path is not looked at
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

    def _content(self, asked: Asked) -> tuple[dict[str, Any], list[File]]:
        kind = asked.headers.get("content-type", "application/json")
        if asked.body.strip() and asked.method == "GET":
            message = "GET Request should not have json payload (http body)"
            raise Refused(400, "ERROR_JSON_PAYLOAD_FORBIDDEN", message, help=True)
        files: list[File] = []
        content = asked.body if "application/json" in kind else b""
        if "multipart/form-data" in kind:
            head = f"Content-Type: {kind}\r\n\r\n".encode()
            for part in message_from_bytes(head + asked.body, policy=policy.HTTP).iter_parts():
                name = str(part.get_param("name", header="content-disposition"))
                held = part.get_payload(decode=True)
                assert isinstance(held, bytes)
                if part.get_filename() is not None:
                    files.append(File(name.partition("[")[0], str(part.get_filename()), part.get_content_type(), held))
                elif name == "uploadManifest":
                    content = held
            if not files:  # it takes that for files that were too big
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

    def _create(self, data: dict[str, Any], files: list[File]) -> Answered:
        given = data.get("input")
        if not isinstance(given, dict):
            raise Refused(400, "ERROR_BAD_ARRAY", "input parameter must be an array of objects", help=True)
        ticket = given.get("items_id")
        if given.get("itemtype") != "Ticket" or not str(ticket).isdigit() or int(str(ticket)) not in self.tickets:
            # So it says of a ticket that there is none of, and where the type is left out, too.
            raise Refused(400, "ERROR_GLPI_ADD", "You don't have permission to perform this action.")
        if given.get("content") in (None, "", "0"):
            raise Refused(400, "ERROR_GLPI_ADD", "You can't add a followup without description")
        private = given.get("is_private") in (1, "1")  # left out, or under a wrong name, it is public
        kept = tuple((file.name, file.kind, file.content) for file in files if not self._bad(file))
        self.followups.append(Followup(int(str(ticket)), given["content"], private, kept))
        number = len(self.followups)
        answer: dict[str, Any] = {"id": number, "message": ""}
        if files:  # that a file was not taken is said here only, and of no part but the first
            part = files[0].part
            answer["upload_result"] = {
                part: [
                    {"name": file.name, **({"error": "Filetype not allowed"} if self._bad(file) else {})}
                    for file in files
                    if file.part == part
                ]
            }
        return Answered(201, answer, {"Location": f"{self.url}/ITILFollowup/{number}"})

    def _bad(self, file: File) -> bool:
        return file.name.endswith(self.refused_ending)

    def _found(self, number: str) -> int:
        if number.isdigit() and int(number) in self.hidden:
            raise Refused(403, "ERROR_RIGHT_MISSING", "You don't have permission to perform this action.")
        if not number.isdigit() or int(number) not in self.tickets:
            raise Refused(404, "ERROR_ITEM_NOT_FOUND", "Item not found")
        return int(number)

    def _get(self, number: str) -> Answered:
        if not number.isdigit() or not 0 < int(number) <= len(self.followups):
            raise Refused(404, "ERROR_ITEM_NOT_FOUND", "Item not found")
        return Answered(200, self._shown(int(number)))

    def _list(self, number: str, asked: Asked) -> Answered:
        ticket = self._found(number)
        sought = asked.query.get("searchText[content]", "").lower()
        of_it = [i for i, followup in enumerate(self.followups, 1) if followup.ticket == ticket]
        of_it = [i for i in of_it if sought in self.followups[i - 1].text.lower()]
        if asked.query.get("order", "ASC").upper() == "DESC":
            of_it.reverse()
        asked_for = asked.query.get("range")
        if asked_for is not None and not re.fullmatch(r"\d+-\d+", asked_for):
            raise Refused(400, "ERROR", "range must be in format : [start-end] with integers", help=True)
        first, last = map(int, (asked_for or f"0-{self.limit - 1}").split("-"))
        if first > len(of_it):
            message = f"Provided range exceed total count of data: {len(of_it)}"
            raise Refused(400, "ERROR_RANGE_EXCEED_TOTAL", message, help=True)
        shown = [self._shown(i) for i in of_it[first : last + 1]]
        # Where no range is asked for it counts one more than it shows, and so may call whole what lacks its last.
        told = min(last if asked_for else self.limit, len(of_it) - 1)
        headers = {"Accept-Range": "ITILFollowup 990"}
        if of_it:
            headers["Content-Range"] = f"{first}-{told}/{len(of_it)}"
        return Answered(206 if told - first + 1 < len(of_it) else 200, shown, headers)

    def _shown(self, number: int) -> dict[str, Any]:
        followup = self.followups[number - 1]
        return {
            "id": number,
            "itemtype": "Ticket",
            "items_id": followup.ticket,
            "users_id": 6,
            "content": followup.text,
            "is_private": int(followup.internal),
        }
