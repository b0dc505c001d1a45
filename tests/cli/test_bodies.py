"""No command reads a body but those that show, change or send it."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from retrycli.cli import HOMES
from tests.cli.watched import FOUND
from tests.store.application import Application

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrycli.operations.sandbox import Sandbox
    from tests.cli.command import Cli

BODY = "Dear Ms Oyelaran"
ROOT = Path(__file__).parents[2]

LOOKING = (
    *("status", "passes", "metrics", "stats --by type", "report --html -", "doctor", "config check"),
    *("list-failed --error HTTP", "escalations", "escalations --json", "run-once --dry-run", "explain 1", "explain 3"),
)
REQUEUE = "requeue 3 --at 2h"
"""It builds the request, to see if the message can be sent."""
ACTING = (
    *(
        "pause",
        "resume",
        "table accept --yes",
        "db prune --older-than 1d --yes",
        REQUEUE,
        "reject 4 --reason no",
    ),
    *("escalations ack --error recipient --yes", "escalations note 6 tea"),
)
WITH_BODIES = ("show 1", "edit 1 --subject tea --yes", "mark-sent 5 --yes", "retry 2", "run-once --limit 1")
"""They show it, compare it before it is written, record what was delivered, and send it."""
NEEDS_A_LOOK_UP = {"look-up"}
"""It reads the text to know its key. The generic preset has no look-up."""
FIRST = "run-once"
"""It escalates messages as it takes them in, and reads their texts to notice when these change."""
ELSEWHERE = {"init", "cron", "sandbox", "demo", "manual", "notify", "version", "presets", "deliver-test"}
"""They know no application's messages."""


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Application]:
    (tmp_path / "agent.db").touch()
    made = Application(f"sqlite:///{tmp_path / 'agent.db'}")
    yield made
    made.close()


@pytest.mark.slow
def test_a_body_is_read_by_those_commands_alone_that_show_change_or_send_it(
    cli: Cli, application: Application, sandbox: Sandbox
) -> None:
    """Each statement of each command is carried out once more, to see what is in its rows."""
    made = {"body": BODY, "created_at": datetime.now(UTC).replace(tzinfo=None)}
    application.add_all([made | {"retry_count": 5, "updated_at": made["created_at"]}] * 2)
    application.add_all([made | {"retry_count": 10, "last_error": f"no recipient {each}"} for each in range(6)])
    application.add(**made, cc_emails="no JSON")
    cli = cli.having({"RETRYCLI_DATABASE__URL": application.url, "RETRYCLI_GATEWAY__BASE_URL": sandbox.url})
    assert cli("passes").returncode == 0  # makes the tables
    watched = replace(cli, program=(sys.executable, "-m", "tests.cli.watched", BODY)).having({"PYTHONPATH": str(ROOT)})
    done = {each: watched(*shlex.split(each)) for each in (FIRST, "run-once --limit 9")}
    done |= watched.show_all(piped=LOOKING).piped
    done |= {each: watched(*shlex.split(each)) for each in ACTING}
    assert not sandbox.received
    application.add(body=BODY)
    done |= {each: watched(*shlex.split(each)) for each in WITH_BODIES}
    ended = {each: (it.returncode, it.stderr) for each, it in done.items() if it.returncode and each != "doctor"}
    assert not ended
    assert {each for each, it in done.items() if FOUND in it.stderr} == {FIRST, REQUEUE, *WITH_BODIES}
    assert len(sandbox.received) == 2


def test_each_command_is_looked_at() -> None:
    named = {each.split()[0] for each in (*LOOKING, *ACTING, *WITH_BODIES)}
    assert named | ELSEWHERE | NEEDS_A_LOOK_UP == set(HOMES)
