"""A fake of Request Tracker, for replies with files. All queues have the custom field for the delivery key."""

from __future__ import annotations

import base64

from tests.gateway.ticketing.arrived import Arrived
from tests.gateway.ticketing.fake import Answered, Asked, Fake


class RequestTracker(Fake):
    """An RT in which every ticket exists."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived: list[Arrived] = []
        self._searches: set[str] = set()
        """The queries that find a transaction by its key."""

    def answer(self, asked: Asked) -> Answered:
        match asked.method, asked.path.removeprefix("/REST/2.0/").split("/"):
            case "GET", ["ticket", _]:
                return Answered(200, {"Queue": {"id": "1"}})
            case "GET", ["transactions" | "attachments"]:
                query = asked.query["query"]
                return Answered(200, {"count": int("Creator" in query or query in self._searches)})
            case "POST", ["ticket", ticket, "correspond" | "comment"]:
                given = asked.json
                for name in ("FileName", "FileType", "FileContent"):  # Perl treats an empty text as missing
                    if not all(attachment[name] for attachment in given["Attachments"]):
                        return Answered(400, {"message": f"{name} is a required field for each attachment"})
                files = tuple(
                    (
                        attachment["FileName"],
                        attachment["FileType"],
                        base64.b64decode(attachment["FileContent"], validate=True),
                    )
                    for attachment in given["Attachments"]
                )
                self._searches.add(f"CF.{{DeliveryKey}} = '{given['TxnCustomFields']['DeliveryKey']}'")
                self.arrived.append(Arrived(len(self.arrived) + 1, ticket, given["Content"], attachments=files))
                return Answered(201, ["Correspondence added"], {"Location": f"/transaction/{len(self.arrived)}"})
            case _:
                return Answered(404)
