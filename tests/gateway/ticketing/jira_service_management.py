"""A fake of Jira Service Management, for comments on a request: its own API, and the underlying Jira's."""

from __future__ import annotations

import base64
from typing import Any

from tests.gateway.ticketing.arrived import Arrived
from tests.gateway.ticketing.fake import Answered, Asked, Fake

JSON = dict[str, Any]

AT = "2026-10-01T08:00:00.000+0000"
INTERNAL = "sd.public.comment"
"""The property that makes a comment internal in Jira's own API."""


def _desk(status: int, text: str, key: str) -> Answered:
    return Answered(status, {"errorMessage": text, "i18nErrorMessage": {"i18nKey": key, "parameters": []}})


def _jira(status: int, *texts: str, **errors: str) -> Answered:
    return Answered(status, {"errorMessages": list(texts), "errors": errors})


class JiraServiceManagement(Fake):
    """A desk (id 7) with requests SUP-1 and SUP-2; SUP-3 accepts no comments, SUP-4 is an issue but not a request."""

    def __init__(self, email: str = "agent@example.com", token: str = "jira-token", *, pat: str = "jira-pat") -> None:
        super().__init__()
        basic = base64.b64encode(f"{email}:{token}".encode()).decode()
        self._right = {f"Basic {basic}", f"Bearer {pat}"}  # the forms of Jira Cloud and of Data Center
        self._email = email
        self.tickets = {"SUP-1", "SUP-2", "SUP-3", "SUP-4"}
        self.forbidden = {"SUP-3"}
        self.no_request = {"SUP-4"}
        self.shows_properties = True
        """Whether Jira shows the properties of a request's comments, which is documented only for an issue's."""
        self.limited = False
        self.retry_after = 5
        self.arrived: list[Arrived] = []
        self._comments: list[JSON] = []
        self._add("SUP-1", "It is broken.", public=True)

    def answer(self, asked: Asked) -> Answered:
        if self.limited:
            wait = {"Retry-After": str(self.retry_after), "X-RateLimit-Reset": "2026-10-01T08:00Z"}
            return Answered(429, b"Rate limit exceeded.", {**wait, "RateLimit-Reason": "jira-burst-based"})
        path = asked.path.strip("/").split("/")
        given = asked.headers.get("authorization")
        if given not in self._right:
            failed = {"X-Seraph-LoginReason": "AUTHENTICATED_FAILED"} if given else {}
            return Answered(401, {"message": "Client must be authenticated to access this resource."}, failed)
        match path:
            case ["rest", "servicedeskapi", *rest]:
                return self._by_desk(asked, rest)
            case ["rest", "api", "2", *rest]:  # version 3 needs structured documents, not text
                return self._by_jira(asked, rest)
            case _:
                return Answered(404)

    def _no_issue(self) -> Answered:
        return _jira(404, "Issue does not exist or you do not have permission to see it.")

    def _by_desk(self, asked: Asked, rest: list[str]) -> Answered:
        match asked.method, rest:
            case "GET", ["request", ticket, *what]:
                if ticket not in self.tickets - self.no_request:
                    text = "Either you don't have access to this request type, or it doesn't exist."
                    return _desk(404, text, "sd.customerview.error.vpOriginMissing")
                if what[:1] == ["comment"]:
                    found = [one for one in self._comments if [one["ticket"], one["id"]] == [ticket, *what[1:]]]
                    missing = _desk(404, "The comment does not exist.", "sd.comment.error.not.found")
                    return Answered(200, self._shown(found[0])) if found else missing
                if not what:
                    return Answered(200, {"issueKey": ticket, "serviceDeskId": "7", "requestTypeId": "25"})
            case _:
                pass
        return Answered(404)

    def _by_jira(self, asked: Asked, rest: list[str]) -> Answered:
        match asked.method, rest:
            case "GET", ["myself"]:
                who = {"accountId": "5b10", "emailAddress": self._email, "displayName": "Anna Agent", "active": True}
                return Answered(200, who)
            case method, ["issue", ticket, "comment"]:
                if ticket not in self.tickets:
                    return self._no_issue()
                return self._jira_post(asked, ticket) if method == "POST" else self._page(asked, ticket)
            case _:
                return Answered(404)

    def _jira_post(self, asked: Asked, ticket: str) -> Answered:
        given = asked.json
        if set(given) - {"body", "properties", "visibility", "parentId"}:
            return _jira(400, "Invalid request payload. Refer to the REST API documentation and try again.")
        if ticket in self.forbidden:
            return _jira(400, "You do not have the permission to comment on this issue.")
        if not (text := (given.get("body") or "").strip()):
            return _jira(400, comment="Comment body can not be empty!")
        # Jira accepts a property of any name, so a misspelt one leaves the comment public.
        properties = {one["key"]: one.get("value") for one in given.get("properties") or []}
        public = (properties.get(INTERNAL) or {}).get("internal") is not True
        return Answered(201, self._seen(self._add(ticket, text, public=public, properties=properties)))

    def _add(self, ticket: str, text: str, *, public: bool, properties: JSON | None = None) -> JSON:
        number = 10001 + len(self._comments)
        kept = {INTERNAL: {"internal": not public}, **(properties or {})}
        added = {"id": str(number), "ticket": ticket, "body": text, "public": public, "properties": kept}
        if self._comments:  # the customer wrote the first comment
            self.arrived.append(Arrived(number, ticket, text, internal=not public, mailed=public, marks=kept))
        self._comments.append(added)
        return added

    def _shown(self, one: JSON) -> JSON:
        author = {"accountId": "5b10", "displayName": "Anna Agent"}
        created = {"iso8601": AT, "epochMillis": 1790841600000}
        return {**{name: one[name] for name in ("id", "body", "public")}, "author": author, "created": created}

    def _seen(self, one: JSON, *, properties: bool = False) -> JSON:
        listed = [{"key": key, "value": value} for key, value in one["properties"].items()]
        more = {"properties": listed} if properties else {}
        return {"id": one["id"], "body": one["body"], "jsdPublic": one["public"], "created": AT, "updated": AT, **more}

    def _page(self, asked: Asked, ticket: str) -> Answered:
        full = self.shows_properties and "properties" in asked.query.get("expand", "")
        found = [self._seen(one, properties=full) for one in self._comments if one["ticket"] == ticket]
        if asked.query.get("orderBy") == "-created":
            found.reverse()
        start, limit = int(asked.query.get("startAt", 0)), min(int(asked.query.get("maxResults", 100)), 100)
        page = {"startAt": start, "maxResults": limit, "total": len(found)}
        return Answered(200, {**page, "comments": found[start : start + limit]})
