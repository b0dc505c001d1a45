"""A fake of Redmine, for notes with files, which are uploaded first. Every user is an admin."""

from __future__ import annotations

from tests.gateway.ticketing.arrived import Arrived
from tests.gateway.ticketing.fake import Answered, Asked, Fake


class Redmine(Fake):
    """A Redmine in which every issue exists."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived: list[Arrived] = []
        self._uploads: dict[str, bytes] = {}

    def answer(self, asked: Asked) -> Answered:
        match asked.method, asked.path.removesuffix(".json").strip("/").split("/"):
            case "GET", ["issues", ticket]:
                journals = [{"notes": message.text} for message in self.arrived if message.ticket == ticket]
                return Answered(200, {"issue": {"project": {"id": 1}, "journals": journals}})
            case "GET", ["users", "current"]:
                return Answered(200, {"user": {"admin": True, "memberships": []}})
            case "POST", ["uploads"]:
                token = f"upload{len(self._uploads) + 1}"
                self._uploads[token] = asked.body
                return Answered(201, {"upload": {"token": token}})
            case "PUT", ["issues", ticket]:
                given = asked.json["issue"]
                files = tuple(
                    (entry["filename"], entry["content_type"], self._uploads.pop(entry["token"]))
                    for entry in given.get("uploads", [])
                )
                self.arrived.append(Arrived(len(self.arrived) + 1, ticket, given["notes"], attachments=files))
                return Answered(204)
            case _:
                return Answered(404)
