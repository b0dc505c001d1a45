"""django-post-office's real table: failed mails are retried by SMTP, and by post-office's own sender."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.application import Application
from tests.cli.command import Cli
from tests.conftest import on_both
from tests.gateway.mail_server import MailServer
from tests.systems.post_office import Django, needs_post_office

if TYPE_CHECKING:
    from tests.store.conftest import Factory

pytestmark = [pytest.mark.slow, pytest.mark.forked, needs_post_office]

SENT, FAILED, QUEUED, REQUEUED = range(4)
COLUMNS = """
[database]
url = "{url}"
table = "post_office_email"
where = "template_id IS NULL AND html_message = ''"
[database.columns]
ticket_id = "id"
message_type = {{ value = "customer" }}
recipient_email = {{ from = "to", split = "," }}
body = "message"
retry_count = "number_of_retries"
last_error = {{ own = true }}
created_at = "created"
updated_at = "last_updated"
[database.status]
failed = 1
sent = 0
queued = 2
[run]
lock_file = "pass.lock"
"""
BY_SMTP = """
[gateway]
kind = "smtp"
base_url = "smtp://127.0.0.1:{port}"
sender = "desk@example.com"
starttls = false
"""
BY_POST_OFFICE = '[gateway]\nkind = "application"\n'
WRITE_MAILS = """
for number, to in enumerate(["ana@example.com", ["bo@example.com", "cy@example.com"]], 1):
    mail.send(to, subject=f"Mail {number}", message=f"Text {number}")
mail.send("dee@example.com", subject="Mail 3", message="Text 3", html_message="<p>Text 3</p>")
"""
AGE = """
from datetime import timedelta
from django.utils import timezone
then = timezone.now() - timedelta(hours=5)
Email.objects.update(created=then, last_updated=then)
"""


class Desk:
    """A Django project with three mails that have failed, and retrycli's settings for its table."""

    def __init__(self, django: Django, cli: Cli) -> None:
        self.django = django
        self.cli = cli
        self.table = Application(django.url, tables=None)

    def write(self, gateway: str, port: int) -> None:
        settings = COLUMNS.format(url=self.django.url) + gateway.format(port=port)
        (self.cli.cwd / "retrycli.toml").write_text(settings)
        assert self.cli("table", "accept", "--yes").returncode == 0

    @property
    def statuses(self) -> dict[int, int]:
        return dict(self.table.asked("SELECT id, status FROM post_office_email"))


@pytest.fixture(scope="module")
def template(engine: Factory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Provide a database with failed mails for tests to copy, because post-office's migrations take seconds."""
    folder = tmp_path_factory.mktemp("desk")
    with engine(folder, None) as url:
        django = Django(folder, url)
        with MailServer(MAIL="554 5.7.1 not today") as down:
            django.configure(down.port)
            django.manage("migrate")
            django.python(WRITE_MAILS)
            django.send()
        django.python(AGE)
        yield url


@pytest.fixture
def desk(engine: Factory, template: str, tmp_path: Path) -> Iterator[Desk]:
    with engine(tmp_path, template) as url:
        django = Django(tmp_path, url)
        django.configure(0)
        made = Desk(django, Cli(tmp_path, is_forked=True))
        assert made.statuses == {1: FAILED, 2: FAILED, 3: FAILED}
        yield made


def assert_untouched(desk: Desk, schema: list[str]) -> None:
    """Check that post-office's tables are as before, and that its migrations still run."""
    assert desk.table.schema(but="retrycli_") == schema
    desk.django.manage("migrate", "post_office", "0012")
    desk.django.manage("migrate", "post_office")
    assert desk.table.schema(but="retrycli_") == schema


@on_both
def test_failed_mails_are_retried_by_smtp(desk: Desk) -> None:
    schema = desk.table.schema(but="retrycli_")
    with MailServer() as server:
        desk.write(BY_SMTP, server.port)
        assert desk.cli("config", "check").returncode == 0
        assert desk.cli.json("run-once")["sent"] == 2
        assert sorted(sorted(taken.recipients) for taken in server.mails) == [
            ["ana@example.com"],
            ["bo@example.com", "cy@example.com"],
        ]
    assert desk.statuses == {1: SENT, 2: SENT, 3: FAILED}
    assert desk.django.admin() == ["sent", "sent", "failed"]
    assert_untouched(desk, schema)


@pytest.mark.databases("sqlite", "postgresql", once=False)
def test_failed_mails_are_handed_back_to_post_office(desk: Desk) -> None:
    desk.write(BY_POST_OFFICE, 0)
    assert desk.cli("config", "check").returncode == 0
    assert desk.cli.json("run-once")["handed_over"] == 2
    assert desk.statuses == {1: QUEUED, 2: QUEUED, 3: FAILED}
    with MailServer(RCPT={"bo@example.com": "550 5.1.1 no such user", "cy@example.com": "550 5.1.1 no"}) as server:
        desk.django.configure(server.port)
        desk.django.send()
        assert [taken.recipients for taken in server.mails] == [("ana@example.com",)]
    done = desk.cli.json("run-once")
    assert (done["sent"], done["rescheduled"]) == (1, 1)
    mails = desk.django.mails()
    assert (mails[1]["status"], mails[2]["status"], mails[2]["number_of_retries"]) == (SENT, FAILED, 1)
    assert (2, FAILED) in desk.django.logs()
    [listed] = desk.cli.json("list-failed")["messages"]
    assert (listed["id"], listed["state"], listed["retry_count"]) == (2, "waiting", 1)
    assert desk.django.admin() == ["sent", "failed", "failed"]


def test_a_mail_that_post_office_retries_itself_stays_handed_over_until_it_gives_up(desk: Desk) -> None:
    desk.write(BY_POST_OFFICE, 0)
    desk.cli("run-once")
    with MailServer(MAIL="554 5.7.1 not today") as down:
        desk.django.configure(down.port, max_retries=1)
        desk.django.send()
        assert desk.statuses == {1: REQUEUED, 2: REQUEUED, 3: FAILED}
        done = desk.cli.json("run-once")
        assert (done["sent"], done["rescheduled"], done["handed_over"]) == (0, 0, 0)
        assert {each["state"] for each in desk.cli.json("list-failed")["messages"]} == {"handed_over"}
        desk.django.python("Email.objects.update(scheduled_time=None)")
        desk.django.send()
        assert desk.statuses == {1: FAILED, 2: FAILED, 3: FAILED}
    assert desk.cli.json("run-once")["rescheduled"] == 2
    assert {row["number_of_retries"] for number, row in desk.django.mails().items() if number != 3} == {1}


def test_an_operator_takes_a_mail_back_only_if_rejected_has_a_status(desk: Desk) -> None:
    desk.write(BY_POST_OFFICE, 0)
    desk.cli("run-once")
    refused = desk.cli("reject", "1", "--reason", "spam", "--yes")
    assert refused.returncode == 4
    assert "database.status.rejected is not set" in refused.stderr
    assert desk.statuses[1] == QUEUED
