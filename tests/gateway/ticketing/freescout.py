"""A fake of FreeScout's API & Webhooks module."""

from __future__ import annotations

import base64
from typing import Any

from tests.gateway.ticketing.arrived import Arrived
from tests.gateway.ticketing.fake import Answered, Asked, Fake


def error(message: str, path: str) -> Answered:
    """Return FreeScout's answer to an invalid parameter."""
    errors = [{"path": path, "message": message, "source": "JSON"}]
    return Answered(400, {"message": "Error occurred", "_embedded": {"errors": errors}})


class Freescout(Fake):
    """A fake FreeScout with conversation 7 of a customer, and user 3. Its API key has all rights."""

    def __init__(self) -> None:
        super().__init__()
        self.key = "secret"
        self.customers = {7: "customer@example.org"}
        """The customers, by conversation."""
        self.users = {3}
        self.arrived: list[Arrived] = []
        self.threads: list[dict[str, Any]] = []
        """The threads that the API returns. A thread of an unknown type becomes a ``customer`` thread."""

    @property
    def url(self) -> str:
        """Return the URL with the path of the API."""
        return f"{super().url}/api"

    def answer(self, asked: Asked) -> Answered:
        path = asked.path.removeprefix("/api").strip("/").split("/")
        if asked.headers.get("x-freescout-api-key") != self.key:
            return Answered(401, {"message": "Not Authorized"})
        match asked.method, path:
            case "POST", ["conversations", number, "threads"]:
                return self._create(number, asked)
            case "GET", ["conversations", number] if self._known(number):
                return Answered(200, self._conversation(int(number), asked.query.get("embed") or "threads"))
            case "GET", ["users", number] if number.isdigit() and int(number) in self.users:
                return Answered(200, {"id": int(number), "email": "agent@example.org", "role": "user"})
            case _:
                return Answered(404, {"message": "Not Found", "_embedded": {"errors": []}})

    def _known(self, number: str) -> bool:
        return number.isdigit() and int(number) in self.customers

    def _create(self, number: str, asked: Asked) -> Answered:
        if not self._known(number):
            return Answered(404, {"message": "Not Found", "_embedded": {"errors": []}})
        # FreeScout ignores a body whose Content-Type is not JSON.
        data = asked.json if "json" in asked.headers.get("content-type", "") else {}
        for name in ("text", "type"):  # an empty text counts as present
            if name not in data:
                return error(f"`{name}` parameter is required", name)
        # FreeScout treats a thread of an unknown type as written by the customer, who then sees it.
        kind = data["type"] if data["type"] in {"message", "note", "customer"} else "customer"
        if kind != "customer" and data.get("user") not in self.users:
            return error("`user` parameter is required", "user")
        state = data.get("state") if data.get("state") in {"draft", "hidden"} else "published"
        arrived = Arrived(
            id=len(self.arrived) + 1,
            ticket=str(int(number)),
            text=data["text"] or "",
            html=True,
            internal=kind == "note",
            mailed=kind == "message" and state == "published" and not data.get("imported"),
            to=() if kind == "customer" else (self.customers[int(number)],),  # FreeScout ignores any other recipient
            cc=self._addresses(data.get("cc")),
            bcc=self._addresses(data.get("bcc")),
            attachments=tuple(self._attachments(data.get("attachments") or [])),
        )
        self.arrived.append(arrived)
        self.threads.append(self._shown(arrived, kind, str(state)))
        return Answered(201, self.threads[-1], {"Resource-ID": str(arrived.id)})

    @staticmethod
    def _addresses(given: Any) -> tuple[str, ...]:  # noqa: ANN401  any JSON value
        listed = given if isinstance(given, list) else str(given or "").split(",")
        return tuple(address.strip().lower() for address in listed if "@" in str(address))

    @staticmethod
    def _attachments(given: list[dict[str, Any]]) -> list[tuple[str, str, bytes]]:
        kept = []
        for file in given:
            content = base64.b64decode(file.get("data") or "")
            if file.get("fileName") and file.get("mimeType") and content:  # FreeScout silently drops any other file
                kept.append((file["fileName"], file["mimeType"], content))
        return kept

    def _conversation(self, number: int, embed: str) -> dict[str, Any]:
        of_it = [thread for thread, one in zip(self.threads, self.arrived, strict=True) if one.ticket == str(number)]
        shown = of_it[::-1] if "threads" in embed.split(",") else []
        customer = {"id": 91, "type": "customer", "email": self.customers[number]}
        return {"id": number, "threadsCount": len(of_it), "customer": customer, "_embedded": {"threads": shown}}

    @staticmethod
    def _shown(one: Arrived, kind: str, state: str) -> dict[str, Any]:
        files = [
            {"id": i, "fileName": name, "mimeType": kind_of_file, "size": len(content)}
            for i, (name, kind_of_file, content) in enumerate(one.attachments, 1)
        ]
        return {
            "id": one.id,
            "type": kind,
            "state": state,
            "body": one.text,
            "source": {"type": "api", "via": "customer" if kind == "customer" else "user"},
            "to": list(one.to),
            "cc": list(one.cc),
            "bcc": list(one.bcc),
            "_embedded": {"attachments": files},
        }
