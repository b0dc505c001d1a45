"""The commands' operations, called from Python in an application with its own scheduler."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import warnings
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

import retrycli
from retrycli.domain.outcome import OutcomeKind
from retrycli.domain.passes import MessageDelivered, PassResult
from tests.cli.api import BUSY, Scripted, held_back
from tests.cli.command import LONGEST, end
from tests.conftest import on_both
from tests.environment import BARE

if TYPE_CHECKING:
    from retrycli.domain.passes import Event
    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = on_both


def test_a_pass_returns_its_summary_and_reports_its_events(application: Application, sandbox: Sandbox) -> None:
    application.fill()
    settings = application.settings(sandbox.url)
    told: list[Event] = []
    summary = retrycli.run_once(settings, limit=2, listen=told.append)
    assert isinstance(summary, retrycli.PassSummary)
    assert (summary.result, summary.sent, summary.reason) == (PassResult.COMPLETED, 2, "limit")
    assert [event.message_id for event in told if isinstance(event, MessageDelivered)] == [5, 6]
    status = retrycli.status(settings)
    assert isinstance(status, retrycli.Status)
    assert (status.state, status.running, status.messages["waiting"]) == ("ok", True, 2)


def test_a_call_within_a_coroutine_is_refused_with_a_remedy(application: Application, sandbox: Sandbox) -> None:
    """The call would block the event loop, so it is refused before it claims or sends anything."""
    application.fill()
    settings = application.settings(sandbox.url)
    canary = retrycli.Canary(1)

    async def apply() -> retrycli.PassSummary:
        for call in (
            lambda: retrycli.run_once(settings),
            lambda: retrycli.retry(settings, 5),
            lambda: retrycli.requeue(settings, [5], canary=canary),
        ):
            with pytest.raises(retrycli.RetrycliError, match=r"asyncio\.to_thread"):
                call()
        assert retrycli.status(settings).state == "never_run"
        assert (sandbox.received, application.rows("retrycli_queue")) == ((), {})
        return await asyncio.to_thread(retrycli.run_once, settings)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert asyncio.run(apply()).sent == 3


def test_passes_from_python_and_the_command_share_one_lock(cli: Cli, application: Application) -> None:
    """If the command holds the lock, a pass from Python raises no error but returns the reason."""
    application.add(101)
    with held_back() as (sandbox, gate):
        process = cli.having(application.variables(sandbox.url)).start("run-once")
        assert gate.reached.wait(LONGEST)
        summary = retrycli.run_once(application.settings(sandbox.url), wait_lock_seconds=0)
        gate.opened.set()
        assert end(process).returncode == 0
    assert (summary.result, summary.reason) == (PassResult.SKIPPED, "lock_held")
    assert f"pid {process.pid} on " in str(summary.detail)


def test_a_retry_returns_its_outcome_or_raises_a_retrycli_error(application: Application) -> None:
    application.fill()
    with Scripted(BUSY) as api:
        outcome = retrycli.retry(application.settings(api.url), 5)
        assert isinstance(outcome, retrycli.Outcome)
        assert (outcome.kind, outcome.status_code) == (OutcomeKind.TRANSIENT, 503)
        with pytest.raises(retrycli.RetrycliError, match="message 1 is sent"):
            retrycli.retry(application.settings(api.url), 1)


def test_importing_retrycli_loads_no_other_module() -> None:
    names = "print([each for each in sys.modules if each.startswith(('retrycli.', 'sqlalchemy', 'pydantic'))])"
    done = subprocess.run(
        [sys.executable, "-c", f"import retrycli, sys; {names}"], env=BARE, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_finds_and_acts_on_many_messages(application: Application, sandbox: Sandbox) -> None:
    """A message that can't be changed raises no error; the result has the reason."""
    settings = application.settings(sandbox.url)
    application.add(12, hours_ago=0)
    for message_id in (13, 14, 15, 16):
        application.add(message_id, retry_count=10)
    retrycli.run_once(settings)
    found = retrycli.find(settings, retrycli.Filter(error="503", message_type=retrycli.MessageType.CUSTOMER))
    assert list(found.ids) == [message.id for message in found.first] == [12, 13, 14, 15, 16]
    acknowledged = retrycli.acknowledge(settings, [13], by="anna")
    assert (acknowledged.matched, acknowledged.done, acknowledged.refused) == (1, 1, {})
    requeued = retrycli.requeue(settings, found.ids[1:4], canary=retrycli.Canary(1), by="anna")
    assert ([attempt.delivered for attempt in requeued.tried], requeued.done) == ([True], 2)
    rejected = retrycli.reject(settings, [13, 16], "a double", by="anna")
    assert (rejected.done, list(rejected.refused)) == (1, [13])
    assert "message 13 is sent, not failed" in str(rejected.refused[13])


def test_lists_page_by_page_and_shows_each_message(application: Application, sandbox: Sandbox) -> None:
    settings = application.settings(sandbox.url)
    for message_id in range(11, 18):
        application.add(message_id, hours_ago=0)
    found, after = [], None
    while True:
        page = retrycli.list_failed(settings, retrycli.Filter(error="503"), sort="id", after=after, limit=3)
        assert isinstance(page, retrycli.Page)
        found += page.messages
        after = page.next
        if after is None:
            break
    assert [message.id for message in found] == [*range(11, 18)]
    assert isinstance(found[0], retrycli.ListedMessage)
    shown = retrycli.show(settings, 11)
    assert isinstance(shown, retrycli.MessageDetails)
    assert shown.row["body"] == "It is attached."
    explained = retrycli.explain(settings, 11)
    assert isinstance(explained, retrycli.Explanation)
    assert [gate.name for gate in explained.gates if not gate.open] == ["wait", "cron"]
    for call in (retrycli.show, retrycli.explain):
        with pytest.raises(retrycli.NoSuchMessage, match="no message 99"):
            call(settings, 99)


def test_an_edit_names_the_text_that_it_changes(application: Application, sandbox: Sandbox) -> None:
    """Two operators edit one message; the second learns of the first edit."""
    settings = application.settings(sandbox.url)
    application.add(11, hours_ago=0)
    first = retrycli.edit(settings, 11, recipient="bo@example.com", by="anna")
    assert isinstance(first, retrycli.Edit)
    assert first.changed == ["recipient_email"]
    second = retrycli.edit(settings, 11, subject="Re: bill", body="a\r\nb", digest=first.digest, by="anna")
    assert second.changed == ["subject", "body"]
    with pytest.raises(retrycli.StaleEdit, match="message 11 was modified since you read it"):
        retrycli.edit(settings, 11, subject="Re: invoice", digest=first.digest)
    same = retrycli.edit(settings, 11, subject="Re: bill", digest=second.digest)
    assert (same.changed, same.digest) == ([], second.digest)
    row = application.row(11)
    assert (row["subject"], row["body"], row["recipient_email"]) == ("Re: bill", "a\r\nb", "bo@example.com")
    application.add(1, status="sent")
    with pytest.raises(retrycli.NotActionable, match="message 1 is sent, not failed"):
        retrycli.edit(settings, 1, subject="x")


def test_pauses_and_resumes_deliveries_and_lists_the_passes(application: Application, sandbox: Sandbox) -> None:
    settings = application.settings(sandbox.url)
    begun, replaced = retrycli.pause(settings, length=timedelta(hours=2), reason="API migration", by="anna")
    assert isinstance(begun, retrycli.Pause)
    assert replaced is None
    assert retrycli.run_once(settings).result is PassResult.PAUSED
    assert retrycli.resume(settings, by="anna") == begun
    assert retrycli.resume(settings) is None
    retrycli.run_once(settings)
    newest = retrycli.passes(settings, limit=1)
    assert isinstance(newest, retrycli.PassList)
    [older] = retrycli.passes(settings, after=newest.next).passes
    assert isinstance(older, retrycli.PassRecord)
    assert [record.result for record in (*newest.passes, older)] == [PassResult.COMPLETED, PassResult.PAUSED]
    assert [pause.act for pause in newest.pauses] == ["resumed"]
    with pytest.raises(retrycli.InvalidArgument, match="not a valid cursor"):
        retrycli.passes(settings, after="17")


def test_every_public_name_can_be_imported() -> None:
    assert [name for name in retrycli.__all__ if getattr(retrycli, name) is None] == []
    assert sorted(retrycli.__all__) == sorted(name for names in retrycli._NAMES.values() for name in names)


def test_an_empty_result_is_valid(application: Application, sandbox: Sandbox) -> None:
    settings = application.settings(sandbox.url)
    found = retrycli.find(settings, retrycli.Filter(ticket="none"))
    assert (list(found.ids), found.first) == ([], [])
    for act in (retrycli.requeue, retrycli.acknowledge, retrycli.mark_sent):
        done = act(settings, found.ids)
        assert (done.matched, done.done, done.left) == (0, 0, 0)
    assert retrycli.requeue(settings, found.ids, canary=retrycli.Canary(1)).matched == 0
