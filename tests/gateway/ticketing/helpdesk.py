"""A fake of django-helpdesk's REST API, which uses Django REST framework."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from tests.gateway.ticketing.arrived import Arrived
from tests.gateway.ticketing.fake import Answered, Asked, Fake
from tests.gateway.ticketing.multipart import parts

BASE = "/helpdesk/api"
BROKEN = Answered(500, b"\n<!doctype html>\n<title>Server Error (500)</title>\n", {"Content-Type": "text/html"})
TRUE = ("true", "True", "1", 1, True)
FALSE = ("false", "False", "0", "", 0, False, None)
ENDINGS = ("", "txt", "asc", "pdf", "doc", "docx", "odt", "jpg", "png", "eml")
"""The file extensions that django-helpdesk accepts by default. HELPDESK_VALID_EXTENSIONS changes them."""
TAG = re.compile(r"{{.*?}}|{#.*?#}")


def rendered(tag: str, known: Mapping[str, str]) -> str:
    """Render a comment or a variable as Django does; a variable may be a quoted text.

    Raises:
        ValueError: the tag is neither a comment nor a variable.
    """
    inner = tag[2:-2].strip()
    if tag.startswith("{#"):
        return ""
    if text := re.fullmatch(r"'([^']*)'|\"([^\"]*)\"", inner):
        return text[1] or text[2] or ""
    if not re.fullmatch(r"[\w.]+", inner):
        raise ValueError(tag)
    return known.get(inner, "")


class Helpdesk(Fake):
    """A fake django-helpdesk with ticket 7, and tokens of a staff user and of another user.

    Requests cannot name recipients: a public entry goes to all followers of the ticket. Text may be Markdown.
    """

    def __init__(self) -> None:
        super().__init__()
        self.token = "secret"
        self.token_of_customer = "customer"
        self.titles = {7: "Broken printer"}
        self.arrived: list[Arrived] = []
        self.titles_of_followups: list[str] = []

    @property
    def url(self) -> str:
        """Return the URL with the API's path."""
        return super().url + BASE

    def answer(self, asked: Asked) -> Answered:
        path = asked.path.removeprefix(BASE)
        if not path.endswith("/"):
            return Answered(404, b"\n<!doctype html>\n<title>Not Found</title>\n", {"Content-Type": "text/html"})
        if refused := self._refused(asked):
            return refused
        match asked.method, path.strip("/").split("/"):
            case "POST", ["followups"]:
                return self._create(asked)
            case "GET", ["tickets"]:
                return self._page([self._ticket(number) for number in self.titles], asked)
            case "GET", ["tickets", number] if number.isdigit() and int(number) in self.titles:
                return Answered(200, self._ticket(int(number)))
            case "GET", ["tickets", _]:
                return Answered(404, {"detail": "No Ticket matches the given query."})
            case _:
                return Answered(405, {"detail": f'Method "{asked.method}" not allowed.'})

    def _refused(self, asked: Asked) -> Answered | None:
        who = {"WWW-Authenticate": "Token"}
        given = asked.headers.get("authorization")
        if given is None:
            return Answered(401, {"detail": "Authentication credentials were not provided."}, who)
        if given == f"Token {self.token_of_customer}":
            return Answered(403, {"detail": "You do not have permission to perform this action."})
        if given != f"Token {self.token}":
            return Answered(401, {"detail": "Invalid token."}, who)
        return None

    def _create(self, asked: Asked) -> Answered:
        kind = asked.headers.get("content-type", "")
        if not kind.startswith("multipart/form-data"):
            return Answered(415, {"detail": f'Unsupported media type "{kind}" in request.'})
        form = parts(asked)
        data = {part.field: part.content.decode() for part in form if part.name is None}
        files = [(str(part.name), part.kind, part.content) for part in form if part.field == "attachments"]
        if errors := self._errors(data, files):
            return Answered(400, errors)
        return self._keep(data, files)

    def _errors(self, data: dict[str, Any], files: list[tuple[str, str, bytes]]) -> dict[str, Any]:
        errors: dict[str, Any] = {}
        ticket = data.get("ticket", "")
        if ticket not in map(str, self.titles):  # also if the user may not access the ticket's queue
            errors["ticket"] = [f'Invalid pk "{ticket}" - object does not exist.']
        if data.get("public") not in TRUE + FALSE:
            errors["public"] = ["Must be a valid boolean."]
        if empty := {str(i): ["The submitted file is empty."] for i, file in enumerate(files) if not file[2]}:
            errors["attachments"] = empty
        return errors

    def _keep(self, data: dict[str, Any], files: list[tuple[str, str, bytes]]) -> Answered:
        ticket = int(data["ticket"])
        text = data.get("comment", "")
        # django-helpdesk renders the comment as a Django template, and leaves only {% %} tags unchanged.
        known = {"ticket.title": self.titles[ticket]}
        try:
            text = TAG.sub(lambda found: rendered(found[0], known), text)
        except (TypeError, ValueError):
            return BROKEN
        title = data.get("title") or self.titles[ticket]
        public = data.get("public", False) in TRUE  # an entry is private if the field is missing
        kept = tuple(file for file in files if PurePath(file[0]).suffix.lower().lstrip(".") in ENDINGS)
        mailed = public and bool(text) and len(kept) == len(files)
        self.arrived.append(
            Arrived(
                id=len(self.arrived) + 1,
                ticket=str(ticket),
                text=text,
                internal=not public,
                mailed=mailed,
                attachments=kept,
            )
        )
        self.titles_of_followups.append(title)
        if len(kept) < len(files):  # the entry is already stored, but no mail is sent
            return BROKEN
        self.titles[ticket] = title  # the title of a follow-up renames the ticket
        return Answered(201, self._shown(self.arrived[-1]))

    def _shown(self, one: Arrived) -> dict[str, Any]:
        return {
            "id": one.id,
            "ticket": int(one.ticket),
            "user": 1,
            "title": self.titles_of_followups[one.id - 1],
            "comment": one.text,
            "public": not one.internal,
            "followupattachment_set": [
                {"followup": one.id, "filename": name, "mime_type": kind, "size": len(content)}
                for name, kind, content in one.attachments
            ],
            "email_recipients": ["customer@example.org"] if one.mailed else [],
        }

    def _ticket(self, number: int) -> dict[str, Any]:
        of_it = [self._shown(one) for one in self.arrived if one.ticket == str(number)]
        return {"id": number, "title": self.titles[number], "followup_set": of_it}

    def _page(self, items: list[dict[str, Any]], asked: Asked) -> Answered:
        size, page = int(asked.query.get("page_size", 25)), int(asked.query.get("page", 1))
        if page > max(1, -(-len(items) // size)):
            return Answered(404, {"detail": "Invalid page."})
        more = f"{super().url}{asked.path}?page={page + 1}&page_size={size}" if page * size < len(items) else None
        return Answered(200, {"count": len(items), "next": more, "results": items[(page - 1) * size : page * size]})
