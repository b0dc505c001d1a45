"""Notifications and the dead-man switch, sent by the installed command to real servers on loopback."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from retrycli.domain.sanitize import inert
from tests.channels import TOKEN, Webhook, mail_server, webhook
from tests.cli.api import BUSY, FORBIDS, TAKES, Scripted
from tests.cli.command import COLUMNS, Cli, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrycli.operations.sandbox import Answer, Sandbox
    from tests.cli.application import Application

NOBODY = f"json://127.0.0.1:9/{TOKEN}"
"""A target that refuses connections, because no server listens on port 9."""
SUBJECT = "Re: <!channel> <script>alert(1)</script>\r\nBcc: eve@evil.example"
ANSWER = "no such <!channel> *recipient* ana@example.com [x](https://evil.example)\r\nBcc: ada@evil.example\x1b[31m"
REFUSES: Answer = (422, {"messages": [ANSWER]})
QUICK = {"RETRYCLI_BREAKER__FAILURES": "3", "RETRYCLI_BREAKER__PROBE_MINUTES": "0.0001"}
PLAIN_422 = "HTTP 422: no such ‹!channel› ∗recipient∗ … ［x］(https:／／evil.example) Bcc: …［…m"


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as server:
        yield server


def urls(*each: str) -> dict[str, str]:
    return {"RETRYCLI_NOTIFY__URLS": " ".join(each)}


def ping_at(server: Webhook) -> dict[str, str]:
    return {"RETRYCLI_NOTIFY__PING_URL": f"http://{server.host}/{TOKEN}"}


def hostile(application: Application, number: int = 2) -> None:
    """Add messages with a hostile subject, body and ticket."""
    for message_id in range(1, number + 1):
        application.add(message_id, subject=SUBJECT, body=f"Body {SUBJECT}", ticket_id=f"47<b>{message_id}</b>\n@here")


# -- what is sent ----------------------------------------------------------------------------------------------------


def test_mail_and_webhook_get_a_passs_escalations_as_plain_text(
    cli: Cli, application: Application, hook: Webhook
) -> None:
    hostile(application)
    with Scripted(REFUSES) as api, mail_server() as (mailbox, mail_url):
        at_work = cli.having(application.variables(api.url) | urls(hook.slack_shaped, mail_url))
        done, again = at_work("run-once"), at_work("run-once")
        [mail] = mailbox.mails
    assert (done.returncode, again.returncode) == (0, 0)
    [text] = hook.texts
    title, *lines = text.splitlines()
    assert re.fullmatch(r"retrycli on \S+: 2 messages need an operator", title)
    assert lines == [
        "2 messages need an operator:",
        f"2 × {PLAIN_422}",
        "    2 customer; tickets 47‹b›1‹/b›\\n＠here, 47‹b›2‹/b›\\n＠here; retrycli show 1",
        "Next: retrycli escalations",
    ]
    assert mail["Subject"] == title
    assert mail["Bcc"] is None
    assert mail["To"] == "ops@x.test"
    plain, page = mail.get_body(("plain",)), mail.get_body(("html",))
    assert plain is not None
    assert plain.get_content().split() == " ".join(lines).split()
    assert page is None or "<script" not in page.get_content()


def test_reports_failing_passes_and_their_recovery(cli: Cli, application: Application, hook: Webhook) -> None:
    """An invalid value in retrycli's own tables makes the passes fail, and the notification must not quote it."""
    application.add(101)
    with Scripted(TAKES) as api:
        told = cli.having(application.variables(api.url) | urls(hook.slack_shaped))
        application.execute("INSERT INTO retrycli_pause VALUES ('a private time', NULL, 'anna', NULL)")
        assert [told("run-once").returncode for _ in range(2)] == [1, 1]
        application.execute("DELETE FROM retrycli_pause")
        assert "WARNING Message retry passes no longer fail. They failed " in told("run-once").stderr
    fail, work = hook.texts
    assert re.match(
        r"retrycli on \S+: passes fail\s+Passes fail: internal error: ValueError. They have been failing since ", fail
    )
    assert re.match(r"retrycli on \S+: passes no longer fail\s+Passes no longer fail", work)
    assert "private" not in fail


def test_of_several_destinations_the_one_that_is_down_is_named(
    cli: Cli, application: Application, hook: Webhook
) -> None:
    for number in range(1, 6):
        application.add(number, message_type="supplier")
    application.add(6)
    with Scripted(BUSY, BUSY, BUSY, BUSY, TAKES) as api, Scripted(TAKES) as well:
        own = {"RETRYCLI_GATEWAY__SUPPLIER__BASE_URL": api.url}
        at_work = cli.having(application.variables(well.url) | own | QUICK | urls(hook.slack_shaped))
        codes = [at_work("run-once").returncode for _ in range(3)]
    assert codes == [69, 69, 0]
    began, ended = hook.texts
    assert f"\nDeliveries to {api.url} have been failing since" in began
    assert f"\none of {well.url}, {api.url} accepts messages again" in ended


@pytest.mark.parametrize("other", [BUSY, FORBIDS])
def test_a_refusal_names_the_destination_that_refuses(
    cli: Cli, application: Application, hook: Webhook, other: Answer
) -> None:
    """One destination refuses the credentials, and another one is down or refuses them, too."""
    for number in range(1, 6):
        application.add(number, message_type="supplier")
    application.add(6)
    with Scripted(FORBIDS) as api, Scripted(*[other] * 5) as mail:
        own = {"RETRYCLI_GATEWAY__SUPPLIER__BASE_URL": mail.url}
        done = cli.having(application.variables(api.url) | own | QUICK | urls(hook.slack_shaped))("run-once")
    assert done.returncode == 77
    refused = f"{api.url}: HTTP 401"
    refused = refused if other is BUSY else f"{mail.url}: HTTP 401; {refused}"
    assert f"The ticketing API refuses the credentials ({refused})." in done.stderr
    [text] = hook.texts
    assert f"The ticketing API has refused the credentials ({inert(refused, 200)}) since" in text
    assert (f"Deliveries to {mail.url} have been failing since" in text) == (other is BUSY)


def test_reports_a_refusal_and_its_end_but_reminds_of_it_only_after_a_request(
    cli: Cli, application: Application, hook: Webhook
) -> None:
    """The token may have been corrected since, and a pass without requests can't know."""
    application.add_due(1)
    with Scripted(FORBIDS, FORBIDS, TAKES) as api:
        at_work = cli.having(application.variables(api.url) | urls(hook.slack_shaped))
        assert at_work("run-once").returncode == 77
        application.execute("UPDATE pending_messages SET status = 'rejected'")
        application.execute("UPDATE retrycli_told SET told_at = '2026-01-02 03:04:05.000000'")
        assert at_work("run-once").returncode == 0
        assert len(hook.texts) == 1, "it has learnt nothing new"
        application.execute("UPDATE pending_messages SET status = 'failed'")
        assert [at_work("run-once").returncode for _ in range(2)] == [77, 0]
    titles = [text.splitlines()[0].partition(": ")[2] for text in hook.texts]
    states = ("refused", "still refused", "accepted again")
    assert titles == [f"the credentials are {state}" for state in states]


def test_reports_a_gap_between_passes_when_they_resume(at_work: Cli, application: Application, hook: Webhook) -> None:
    at_work("run-once")
    application.execute("UPDATE retrycli_passes SET started_at = '2026-01-02 03:04:05.000000'")
    told = at_work.having(urls(hook.slack_shaped))
    hook.status = 500
    told("run-once")
    hook.status = 200
    told("run-once")
    told("run-once")
    refused, text = hook.texts
    assert text == refused, "it is sent again until it arrives"
    assert "No pass was recorded between 2026-01-02 03:04 UTC and " in text


def test_reports_passes_that_are_skipped_three_times_in_a_row(
    at_work: Cli, application: Application, hook: Webhook
) -> None:
    told = at_work.having(urls(hook.slack_shaped))
    with application.held():
        codes = [told("run-once", "--wait-lock", "0").returncode for _ in range(4)]
    told("run-once")
    assert codes == [75] * 4
    titles = [text.splitlines()[0].partition(": ")[2] for text in hook.texts]
    assert titles == ["passes are skipped", "passes are no longer skipped"]
    assert "another pass holds the lock (" in hook.texts[0]


# -- what does not get through ---------------------------------------------------------------------------------------


def test_a_failed_notification_is_one_warning_and_is_sent_with_the_next_pass(
    at_work: Cli, application: Application, hook: Webhook
) -> None:
    application.add(1, cc_emails="no list")
    told = at_work.having(urls(hook.slack_shaped))
    hook.status = 500
    failed, again = told("run-once"), told("run-once")
    hook.status = 200
    heard, quiet = told("--log-level", "INFO", "run-once"), told("run-once")
    assert [result.returncode for result in (failed, again, heard, quiet)] == [0] * 4
    warning = "No notification reached target 1 (mmost) of notify.urls: not accepted: HTTP 500. The next"
    assert warning in failed.stderr
    assert again.stderr == quiet.stderr == ""
    assert "Notifications reach target 1 (mmost)" in heard.stderr
    assert len(hook.texts) == 3
    assert len(set(hook.texts)) == 1


def test_a_pass_without_apprise_runs_and_suggests_a_remedy(
    at_work: Cli, application: Application, tmp_path: Path
) -> None:
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "apprise.py").write_text("raise ImportError\n", encoding="utf-8")
    application.fill()
    application.add(9, cc_emails="no list")
    bare = at_work.having(urls(NOBODY) | {"PYTHONPATH": str(tmp_path / "stub")})
    done, tried = bare("run-once"), bare("notify", "test")
    assert done.returncode == 0
    ours = Path(sys.executable).parent
    remedy = rf"apprise is not installed; run `{ours}/python\S* -m pip install 'retrycli\[notify\]'`"
    assert re.search(remedy, done.stderr)
    assert tried.returncode == 78
    assert re.fullmatch(f"retrycli: {remedy}\n", tried.stderr)


# -- the dead-man switch ---------------------------------------------------------------------------------------------


def pings(server: Webhook) -> list[str]:
    """Return the paths of the received pings, without token and pass id."""
    return [path.partition("?rid=")[0].removeprefix(f"/{TOKEN}") for path in server.paths]


def test_messages_do_not_wait_for_the_start_ping(
    at_work: Cli, application: Application, sandbox: Sandbox, hook: Webhook
) -> None:
    """Here the dead-man switch answers only after all messages arrive, so a pass that waited for it would fail.

    A pass that escalates nothing sends no notification.
    """
    application.fill()
    hook.hold = lambda: wait_until(lambda: len(sandbox.received) == 3)
    done = at_work.having(ping_at(hook) | urls(hook.slack_shaped))("run-once", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert hook.paths == [f"/{TOKEN}{path}?rid={json.loads(done.stdout)['pass_id']}" for path in ("/start", "")]


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"RETRYCLI_DATABASE__URL": "sqlite:////nowhere/agent.db"}, "69"),
        ({"TICKETING_API_BASE_URL": ""}, "78"),
        ({"TICKETING_API_BASE_URL": "http://127.0.0.1:9"}, "69"),
    ],
)
def test_a_pass_that_fails_or_could_not_start_sends_its_exit_status(
    at_work: Cli, application: Application, hook: Webhook, wrong: dict[str, str], status: str
) -> None:
    application.add_due(6)
    assert at_work.having(ping_at(hook) | wrong)("run-once").returncode == int(status)
    assert pings(hook) == (["/start"] if "9" in wrong.get("TICKETING_API_BASE_URL", "") else []) + [f"/{status}"]


def test_a_paused_pass_sends_a_ping_and_one_that_is_skipped_or_a_dry_run_none(
    at_work: Cli, application: Application, hook: Webhook
) -> None:
    told = at_work.having(ping_at(hook))
    application.fill()
    with application.held():
        assert told("run-once", "--wait-lock", "0").returncode == 75
    assert told("run-once", "--dry-run").returncode == 0
    assert hook.paths == []
    assert at_work("pause").returncode == 0
    assert told("run-once").returncode == 0
    assert pings(hook) == [""]


def test_a_failed_ping_is_one_warning_and_fails_nothing(at_work: Cli, application: Application, hook: Webhook) -> None:
    application.fill()
    hook.status = 404
    told = at_work.having(ping_at(hook))
    first, second = told("run-once"), told("run-once")
    assert (first.returncode, second.returncode) == (0, 0)
    assert "The dead-man switch (notify.ping_url) could not be notified of this pass: HTTP 404" in first.stderr
    assert second.stderr == ""


# -- trying it out ---------------------------------------------------------------------------------------------------


def test_notify_test_sends_to_each_target_and_reports_the_result(cli: Cli, hook: Webhook) -> None:
    with mail_server() as (mailbox, mail_url):
        told = cli.having(urls(hook.slack_shaped, mail_url) | ping_at(hook))
        done = told("notify", "test")
        assert len(mailbox.mails) == 1
    assert done.returncode == 0
    assert done.stdout == "1\tmmost\taccepted\n2\tmailto\taccepted\nping\thttp\taccepted\n"
    assert "Nothing is wrong" in hook.texts[0]
    assert [path.partition("?")[0] for path in hook.paths] == [f"/hooks/{TOKEN}", f"/{TOKEN}/log"]


def test_a_refused_target_ends_the_test_with_3_after_trying_the_others(cli: Cli, hook: Webhook) -> None:
    told = cli.having(urls(NOBODY, f"nosuch://{TOKEN}", hook.slack_shaped))
    found = told.json("notify", "test", code=3)["targets"]
    assert [(entry["target"], entry["scheme"], entry["accepted"]) for entry in found] == [
        ("1", "json", False),
        ("2", "nosuch", False),
        ("3", "mmost", True),
    ]
    assert found[2]["error"] is None
    assert "does not support this nosuch:// URL" in found[1]["error"]


def test_the_next_step_names_the_setting_of_the_failed_target(cli: Cli, hook: Webhook) -> None:
    deaf = {"RETRYCLI_NOTIFY__PING_URL": "http://127.0.0.1:9/"}
    for settings, step in (
        (urls(hook.slack_shaped), "retrycli status"),
        (urls(f"nosuch://{TOKEN}", NOBODY), "fix notify.urls, then `retrycli notify test`"),
        (urls(hook.slack_shaped) | deaf, "fix notify.ping_url, then `retrycli notify test`"),
    ):
        screen = cli.having(settings).on_terminal("notify", "test")
        assert screen.text.endswith(f"Next: {step}\n")
        assert max(map(len, screen.text.splitlines())) <= COLUMNS


# -- secrets ---------------------------------------------------------------------------------------------------------


def test_no_output_and_no_table_contains_a_url(cli: Cli, application: Application, hook: Webhook) -> None:
    """URLs contain tokens, which even errors at the most verbose level must not show."""
    hostile(application)
    hook.status, hook.text = 500, f"no {TOKEN} here".encode()
    places = (hook.slack_shaped, f"json://ann:{TOKEN}@127.0.0.1:9/", f"nosuch://{TOKEN}", f"slack://{TOKEN}")
    with Scripted(REFUSES) as api:
        told = cli.having(application.variables(api.url) | urls(*places) | ping_at(hook))
        talkative = ("--debug", "--log-level", "DEBUG")
        commands = (("run-once",), ("notify", "test"), ("notify", "test", "--json"), ("config", "show"))
        made = [told(*talkative, *command) for command in commands]
    assert [done.returncode for done in made] == [0, 3, 3, 0]
    assert len(hook.requests) > 3
    for done in made:
        assert TOKEN not in done.stdout + done.stderr
    assert TOKEN not in "\n".join(application.dump())


@pytest.mark.parametrize(("hours", "latest"), [(0.75, ""), (5, " at the latest")])
def test_an_incident_begins_with_the_first_pass_without_a_recorded_end(
    cli: Cli, application: Application, hook: Webhook, hours: float, latest: str
) -> None:
    """On a full disk a pass may record no end or nothing at all, so after a gap the incident may have begun earlier."""
    now = datetime.now(UTC)
    lost = now - timedelta(minutes=30)
    for number, at in enumerate((now - timedelta(hours=hours), lost, now - timedelta(minutes=15))):
        result = "completed" if number == 0 else None
        row = {"id": str(number), "host": "mill", "pid": 4711, "started_at": at, "heartbeat_at": now, "result": result}
        counts = dict.fromkeys(("sent", "rescheduled", "escalated", "unknown", "released"), 0)
        times = {name: str(row[name])[:26] for name in ("started_at", "heartbeat_at")}
        finished = times["started_at"] if result else None
        application.insert("retrycli_passes", [row | times | counts | {"finished_at": finished}])
    told = cli.having(application.variables("http://127.0.0.1:9") | urls(hook.slack_shaped))
    application.execute("INSERT INTO retrycli_pause VALUES ('a private time', NULL, 'anna', NULL)")
    assert told("run-once").returncode == 1
    application.execute("DELETE FROM retrycli_pause")
    over = told("run-once").stderr
    since = f"{lost:%Y-%m-%d %H:%M} UTC"
    assert f"They have been failing since {since}{latest}. No message is lost." in hook.texts[0]
    assert f"They failed from {since} to " in over, over
