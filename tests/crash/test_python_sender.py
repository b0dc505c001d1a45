"""A pass that is killed while a function of the application sends a message."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from retrycli import load_settings
from retrycli.operations import wiring
from retrycli.operations.wiring import utc_now
from tests.cli.command import wait_until
from tests.conftest import on_both
from tests.crash import scene
from tests.crash.invariants import wait_until_forgotten

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.scene import Scene

pytestmark = on_both

CODE = """
import json, threading
from pathlib import Path
HERE = Path(__file__).parent
def send(message):
    with (HERE / "sent").open("a") as file:
        file.write(json.dumps([message.id, message.delivery_key, message.may_have_arrived]) + "\\n")
    if not (HERE / "opened").exists():
        threading.Event().wait()
"""
"""A sender that sends its message and then never returns, until the file ``opened`` exists."""


def sent(folder: Path) -> list[list[object]]:
    file = folder / "sent"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def set_up(folder: Path, url: str, name: str, *, unknown_limit: int) -> Scene:
    """Create an application with one failed message, and a sender in a module with its own name."""
    stage = scene.set_up(folder, "http://127.0.0.1:9", failed=1, url=url)
    (folder / f"{name}.py").write_text(CODE)
    settings = stage.config.read_text().replace(
        'base_url = "http://127.0.0.1:9"', f'kind = "python"\ncall = "{name}:send"\nunknown_limit = {unknown_limit}'
    )
    stage.config.write_text(settings)
    return stage


def kill_in_the_function(stage: Scene) -> None:
    with stage.start("-m", "retrycli", "run-once") as process:
        wait_until(lambda: bool(sent(stage.folder)), process)
        process.kill()
    wait_until_forgotten(stage)


@pytest.mark.parametrize("unknown_limit", [0, 2])
def test_a_message_whose_pass_was_killed_is_unknown_and_sent_again_only_within_the_limit(
    tmp_path: Path, url: str, unknown_limit: int
) -> None:
    stage = set_up(tmp_path, url, f"sender_of_{tmp_path.name}", unknown_limit=unknown_limit)
    kill_in_the_function(stage)
    assert stage.rows("SELECT status FROM pending_messages WHERE id = 1") == [("failed",)]

    (tmp_path / "opened").touch()
    lease = wiring.pass_rules(load_settings(stage.config)).lease
    later = utc_now() + lease + timedelta(seconds=1)
    recovered = stage.run_once_at(later)
    assert recovered.sent == 0
    assert stage.rows("SELECT outcome FROM retrycli_attempts") == [("unknown",)]
    assert len(sent(tmp_path)) == 1

    for day in range(1, 4):
        stage.run_once_at(later + timedelta(days=day))
    tries = sent(tmp_path)
    if unknown_limit == 0:
        assert len(tries) == 1
        assert stage.rows("SELECT state, escalation_reason FROM retrycli_queue") == [("escalated", "unknown")]
    else:
        [first, second] = tries
        assert first[:2] == second[:2], "the same delivery key"
        assert (first[2], second[2]) == (False, True)
        assert stage.rows("SELECT status FROM pending_messages WHERE id = 1") == [("sent",)]
