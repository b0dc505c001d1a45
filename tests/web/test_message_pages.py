"""The pages of messages: the list, one message, and its actions."""

from __future__ import annotations

import re
from random import Random
from typing import TYPE_CHECKING

import pytest

from retrycli import operations
from retrycli.config.settings import BreakerSettings
from retrycli.operations.sandbox import Behaviour, Sandbox
from retrycli.web.console.context import in_console
from tests.cli.api import BAD_GATEWAY
from tests.cli.story import LOST, Api
from tests.conftest import on_both, on_sqlite
from tests.web.conftest import PAGES

if TYPE_CHECKING:
    from tests.web.browser import HtmlPage
    from tests.web.conftest import Desk

pytestmark = on_both


@pytest.fixture
def escalated(desk: Desk, api: Api) -> Desk:
    """Provide an installation with message 9, which the ticketing API has rejected, behind an API that the test
    controls.
    """
    use(desk, api)
    desk.application.add(9, recipient_email="nobody@example.com", body="Hello,\r\n\r\nit is attached.\r\n")
    operations.run_pass.run_once(desk.settings)
    assert desk.application.state(9) == "escalated"
    return desk


def primary(page: HtmlPage) -> list[str]:
    """Return the buttons of a message's page that are highlighted."""
    actions = page.answer.text.partition('aria-label="Actions"')[2].partition("</section>")[0]
    outside = re.sub(r'<form class="card".*?</form>', "", actions, flags=re.DOTALL)
    return re.findall(r'<(?:button|a class="button"[^>]*|summary class="button")>([^<]*)', outside)


def test_in_an_outage_the_next_probe_is_shown_as_the_next_attempt(desk: Desk, sandbox: Sandbox) -> None:
    desk.application.add_due(6)
    sandbox.behaviour = Behaviour(down=True)
    operations.run_pass.run_once(desk.settings)
    [breaker] = operations.status.status(desk.settings).breakers
    assert breaker.probe_at is not None
    at = breaker.probe_at.isoformat(" ", "minutes")
    page = desk.browser("anna").open("/")
    assert f"{sandbox.url}, next probe at {at}, 5 failures in a row" in page.words
    attempts = re.findall(r"waiting \d/10 (\S+ \S+) (\S+)", page.words)
    assert (len(attempts), min(attempt for attempt, _ in attempts)) == (6, at)
    assert "due" not in {word for _, word in attempts}


def use(desk: Desk, api: Sandbox) -> None:
    """Deliver to another API."""
    settings = desk.application.settings(api.url)
    never = BreakerSettings(failures=1000)
    desk.settings = settings.model_copy(update={"web": desk.settings.web, "breaker": never})


def test_an_escalated_message_is_understood_edited_and_sent(escalated: Desk, api: Api) -> None:
    """This is the story of a person who has only a browser."""
    browser = escalated.browser("anna")
    first = browser.open("/")
    page = browser.follow(first, "/id/9")
    form = browser.follow(page, "/edit")
    changes = browser.submit(form, "/edit", press="Show the changes", recipient="ana@example.com")
    assert "-Recipient: nobody@example.com +Recipient: ana@example.com" in changes.words
    assert "</del><ins>" in changes.answer.text  # a line break between them would be an empty line
    assert escalated.application.row(9)["recipient_email"] == "nobody@example.com"
    api.answers = ["ok"]
    sent = browser.submit(changes, "/edit", press="Write and retry now")
    assert sent.url == f"{PAGES}/id/9"
    assert "Changed recipient of message 9. Message 9 sent." in sent.words
    row = escalated.application.row(9)
    assert (row["status"], row["recipient_email"]) == ("sent", "ana@example.com")
    assert api.bodies[-1] == "Hello,\r\n\r\nit is attached.\r\n"


@on_sqlite
def test_a_message_that_may_have_arrived_says_so(desk: Desk) -> None:
    with Api(LOST) as api:
        use(desk, api)
        desk.application.add(9)
        operations.run_pass.run_once(desk.settings)
        without = desk.browser("anna").open("/id/9")
    assert not without.has_form("/look-up")
    assert primary(without) == []
    gateway = desk.settings.gateway.model_copy(update={"preset": "helpdesk"})
    desk.settings = desk.settings.model_copy(update={"gateway": gateway})
    del desk.app
    page = desk.browser("anna").open("/id/9")
    assert "Attempt 1: unknown" in page.words
    [first] = [form for form in page.forms if form.action.endswith("/look-up")]
    assert first.buttons[0][2] == "Look up"
    assert primary(page) == ["Look up"]
    assert ("li", "class", "t-open") in page.attributes


@on_sqlite
def test_a_message_that_a_pass_is_sending_offers_nothing(desk: Desk) -> None:
    seen = []
    with Api() as api:
        use(desk, api)
        desk.application.add(9)
        browser = desk.browser("anna")
        page = browser.open("/id/9")
        api.meanwhile[1] = lambda: seen.extend([browser.open("/id/9"), browser.submit(page, "/retry")])
        operations.run_pass.run_once(desk.settings)
    during, refused = seen
    assert "An attempt is in progress." in during.words
    assert ("button", "disabled", None) in during.attributes
    assert [form.action for form in during.forms] == [f"{PAGES}/sign-out"]
    assert (refused.status, "attempted after its page was shown, and is now sending" in refused.words) == (409, True)


@on_sqlite
def test_the_list_is_filtered_and_paged_by_its_address(desk: Desk) -> None:
    desk.application.fill()
    desk.application.add_due(120, first=200)
    desk.application.execute("UPDATE pending_messages SET last_error = 'odd one' WHERE id = 250")
    browser = desk.browser("anna")
    seen: list[str] = []
    page = browser.open("/?sort=id")
    while True:
        rows = [value for tag, name, value in page.attributes if (tag, name) == ("tr", "data-key")]
        assert 0 < len(rows) <= 50
        seen += map(str, rows)
        if not any("after=" in link for link in page.links):
            break
        page = browser.follow(page, "after=")
    assert len(seen) == len(set(seen)) == 124
    found = browser.submit(browser.open("/"), "/messages/", press="Filter", error="ODD")
    assert "error=ODD" in found.url
    assert [value for tag, name, value in found.attributes if (tag, name) == ("tr", "data-key")] == ["250"]
    assert ("input", "value", "ODD") in found.attributes


@on_sqlite
def test_an_empty_list_says_when_the_last_pass_was_or_what_to_install(desk: Desk) -> None:
    assert "no pass has run yet. On the server, run retrycli cron install." in desk.browser("anna").open("/").words
    desk.application.add(9)
    operations.run_pass.run_once(desk.settings)
    del desk.app  # the status is kept for two seconds
    page = desk.browser("anna").open("/")
    assert "No failed messages. Last pass" in page.words
    assert ": 1 sent." in page.words


@on_sqlite
def test_a_long_text_is_shown_in_part_until_all_of_it_is_asked_for(desk: Desk) -> None:
    desk.application.add(9, body="tea\n" * 300_000)
    browser = desk.browser("anna")
    page = browser.open("/id/9")
    assert "The first 50,000 of 1,200,000 characters." in page.words
    assert len(page.answer.content) < 400_000
    whole = browser.follow(page, "text=whole")
    assert whole.words.count("tea") == 50_000
    assert "The first 200,000 of 1,200,000 characters. retrycli show prints all of them." in whole.words


@on_sqlite
def test_the_first_changed_lines_of_a_long_edit_are_shown(desk: Desk) -> None:
    desk.application.add(9, body="x\n" * 2_000)
    browser, more = desk.browser("anna"), "More lines changed. They are not shown here."
    previewed = browser.submit(browser.open("/id/9/edit"), "/edit", press="Show the changes", body="y\n" * 2_000)
    browser.submit(previewed, "/edit", press="Only write")
    for page, shown in ((previewed, 1_000), (browser.open("/id/9"), 400)):
        assert (page.words.count("-x"), more in page.words) == (shown, True)
    few = browser.submit(browser.open("/id/9/edit"), "/edit", press="Show the changes", subject="tea")
    assert more not in few.words


def test_the_strip_shows_missing_passes_and_outages(desk: Desk) -> None:
    down = Sandbox(Behaviour(down=True), rng=Random(0))
    with down:
        settings = desk.application.settings(down.url)
        desk.settings = settings.model_copy(update={"web": desk.settings.web})
        desk.application.add_due(6)
        operations.run_pass.run_once(desk.settings)
        desk.application.execute("UPDATE retrycli_passes SET started_at = datetime(started_at, '-3 hours')")
        page = desk.browser("anna").open("/")
    assert "11 passes missing" in page.words
    assert "the ticketing API was down for 3 h" in page.words
    assert "1 pass in the last 24 hours, 11 missing; 1 outage of the ticketing API" in page.words
    fills = {value for _, name, value in page.attributes if name == "fill"}
    assert fills == {"url(#missed)", "url(#outage)"}


@on_sqlite
def test_a_row_that_the_editor_can_not_fix_highlights_no_button(desk: Desk) -> None:
    desk.application.add(9, cc_emails="[oops")
    operations.run_pass.run_once(desk.settings)
    page = desk.browser("anna").open("/id/9")
    assert "Fix the row in the application" in page.words
    assert primary(page) == []
    desk.application.add(8, body=None)
    operations.run_pass.run_once(desk.settings)
    second = desk.browser("anna").open("/id/8")
    assert "A value is not valid. Edit it" in second.words
    assert primary(second) == ["Edit"]


@on_sqlite
def test_the_button_that_is_most_likely_right_is_highlighted(escalated: Desk) -> None:
    expected = {"permanent": "Edit", "changed": "Mark as sent…", "expired": "Reject…", "exhausted": "Retry now"}
    shown = {}
    for reason in expected:
        escalated.application.execute("UPDATE retrycli_queue SET escalation_reason = ?", reason)
        shown[reason] = primary(escalated.browser("anna").open("/id/9"))
    assert shown == {reason: [button] for reason, button in expected.items()}
    escalated.application.add(8)  # no pass has seen it
    page = escalated.browser("anna").open("/id/8")
    assert primary(page) == ["Retry now"]
    assert primary(escalated.browser("anna").submit(page, "/reject", reason="moved")) == ["Requeue"]


@on_sqlite
@pytest.mark.parametrize("reason", ["permanent", "changed", "invalid"])
def test_an_edit_after_the_escalation_makes_a_retry_the_next_step(escalated: Desk, reason: str) -> None:
    """The advice for the old text, such as to mark it as sent, would be wrong for the new one."""
    escalated.application.execute("UPDATE retrycli_queue SET escalation_reason = ?", reason)
    browser = escalated.browser("anna")
    form = browser.submit(browser.open("/id/9/edit"), "/edit", press="Show the changes", subject="another")
    browser.submit(form, "/edit", press="Only write")
    page = browser.open("/id/9")
    assert "It was edited after it was escalated. Retry it" in page.words
    assert primary(page) == ["Retry now"]


@on_sqlite
def test_an_attempt_by_hand_with_another_error_is_shown_beside_the_last_error(escalated: Desk, api: Api) -> None:
    browser = escalated.browser("anna")
    assert "Last attempt" not in browser.submit(browser.open("/id/9"), "/retry").words
    api.answers = [BAD_GATEWAY]
    page = browser.submit(browser.open("/id/9"), "/retry")
    assert "Last error HTTP 422" in page.words
    assert re.search(r"Last attempt by anna, [0-9: +-]+: transient, HTTP 502", page.words)


@on_sqlite
def test_a_requeued_message_shows_its_old_error_as_old(desk: Desk) -> None:
    desk.application.add(9, retry_count=10)
    operations.run_pass.run_once(desk.settings)
    browser = desk.browser("anna")
    page = browser.open("/id/9")
    assert "Last error Max retries (10) exceeded." in page.words
    assert "before it was requeued" not in browser.open("/").words
    assert "Error before it was requeued Max retries (10) exceeded." in browser.submit(page, "/requeue").words
    assert "before it was requeued: Max retries (10) exceeded." in browser.open("/").words


@on_sqlite
def test_a_notice_does_not_rewrite_the_words_of_the_ticketing_system(desk: Desk) -> None:
    with Api((422, {"message": "run `retrycli reject 1`"})) as api:
        use(desk, api)
        desk.application.add(9)
        operations.run_pass.run_once(desk.settings)
        browser = desk.browser("anna")
        shown = browser.submit(browser.open("/id/9"), "/retry")
    assert "Message 9 not sent: permanent, HTTP 422: run `retrycli reject 1`" in shown.words
    assert "“Reject”" not in shown.words


@pytest.mark.parametrize(
    "text", ["`retrycli show " + "a" * 500_000, "`" + "/retrycli show a " * 50_000, "run `" * 200_000 + "retrycli "]
)
def test_a_long_text_of_a_client_is_read_in_linear_time(text: str) -> None:
    """In quadratic time, these would take longer than this test may, and nobody else would get an answer."""
    assert in_console(text) == text


def test_a_command_becomes_the_words_for_the_button_or_the_page_that_does_the_same() -> None:
    for text, words in (
        ("run `retrycli show 8` after 12:00", "open the page of message 8 after 12:00"),
        ("See `retrycli show 8`, and edit", "See the page of message 8, and edit"),
        ("Run `retrycli mark-sent 8`; `retrycli retry 8` sends it", "Use “Mark as sent”; “Retry now” sends it"),
        ("`sudo /opt/retrycli/bin/retrycli --config /etc/a.toml status`", "the state at the top of each page"),
        ("`retrycli resume`", "“Resume deliveries” on the page “Passes”"),
        ("`retrycli resume --ticket 5`", "“Release” on the page “Passes”"),
        ("`retrycli list-failed --fingerprint ab`", "the page “Messages”"),
        ("`retrycli doctor`", "`retrycli doctor`"),
        ("`retrycli retry-all`", "`retrycli retry-all`"),
        ("retrycli retry 8", "retrycli retry 8"),
    ):
        assert in_console(text) == words
