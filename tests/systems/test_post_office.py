"""django-post-office's real table: failed mails are retried by SMTP, and by post-office's own code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import retrycli
from tests.cli.application import Application
from tests.cli.command import Cli
from tests.conftest import on_both
from tests.gateway.mail_server import MailServer
from tests.systems.post_office import Django, needs_post_office

if TYPE_CHECKING:
    from tests.store.conftest import Factory

pytestmark = [pytest.mark.slow, pytest.mark.real, needs_post_office]

MANUAL = (Path(retrycli.__file__).parent / "manual/your-own-sender.md").read_text(encoding="utf-8")
SENT, FAILED = range(2)
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
        self.accept(COLUMNS.format(url=self.django.url) + gateway.format(port=port))

    def accept(self, settings: str) -> None:
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
        here = {"DJANGO_SETTINGS_MODULE": "desk_settings", "PYTHONPATH": str(tmp_path)}
        made = Desk(django, Cli(tmp_path, is_real=True).having(here))
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


@on_both
def test_failed_mails_are_sent_by_post_offices_own_code(desk: Desk, tmp_path: Path) -> None:
    schema = desk.table.schema(but="retrycli_")
    [code] = [text for text in re.findall(r"```python\n(.+?)```", MANUAL, re.DOTALL) if "post_office" in text]
    [settings] = [text for text in re.findall(r"```toml\n(.+?)```", MANUAL, re.DOTALL) if "post_office" in text]
    (tmp_path / "failed_mails.py").write_text(code)
    with MailServer(RCPT={"bo@example.com": "550 5.1.1 no such user", "cy@example.com": "550 5.1.1 no"}) as server:
        desk.django.configure(server.port)
        desk.accept(settings.replace("[database]", f'[database]\nurl = "{desk.django.url}"', 1))
        done = desk.cli.json("run-once")
        assert (done["sent"], done["rescheduled"]) == (2, 1)
        text, html = sorted(server.mails, key=lambda taken: taken.recipients[0])
        assert (text.recipients, html.recipients) == (("ana@example.com",), ("dee@example.com",))
        assert html.parsed.get_content_type() == "multipart/alternative"
    mails = desk.django.mails()
    assert [(mails[number]["status"], mails[number]["number_of_retries"]) for number in (1, 2, 3)] == [
        (SENT, 0),
        (FAILED, 1),
        (SENT, 0),
    ]
    assert "SMTPRecipientsRefused" in desk.cli.json("list-failed")["messages"][0]["last_error"]
    assert desk.django.admin() == ["sent", "failed", "sent"]
    assert_untouched(desk, schema)
