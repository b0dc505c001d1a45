"""Acting on many messages in the browser: what it would touch, canaries, changed counts, and slices."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from retrycli import operations
from retrycli.domain.listing import Filter
from retrycli.domain.user import Role, User
from retrycli.operations.bulk import BulkAction, BulkRequest, Progress
from retrycli.operations.wiring import Runtime
from retrycli.web.access import Access
from retrycli.web.console.application import make_pages
from retrycli.web.status import RecentStatus
from tests.cli.story import OK, Api
from tests.conftest import on_both, on_sqlite
from tests.web.browser import Browser
from tests.web.conftest import PAGES
from tests.web.test_message_pages import use

if TYPE_CHECKING:
    from tests.web.conftest import Desk

pytestmark = on_both

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def escalated(desk: Desk, api: Api) -> Desk:
    """Provide an installation with 12 messages of one cause, and message 900 of another."""
    use(desk, api)
    desk.application.add_due(12, first=101)
    desk.application.add(900, retry_count=10, message_type="supplier")
    operations.run_pass.run_once(desk.settings)
    states = [desk.application.state(number) for number in (*range(101, 113), 900)]
    assert states == ["escalated"] * 13
    return desk


def test_one_cause_is_requeued_with_a_canary_over_two_hours(escalated: Desk, api: Api) -> None:
    browser = escalated.browser("anna")
    page = browser.follow(browser.open("/"), "fingerprint=")
    causes = browser.follow(page, "/escalations")
    question = browser.follow(causes, "action=requeue")
    assert "Requeue 12 messages?" in question.words
    assert "and 7 more" in question.words
    api.answers = [OK]
    done = browser.submit(question, "/bulk", press="Requeue 12 messages", canary="3", spread="2h")
    assert done.status == 200
    assert "Requeued 9 messages. 3 canary messages were sent." in done.words
    due = sorted(str(row["next_attempt_at"]) for row in escalated.application.rows("retrycli_queue").values())
    assert len(set(due)) == 10  # nine that are spread, and None for message 900
    assert escalated.application.state(900) == "escalated"
    assert {act["by"] for act in escalated.application.execute("SELECT * FROM retrycli_acts")} == {"anna"}


@on_sqlite
@pytest.mark.parametrize(
    ("status", "advice"), [(503, "When the cause is fixed, requeue them"), (500, "They may have arrived.")]
)
def test_the_advice_for_a_cause_depends_on_whether_its_messages_may_have_arrived(
    desk: Desk, status: int, advice: str
) -> None:
    with Api((status, {})) as api:
        use(desk, api)
        for number in (101, 102):
            desk.application.add(number, retry_count=9)
        operations.run_pass.run_once(desk.settings)
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        operations.run_pass.run_once(desk.settings, runtime=Runtime(now=lambda: tomorrow))
    assert advice in desk.browser("anna").open("/escalations").words


@on_sqlite
def test_failed_canaries_are_named_with_their_errors(escalated: Desk) -> None:
    browser = escalated.browser("anna")
    question = browser.open("/bulk?action=requeue&state=escalated&type=customer")
    done = browser.submit(question, "/bulk", canary="4")
    for number in (101, 102, 103):
        assert f"Message {number} not sent: permanent, HTTP 422" in done.words
    assert "1 other message not sent." in done.words


@on_sqlite
def test_a_count_that_differs_is_shown_and_asked_again(escalated: Desk) -> None:
    browser = escalated.browser("anna")
    question = browser.open("/bulk?action=reject&state=escalated&type=customer")
    operations.message_actions.reject(escalated.settings, [101], "meanwhile", by="max")
    again = browser.submit(question, "/bulk", because="no longer wanted")
    assert again.status == 409
    assert "the number of matching messages is now 11, not 12; nothing was done" in again.words
    assert "Reject 11 messages?" in again.words
    assert escalated.application.state(102) == "escalated"
    done = browser.submit(again, "/bulk")  # the reason is kept
    assert "Rejected 11 messages." in done.words
    assert escalated.application.row(112)["last_error"] == "Rejected by anna: no longer wanted"


@on_sqlite
def test_ticked_messages_are_acted_on_and_no_others(escalated: Desk) -> None:
    browser = escalated.browser("anna")
    page = browser.open("/?state=escalated&sort=id")
    ticked = browser.submit(page, "/bulk", press="ticked", id=["103", "101"], action="mark_sent")
    assert "Mark 2 messages as sent?" in ticked.words
    done = browser.submit(ticked, "/bulk", because="seen there")
    assert "Marked 2 messages as sent." in done.words
    assert done.url == f"{PAGES}/"
    sent = [number for number, row in escalated.application.rows().items() if row["status"] == "sent"]
    assert sent == [101, 103]
    everything = browser.submit(page, "/bulk", press="everything that matches", id=["105"], action="acknowledge")
    assert "Acknowledge 11 messages?" in everything.words


@on_sqlite
def test_ticked_messages_in_another_state_are_left_out_and_counted(escalated: Desk) -> None:
    browser = escalated.browser("anna")
    operations.message_actions.requeue(escalated.settings, [102], by="max")
    operations.message_actions.acknowledge(escalated.settings, [103], by="max")
    page = browser.open("/?state=escalated&sort=id")
    question = browser.submit(page, "/bulk", press="ticked", id=["101", "102"], action="requeue")
    assert "Requeue 1 message?" in question.words
    assert "Requeued 1 message." in browser.submit(question, "/bulk").words
    none = browser.submit(page, "/bulk", press="ticked", id=["101", "102", "103"], action="acknowledge")
    assert "3 of the ticked messages are left out" in none.words
    assert "Nothing to do." in none.words
    assert "Everything that matches" not in none.words
    assert not any(form.action.endswith("/bulk") for form in none.forms)


@on_sqlite
def test_a_long_action_goes_on_step_by_step_at_any_worker(escalated: Desk) -> None:
    escalated.application.add_due(1_000, first=1_001)
    escalated.application.execute("UPDATE pending_messages SET retry_count = 10 WHERE id > 1000")
    operations.run_pass.run_once(escalated.settings)
    users = [User("anna", Role.OPERATOR)]

    def worker() -> Browser:
        """Return the browser of a console that shares only files and a key with others, and makes small steps."""
        access, status = Access.of(escalated.settings, lambda _: users[-1]), RecentStatus(escalated.settings)
        return Browser(make_pages(escalated.settings, access, status, key=b"of all workers", slice_seconds=0), "")

    browser = worker()
    page = browser.submit(browser.open("/bulk?action=reject&state=escalated"), "/bulk", because="tea")
    assert "Rejected 500 messages. 513 left" in page.words
    users.append(User("max", Role.OPERATOR))
    assert "begin the action again" in browser.open(page.url).words  # the link of another user
    users.pop()
    other = worker()
    page = other.submit(other.open(page.url), "/bulk", press="Go on with 513")
    assert "Rejected 1,000 messages. 13 left" in page.words
    assert "Rejected 1,013 messages." in browser.submit(page, "/bulk", press="Go on with 13").words
    assert {row["status"] for row in escalated.application.rows().values()} == {"rejected"}


@on_sqlite
def test_messages_that_an_action_can_not_change_are_counted_with_an_example(escalated: Desk) -> None:
    browser = escalated.browser("anna")
    page = browser.open("/bulk?action=acknowledge&which=ticked&id=101&id=102")
    operations.message_actions.acknowledge(escalated.settings, [101], by="max")
    done = browser.submit(page, "/bulk")
    assert "Acknowledged 1 message. 1 message was not changed, for example: message 101 was already" in done.words


@on_sqlite
def test_a_link_with_made_up_progress_does_nothing(escalated: Desk) -> None:
    """Such a link would show any numbers, and one click would act on all messages without the question before it."""
    browser, before = escalated.browser("anna"), escalated.application.dump()
    fields = {"action": "reject", "failed_before": "2099-01-01T00:00:00Z", "because": "tea"}
    wanted = Filter(failed_before=datetime(2099, 1, 1, tzinfo=UTC))
    request = BulkRequest(BulkAction.REJECT, wanted=wanted, reason="tea")
    for progress in (Progress(1_000_000, NOON).text(request.digest), "xyz"):
        page = browser.open(f"/bulk?{urlencode({**fields, 'progress': progress})}")
        assert (page.status, "Go on" in page.words) == (422, False)
        assert browser.post("/bulk", **fields, progress=progress).status == 422
    assert escalated.application.dump() == before


@on_sqlite
def test_the_age_of_messages_is_fixed_when_the_question_is_asked(escalated: Desk) -> None:
    browser = escalated.browser("anna")
    page = browser.open("/bulk?action=reject&failed_before=1ms")
    fields = dict(page.form("/bulk").fields)
    assert fields["failed_before"].endswith("Z")
    assert fields["expected"] in {"0", "13"}
