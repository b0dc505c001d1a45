"""A fake of Znuny's GenericTicketConnectorREST web service, which answers 200 even for most errors."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tests.gateway.ticketing.arrived import Arrived
from tests.gateway.ticketing.fake import Answered, Asked, Fake

BASE = "/znuny/nph-genericinterface.pl/Webservice/GenericTicketConnectorREST"
ADDRESS = re.compile(r"[^\s@<>,]+@[^\s@<>,.]+(\.[^\s@<>,.]+)+")
CONTENT_TYPE = re.compile(r"\w+/\w+.*charset\s*=\s*[\"']?[\w-]+", re.IGNORECASE | re.DOTALL)


class Refused(Exception):
    """A refusal that Znuny reports in an error object."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = f"{code.partition('.')[0]}: {message}"


class Fault(Exception):
    """A failure that Znuny reports as a fault. It keeps the changes made before."""


def reason(message: str) -> Answered:
    """Return an HTTP error with a message as plain text."""
    return Answered(500, message.encode(), {"Content-Type": "text/plain; charset=UTF-8"})


def true(value: object) -> bool:
    """Return whether Perl treats the value as true."""
    return value not in (None, "", "0", 0, False)


def many(value: Any) -> list[dict[str, Any]]:  # noqa: ANN401  any JSON value
    """Return a value as a list: Znuny accepts a single item instead of a list of one."""
    return value if isinstance(value, list) else [value] if value else []


def addresses(value: str | None) -> tuple[str, ...]:
    """Split addresses at commas."""
    return tuple(address.strip() for address in (value or "").split(",") if address.strip())


def well_formed(them: Iterable[str]) -> bool:
    """Return whether there is at least one address, and all are valid."""
    found = [ADDRESS.fullmatch(part) for part in them]
    return bool(found) and all(found)


def decoded(content: str) -> bytes:
    """Decode base64 as Perl does, which skips invalid characters."""
    return base64.b64decode(re.sub(r"[^A-Za-z0-9+/=]", "", content))


class Znuny(Fake):
    """A fake Znuny with an agent ``agent``, ticket 7 with write access, and ticket 8 without."""

    def __init__(self) -> None:
        super().__init__()
        self.password = "secret"
        self.tickets = {"7"}
        self.merged: set[str] = set()
        """Tickets that have been merged into others."""
        self.article_fields = {"DeliveryKey"}
        """Dynamic fields of articles that an administrator has created."""
        self.ticket_fields: set[str] = set()
        """Dynamic fields of tickets that an administrator has created."""
        self.fields_fail = False
        self.sessions: set[str] = set()
        """The valid sessions. Clear this set to expire them all."""
        self.signature = ""
        """The signature of the queue, appended to a mailed article."""
        self.text_numbers = False
        """Whether numbers from the database are returned as strings, which depends on its driver."""
        self.arrived: list[Arrived] = []
        """The articles that arrived. Their marks are the articles' own dynamic fields."""
        self.subjects: list[str] = []
        self._ticket_marks: dict[str, dict[str, Any]] = {}
        """The dynamic fields of each ticket."""

    @property
    def url(self) -> str:
        """Return the URL with the path to the web service, whose name the administrator has chosen."""
        return super().url + BASE

    def answer(self, asked: Asked) -> Answered:
        """Answer with the operation that method and path are mapped to."""
        path = asked.path.removeprefix(BASE)
        match asked.method, path.split("/")[1:]:
            case "POST", ["Session"]:
                return self._run(asked, {}, self._create_session)
            case "PATCH", ["Ticket", ticket]:
                return self._run(asked, {"TicketID": ticket}, self._update)
            case "GET", ["Ticket", ticket]:
                return self._run(asked, {"TicketID": ticket}, self._get)
            case _:
                return reason(f"HTTP::REST Error while determine Operation for request URI '{path}'.")

    def _run(self, asked: Asked, of_path: Mapping[str, str], operation: Callable[[dict[str, Any]], object]) -> Answered:
        data: Any = {}
        if asked.body and asked.method != "GET":
            data = asked.json
        try:
            result = operation({**data, **asked.query, **of_path})
        except Refused as refused:
            result = {"Error": {"ErrorCode": refused.code, "ErrorMessage": refused.message}}
        except Fault as fault:
            return reason(json.dumps({"faultcode": "Server", "faultstring": str(fault)}, separators=(",", ":")))
        return Answered(200, result, {"Content-Type": "application/json; charset=UTF-8"})

    def _ticket(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return a ticket without its articles."""
        state = "merged" if data["TicketID"] in self.merged else "open"
        ticket = {"TicketID": self._number(data["TicketID"]), "Title": "Broken printer", "StateType": state}
        marks = self._ticket_marks.get(data["TicketID"])
        if true(data.get("DynamicFields")) and marks:  # a ticket omits an empty field, an article does not
            return {**ticket, "DynamicField": [{"Name": name, "Value": value} for name, value in marks.items()]}
        return ticket

    def _known(self, data: Mapping[str, Any]) -> bool:
        if true(data.get("SessionID")):
            return data["SessionID"] in self.sessions
        return (data.get("UserLogin"), data.get("Password")) == ("agent", self.password)

    def _create_session(self, data: dict[str, Any]) -> object:
        if not true(data.get("Password")):
            raise Refused("SessionCreate.MissingParameter", "Password parameter is missing!")
        if not self._known({**data, "SessionID": ""}):
            raise Refused("SessionCreate.AuthFail", "Authorization failing!")
        session = f"session{len(self.asked):025}"
        self.sessions.add(session)
        return {"SessionID": session}

    def _update(self, data: dict[str, Any]) -> object:
        if not true(data.get("UserLogin")) and not true(data.get("SessionID")):
            raise Refused("TicketUpdate.MissingParameter", "UserLogin, CustomerUserLogin or SessionID is required!")
        if not self._known(data):
            raise Refused("TicketUpdate.AuthFail", "User could not be authenticated!")
        ticket = str(data["TicketID"])
        if ticket not in self.tickets:  # Znuny gives the same answer for a missing ticket
            raise Refused("TicketUpdate.AccessDenied", "User does not have access to the ticket!")
        for name in ("DynamicField", "Attachment"):
            if data.get(name) is not None and not data[name]:  # Znuny refuses an empty list, but not a missing one
                raise Refused("TicketUpdate.MissingParameter", f"{name} parameter is missing or not valid!")
        done = {"TicketID": ticket, "TicketNumber": f"20260101000000{ticket}"}
        if data.get("Article") is None:  # Znuny accepts an update without an article, or with the field's name misspelt
            return done
        if not data["Article"] or not isinstance(data["Article"], dict):
            raise Refused("TicketUpdate.InvalidParameter", "Article parameter is not valid!")
        article = {name: value.strip() if isinstance(value, str) else value for name, value in data["Article"].items()}
        self._check(article)
        fields = many(article.get("DynamicField")) + many(data.get("DynamicField"))
        files = many(data.get("Attachment"))
        self._check_more(fields, files)
        marks = self._store(ticket, article, many(article.get("Attachment")) + files)
        self._queue_mail(article)
        self._set_fields(fields, marks, self._ticket_marks.setdefault(ticket, {}))
        return {**done, "ArticleID": len(self.arrived)}

    @staticmethod
    def _check(article: Mapping[str, Any]) -> None:
        for name in ("Subject", "Body"):
            if not true(article.get(name)):
                raise Refused("TicketUpdate.MissingParameter", f"Article->{name} parameter is missing!")
        if article.get("CommunicationChannel", "Internal") not in {"Internal", "Email", "Phone"}:
            message = "Article->CommunicationChannel or Article->CommunicationChannelID parameter is invalid"
            raise Refused("TicketUpdate.InvalidParameter", f"{message} or not supported!")
        if true(article.get("ArticleSend")) and not well_formed(addresses(article.get("To"))):
            message = "Article->To parameter must be a valid email address when Article->ArticleSend is set!"
            raise Refused("TicketCreate.InvalidParameter", message)  # for an update too, Znuny reports TicketCreate
        if not article.get("ContentType"):
            message = "Article->ContentType or Ticket->MimeType and Article->Charset parameters are required!"
            raise Refused("TicketUpdate.MissingParameter", message)
        if not CONTENT_TYPE.match(article["ContentType"]):
            raise Refused("TicketUpdate.InvalidParameter", "Article->ContentType is invalid!")

    def _check_more(self, fields: list[dict[str, Any]], files: list[dict[str, Any]]) -> None:
        for field in fields:
            if field.get("Value") is None:
                raise Refused("TicketUpdate.MissingParameter", "DynamicField->Value parameter is missing!")
            if field.get("Name") not in self.article_fields | self.ticket_fields:
                raise Refused("TicketUpdate.InvalidParameter", "DynamicField->Name parameter is invalid!")
        for file in files:
            for name in ("Content", "ContentType", "Filename"):
                if not file.get(name):  # Znuny does not check files inside Article
                    raise Refused("TicketUpdate.MissingParameter", f"Attachment->{name} parameter is missing!")

    def _store(self, ticket: str, article: Mapping[str, Any], files: list[dict[str, Any]]) -> dict[str, Any]:
        """Store an article; return its dynamic fields, which are still empty."""
        sent = true(article.get("ArticleSend"))
        visible = article.get("IsVisibleForCustomer")
        marks: dict[str, Any] = {}
        kept = Arrived(
            id=len(self.arrived) + 1,
            ticket=ticket,
            text=article["Body"] + (self.signature if sent else ""),
            html=article["ContentType"].lower().startswith("text/html"),
            # An article is visible if the field is missing, misspelt or the string "false".
            internal=visible is not None and not true(visible),
            mailed=sent,  # even if the article is not visible
            to=addresses(article.get("To")),
            cc=addresses(article.get("Cc")),
            bcc=addresses(article.get("Bcc")),
            attachments=tuple((file["Filename"], file["ContentType"], decoded(file["Content"])) for file in files),
            marks=marks,
        )
        self.arrived.append(kept)
        subject = str(article["Subject"])
        self.subjects.append(f"[Ticket#20260101000000{ticket}] {subject}" if sent else subject)
        return marks

    @staticmethod
    def _queue_mail(article: Mapping[str, Any]) -> None:
        recipients = [address for name in ("To", "Cc", "Bcc") for address in addresses(article.get(name))]
        if true(article.get("ArticleSend")) and not well_formed(recipients):
            raise Fault("Article could not be created, please contact the system administrator")

    def _set_fields(self, fields: list[dict[str, Any]], of_article: dict[str, Any], of_ticket: dict[str, Any]) -> None:
        for field in fields:
            if self.fields_fail:
                name = field["Name"]
                raise Fault(f"Dynamic Field {name} could not be set, please contact the system administrator")
            into = of_article if field["Name"] in self.article_fields else of_ticket
            into[field["Name"]] = field["Value"]

    def _get(self, data: dict[str, Any]) -> object:
        if not self._known(data):
            raise Refused("TicketGet.AuthFail", "Authorization failing!")
        if not re.fullmatch(r"[1-9]\d*", data["TicketID"]):
            raise Refused("TicketGet.WrongStructure", "Invalid ticket ID parameter(s) found!")
        if data["TicketID"] not in self.tickets:
            raise Refused("TicketGet.AccessDenied", "User does not have access to the ticket!")
        ticket = self._ticket(data)
        of_it = [article for article in self.arrived if article.ticket == data["TicketID"]]
        if true(data.get("AllArticles")):
            ticket["Article"] = [self._from_customer(data), *(self._shown(article, data) for article in of_it)]
        return {"Ticket": [ticket]}

    def _from_customer(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the article that opened the ticket."""
        shown: dict[str, Any] = {"ArticleID": self._number(900), "SenderType": "customer", "Body": "It is broken."}
        if true(data.get("DynamicFields")):
            shown["DynamicField"] = [{"Name": name, "Value": None} for name in sorted(self.article_fields)]
        return {**shown, "IsVisibleForCustomer": self._number(1)}

    def _shown(self, article: Arrived, data: Mapping[str, Any]) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "ArticleID": self._number(article.id),
            "TicketID": self._number(article.ticket),
            "SenderType": "agent",
            "Subject": self.subjects[article.id - 1],
            # Znuny stores HTML as a file, and its text as the body.
            "Body": html.unescape(re.sub(r"<[^>]*>", "", article.text)) if article.html else article.text,
            "ContentType": "text/plain; charset=utf-8",
            "To": ", ".join(article.to),
            "Cc": ", ".join(article.cc),
            "Bcc": ", ".join(article.bcc),
            "IsVisibleForCustomer": self._number(int(not article.internal)),
        }
        if true(data.get("DynamicFields")) and self.article_fields:
            of_it = ((name, article.marks.get(name)) for name in sorted(self.article_fields))
            shown["DynamicField"] = [{"Name": name, "Value": value} for name, value in of_it]
        return shown

    def _number(self, value: int | str) -> int | str:
        return str(value) if self.text_numbers else int(value)
