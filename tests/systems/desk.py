"""An application whose messages the installed command delivers to a real ticketing system."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from tests.cli.application import Application
    from tests.cli.command import Cli

BODY = 'Grüße, "quoted" & <b>not bold</b>,\n{brace} \\n 😀 日本\n\n  last line — ąę'
"""A body with characters that some systems have lost."""
FILES: Mapping[str, bytes] = {"Notizen.txt": "äöü\r\n\ttab\n".encode(), "Rechnung 日本 ü.pdf": bytes(range(256)) * 40}
REFUSED = 77
"""The exit code if the credentials are refused."""
EVERYTHING_DUE = (
    "UPDATE retrycli_queue SET next_attempt_at = '2026-01-01' WHERE state = 'waiting'",
    "UPDATE retrycli_queue SET claim_expires_at = '2026-01-01' WHERE state = 'sending'",
    "UPDATE retrycli_breakers SET probe_at = '2026-01-01' WHERE probe_at IS NOT NULL",
)
IN_SHORT = "SELECT status, retry_count FROM pending_messages WHERE id = ?"
ATTEMPTS = "SELECT outcome, error FROM retrycli_attempts WHERE message_id = ? ORDER BY number"
ESCALATED = """
    SELECT q.escalation_reason, m.last_error FROM retrycli_queue q JOIN pending_messages m ON m.id = q.message_id
    WHERE q.state = 'escalated' AND m.id = ?
"""


@dataclass(frozen=True)
class Desk:
    """The application, and the command configured for one system."""

    cli: Cli
    application: Application
    folder: Path
    """The folder of the attachments."""
    numbers: list[int] = field(default_factory=list)

    def having(self, **settings: object) -> Desk:
        """Return a copy with other settings of the gateway."""
        ours = {f"RETRYCLI_GATEWAY__{name.upper()}": str(value) for name, value in settings.items()}
        return Desk(self.cli.having(ours), self.application, self.folder, self.numbers)

    def fail(self, ticket: int, message_type: str = "customer", **columns: object) -> int:
        """Add a failed message; return its id."""
        number = len(self.numbers) + 1
        self.numbers.append(number)
        row: dict[str, Any] = {"body": BODY, "subject": "Re: Printer", "recipient_email": None, **columns}
        return self.application.add(number, ticket_id=ticket, message_type=message_type, **row)

    def attach(self, files: Mapping[str, bytes] = FILES) -> str:
        """Put files in the attachments' folder; return the value of the column that names them."""
        for name, content in files.items():
            (self.folder / name).write_bytes(content)
        return json.dumps(list(files))

    def run_once(self, code: int = 0) -> dict[str, Any]:
        """Run a pass; return its summary."""
        return self.cli.json("run-once", code=code)

    def ask_doctor(self, about: str) -> tuple[str, str]:
        """Return the finding of ``doctor`` about one check: level and reason."""
        lines = [line.split("\t") for line in self.cli("doctor").stdout.splitlines()]
        [found] = [(how, why) for how, what, why, _ in lines if what == about]
        return found

    def let_time_pass(self) -> None:
        """Make all waiting messages due, and expire the claims of dead passes."""
        for statement in EVERYTHING_DUE:
            self.application.execute(statement)

    def in_short(self, message_id: int) -> tuple[Any, ...]:
        """Return a message's status and retry count."""
        [found] = self.application.asked(IN_SHORT, message_id)
        return found

    def attempts(self, message_id: int) -> list[tuple[Any, ...]]:
        """Return the outcome and error of each attempt."""
        return self.application.asked(ATTEMPTS, message_id)

    def why_escalated(self, message_id: int) -> tuple[Any, ...]:
        """Return why a message is escalated, and its row's error."""
        [found] = self.application.asked(ESCALATED, message_id)
        return found


def shipped(name: str, folder: Path, *, settle_seconds: float) -> Path:
    """Copy a shipped preset with this settling time."""
    text = (resources.files("retrycli.gateway") / "presets" / f"{name}.toml").read_text()
    copy = folder / f"{name}.toml"
    without = re.sub(r"(?m)^settle_seconds = .*\n", "", text)
    copy.write_text(re.sub(r"(?m)^\[+look_up\]+$", rf"\g<0>\nsettle_seconds = {settle_seconds}", without))
    return copy


def texts(rows: Iterable[tuple[Any, ...]]) -> str:
    """Return the errors of all attempts in one text."""
    return " ".join(str(error) for _, error in rows)
