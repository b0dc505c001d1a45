"""What the commands call, from Python: in an application with a scheduler of its own."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import retrycli
from retrycli.domain.outcome import OutcomeKind
from retrycli.domain.passes import MessageDelivered, PassResult
from tests.cli.api import BUSY, Scripted, held_back
from tests.cli.command import LONGEST, Finished, end
from tests.conftest import on_both
from tests.environment import BARE

if TYPE_CHECKING:
    from retrycli.domain.passes import Event
    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = on_both

MANUAL = Path(retrycli.__file__).parent / "manual" / "embedding.md"

LIVE_AND_LOOK = """
import asyncio
import httpx

async def live_and_look():
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
            messages = {"waiting": 4, "sending": 0}
            while messages["waiting"] + messages["sending"] > 1:
                await asyncio.sleep(0.01)  # poll
                answer = (await client.get("/deliveries")).json()
                messages = answer["messages"]
            print(answer)

asyncio.run(live_and_look())
"""

LIVE_ON = """
import contextlib
import io

async def live_on():
    with contextlib.redirect_stdout(io.StringIO()) as said:
        async with app.router.lifespan_context(app):
            [task] = asyncio.all_tasks() - {asyncio.current_task()}
            while not (said.getvalue() or task.done()):
                await asyncio.sleep(0.01)  # poll
            await asyncio.sleep(0)
            assert not task.done()
    print(said.getvalue())

asyncio.run(live_on())
"""


def test_a_pass_is_a_call_that_gives_its_summary_and_tells_its_events(
    application: Application, sandbox: Sandbox
) -> None:
    application.fill()
    told: list[Event] = []
    summary = retrycli.run_once(application.settings(sandbox.url), limit=2, listen=told.append)
    assert isinstance(summary, retrycli.PassSummary)
    assert (summary.result, summary.sent, summary.reason) == (PassResult.COMPLETED, 2, "limit")
    assert [each.message_id for each in told if isinstance(each, MessageDelivered)] == [5, 6]


def test_a_pass_is_made_from_a_running_event_loop_in_a_thread(application: Application, sandbox: Sandbox) -> None:
    application.fill()

    async def apply() -> retrycli.PassSummary:
        return await asyncio.to_thread(retrycli.run_once, application.settings(sandbox.url))

    assert asyncio.run(apply()).sent == 3


def test_what_sends_in_a_coroutine_is_refused_and_says_how_to_call_it(
    application: Application, sandbox: Sandbox
) -> None:
    """Nothing is claimed or sent, and nothing is left that was never awaited."""
    application.fill()
    settings = application.settings(sandbox.url)
    canary = retrycli.Canary(1)

    async def apply() -> None:
        for call in (
            lambda: retrycli.run_once(settings),
            lambda: retrycli.retry(settings, 5),
            lambda: retrycli.requeue(settings, [5], canary=canary),
        ):
            with pytest.raises(retrycli.RetrycliError, match=r"asyncio\.to_thread"):
                call()
        assert retrycli.status(settings).state == "never_run"

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(apply())
    assert (sandbox.received, application.rows("retrycli_queue")) == ((), {})


def test_a_pass_from_python_and_the_command_take_the_same_lock(cli: Cli, application: Application) -> None:
    """That the other holds it is a result here, and no error."""
    application.add(101)
    with held_back() as (sandbox, gate):
        process = cli.having(application.variables(sandbox.url)).start("run-once")
        assert gate.reached.wait(LONGEST)
        summary = retrycli.run_once(application.settings(sandbox.url), wait_lock_seconds=0)
        gate.opened.set()
        assert end(process).returncode == 0
    assert (summary.result, summary.reason) == (PassResult.SKIPPED, "lock_held")
    assert f"pid {process.pid} on " in str(summary.detail)


def test_status_is_a_value_with_the_same_facts_as_the_command(application: Application, sandbox: Sandbox) -> None:
    application.fill()
    settings = application.settings(sandbox.url)
    assert retrycli.status(settings).state == "never_run"
    retrycli.run_once(settings)
    status = retrycli.status(settings)
    assert isinstance(status, retrycli.Status)
    assert (status.state, status.running, status.messages["waiting"]) == ("ok", True, 1)


def test_a_retry_gives_its_outcome_and_refuses_with_an_error_of_retryclis(application: Application) -> None:
    application.fill()
    with Scripted(BUSY) as api:
        outcome = retrycli.retry(application.settings(api.url), 5)
        assert isinstance(outcome, retrycli.Outcome)
        assert (outcome.kind, outcome.status_code) == (OutcomeKind.TRANSIENT, 503)
        with pytest.raises(retrycli.RetrycliError, match="message 1 is sent"):
            retrycli.retry(application.settings(api.url), 1)


def test_settings_are_read_as_the_command_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "retrycli.toml"
    file.write_text('[gateway]\nbase_url = "http://one"\n')
    assert retrycli.load_settings(file).gateway.base_url == "http://one"
    assert retrycli.load_settings(str(file)).gateway.base_url == "http://one"


def test_importing_retrycli_loads_nothing_else() -> None:
    names = "print([each for each in sys.modules if each.startswith(('retrycli.', 'sqlalchemy', 'pydantic'))])"
    done = subprocess.run(
        [sys.executable, "-c", f"import retrycli, sys; {names}"], env=BARE, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def the_manuals_application(then: str, cwd: Path, variables: dict[str, str]) -> Finished:
    """Its code as it stands there, and what is done with it."""
    [code] = re.findall(r"```python\n(.+?)```", MANUAL.read_text(encoding="utf-8"), re.DOTALL)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code + then],
        env={**BARE, **variables},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )


def test_the_manuals_application_delivers_while_it_lives(cli: Cli, application: Application, sandbox: Sandbox) -> None:
    """FastAPI's lifespan begins the passes and ends them."""
    application.fill()
    done = the_manuals_application(LIVE_AND_LOOK, cli.cwd, application.variables(sandbox.url))
    assert (done.returncode, done.stderr) == (0, "")
    counts = {"waiting": 1, "due": 0, "sending": 0, "escalated": 0, "expired": 0, "expired_due": 0}
    assert done.stdout.endswith(f"{ {'state': 'ok', 'messages': counts} }\n")
    assert len(sandbox.received) == 3


def test_the_manuals_application_goes_on_after_a_pass_that_found_no_database(cli: Cli) -> None:
    """Or deliveries would be over for good, and nobody told."""
    gone = {"RETRYCLI_DATABASE__URL": "sqlite:///gone.db", "TICKETING_API_BASE_URL": "http://127.0.0.1:9"}
    done = the_manuals_application(LIVE_ON, cli.cwd, gone)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("no database at ")


def test_many_messages_are_found_and_acted_on(application: Application, sandbox: Sandbox) -> None:
    """Those that could not be acted on are a result, each with why."""
    settings = application.settings(sandbox.url)
    application.add(12, hours_ago=0)
    for each in (13, 14, 15, 16):
        application.add(each, retry_count=10)
    retrycli.run_once(settings)
    found = retrycli.find(settings, retrycli.Filter(error="503", message_type=retrycli.MessageType.CUSTOMER))
    assert list(found.ids) == [each.id for each in found.first] == [12, 13, 14, 15, 16]
    acknowledged = retrycli.acknowledge(settings, [13], by="anna")
    assert (acknowledged.matched, acknowledged.done, acknowledged.refused) == (1, 1, {})
    requeued = retrycli.requeue(settings, found.ids[1:4], canary=retrycli.Canary(1), by="anna")
    assert ([each.delivered for each in requeued.tried], requeued.done) == ([True], 2)
    rejected = retrycli.reject(settings, [13, 16], "a double", by="anna")
    assert (rejected.done, list(rejected.refused)) == (1, [13])
    assert "message 13 is sent, not failed" in str(rejected.refused[13])


def test_that_nothing_is_found_is_a_result(application: Application, sandbox: Sandbox) -> None:
    """It can be acted on: nothing is done."""
    settings = application.settings(sandbox.url)
    found = retrycli.find(settings, retrycli.Filter(ticket="none"))
    assert (list(found.ids), found.first) == ([], [])
    for act in (retrycli.requeue, retrycli.acknowledge, retrycli.mark_sent):
        done = act(settings, found.ids)
        assert (done.matched, done.done, done.left) == (0, 0, 0)
    assert retrycli.requeue(settings, found.ids, canary=retrycli.Canary(1)).matched == 0


@pytest.mark.parametrize(("old", "new"), [("Done", "ActionResult"), ("Found", "Match")])
def test_names_of_the_last_release_still_work_and_name_their_successor(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"retrycli\.{old} is now retrycli\.{new}"):
        assert getattr(retrycli, old) is getattr(retrycli, new)
