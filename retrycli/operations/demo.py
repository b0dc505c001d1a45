"""Run the main commands on the example database, against a ticketing API that sometimes fails."""

import os
import random
import shlex
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

from retrycli.config import template
from retrycli.config.loader import load
from retrycli.config.settings import Settings
from retrycli.domain import suggested
from retrycli.domain.user import Role
from retrycli.operations import tokens
from retrycli.operations.sandbox import Behaviour, Sandbox
from retrycli.operations.schedule.in_process import Scheduler
from retrycli.operations.wiring import utc_now
from retrycli.system.trust import copy_private, write_private

EXAMPLE = "ticketing_agent.db.example"
DATABASE, CONFIG = "ticketing_agent.db", "retrycli.toml"
EXAMPLE_TIME = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)  # "now" in the example; `copy_example` shifts all times
TIME_COLUMNS = (
    "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c "
    "WHERE m.type = 'table' AND (c.type IN ('DATETIME', 'TIMESTAMP') OR c.name IN ('birth', 'seen_updated_at'))"
)
FAIL = 0.3
# A fixed seed, and requests in a fixed order, make every demo show the same failures.
SEED = 9
IN_ORDER = {"schedule.jitter": 0, "run.concurrency": 1}


# The example's messages, as an application with UUIDs, integer statuses and JSON might store them.
OUTBOX = """
CREATE TABLE outbox (
    uid CHAR(36) PRIMARY KEY,
    ticket INTEGER NOT NULL,
    kind VARCHAR(20) NOT NULL,
    recipients TEXT,
    payload JSON NOT NULL,
    state INTEGER NOT NULL,
    created_at DATETIME NOT NULL,
    delivered_at DATETIME
);
INSERT INTO outbox
SELECT
    printf('%08x-8a6c-4d2e-9f10-%012x', (id * 2654435761) % 4294967296, id),
    ticket_id,
    CASE message_type WHEN 'customer' THEN 'reply' WHEN 'supplier' THEN 'order' ELSE 'note' END,
    recipient_email,
    json_object('title', subject, 'text', body),
    CASE status WHEN 'sent' THEN 1 WHEN 'failed' THEN 2 WHEN 'rejected' THEN 3 ELSE 0 END,
    created_at,
    sent_at
FROM pending_messages;
DROP TABLE pending_messages;
"""
OUTBOX_SETTINGS = """
[database.columns]
id = "uid"
ticket_id = "ticket"
message_type = { from = "kind", map = { reply = "customer", order = "supplier", note = "internal" } }
subject = { sql = "json_extract(payload, '$.title')" }
body = { sql = "json_extract(payload, '$.text')" }
recipient_email = { from = "recipients", split = "," }
status = "state"
retry_count = { own = true }
last_error = { own = true }
sent_at = "delivered_at"

[database.status]
pending = 0
sent = 1
failed = 2
rejected = 3
"""


@dataclass(frozen=True, slots=True)
class Demo:
    """An installation with the example database, and a simulated ticketing API that fails at times."""

    folder: Path
    sandbox: Sandbox

    def call(self, *arguments: str) -> None:
        """Run a real command in the demo's folder."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RETRYCLI_")}
        environment.pop("TICKETING_API_BASE_URL", None)
        subprocess.run([*suggested.full_program(), *arguments], cwd=self.folder, env=environment, check=True)  # noqa: S603


@contextmanager
def installation(more: Mapping[str, object] | None = None) -> Iterator[Demo]:
    """Set up a demo, with further settings. Its files are kept, so that the user can try more commands."""
    folder = Path(tempfile.mkdtemp(prefix="retrycli-demo-"))
    database = copy_example(folder / DATABASE, now=utc_now())
    with Sandbox(Behaviour(fail=FAIL), rng=random.Random(SEED)) as sandbox:  # noqa: S311  not used for secrets
        values = {"database.url": f"sqlite:///{database.name}", "gateway.base_url": sandbox.url, **IN_ORDER}
        write_private(folder / CONFIG, template.template(values | dict(more or {})))
        _print(f"A simulated ticketing API is running at {sandbox.url}; it fails {FAIL:.0%} of deliveries.")
        _print(f"The example database is {database}.\n")
        yield Demo(folder, sandbox)


def run_with_table() -> None:
    """Show how retrycli uses the table of another application: an outbox with UUIDs and integer statuses."""
    with installation({"database.table": "outbox"}) as demo:
        with closing(sqlite3.connect(demo.folder / DATABASE)) as connection:
            tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'retrycli_*'"
            for (name,) in connection.execute(tables).fetchall():  # they describe the example's own table
                connection.execute(f"DROP TABLE {name}")
            connection.executescript(OUTBOX)
        file = demo.folder / CONFIG
        file.write_text(file.read_text(encoding="utf-8") + OUTBOX_SETTINGS, encoding="utf-8")
        _print(f"The messages are in the table outbox. The settings in {file} describe it:\n{OUTBOX_SETTINGS}")
        _show(demo, "table describe outbox", "table check", "table accept --yes", "run-once", "list-failed")
        _print(f"The demo's files are kept in {demo.folder}.")


def _show(demo: Demo, *commands: str) -> None:
    for command in commands:
        _print(f"$ retrycli {command}")
        demo.call("--log-level", "INFO", *command.split())
        _print("")


def run() -> None:
    """Run the main commands one after another."""
    with installation() as demo:
        _show(demo, "status", "run-once", "list-failed", "escalations", "passes")
        kept = len(demo.sandbox.received)
    retrycli = suggested.full_program()
    program = suggested.NAME if suggested.program() == suggested.NAME else shlex.join(retrycli)
    _print(
        f"The API stored {kept} messages, each once. The demo's files are kept. To continue:\n\n"
        f"  {program} sandbox --fail 30%        # in another terminal; shows its address\n"
        f"  cd {shlex.quote(str(demo.folder))}\n"
        "  export TICKETING_API_BASE_URL=http://127.0.0.1:8808\n"
        f"  {program} show 4\n"
        f"  {program} retry 9"
    )


@contextmanager
def served() -> Iterator[tuple[Settings, str]]:
    """Set up a demo for the console: make a pass, and go on making passes. Yield also the token of an operator."""
    with installation({"web.tokens_file": "tokens.json"}) as demo:
        demo.call("--log-level", "ERROR", "run-once")
        settings = load(demo.folder / CONFIG, {}).settings
        with Scheduler(settings):
            yield settings, tokens.add(settings, "demo", Role.OPERATOR)


def copy_example(file: Path, *, now: datetime) -> Path:
    """Copy the packaged example database to a new file. Shift its times, so that `EXAMPLE_TIME` becomes ``now``.

    Raises:
        OSError: the file exists, or can't be written.
    """
    if file.exists():  # `copy_private` checks it again
        raise FileExistsError(file)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, EXAMPLE)  # SQLite would also use a journal that another user had put beside `file`
        with resources.as_file(resources.files("retrycli") / EXAMPLE) as path:
            # In a source checkout the example is beside the package.
            shutil.copyfile(path if path.is_file() else Path(__file__).parents[2] / EXAMPLE, made)
        with closing(sqlite3.connect(made)) as connection:
            for table, column in connection.execute(TIME_COLUMNS).fetchall():
                connection.execute(
                    f"UPDATE {table} SET {column} = strftime('%Y-%m-%d %H:%M:%f', {column}, ?)",  # noqa: S608  names from the packaged database
                    (f"{(now - EXAMPLE_TIME).total_seconds():+f} seconds",),
                )
            connection.commit()
        copy_private(file, made.read_bytes())
    return file


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201
