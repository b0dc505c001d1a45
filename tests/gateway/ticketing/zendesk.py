"""A fake of Zendesk Support's Ticketing API v2, for comments on a ticket."""

from __future__ import annotations

import base64
import re
from typing import Any, Literal

from tests.gateway.ticketing.arrived import Arrived
from tests.gateway.ticketing.fake import Answered, Asked, Fake

JSON = dict[str, Any]

AT = "2026-10-01T08:00:00Z"


def _invalid(field: str, text: str) -> Answered:
    details = {field: [{"description": text, "error": "InvalidValue"}]}
    return Answered(422, {"error": "RecordInvalid", "description": "Record validation errors", "details": details})


class Zendesk(Fake):
    """A Zendesk with tickets 1 and 2 (2 has only internal comments), 3 without access and 4 closed."""

    def __init__(
        self, email: str = "agent@example.com", token: str = "zendesk-token", *, bearer: str = "oauth"
    ) -> None:
        super().__init__()
        basic = base64.b64encode(f"{email}/token:{token}".encode()).decode()
        self._right = {f"Basic {basic}", f"Bearer {bearer}"}
        self._email = email
        self.tickets = {1, 2, 3, 4}
        self.private = {2}
        self.forbidden = {3}
        self.closed = {4}
        self.light = False
        """Whether the user is a light agent, whose comments are always internal."""
        self.shows_metadata = True
        self.by_cursor_only = False
        """Whether audits are paginated only by cursor. Then page numbers are ignored."""
        self.limited: Literal["", "account", "ticket"] = ""
        """The limit that is reached: for all requests, or for updates of one ticket."""
        self.retry_after = 93
        self.arrived: list[Arrived] = []
        self.ccs: dict[int, list[str]] = {}
        self._uploaded = 0
        self._uploads: dict[str, list[tuple[str, str, bytes]]] = {}
        self._audits: list[JSON] = []
        for ticket in sorted(self.tickets):
            self._audit(ticket, {"body": "It is broken.", "public": ticket not in self.private}, {}, ())

    def answer(self, asked: Asked) -> Answered:
        path = asked.path.removesuffix(".json").strip("/").split("/")
        if self.limited == "account":
            said = {
                "error": "APIRateLimitExceeded",
                "description": "Number of allowed API requests per minute exceeded",
            }
            return Answered(429, said, {"Retry-After": str(self.retry_after), "X-Rate-Limit": "700"})
        given = asked.headers.get("authorization")
        if given not in self._right:
            return Answered(401, {"error": "Couldn't authenticate you"})
        match asked.method, path:
            case "GET", ["api", "v2", "users", "me"]:
                who = {"id": 30, "email": self._email, "name": "Anna Agent", "role": "agent", "active": True}
                return Answered(200, {"user": who})
            case "POST", ["api", "v2", "uploads"]:
                return self._upload(asked)
            case "PUT", ["api", "v2", "tickets", ticket]:
                return self._refused(ticket) or self._update(asked, int(ticket))
            case "GET", ["api", "v2", "tickets", ticket, "audits"]:
                return self._refused(ticket) or self._page(asked, int(ticket))
            case _:
                return Answered(404, {"error": "InvalidEndpoint", "description": "Not found"})

    def _refused(self, ticket: str) -> Answered | None:
        if not ticket.isdigit() or int(ticket) not in self.tickets:
            return Answered(404, {"error": "RecordNotFound", "description": "Not found"})
        if int(ticket) in self.forbidden:
            text = "You do not have access to this page. Please contact the account owner of this help desk for help."
            return Answered(403, {"error": {"title": "Forbidden", "message": text}})
        return None

    def _ticket(self, ticket: int) -> JSON:
        status = "closed" if ticket in self.closed else "open"
        return {"id": ticket, "status": status, "is_public": ticket not in self.private, "updated_at": AT}

    def _upload(self, asked: Asked) -> Answered:
        if not (name := asked.query.get("filename")):
            return _invalid("filename", "Filename: cannot be blank")
        self._uploaded += 1  # tokens are never reused
        token = asked.query.get("token") or f"upload{self._uploaded}"
        kind = asked.headers.get("content-type", "application/binary")
        self._uploads.setdefault(token, []).append((name, kind, asked.body))
        file = {"id": 900 + self._uploaded, "file_name": name, "content_type": kind, "size": len(asked.body)}
        upload = {"token": token, "expires_at": AT, "attachment": file, "attachments": [file]}
        return Answered(201, {"upload": upload})

    def _update(self, asked: Asked, ticket: int) -> Answered:
        if self.limited == "ticket":
            text = b"Rate limit for ticket updates exceeded, please wait before updating this ticket again"
            kind = "text/html; charset=utf-8"
            return Answered(429, text, {"Content-Type": kind, "Retry-After": str(self.retry_after)})
        given = asked.json["ticket"]
        if ticket in self.closed:
            return _invalid("status", "Status: closed prevents ticket update")
        comment = given.get("comment") or {}
        if not (comment.get("html_body") or comment.get("body") or "").strip():
            # Zendesk answers 200 to a comment without text (or with a misspelt field name), and adds nothing.
            return Answered(200, {"ticket": self._ticket(ticket), "audit": {"ticket_id": ticket, "events": []}})
        for one in given.get("email_ccs") or []:
            if one.get("user_email") and one.get("action", "put") == "put":
                self.ccs.setdefault(ticket, []).append(one["user_email"])
        # Zendesk ignores unknown and used tokens.
        files = tuple(file for token in comment.get("uploads") or [] for file in self._uploads.pop(token, []))
        # Zendesk accepts metadata: {...} and metadata: {custom: {...}}, and returns the latter.
        metadata = given.get("metadata") or {}
        audit = self._audit(ticket, comment, metadata.get("custom") or metadata, files)
        return Answered(200, {"ticket": self._ticket(ticket), "audit": audit})

    def _audit(self, ticket: int, comment: JSON, custom: JSON, files: tuple[tuple[str, str, bytes], ...]) -> JSON:
        # Without a boolean "public", a comment has the visibility of its ticket.
        public = comment["public"] if isinstance(comment.get("public"), bool) else ticket not in self.private
        public = public and not self.light
        number = len(self._audits) + 1
        html = comment.get("html_body")
        text = html or comment["body"]
        kept = [{"id": n, "file_name": f[0], "content_type": f[1], "size": len(f[2])} for n, f in enumerate(files)]
        event = {
            "id": 5000 + number,
            "type": "Comment",
            "author_id": 30,
            "body": re.sub(r"<[^>]*>", "", text) if html else text,
            "html_body": f'<div class="zd-comment" dir="auto">{text}</div>',
            "plain_body": re.sub(r"<[^>]*>", "", text) if html else text,
            "public": public,
            "attachments": kept,
            "audit_id": 7000 + number,
        }
        metadata = {"system": {"client": "python-httpx", "ip_address": "192.0.2.1"}, "custom": custom}
        audit = {"id": 7000 + number, "ticket_id": ticket, "created_at": AT, "author_id": 30, "metadata": metadata}
        audit = {**audit, "events": [event], "via": {"channel": "api"}}
        self._audits.append(audit)
        if number > len(self.tickets):  # the customer wrote the first comment of each ticket
            if public:
                self.private.discard(ticket)
            self.arrived.append(
                Arrived(
                    id=5000 + number,
                    ticket=str(ticket),
                    text=text,
                    html=bool(html),
                    internal=not public,
                    mailed=public,
                    cc=tuple(self.ccs.get(ticket, [])) if public else (),  # the ticket keeps them for later comments
                    attachments=files,
                    marks=custom,
                )
            )
        return audit

    def _page(self, asked: Asked, ticket: int) -> Answered:
        found = [one for one in self._audits if one["ticket_id"] == ticket]
        if "-created_at" in asked.query.get("sort", "") or asked.query.get("sort_order") == "desc":
            found.reverse()
        if not self.shows_metadata:
            found = [{name: value for name, value in one.items() if name != "metadata"} for one in found]
        here = f"{self.url}/api/v2/tickets/{ticket}/audits.json"
        if self.by_cursor_only or "page[size]" in asked.query:
            start, size = int(asked.query.get("page[after]", 0)), min(int(asked.query.get("page[size]", 100)), 100)
            more = len(found) > start + size
            after = str(start + size) if more else None
            links = {"next": f"{here}?page[size]={size}&page[after]={after}" if more else None, "prev": None}
            meta = {"has_more": more, "after_cursor": after, "before_cursor": None}
            return Answered(200, {"audits": found[start : start + size], "meta": meta, "links": links})
        page, size = int(asked.query.get("page", 1)), min(int(asked.query.get("per_page", 100)), 100)
        following = f"{here}?page={page + 1}&per_page={size}" if len(found) > page * size else None
        shown = found[(page - 1) * size : page * size]
        return Answered(200, {"audits": shown, "next_page": following, "previous_page": None, "count": len(found)})
