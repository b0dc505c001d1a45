"""The application's own sender: a process that takes queued messages from the table, with its own connection."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cli.application import Application

PROGRAM = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from sqlalchemy import create_engine, text

url, folder = sys.argv[1], Path(sys.argv[2])
engine = create_engine(url)
now = lambda: datetime.now(UTC).replace(tzinfo=None)

def change(number, before, after, error):
    with engine.begin() as connection:
        return connection.execute(
            text("UPDATE pending_messages SET status = :after, last_error = :error, retry_count = retry_count + 1,"
                 " updated_at = :now WHERE id = :number AND status = :before"),
            {"after": after, "error": error, "now": str(now()), "number": number, "before": before},
        ).rowcount == 1

while not (folder / "stop").exists():
    with engine.connect() as connection:
        queued = connection.execute(text("SELECT id, body FROM pending_messages WHERE status = 'queued'")).all()
    for number, body in queued:
        if not change(number, "queued", "processing", None):
            continue
        if "bounce" in body:
            change(number, "processing", "failed", "550 no such user")
        else:
            with (folder / "mails").open("a") as file:
                file.write(f"{number}\\n")
            change(number, "processing", "sent", None)
    time.sleep(0.02)
"""


@contextmanager
def working(application: Application, folder: Path) -> Iterator[None]:
    """Let the application's sender work during the block."""
    (folder / "stop").unlink(missing_ok=True)
    with subprocess.Popen([sys.executable, "-c", PROGRAM, application.url, str(folder)]) as process:
        yield
        (folder / "stop").touch()
        assert process.wait(60) == 0


def mails(folder: Path) -> list[int]:
    """Return the messages that the sender has sent, in order."""
    file = folder / "mails"
    return [int(line) for line in file.read_text().split()] if file.exists() else []
