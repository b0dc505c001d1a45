"""The story of one message: changes by the application, passes hours apart, and the requests that the API receives."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, cast

from sqlalchemy import make_url

from retrycli.config.settings import BreakerSettings
from retrycli.operations import run_pass, wiring
from retrycli.operations.sandbox import Answer, Behaviour, Sandbox
from tests.cli.api import REJECTS
from tests.cli.application import TABLES, TICKETS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from retrycli.config.settings import Settings
    from retrycli.domain.passes import PassSummary
    from tests.cli.application import Application, Row
    from tests.cli.command import Cli

LONGER_THAN_ANY_WAIT = timedelta(hours=6)
MADE, LATER = "2026-01-02 03:04:05", "2026-01-02 09:04:05"
"""The creation times of a row, and of a second row that reuses its id."""
TICKET, OTHER_TICKET = 4711, 4712
IMPATIENT_SECONDS = 0.2
ALREADY = "already delivered at"
LOST = "lost"
"""The API accepts the message but closes the connection without an answer."""
OK = "ok"
REFUSED: Answer = (200, {"succeeded": False, "messages": ["the ticket is locked"]})
PERMANENT = REJECTS


@dataclass(frozen=True)
class Sent:
    """One request that the API received."""

    key: str
    ticket: str
    body: str
    answer: object


class Api(Sandbox):
    """A ticketing API that honours idempotency keys and records every request.

    It gives its answers in turn, and repeats the last one.

    Args:
        answers: `OK`, `LOST`, or an HTTP answer to send unchanged.
    """

    def __init__(self, *answers: object) -> None:
        super().__init__(Behaviour(), rng=Random(0))
        self.answers = list(answers or [OK])
        self.requests: list[Sent] = []
        self.meanwhile: dict[int, Callable[[], object]] = {}
        """Callbacks to run during a request, keyed by the request's number, from 1."""

    def answer(self, method: str, path: str, key: str | None, body: bytes) -> Answer:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.requests.append(Sent(str(key), path.split("/")[2], str(json.loads(body)["body"]), answer))
        self.meanwhile.pop(len(self.requests), lambda: None)()
        if not isinstance(answer, str):
            return cast("Answer", answer)
        taken = super().answer(method, path, key, body)
        if answer == LOST:
            raise ConnectionAbortedError
        return taken

    @property
    def bodies(self) -> list[str]:
        return [request.body for request in self.requests]

    @property
    def keys(self) -> list[str]:
        return [request.key for request in self.requests]


@dataclass
class Story:
    """A database, the application behind it, an API, and a clock that moves with each pass."""

    application: Application
    api: Api
    command: Cli
    columns: frozenset[str]
    ahead: timedelta = timedelta(0)
    settings: Settings = field(init=False)

    def __post_init__(self) -> None:
        never = BreakerSettings(failures=1000)
        self.settings = self.application.settings(self.api.url).model_copy(update={"breaker": never})

    # -- the application --------------------------------------------------------------------------------------

    def insert(self, message_id: int = 1, /, **columns: object) -> int:
        """Insert a failed message, and return its id."""
        row: Row = {
            "id": message_id,
            "ticket_id": TICKET,
            "message_type": "customer",
            "recipient_email": "ana@example.com",
            "cc_emails": "[]",
            "bcc_emails": "[]",
            "subject": "Re: Invoice",
            "body": "a",
            "attachments": "[]",
            "status": "failed",
            "retry_count": 0,
            "last_error": "HTTP 503",
            "created_at": MADE,
            "updated_at": MADE,
            **columns,
        }
        self.application.insert("pending_messages", [{k: v for k, v in row.items() if k in self.columns}])
        return message_id

    def write(self, message_id: int = 1, /, **columns: object) -> None:
        """Change a row; the application sets ``updated_at`` if its table has this column."""
        if "updated_at" in self.columns:
            columns = {"updated_at": str((wiring.utc_now() + self.ahead).replace(tzinfo=None)), **columns}
        assignments = ", ".join(f"{name} = ?" for name in columns)
        statement = f"UPDATE pending_messages SET {assignments} WHERE id = ?"
        self.application.execute(statement, *columns.values(), message_id)

    def delete(self, message_id: int = 1) -> None:
        self.application.execute("DELETE FROM pending_messages WHERE id = ?", message_id)

    def replace(self, message_id: int = 1, /, **columns: object) -> None:
        """Delete a row and insert another message that gets the same id."""
        self.delete(message_id)
        self.insert(message_id, **columns)

    def snapshot(self) -> list[Row]:
        """Return the table's rows, for `restore`."""
        return list(self.application.rows().values())

    def restore(self, rows: Iterable[Row]) -> None:
        """Replace the table's rows with those of a backup."""
        self.application.execute("DELETE FROM pending_messages")
        written = [{name: json.dumps(it) if isinstance(it, list) else it for name, it in row.items()} for row in rows]
        self.application.insert("pending_messages", written)

    def set(self, section: str, **values: object) -> None:
        """Change settings of later passes."""
        changed = getattr(self.settings, section).model_copy(update=values)
        self.settings = self.settings.model_copy(update={section: changed})

    def be_impatient(self) -> None:
        """Make later passes wait at most `IMPATIENT_SECONDS` for a lock."""
        self.set("database", url=impatient(self.application.url))

    # -- passes and operators ---------------------------------------------------------------------------------

    def tick(self, wait: timedelta = LONGER_THAN_ANY_WAIT) -> PassSummary:
        """Run a pass whose clock is `wait` later than the previous pass's."""
        self.ahead += wait
        ahead = self.ahead
        return run_pass.run_once(
            self.settings, runtime=replace(wiring.DEFAULT_RUNTIME, now=lambda: wiring.utc_now() + ahead)
        )

    def ticks(self, number: int) -> None:
        for _ in range(number):
            self.tick()

    def operator(self, *args: str, code: int = 0) -> None:
        """Run a command, and check its exit code."""
        done = self.command(*args)
        assert done.returncode == code, done.stderr

    # -- what came of it --------------------------------------------------------------------------------------

    def status(self, message_id: int = 1) -> object:
        return self.application.row(message_id)["status"]

    def queued(self, message_id: int = 1) -> Row:
        """Return a message's row in the queue."""
        return self.application.rows("retrycli_queue")[message_id]

    def outcomes(self, message_id: int = 1) -> list[object]:
        """Return the outcomes of all attempts at a message."""
        rows = self.application.rows("retrycli_attempts").values()
        return [row["outcome"] for row in rows if row["message_id"] == message_id]

    def check_escalated(self, reason: str, message_id: int = 1) -> None:
        """Check that a message still has the status failed, and is escalated for this reason."""
        found = self.queued(message_id)
        assert (found["state"], found["escalation_reason"]) == ("escalated", reason)
        assert self.status(message_id) == "failed"

    def check_already_delivered(self, message_id: int = 1) -> None:
        """Check that a message is escalated because its text is recorded as delivered."""
        self.check_escalated("changed", message_id)
        assert ALREADY in str(self.application.row(message_id)["last_error"])

    def check_keys(self) -> None:
        """Check that no key was used for two texts, or used again after the API had confirmed its delivery."""
        texts: dict[str, str] = {}
        delivered = set()
        for request in self.api.requests:
            assert texts.setdefault(request.key, request.body) == request.body, self.api.requests
            assert request.key not in delivered, self.api.requests
            if request.answer == OK:
                delivered.add(request.key)


def impatient(url: str) -> str:
    """Return a database's URL with a short lock timeout."""
    there = make_url(url)
    seconds = IMPATIENT_SECONDS
    query = (
        {"timeout": str(seconds)}
        if there.get_backend_name() == "sqlite"
        else {"options": f"-c lock_timeout={seconds}s"}
    )
    return there.update_query_dict(query).render_as_string(hide_password=False)


Begin = Callable[..., AbstractContextManager[Story]]
"""A function that begins a story: the API gives these answers, and the table lacks the columns in ``without``."""


def tables_without(columns: Iterable[str]) -> str:
    """Return the statements that create the application's tables, without some columns."""
    tables = TABLES
    for column in columns:
        tables, found = re.subn(rf"\n    {column} [^,]+,", "", tables)
        assert found == 1, column
    return tables + TICKETS
