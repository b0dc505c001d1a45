"""An application with Python code of its own: functions that send messages and decide waits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cli.application import Application

HEAD = """
import asyncio, json, threading, time
from datetime import timedelta
from pathlib import Path
import retrycli

HERE = Path(__file__).parents[1]

def note(message):
    with (HERE / "sent").open("a") as file:
        file.write(json.dumps({"id": message.id, "key": message.delivery_key, "attempt": message.attempt}) + "\\n")

def hold(message):
    note(message)
    while not (HERE / "opened").exists():
        time.sleep(0.01)
"""
SEND = "def send(message):\n    note(message)\n"


@dataclass(frozen=True)
class Desk:
    """The application's folder, with its code, its database and retrycli's settings."""

    folder: Path
    application: Application

    def write(self, code: str = SEND, *, gateway: str = "", schedule: str = "", more: str = "") -> None:
        """Write the application's module ``desk.messages``, and settings that use its function ``send``."""
        package = self.folder / "desk"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
        (package / "messages.py").write_text(HEAD + code)
        (self.folder / "retrycli.toml").write_text(
            f'[database]\nurl = "{self.application.url}"\n[run]\nlock_file = "pass.lock"\n'
            f'[schedule]\n{schedule}\n[gateway]\nkind = "python"\ncall = "desk.messages:send"\n{gateway}\n{more}\n'
        )

    @property
    def sent(self) -> list[dict[str, Any]]:
        """Return what `note` recorded, in order."""
        file = self.folder / "sent"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def open(self) -> None:
        """Let `hold` return."""
        (self.folder / "opened").touch()
