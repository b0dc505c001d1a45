"""A real mail arrives in the maildir of a real Postfix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.api import Scripted
from tests.cli.application import Application
from tests.cli.command import Cli, wait_until
from tests.systems.postfix import Postfix, needs_postfix, running_postfix

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from retrycli.operations.sandbox import Answer

pytestmark = [pytest.mark.slow, *needs_postfix]

SUBJECT = "Re: <!channel> <script>alert(1)</script>\r\nBcc: eve@evil.example"
ANSWER = "no such *recipient* ana@example.com [x](https://evil.example)\r\n.\r\nBcc: eve@evil.example"
REFUSES: Answer = (422, {"messages": [ANSWER]})


@pytest.fixture
def postfix() -> Iterator[Postfix]:
    with running_postfix() as started:
        yield started


def test_a_notification_arrives_in_the_maildir_as_plain_text_with_its_own_subject(
    postfix: Postfix, tmp_path: Path
) -> None:
    application = Application(f"sqlite:///{tmp_path / 'agent.db'}")
    application.add(17, subject=SUBJECT, body=SUBJECT, ticket_id="47<b>11</b>\n@here")
    with Scripted(REFUSES) as api:
        told = Cli(tmp_path).having(application.variables(api.url) | {"RETRYCLI_NOTIFY__URLS": postfix.url})
        assert told("run-once").returncode == 0
    wait_until(lambda: len(postfix.mails) > 0)
    [mail] = postfix.mails
    assert mail["Delivered-To"] == "ops@x.test"
    assert mail["Subject"].endswith(": 1 message needs an operator")
    assert mail["Bcc"] is None
    assert mail.get_content_type() == "text/plain"
    text = mail.get_content()
    assert "1 × HTTP 422: no such ∗recipient∗ … ［x］(https:／／evil.example)" in text
    assert "ticket 47‹b›11‹/b›\\n＠here; retrycli show 17" in text
    assert "script" not in text
    assert not {"<", ">", "@", "["} & set(text)


@pytest.mark.long
def test_a_refusal_by_postfix_is_reported_with_its_code(postfix: Postfix, tmp_path: Path) -> None:
    elsewhere = postfix.url.replace("ops@x.test", "ops@elsewhere.test")
    told = Cli(tmp_path).having({"RETRYCLI_NOTIFY__URLS": f"{postfix.url} {elsewhere}"})
    done = told("notify", "test")
    assert done.returncode == 3
    assert done.stdout == "1\tmailto\taccepted\n2\tmailto\tnot accepted: SMTP 554\n"
