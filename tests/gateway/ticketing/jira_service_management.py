"""A fake of Jira Service Management, for comments on a request: its own API, and the underlying Jira's."""

from __future__ import annotations

import base64
from typing import Any

from tests.gateway.ticketing.arrived import Arrived
from tests.gateway.ticketing.fake import Answered, Asked, Fake
from tests.gateway.ticketing.multipart import parts

JSON = dict[str, Any]
Files = tuple[tuple[str, str, bytes], ...]

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
        self.default_public = True
        """Whether a comment is public by default in the desk's API. The default is not documented: don't rely on it."""
        self.shows_properties = True
        """Whether Jira shows the properties of a request's comments, which is documented only for an issue's."""
        self.limited = False
        self.retry_after = 5
        self.arrived: list[Arrived] = []
        self._comments: list[JSON] = []
        self._uploaded = 0
        self._temporary: dict[str, tuple[str, str, bytes]] = {}
        self._add("SUP-1", "It is broken.", public=True)

    def answer(self, asked: Asked) -> Answered:
        if self.limited:
            wait = {"Retry-After": str(self.retry_after), "X-RateLimit-Reset": "2026-10-01T08:00Z"}
            return Answered(429, b"Rate limit exceeded.", {**wait, "RateLimit-Reason": "jira-burst-based"})
        path = asked.path.strip("/").split("/")
        given = asked.headers.get("authorization")
        if given not in self._right:
            # Without credentials a client is anonymous and sees no issue: "not found" may mean "not logged in".
            if given is None and path[:2] == ["rest", "api"] and "issue" in path:
                return self._no_issue()
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
            case "POST", ["servicedesk", "7", "attachTemporaryFile"]:
                if asked.headers.get("x-atlassian-token") != "no-check":
                    return Answered(403, b"XSRF check failed", {"Content-Type": "text/html"})
                kept = []
                for part in parts(asked):
                    if part.field == "file" and part.name is not None:
                        self._uploaded += 1  # ids are never reused
                        made = f"temp{1000 + self._uploaded}"
                        self._temporary[made] = (part.name, part.kind, part.content)
                        kept.append({"temporaryAttachmentId": made, "fileName": part.name})
                nothing = _desk(400, "No file was given.", "sd.attachment.error.none")
                return Answered(201, {"temporaryAttachments": kept}) if kept else nothing
            case method, ["request", ticket, *what]:
                if ticket not in self.tickets - self.no_request:
                    text = "Either you don't have access to this request type, or it doesn't exist."
                    return _desk(404, text, "sd.customerview.error.vpOriginMissing")
                if method == "GET" and what == ["comment"]:
                    return self._desk_page(asked, ticket)
                if method == "GET" and what[:1] == ["comment"]:
                    found = [one for one in self._comments if [one["ticket"], one["id"]] == [ticket, *what[1:]]]
                    missing = _desk(404, "The comment does not exist.", "sd.comment.error.not.found")
                    return Answered(200, self._shown(found[0])) if found else missing
                if method == "GET" and not what:
                    return Answered(200, {"issueKey": ticket, "serviceDeskId": "7", "requestTypeId": "25"})
                if method == "POST" and what in (["comment"], ["attachment"]):
                    return self._desk_post(asked, ticket, what[0])
            case _:
                pass
        return Answered(404)

    def _desk_post(self, asked: Asked, ticket: str, what: str) -> Answered:
        try:
            given = asked.json
        except ValueError:
            return _desk(400, "Could not parse the request's JSON.", "sd.rest.error.malformed")
        if ticket in self.forbidden:
            return _desk(403, "You do not have permission to comment on this request.", "sd.comment.error.permission")
        public = given["public"] if isinstance(given.get("public"), bool) else self.default_public
        if what == "comment":
            if not (text := (given.get("body") or "").strip()):
                return _desk(400, "Comment body can not be empty!", "sd.comment.error.empty")
            return Answered(201, self._shown(self._add(ticket, text, public=public)))
        ids = given.get("temporaryAttachmentIds") or []
        if not ids or not set(ids) <= set(self._temporary):
            return _desk(400, "The temporary attachment does not exist.", "sd.attachment.error.missing")
        files = tuple(self._temporary.pop(one) for one in ids)
        text = (given.get("additionalComment") or {}).get("body") or ""
        added = self._add(ticket, text, public=public, files=files)
        values = [{"filename": name, "size": len(data), "mimeType": kind} for name, kind, data in files]
        page = {"size": len(values), "start": 0, "limit": 50, "isLastPage": True, "values": values}
        return Answered(201, {"comment": self._shown(added), "attachments": page})

    def _by_jira(self, asked: Asked, rest: list[str]) -> Answered:
        match asked.method, rest:
            case "GET", ["myself"]:
                who = {"accountId": "5b10", "emailAddress": self._email, "displayName": "Anna Agent", "active": True}
                return Answered(200, who)
            case method, ["issue", ticket, "comment"]:
                if ticket not in self.tickets:
                    return self._no_issue()
                return self._jira_post(asked, ticket) if method == "POST" else self._page(asked, ticket)
            case method, ["comment", number, "properties", key]:
                found = [one for one in self._comments if one["id"] == number]
                if not found:
                    return _jira(404, f"Can not find a comment for the id: {number}.")
                if method == "PUT":
                    found[0]["properties"][key] = asked.json
                    return Answered(201)
                if key not in found[0]["properties"]:
                    return _jira(404, f"The property with key '{key}' does not exist.")
                return Answered(200, {"key": key, "value": found[0]["properties"][key]})
            case _:
                return Answered(404)

    def _jira_post(self, asked: Asked, ticket: str) -> Answered:
        try:
            given = asked.json
        except ValueError:
            return _jira(400, "There was an error parsing JSON. Check that your request body is valid.")
        if not isinstance(given, dict) or set(given) - {"body", "properties", "visibility", "parentId"}:
            return _jira(400, "Invalid request payload. Refer to the REST API documentation and try again.")
        if ticket in self.forbidden:
            return _jira(400, "You do not have the permission to comment on this issue.")
        body = given.get("body")
        if body is not None and not isinstance(body, str):
            return _jira(400, comment="Comment body is not valid!")
        if not (text := (body or "").strip()):
            return _jira(400, comment="Comment body can not be empty!")
        # Jira accepts a property of any name, so a misspelt one leaves the comment public.
        properties = {one["key"]: one.get("value") for one in given.get("properties") or []}
        public = (properties.get(INTERNAL) or {}).get("internal") is not True
        return Answered(201, self._seen(self._add(ticket, text, public=public, properties=properties)))

    def _add(self, ticket: str, text: str, *, public: bool, files: Files = (), properties: JSON | None = None) -> JSON:
        number = 10001 + len(self._comments)
        kept = {INTERNAL: {"internal": not public}, **(properties or {})}
        # Jira adds links to the files at the end of a comment.
        named = "\n".join(f"[^{file[0]}]" for file in files)
        body = f"{text}\n\n{named}" if named else text
        added = {"id": str(number), "ticket": ticket, "body": body, "public": public, "properties": kept}
        if self._comments:  # the customer wrote the first comment
            self.arrived.append(
                Arrived(number, ticket, text, internal=not public, mailed=public, attachments=files, marks=kept)
            )
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

    def _desk_page(self, asked: Asked, ticket: str) -> Answered:
        wanted = [asked.query.get("internal", "true") != "false", asked.query.get("public", "true") != "false"]
        found = [self._shown(one) for one in self._comments if one["ticket"] == ticket and wanted[one["public"]]]
        start, limit = int(asked.query.get("start", 0)), min(int(asked.query.get("limit", 50)), 100)
        values = found[start : start + limit]
        page = {"size": len(values), "start": start, "limit": limit, "isLastPage": start + limit >= len(found)}
        return Answered(200, {**page, "values": values})

    def _page(self, asked: Asked, ticket: str) -> Answered:
        full = self.shows_properties and "properties" in asked.query.get("expand", "")
        found = [self._seen(one, properties=full) for one in self._comments if one["ticket"] == ticket]
        if asked.query.get("orderBy") == "-created":
            found.reverse()
        start, limit = int(asked.query.get("startAt", 0)), min(int(asked.query.get("maxResults", 100)), 100)
        page = {"startAt": start, "maxResults": limit, "total": len(found)}
        return Answered(200, {**page, "comments": found[start : start + limit]})
