"""A fake of Freshdesk's API v2, for replies, notes and forwards of a ticket."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any

from tests.gateway.ticketing.arrived import Arrived
from tests.gateway.ticketing.fake import Answered, Asked, Fake
from tests.gateway.ticketing.multipart import parts

JSON = dict[str, Any]

AT = "2026-10-01T08:00:00Z"
REPLY = {"body": str, "from_email": str, "user_id": int, "cc_emails": list, "bcc_emails": list}
NOTE = {"body": str, "private": bool, "incoming": bool, "user_id": int, "notify_emails": list}
FORWARD = {
    "body": str,
    "from_email": str,
    "to_emails": list,
    "cc_emails": list,
    "bcc_emails": list,
    "include_quoted_text": bool,
    "include_original_attachments": bool,
}
TYPES = {str: "String", int: "Positive Integer", bool: "Boolean", list: "Array", dict: "key/value pair", float: "Float"}


def _invalid(field: str, text: str, code: str) -> Answered:
    wrong = {"field": field, "message": text, "code": code}
    return Answered(400, {"description": "Validation failed", "errors": [wrong]})


class Freshdesk(Fake):
    """A Freshdesk with tickets 1 and 2, and ticket 3 that the key's agent may not access."""

    def __init__(self, key: str = "freshdesk-key") -> None:
        super().__init__()
        self._key = key
        self.tickets = {1: "customer@example.com", 2: "other@example.com", 3: "third@example.com"}
        """The requesters, by ticket."""
        self.forbidden = {3}
        self.quoted: set[int] = set()
        """Tickets with a forward that disclosed more than its own text."""
        self.forwards_are_private = True
        self.limited = False
        self.retry_after = 42
        self.arrived: list[Arrived] = []
        self._said: list[JSON] = []

    def answer(self, asked: Asked) -> Answered:
        # Refused requests count towards the rate limit too, so Freshdesk checks the limit before the key.
        if self.limited:
            left = {"X-RateLimit-Total": "100", "X-RateLimit-Remaining": "0", "Retry-After": str(self.retry_after)}
            return Answered(429, {"message": "You have exceeded the limit of requests per minute"}, left)
        if not self._known(asked.headers.get("authorization", "")):
            text = "You have to be logged in to perform this action."
            return Answered(401, {"code": "invalid_credentials", "message": text})
        match asked.method, asked.path.strip("/").split("/"):
            case "GET", ["api", "v2", "agents", "me"]:
                who = {"name": "Anna Agent", "email": "agent@example.com", "active": True}
                return Answered(200, {"id": 30, "available": True, "type": "support_agent", "contact": who})
            case "POST", ["api", "v2", "tickets", ticket, "reply"]:
                return self._refused(ticket) or self._post(asked, int(ticket), REPLY, self._reply)
            case "POST", ["api", "v2", "tickets", ticket, "notes"]:
                return self._refused(ticket) or self._post(asked, int(ticket), NOTE, self._note)
            case "POST", ["api", "v2", "tickets", ticket, "forward"]:
                return self._refused(ticket) or self._post(asked, int(ticket), FORWARD, self._forward)
            case "GET", ["api", "v2", "tickets", ticket, "conversations"]:
                return self._refused(ticket) or self._page(asked, int(ticket))
            case _:
                return Answered(404)

    def _known(self, given: str) -> bool:
        # The key is sent as the user name. Freshdesk ignores the password.
        return base64.b64decode(given.removeprefix("Basic ")).decode().split(":")[0] == self._key

    def _refused(self, ticket: str) -> Answered | None:
        if not ticket.isdigit() or int(ticket) not in self.tickets:
            return Answered(404)  # with an empty body
        if int(ticket) in self.forbidden:
            text = "You are not authorized to perform this action."
            return Answered(403, {"code": "access_denied", "message": text})
        return None

    def _post(self, asked: Asked, ticket: int, known: dict[str, type], make: Callable[[int, JSON], JSON]) -> Answered:
        given: JSON = {}
        files: list[tuple[str, str, bytes]] = []
        kind = asked.headers.get("content-type", "").split(";")[0]
        if kind != "multipart/form-data":
            text = f"Content-Type header is set to {kind}. It should be set to multipart/form-data"
            return Answered(415, {"code": "invalid_content_type", "message": text})
        for part in parts(asked):
            field = part.field.removesuffix("[]")
            if part.field == "attachments[]" and part.name is not None:
                files.append((part.name, part.kind, part.content))
            elif part.field.endswith("[]"):
                given.setdefault(field, []).append(part.content.decode())
            else:
                text = part.content.decode()
                given[field] = text == "true" if known.get(field) is bool and text in {"true", "false"} else text
                given[field] = int(text) if known.get(field) is int and text.isdigit() else given[field]
        if wrong := self._wrong(given, known):
            return wrong
        common: JSON = {
            "id": 5001 + len(self._said),
            "ticket_id": ticket,
            "user_id": given.get("user_id", 30),
            # Freshdesk removes HTML comments, so a preset can't hide the key in one.
            "body": re.sub(r"<!--.*?-->", "", given["body"], flags=re.DOTALL),
            "body_text": re.sub(r"<[^>]*>", "", re.sub(r"<!--.*?-->", "", given["body"], flags=re.DOTALL)).strip(),
            "attachments": [
                {"id": n, "name": f[0], "content_type": f[1], "size": len(f[2])} for n, f in enumerate(files)
            ],
            "created_at": AT,
            "updated_at": AT,
        }
        said: JSON = {**common, **make(ticket, given)}
        self._said.append(said)
        private = said.get("private", False)
        self.arrived.append(
            Arrived(
                id=said["id"],
                ticket=str(ticket),
                text=given["body"],
                html=True,
                internal=private,
                mailed=known is not NOTE,
                to=tuple(said["to_emails"]),
                cc=tuple(given.get("cc_emails", [])),
                bcc=tuple(given.get("bcc_emails", [])),
                attachments=tuple(files),
            )
        )
        return Answered(201, said)

    @staticmethod
    def _wrong(given: JSON, known: dict[str, type]) -> Answered | None:
        # Freshdesk refuses unknown fields, so a misspelt "private" does not make a note public.
        for field, value in given.items():
            if (kind := known.get(field)) is None:
                return _invalid(field, "Unexpected/invalid field in request", "invalid_field")
            if type(value) is not kind:
                was = TYPES.get(type(value), "Null")
                return _invalid(
                    field, f"Value set is of type {was}.It should be a/an {TYPES[kind]}", "datatype_mismatch"
                )
            if isinstance(value, list) and not all(isinstance(one, str) and "@" in one for one in value):
                return _invalid(field, "It should contain elements of type valid email address only", "invalid_value")
        if known is FORWARD and not given.get("to_emails"):
            return _invalid("to_emails", "It should be a/an Array", "missing_field")
        if "body" not in given:
            return _invalid("body", "It should be a/an String", "missing_field")
        if not given["body"].strip():
            return _invalid("body", "It should not be blank as this is a mandatory field", "invalid_value")
        return None

    def _reply(self, ticket: int, given: JSON) -> JSON:
        to = [self.tickets[ticket]]  # Freshdesk sends every reply to the requester
        lists = {"cc_emails": given.get("cc_emails", []), "bcc_emails": given.get("bcc_emails", [])}
        return {"source": 0, "from_email": "support@example.com", "to_emails": to, "replied_to": to, **lists}

    def _forward(self, ticket: int, given: JSON) -> JSON:
        # By default, a forward contains the whole conversation and all its files.
        quiet = given.get("include_quoted_text") is given.get("include_original_attachments") is False
        self.quoted |= set() if quiet else {ticket}
        lists = {name: given.get(name, []) for name in ("to_emails", "cc_emails", "bcc_emails")}
        common = {"source": 8, "from_email": "support@example.com", "incoming": False}
        return {**common, "private": self.forwards_are_private, **lists}

    @staticmethod
    def _note(_: int, given: JSON) -> JSON:
        told = given.get("notify_emails", [])  # agents, not customers
        return {"source": 2, "private": given.get("private", True), "incoming": False, "to_emails": told}

    def _page(self, asked: Asked, ticket: int) -> Answered:
        page, size = int(asked.query.get("page", 1)), int(asked.query.get("per_page", 30))
        if not 0 < size <= 100:
            return _invalid("per_page", "It should be a Positive Integer less than or equal to 100", "invalid_value")
        usual: JSON = {"private": False, "incoming": False, "from_email": None, "cc_emails": [], "bcc_emails": []}
        found = [{**usual, **one} for one in self._said if one["ticket_id"] == ticket]
        here = f"{self.url}/api/v2/tickets/{ticket}/conversations?per_page={size}&page={page + 1}"
        more = {"Link": f'<{here}>; rel="next"'} if len(found) > page * size else {}
        return Answered(200, found[(page - 1) * size : page * size], more)
