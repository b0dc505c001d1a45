"""A real mail arrives in the maildir of a real Postfix: a private instance on loopback, with a folder of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.api import Scripted
from tests.cli.application import Application
from tests.cli.command import Cli, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import EmailMessage

    from retrycli.sandbox import Answer

POSTFIX = shutil.which("postfix", path="/usr/sbin:/usr/bin:/usr/local/sbin")
needs_postfix = [
    pytest.mark.skipif(POSTFIX is None, reason="Postfix is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a Postfix"),
]
pytestmark = [pytest.mark.slow, *needs_postfix]

SERVICES = """\
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
virtual unix - n n - - virtual
postlog unix-dgram n - n - 1 postlogd
"""
SETTINGS = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
myhostname = mx.test
mydestination =
inet_interfaces = loopback-only
inet_protocols = ipv4
smtp_dns_support_level = disabled
smtpd_relay_restrictions = reject_unauth_destination
virtual_mailbox_domains = x.test
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = static:ops/
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
alias_maps =
local_recipient_maps =
"""
SUBJECT = "Re: <!channel> <script>alert(1)</script>\r\nBcc: eve@evil.example"
ANSWER = "no such *recipient* ana@example.com [x](https://evil.example)\r\n.\r\nBcc: eve@evil.example"
REFUSES: Answer = (422, {"messages": [ANSWER]})


@dataclass(frozen=True)
class Postfix:
    """A mail server that keeps what is for x.test."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        """What apprise writes to it by."""
        return f"mailto://127.0.0.1:{self.port}?from=retrycli@x.test&to=ops@x.test&mode=insecure"

    @property
    def mails(self) -> list[EmailMessage]:
        """What lies in the maildir."""
        files = sorted(self.folder.glob("mail/ops/new/*"))
        return [message_from_bytes(each.read_bytes(), policy=default) for each in files]


@pytest.fixture
def postfix() -> Iterator[Postfix]:
    """Not in pytest's folder, into which only its owner may look."""
    assert POSTFIX is not None
    with tempfile.TemporaryDirectory(prefix="postfix-") as name, socket.socket() as free:
        folder = Path(name)
        folder.chmod(0o755)
        for each in ("etc", "queue", "data", "mail"):
            (folder / each).mkdir()
        shutil.chown(folder / "data", "postfix")
        shutil.chown(folder / "mail", 65534, 65534)
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
        free.close()
        (folder / "etc" / "main.cf").write_text(SETTINGS.format(folder=folder), encoding="utf-8")
        (folder / "etc" / "master.cf").write_text(SERVICES.format(port=port), encoding="utf-8")
        control = (POSTFIX, "-c", str(folder / "etc"))
        subprocess.run([*control, "start"], check=True, capture_output=True)
        try:
            wait_until(lambda: answers(port))
            yield Postfix(folder, port)
        finally:
            subprocess.run([*control, "stop"], check=False, capture_output=True)


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
        return connection.recv(3) == b"220"
    return False


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
    assert mail["Subject"].endswith(": 1 message needs a person")
    assert mail["Bcc"] is None
    assert mail.get_content_type() == "text/plain"
    text = mail.get_content()
    assert "1 × HTTP 422: no such ∗recipient∗ … ［x］(https:／／evil.example)" in text
    assert "ticket 47‹b›11‹/b›\\n＠here; retrycli show 17" in text
    assert "script" not in text
    assert not {"<", ">", "@", "["} & set(text)


def test_what_postfix_refuses_is_told_by_its_code(postfix: Postfix, tmp_path: Path) -> None:
    elsewhere = postfix.url.replace("ops@x.test", "ops@elsewhere.test")
    told = Cli(tmp_path).having({"RETRYCLI_NOTIFY__URLS": f"{postfix.url} {elsewhere}"})
    done = told("notify", "test")
    assert done.returncode == 3
    assert done.stdout == "1\tmailto\taccepted\n2\tmailto\tnot accepted: SMTP 554\n"
