"""A fake of Zammad's REST API for articles of a ticket, which is the same in versions 3 to 7."""

from __future__ import annotations

import base64
import json
from typing import Any

from tests.gateway.ticketing.arrived import Arrived
from tests.gateway.ticketing.fake import Answered, Asked, Fake

JSON = dict[str, Any]

TYPES = ("email", "sms", "chat", "fax", "phone", "twitter status", "note", "web")
FALSE = (None, False, 0, "0", "f", "F", "false", "FALSE", "False", "off", "OFF", "Off")
"""The values that Rails casts to false. Any other value is true."""
AT = "2026-10-01T08:00:00.000Z"


def _error(status: int, text: str) -> Answered:
    failure = {"X-Failure": text} if status in {401, 403} else {}
    return Answered(status, {"error": text, "error_human": text}, failure)


def _addresses(line: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (line or "").split(",") if part.strip())


class Zammad(Fake):
    """A Zammad with tickets 1 and 2, and ticket 3 in a group that the token's owner may not access."""

    def __init__(self, token: str = "zammad-token", *, login: str = "agent@example.com", password: str = "") -> None:
        super().__init__()
        basic = base64.b64encode(f"{login}:{password}".encode()).decode()
        self._right = {f"Token token={token}", f'Token token="{token}"', f"Bearer {token}"}
        self._right |= {f"Basic {basic}"} if password else set()
        self.tickets = {1, 2, 3}
        self.forbidden = {3}
        self.agent = True
        """Whether the token's owner has the permission ticket.agent. Without it, articles count as the customer's."""
        self.broken = ""
        """The error to answer with instead of storing an article. Users who are not admins see only an error number."""
        self.limited = False
        """Whether Rack::Attack refuses requests, by a rule that an admin added. Zammad itself has no limit here."""
        self.arrived: list[Arrived] = []
        self._articles: list[JSON] = []
        self._file = 0
        self._add({"ticket_id": 1, "body": "It is broken.", "type": "web", "sender": "Customer"})

    def answer(self, asked: Asked) -> Answered:
        if self.limited:
            return Answered(429, b"Retry later\n", {"Content-Type": "text/plain"})
        if asked.path.startswith("/api/v1/") and (refused := self._refused(asked.headers.get("authorization", ""))):
            return refused
        match asked.method, asked.path.strip("/").split("/"):
            case "GET", ["api", "v1", "users", "me"]:
                roles = [2] if self.agent else [3]
                return Answered(200, {"id": 3, "login": "agent@example.com", "active": True, "role_ids": roles})
            case "GET", ["api", "v1", "ticket_recent"]:
                recent = Answered(200, {"assets": {}, "ticket_ids_recent_viewed": []})
                return recent if self.agent else _error(403, "Not authorized")
            case "POST", ["api", "v1", "ticket_articles"]:
                return self._post(asked)
            case "GET", ["api", "v1", "ticket_articles", "by_ticket", ticket]:
                # All articles, oldest first, without pagination. A customer does not see internal articles.
                seen = [one for one in self._articles if str(one["ticket_id"]) == ticket]
                return self._no_ticket(ticket) or Answered(200, [x for x in seen if self.agent or not x["internal"]])
            case "GET", ["api", "v1", "ticket_articles", article]:
                found = [one for one in self._articles if str(one["id"]) == article]
                missing = _error(404, f"Couldn't find Ticket::Article with 'id'={article}")
                return Answered(200, found[0]) if found else missing
            case _:
                return _error(404, f"No route matches [{asked.method}] {asked.path}")

    def _refused(self, given: str) -> Answered | None:
        if given in self._right:
            return None
        return _error(401, "Invalid BasicAuth credentials" if given[:6] == "Basic " else "Can't find User for Token")

    def _no_ticket(self, ticket: object) -> Answered | None:
        if str(ticket) not in map(str, self.tickets):
            return _error(404, f"Couldn't find Ticket with 'id'={ticket}")
        return _error(403, "Not authorized") if str(ticket) in map(str, self.forbidden) else None

    def _post(self, asked: Asked) -> Answered:
        # Rails parses a body by its Content-Type, and ignores a body of another type.
        is_json = asked.headers.get("content-type", "").split(";")[0] == "application/json"
        given = asked.json if is_json else {}
        if self.broken:
            return Answered(422, {"error": self.broken})
        return self._no_ticket(given.get("ticket_id")) or self._wrong(given) or Answered(201, self._add(given))

    def _wrong(self, given: JSON) -> Answered | None:
        kind = given.get("type") or "note"
        if given.get("body") is None or not str(given["body"]).strip():
            return _error(422, "Need at least an 'article body' field.")
        if kind not in TYPES:
            return _error(422, f"No lookup value found for 'type': {json.dumps(kind)}")
        to = _addresses(given.get("to"))
        if kind == "email" and self.agent and not (to and all("@" in one for one in to)):
            return _error(422, "Sending an email without a valid recipient is not possible.")
        return None

    def _add(self, given: JSON) -> JSON:
        # Zammad silently drops unknown fields, so a misspelt "internal" makes an article public. Articles by a user
        # who is not an agent are always public, and have the type note or web.
        agent = self.agent and given.get("sender") != "Customer"
        kind = (given.get("type") or "note") if self.agent or given.get("type") == "web" else "note"
        internal = self.agent and given.get("internal") not in FALSE
        files = []
        for one in given.get("attachments") or []:
            self._file += 1
            size = str(len(base64.b64decode(one["data"])))  # a string in Zammad too
            kept = {"Mime-Type": one["mime-type"]}
            files.append({"id": self._file, "filename": one["filename"], "size": size, "preferences": kept})
        number = len(self._articles) + 1
        # Zammad replaces the id of a mail, which therefore can't hold the key. It stores preferences unchanged.
        own = f"<20261001080000.{given['ticket_id']}.{number}@zammad.example.com>"
        article: JSON = {
            **{name: given.get(name) for name in ("to", "cc", "subject", "body", "in_reply_to")},
            "id": number,
            "ticket_id": int(given["ticket_id"]),
            "type": kind,
            "sender": "Agent" if agent else "Customer",
            "from": "Anna Agent",
            "content_type": given.get("content_type") or "text/plain",
            "internal": internal,
            "message_id": own if kind == "email" and agent else given.get("message_id"),
            "preferences": given.get("preferences") or {},
            "attachments": files,
            "created_by_id": 3,
            "created_by": "agent@example.com",
            "created_at": AT,
            "updated_at": AT,
        }
        self._articles.append(article)
        if number > 1:  # the customer wrote the first article
            self.arrived.append(
                Arrived(
                    id=number,
                    ticket=str(given["ticket_id"]),
                    text=given["body"],
                    html="text/html" in article["content_type"].lower(),
                    internal=internal,
                    mailed=kind == "email" and agent,  # Zammad also mails internal articles of this type
                    to=_addresses(given.get("to")),
                    cc=_addresses(given.get("cc")),
                    attachments=tuple(
                        (one["filename"], one["mime-type"], base64.b64decode(one["data"]))
                        for one in given.get("attachments") or []
                    ),
                    marks=article["preferences"],
                )
            )
        return article
